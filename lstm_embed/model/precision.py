"""Which precision the LSTM of an encoder computes in: settled once, before any vector is made."""

from __future__ import annotations

import functools

import torch
from torch import nn

from lstm_embed.base.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGE = 384
"""LSTM units from which bf16 pays on a CPU: it trains 128 units at 0.92 times the speed of fp32, 512 units at 1.4 times."""


def resolve_precision(requested: str, device: str | torch.device = "cpu", *, hidden_size: int = _LARGE) -> str:
    """Return the precision to compute in: "fp32", "bf16" or "fp16".

    Args:
        requested: One of these, which is tried out; or "auto": bf16 where the device is fast at it and, on a CPU, the model
            large enough to gain by it; else fp16 on a GPU and fp32 on a CPU. Nothing is measured (`embed` does that for a
            folder).
        device: "cpu", "cuda" or "cuda:N", or the device itself.
        hidden_size: Units of the LSTM in a direction.

    Raises:
        InputError: for another word, if there is no such device, or it cannot do what is requested.
    """
    if requested not in (*PRECISIONS, "auto"):
        raise InputError(f"precision is {requested!r}; expected auto, {', '.join(PRECISIONS)} (--precision)")
    device = str(device)
    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise InputError(
            f"device {device!r} was asked for, but torch sees no GPU here; use the CPU or a machine with a GPU"
        )
    if requested == "auto":
        if (on_gpu or (hidden_size >= _LARGE and _has_fast_bf16())) and _failure("bf16", device) is None:
            return "bf16"
        return "fp16" if on_gpu else "fp32"
    if requested == "fp16" and not on_gpu:
        raise InputError("precision fp16 is for GPUs; on a CPU use fp32, bf16 or auto (--precision)")
    failure = _failure(requested, device)
    if failure is not None:
        raise InputError(
            f"an LSTM in {requested} does not run on {device} here ({failure}); use --precision fp32 or auto"
        )
    return requested


def _has_fast_bf16() -> bool:
    """Return whether the CPU has instructions for bf16 products; without them torch emulates it, very slowly."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


@functools.cache
def _failure(precision: str, device: str) -> str | None:
    """Return why a small LSTM does not run, None if it does."""
    dtype = PRECISIONS[precision]
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            states = nn.LSTM(32, 32).to(device, dtype)(torch.zeros(2, 4, 32, device=device, dtype=dtype))[0]
            return None if bool(torch.isfinite(states).all()) else "it gives no finite numbers"
    except (RuntimeError, AssertionError) as error:  # the latter for a device that this build of torch lacks
        return str(error).splitlines()[0]
