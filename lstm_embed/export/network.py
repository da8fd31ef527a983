"""From a trained model to what is exported: its encoder alone, as a torch module and as an ONNX graph."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_embed.base.errors import InputError
from lstm_embed.export.standalone import Encoder, Settings
from lstm_embed.model.config import PARTS
from lstm_embed.model.positions import frequencies
from lstm_embed.model.recipes import Model
from lstm_embed.model.sentence_model import LENGTH_SCALE, POSITION_SCALE, SentenceModel

INPUTS, OUTPUT = ("ids", "lengths"), "vectors"
_SIZES = ("spelling_size", "order_size", "position_size")
_OPSET = 17
_MOST_BYTES = 2_000_000_000


def standalone_encoder(model: Model) -> Encoder:
    """Return the encoder of a model, on the CPU, with what its embedding needs and no more."""
    config = model.config
    own = {
        name.removeprefix("order.").replace("_lstm.cell.", "_lstm."): tensor.detach().cpu()
        for name, tensor in model.state_dict().items()
    }
    sizes, order_scale = dict.fromkeys(_SIZES, 0), 1.0  # of the preset original
    if isinstance(model, SentenceModel):
        sizes = {name: getattr(config, name) for name in _SIZES}
        order_scale = model.order_scale()
        angles_Tf = np.arange(config.max_tokens)[:, None] * frequencies(sizes["position_size"])
        own["turns"] = torch.from_numpy(np.stack([np.cos(angles_Tf), np.sin(angles_Tf)])).float()
        own["phases"] = model.phases.cpu()
    settings = Settings(
        parts=PARTS[config.embedding],
        max_tokens=config.max_tokens,
        pads_left=config.padded_length > 0,
        num_words=len(model.word_vectors),
        word_size=model.word_vectors.shape[1],
        hidden_size=config.hidden_size,
        order_scale=order_scale,
        position_scale=POSITION_SCALE,
        length_scale=LENGTH_SCALE,
        **sizes,
    )
    encoder = Encoder(settings)
    encoder.load_state_dict({name: own[name] for name in encoder.state_dict()})
    return encoder.eval()


def write_onnx(encoder: Encoder, path: str, metadata: dict[str, str]) -> None:
    """Write an encoder as an ONNX graph: `ids` (B, T) and `lengths` (B,), int64, give `vectors` (B, E), float32.

    Args:
        encoder: The encoder.
        path: Local file.
        metadata: Written into the file.

    Raises:
        InputError: if the package onnx is not installed, or the weights are too large for one file.
    """
    onnx: Any = required("onnx")
    size = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    if size > _MOST_BYTES:
        raise InputError(
            f"the weights take {size / 1e9:.1f} GB; an ONNX file holds at most {_MOST_BYTES / 1e9:.0f} GB; train with a "
            "smaller vocabulary, or use --format sentence-transformers"
        )
    example: tuple[Tensor, Tensor] = torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([3, 1])
    with warnings.catch_warnings():
        # The exporter by tracing: deprecated, but torch's LSTM passes through the new one only with a package more, in half
        # a minute, to the same graph. What is warned of besides are batch sizes, which the graph takes from its input.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder,
            example,
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes={"ids": {0: "batch", 1: "length"}, "lengths": {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def required(package: str) -> Any:
    """Import a package that exporting needs.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise InputError(f"export needs the package {package}: pip install 'lstm_embed[export]'") from None
