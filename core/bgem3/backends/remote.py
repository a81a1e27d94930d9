"""The forward pass in another process: `bgem3 serve`, or vLLM with its BGE-M3 model.

Token ids go there and head outputs come back, so that everything before and after them is the same as
with a model in this process: windows, lengths, merging of concurrent callers, lexical counts.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias
from weakref import finalize

import numpy as np

from bgem3.backends.base import HeadOutputs
from bgem3.backends.heads import normalize
from bgem3.backends.http import Server
from bgem3.types import HEADS, FloatArray, Head, IntArray

# Batches sent at a time; the server merges or queues them.
CONNECTIONS = 8

Exchange: TypeAlias = Callable[[Server, Sequence[IntArray], Collection[Head]], HeadOutputs]


class RemoteBackend:
    """Sends token ids to a server and returns its head outputs.

    Args:
        server: Who encodes.
        exchange: How it is asked: `BGEM3Exchange` or `VLLMExchange`.
        precision: What `M3Encoder.describe` shows.
        dim, multi_dim: Widths that its answers must have.
    """

    name = "remote"
    # 1,024 dims: 17 MB of token vectors an answer
    batch_tokens = 4096
    concurrency = CONNECTIONS

    def __init__(self, server: Server, exchange: Exchange, *, precision: str, dim: int, multi_dim: int) -> None:
        self.precision, self.device = precision, server.url
        self.dim, self.multi_dim = dim, multi_dim
        self._server = server
        self._exchange = exchange

    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences there; see `Backend.forward`.

        Raises:
            RemoteConnectionError, RemoteAccessError, BackendError: as `Server.json`; or an answer of other
                numbers or widths than was asked for.
        """
        return self._exchange(self._server, sequences, heads)


class BGEM3Exchange:
    """`POST /v1/embeddings` of `bgem3 serve`: one round trip for all heads.

    Args:
        dim, multi_dim: Widths of the vectors.
        fingerprint: Of the checkpoint whose tokenizer made the ids; the server refuses another one's.
    """

    _PATH = "/v1/embeddings"

    def __init__(self, dim: int, multi_dim: int, fingerprint: str) -> None:
        self._dim, self._multi_dim, self._fingerprint = dim, multi_dim, fingerprint

    def __call__(self, server: Server, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Ask for a batch."""
        body = {
            "input": [ids.tolist() for ids in sequences],
            "fingerprint": self._fingerprint,
            "heads": [head for head in HEADS if head in heads],
            "encoding_format": "base64",
        }
        answer = server.json("POST", self._PATH, body)
        with _Reading(server, self._PATH):
            items = _items(answer, len(sequences))
            counts = [len(ids) for ids in sequences]
            return HeadOutputs(
                dense=_rows(items, "embedding", [1] * len(items), self._dim) if "dense" in heads else None,
                token_weights=_token_weights(items, sequences) if "sparse" in heads else None,
                token_vectors=_rows(items, "multi_vector", [count - 1 for count in counts], self._multi_dim)
                if "multi_vector" in heads
                else None,
            )


class VLLMExchange:
    """`POST /pooling` of vLLM, whose model knows one task a request; the tasks of a batch are sent at once.

    Args:
        dim, multi_dim: Widths of the vectors.
        model: The name that vLLM serves it by.

    Source: vLLM, `vllm/model_executor/models/roberta.py`, `BgeM3EmbeddingModel`: `embed` is the dense head,
        `token_embed` the token vectors without `<s>`, `token_classify` the weights without `<s>` and `</s>`.
    """

    _PATH = "/pooling"

    def __init__(self, dim: int, multi_dim: int, model: str) -> None:
        self._dim, self._multi_dim, self._model = dim, multi_dim, model
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="bgem3-remote")
        finalize(self, self._pool.shutdown, wait=False)

    def __call__(self, server: Server, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Ask for a batch."""
        tasks: dict[Head, Callable[[Server, Sequence[IntArray]], FloatArray]] = {
            "dense": self._dense,
            "sparse": self._weights,
            "multi_vector": self._vectors,
        }
        asked = {head: self._pool.submit(tasks[head], server, sequences) for head in HEADS if head in heads}
        parts = {head: future.result() for head, future in asked.items()}
        return HeadOutputs(parts.get("dense"), parts.get("sparse"), parts.get("multi_vector"))

    def _dense(self, server: Server, sequences: Sequence[IntArray]) -> FloatArray:
        items = self._ask(server, "embed", sequences)
        with _Reading(server, self._PATH):
            return normalize(_rows(items, "data", [1] * len(items), self._dim))

    def _vectors(self, server: Server, sequences: Sequence[IntArray]) -> FloatArray:
        items = self._ask(server, "token_embed", sequences)
        with _Reading(server, self._PATH):
            return normalize(_rows(items, "data", [len(ids) - 1 for ids in sequences], self._multi_dim))

    def _weights(self, server: Server, sequences: Sequence[IntArray]) -> FloatArray:
        weights = np.zeros(sum(map(len, sequences)), np.float32)
        # a text without tokens has nothing to classify
        filled = [ids for ids in sequences if len(ids) > 2]
        items = self._ask(server, "token_classify", filled) if filled else []
        starts = np.cumsum([len(ids) for ids in sequences]) - [len(ids) for ids in sequences]
        with _Reading(server, self._PATH):
            inner = _rows(items, "data", [len(ids) - 2 for ids in filled], 1)[:, 0]
            places = [np.arange(start + 1, start + len(ids) - 1) for start, ids in zip(starts, sequences, strict=True)]
            weights[np.concatenate(places)] = inner
        return weights

    def _ask(self, server: Server, task: str, sequences: Sequence[IntArray]) -> list[Mapping[str, Any]]:
        body = {
            "model": self._model,
            "task": task,
            "input": [ids.tolist() for ids in sequences],
            "encoding_format": "base64",
            "endianness": "little",
        }
        answer = server.json("POST", self._PATH, body)
        with _Reading(server, self._PATH):
            return _items(answer, len(sequences))


class _Reading:
    """Turns what goes wrong while an answer is read into the error of a malformed answer."""

    def __init__(self, server: Server, path: str) -> None:
        self._server, self._path = server, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, IndexError)):
            raise self._server.malformed(self._path, str(error) or type(error).__name__) from error


def _items(answer: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """Return the items of an answer in the order of what was sent."""
    items = sorted(answer["data"], key=lambda item: item["index"])
    if [item["index"] for item in items] != list(range(count)):
        raise ValueError(f"{len(items)} items for {count} texts")
    return items


def _rows(items: Sequence[Mapping[str, Any]], name: str, counts: Sequence[int], width: int) -> FloatArray:
    """Return the rows of all items, `(sum(counts), width)`."""
    parts = [_numbers(item[name]) for item in items]
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if part.size != count * width:
            raise ValueError(f"{name} of text {number} has {part.size} numbers, expected {count} x {width}")
    return np.concatenate([*parts, np.empty(0, np.float32)]).reshape(-1, width)


def _numbers(value: object) -> FloatArray:
    """Return the numbers of base64 text (little-endian float32) or of JSON lists."""
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
    return np.asarray(value, np.float32).reshape(-1)


def _token_weights(items: Sequence[Mapping[str, Any]], sequences: Sequence[IntArray]) -> FloatArray:
    """Return each id's weight in the sparse row of its text: merging them again gives that row."""
    parts = []
    for item, ids in zip(items, sequences, strict=True):
        row = dict(zip(item["sparse"]["indices"], item["sparse"]["values"], strict=True))
        parts.append(np.array([row.get(one, 0.0) for one in ids.tolist()], np.float32))
    return np.concatenate([*parts, np.empty(0, np.float32)])
