"""From a trained autoencoder to what is exported: its encoder alone, as a torch module and as an ONNX graph."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from lstm_embed.errors import InputError
from lstm_embed.export.standalone import Encoder, Settings
from lstm_embed.model.autoencoder import Autoencoder

INPUTS, OUTPUT = ("ids", "lengths"), "vectors"
_OPSET = 17
_MOST_BYTES = 2_000_000_000


@torch.no_grad()
def standalone_encoder(autoencoder: Autoencoder) -> Encoder:
    """Return the encoder of an autoencoder, on the CPU, with what its output needs and no more."""
    config = autoencoder.config
    with_code = config.output != "words"
    with_lstm = with_code and config.lstm_path
    settings = Settings(
        num_words=len(autoencoder.word_vectors),
        word_size=autoencoder.word_vectors.shape[1],
        hidden_size=config.hidden_size if with_lstm else 0,
        code_size=config.code_dimension if with_code else 0,
        spelling_size=config.spelling_size if config.output in ("joined", "transfer") else 0,
        skip_path=with_code and config.skip_path,
        projects_states=with_code and config.projects_states,
        pooling=config.pooling,
        output=config.output,
        max_tokens=config.max_tokens,
        padded_length=config.padded_length,
    )
    encoder = Encoder(settings)
    weights = autoencoder.start_weights
    if autoencoder.word_theta is not None:
        weights = weights * autoencoder.word_theta.exp()
    own = {name.replace("_lstm.cell.", "_lstm."): tensor for name, tensor in autoencoder.state_dict().items()}
    own["weights"] = weights
    encoder.load_state_dict({name: own[name].detach().cpu() for name in encoder.state_dict()})
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
    example: tuple[Tensor, Tensor] = torch.tensor([[2, 2, 2], [2, 0, 0]]), torch.tensor([3, 1])
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
