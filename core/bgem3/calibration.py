"""What the linear layers multiply, and which attention hangs on small differences: the forward pass in numpy.

It takes seconds, and only conversion uses it, so plain numpy spares it every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from scipy.special import erf

from bgem3.backends.packing import positions
from bgem3.checkpoint import Config
from bgem3.errors import CheckpointFileError
from bgem3.quantize import ACTIVATION_MAX, quantize_columns, smoothing
from bgem3.types import FloatArray, IntArray
from bgem3.weights import Weights


@dataclass(frozen=True, slots=True, eq=False)
class LayerInputs:
    """What a layer's four matrix products multiply, token after token.

    Attributes:
        states: Input of query, key and value, `(tokens, hidden_size)`.
        attended: Input of the attention's output layer, `(tokens, hidden_size)`.
        middle: Input of the feed-forward part, `(tokens, hidden_size)`.
        inner: Its activations, `(tokens, intermediate_size)`.
        moved: Share of a token's attention that goes elsewhere when query and key come from 8-bit products, 0 to 1, mean.
    """

    states: FloatArray
    attended: FloatArray
    middle: FloatArray
    inner: FloatArray
    moved: float


def calibration_texts() -> list[str]:
    """Return the sentences: many languages, code, numbers, one a line."""
    return files("bgem3").joinpath("calibration.txt").read_text(encoding="utf-8").splitlines()


def observe(
    weights: Weights,
    config: Config,
    sequences: Sequence[IntArray],
    progress: Callable[[int], object] = lambda layers: None,
) -> Iterator[LayerInputs]:
    """Run the encoder over token sequences and yield what each layer multiplies; `progress` is told of each.

    Raises:
        CheckpointFileError: a layer gives numbers that are not finite.
    """
    lengths, joined = np.array([len(ids) for ids in sequences]), np.concatenate(sequences)
    ends = np.cumsum(lengths)[:-1]
    places = positions(joined, lengths, config.pad_token_id)
    name = "embeddings"
    states = weights[f"{name}.word_embeddings.weight"][joined]
    states = states + weights[f"{name}.position_embeddings.weight"][places]
    states = _norm(states + weights[f"{name}.token_type_embeddings.weight"][0], weights, f"{name}.LayerNorm", config)
    for number in range(config.num_hidden_layers):
        name = f"encoder.layer.{number}"
        qkv = [_linear(states, weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        parts = [np.split(one, ends) for one in qkv]
        near = [np.split(one, ends) for one in _rounded_qkv(states, weights, name)]
        heads = config.num_attention_heads
        shares = [_attention(query, key, heads) for query, key in zip(parts[0], parts[1], strict=True)]
        others = [_attention(query, key, heads) for query, key in zip(near[0], near[1], strict=True)]
        attended = np.concatenate([_mix(share, value) for share, value in zip(shares, parts[2], strict=True)])
        moved = [np.abs(one - other).sum(axis=2).mean() / 2 for one, other in zip(shares, others, strict=True)]
        out = _linear(attended, weights, f"{name}.attention.output.dense")
        middle = _norm(states + out, weights, f"{name}.attention.output.LayerNorm", config)
        inner = _gelu(_linear(middle, weights, f"{name}.intermediate.dense"))
        if not np.isfinite(inner).all():
            raise CheckpointFileError(f"{name}: gives numbers that are not finite. Fix: download the checkpoint again")
        yield LayerInputs(states, attended, middle, inner, moved=float(np.mean(moved)))
        out = _linear(inner, weights, f"{name}.output.dense")
        states = _norm(middle + out, weights, f"{name}.output.LayerNorm", config)
        progress(1)


def _linear(states: FloatArray, weights: Weights, name: str) -> FloatArray:
    out: FloatArray = states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return out


def _norm(states: FloatArray, weights: Weights, name: str, config: Config) -> FloatArray:
    centred = states - states.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(config.layer_norm_eps))
    out: FloatArray = centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return out


def _gelu(values: FloatArray) -> FloatArray:
    out: FloatArray = values * (erf(values * np.float32(0.5**0.5)) + 1) * np.float32(0.5)
    return out


def _attention(query: FloatArray, key: FloatArray, heads: int) -> FloatArray:
    """Return what each token attends to, `(heads, tokens, tokens)`, rows of sum 1."""
    tokens, width = query.shape
    query, key = (one.reshape(tokens, heads, -1).transpose(1, 0, 2) for one in (query, key))
    scores = query @ key.transpose(0, 2, 1) * np.float32((width // heads) ** -0.5)
    scores = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares: FloatArray = scores / scores.sum(axis=2, keepdims=True)
    return shares


def _mix(shares: FloatArray, value: FloatArray) -> FloatArray:
    tokens, width = value.shape
    mixed: FloatArray = shares @ value.reshape(tokens, len(shares), -1).transpose(1, 0, 2)
    return mixed.transpose(1, 0, 2).reshape(tokens, width)


def _rounded_qkv(states: FloatArray, weights: Weights, name: str) -> list[FloatArray]:
    """Return query, key and value from 8-bit products with nothing kept apart."""
    names = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    weight = np.concatenate([weights[f"{part}.weight"] for part in names])
    bias = np.concatenate([weights[f"{part}.bias"] for part in names])
    smooth = smoothing(np.abs(states).max(axis=0), weight)
    columns, scales = quantize_columns((weight * smooth).T)
    even = states / smooth
    step = np.maximum(np.abs(even).max(axis=1, keepdims=True) / ACTIVATION_MAX, 1e-30)
    return np.split(np.rint(even / step) @ columns.astype(np.float32) * scales * step + bias, 3, axis=1)
