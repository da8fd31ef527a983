"""Where each word stands, in closed form: every word is rotated by its place, and all are added up.

    p = sum_t exp(i (phase_w + t omega))        t from 0

The phases of a word and the frequencies omega come from hashes, so nothing is learned, and the same word has the same
phases in every model (Plate 1995, "Holographic reduced representations", in the frequency domain; the rotation is that of
Su et al. 2021, "RoFormer"). `assignment` reads the order of known words back from the sum. A sentence gets the same bits
whatever else is in its batch.

Shape suffixes: V vocabulary, U distinct words of a batch, R rows (sentences), T steps, f frequencies, half of the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_embed.model.batch import FIRST_WORD

_FREQUENCIES = b"frequencies of positions"
_ROWS_AT_ONCE = 256


def phases_of(words: Sequence[str], size: int) -> npt.NDArray[np.uint8]:
    """Return the phases of each word in steps of 1/256 of a turn, shape (V, size / 2); zero for padding.

    Args:
        words: Words by id, padding first.
        size: Numbers of the positions part, an even number.
    """
    half = size // 2
    digests = [hashlib.shake_128(word.encode("utf-8", "surrogatepass")).digest(half) for word in words]
    phases_Vf = np.frombuffer(b"".join(digests), np.uint8).reshape(len(words), half).copy()
    phases_Vf[:FIRST_WORD] = 0
    return phases_Vf


def frequencies(size: int) -> npt.NDArray[np.float64]:
    """Return omega, by how much a step turns each of the size / 2 numbers, from 0 to 2 pi."""
    half = size // 2
    drawn = np.frombuffer(hashlib.shake_128(_FREQUENCIES).digest(8 * half), "<u8")
    # The upper 53 bits are what a float64 holds.
    return (drawn >> np.uint64(11)).astype(np.float64) * (2.0**-53 * 2.0 * np.pi)


def rotated_sum(phases_Uf: Tensor, position_TR: Tensor, omega_f: Tensor | npt.NDArray[np.float64]) -> Tensor:
    """Return p of each sentence, shape (R, size), float32: the real parts, then the imaginary ones.

    Args:
        phases_Uf: Phases of the distinct words, uint8.
        position_TR: Row of the distinct words at each step; row 0 adds nothing. Any order of
            sentences is right; by falling length is fastest.
        omega_f: What `frequencies` returned.
    """
    device, half = phases_Uf.device, phases_Uf.shape[1]
    angles_256 = torch.arange(256, dtype=torch.float64) * (2.0 * torch.pi / 256.0)
    wheel_2P = torch.stack([angles_256.cos(), angles_256.sin()]).float().to(device)
    table_Us = torch.cat([wheel[phases_Uf.long()] for wheel in wheel_2P], dim=1)
    table_Us[0] = 0.0
    omega = torch.as_tensor(omega_f, dtype=torch.float64).cpu()
    cos_f, sin_f = omega.cos().float().to(device), omega.sin().float().to(device)

    sum_Rs = torch.zeros(position_TR.shape[1], 2 * half, device=device)
    rows_at_once = _ROWS_AT_ONCE if device.type == "cpu" else max(1, len(sum_Rs))
    for start in range(0, len(sum_Rs), rows_at_once):
        rows = slice(start, start + rows_at_once)
        _add_up(table_Us, position_TR[:, rows], cos_f, sin_f, sum_Rs[rows])
    return sum_Rs


def _add_up(table_Us: Tensor, position_TR: Tensor, cos_f: Tensor, sin_f: Tensor, sum_Rs: Tensor) -> None:
    """Add to `sum_Rs`, which is zero, from the last step to the first: turn what is there by one step, add the word.

    Each operation is one multiplication or addition of single numbers, so the bits depend on a row alone.
    """
    half = len(cos_f)
    place_T1 = torch.arange(1, len(position_TR) + 1, device=position_TR.device)[:, None]
    lengths_R = ((position_TR != 0) * place_T1).amax(0).tolist()
    running = len(lengths_R)
    ends = []
    for step in range(max(lengths_R, default=0)):
        while lengths_R[running - 1] <= step:
            running -= 1
        ends.append(running)
    for step in range(len(ends) - 1, -1, -1):
        part_Rs = sum_Rs[: ends[step]]
        real, imaginary = part_Rs[:, :half], part_Rs[:, half:]
        turned = real * cos_f
        turned.sub_(imaginary * sin_f)
        imaginary.mul_(cos_f).add_(real * sin_f)
        real.copy_(turned)
        part_Rs.add_(table_Us.index_select(0, position_TR[step, : ends[step]]))
