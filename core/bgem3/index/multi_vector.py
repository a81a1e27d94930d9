"""Codecs for token vectors, and MaxSim on their codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bgem3.embeddings import MultiVectors
from bgem3.errors import InvalidInputError, StoreCorruptError
from bgem3.types import FloatArray

# Token vectors decoded at once: one block of float32 stays within the processor's cache.
_BLOCK = 1024
_SEED = 20241

# Step of the uniform quantiser with the least error on a normal variable of variance 1.
# Source: Max, "Quantizing for minimum distortion", 1960, table II.
_STEPS = {1: 1.596, 2: 0.9957, 4: 0.3352}


class Codec(Protocol):
    """Turns the token vectors of a text into bytes, and scores queries against such bytes.

    Attributes:
        name: What `get_codec` takes.
        bytes_per_vector: Size of one token vector; a blob's length tells how many it holds.
    """

    name: str
    bytes_per_vector: int

    def encode(self, vectors: MultiVectors) -> list[bytes]:
        """Return one blob per text."""

    def decode(self, blob: bytes) -> FloatArray:
        """Return a blob's token vectors, `(n_tokens, dim)` float32, as far as the codec kept them."""

    def scores(self, query: FloatArray, blobs: Sequence[bytes]) -> FloatArray:
        """Return MaxSim of a query against each blob: the mean over query vectors of the best match.

        Args:
            query: `(n_query_tokens, dim)` float32, rows of norm 1.
            blobs: `n` texts, as `encode` made them.

        Returns:
            `(n,)` float32, about -1 to 1, in the order of `blobs`.

        Raises:
            StoreCorruptError: a blob is empty or not a whole number of vectors.
        """


def get_codec(name: str, dim: int) -> Codec:
    """Return the codec of a name for token vectors of a width.

    Args:
        name: `float32`, `float16`, `int8` (one scale a vector), or `int4`, `int2`, `binary`: 4, 2
            or 1 bit a dimension after a random rotation, with a correction factor a vector.
        dim: Width of a token vector.

    Raises:
        InvalidInputError: an unknown name.
    """
    if name in ("float32", "float16"):
        return _FloatCodec(name, dim)
    if name == "int8":
        return _Int8Codec(dim)
    bits = {"int4": 4, "int2": 2, "binary": 1}.get(name)
    if bits is None:
        raise InvalidInputError(
            f"token_codec: got {name!r}, expected one of float32, float16, int8, int4, int2, binary"
        )
    return _RotatedCodec(name, bits, dim)


class _BlockCodec(ABC):
    """MaxSim in blocks: decode to float32 values, one matrix product, then one factor a vector."""

    def __init__(self, name: str, dim: int, record: np.dtype[Any]) -> None:
        self.name = name
        self.dim = dim
        self._record = record
        self.bytes_per_vector = record.itemsize

    def encode(self, vectors: MultiVectors) -> list[bytes]:
        records = self._pack(vectors.vectors)
        return [records[start:stop].tobytes() for start, stop in pairwise(vectors.offsets.tolist())]

    def decode(self, blob: bytes) -> FloatArray:
        values, factors = self._unpack(np.frombuffer(blob, dtype=self._record))
        return self._turn_back(values if factors is None else values * factors[:, None])

    def scores(self, query: FloatArray, blobs: Sequence[bytes]) -> FloatArray:
        lengths = self._count_vectors(blobs)
        turned = np.ascontiguousarray(self._turn(query).T)
        result = np.empty(len(blobs), dtype=np.float32)
        for start, stop in _blocks(lengths):
            records = np.frombuffer(b"".join(blobs[start:stop]), dtype=self._record)
            values, factors = self._unpack(records)
            similarity = values @ turned
            if factors is not None:
                similarity *= factors[:, None]
            firsts = np.cumsum([0, *lengths[start : stop - 1]])
            result[start:stop] = np.maximum.reduceat(similarity, firsts, axis=0).mean(axis=1)
        return result

    def _count_vectors(self, blobs: Sequence[bytes]) -> list[int]:
        size = self.bytes_per_vector
        for blob in blobs:
            if not blob or len(blob) % size:
                raise StoreCorruptError(
                    f"token vectors: got {len(blob)} bytes, expected a multiple of {size} ({self.name}, "
                    f"dim {self.dim}). Fix: add the chunk again"
                )
        return [len(blob) // size for blob in blobs]

    def _turn(self, vectors: FloatArray) -> FloatArray:
        return vectors

    def _turn_back(self, vectors: FloatArray) -> FloatArray:
        return vectors

    @abstractmethod
    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        """Return one record a vector, `(n,)` of the record type."""

    @abstractmethod
    def _unpack(self, records: NDArray[Any]) -> tuple[FloatArray, FloatArray | None]:
        """Return values `(n, dim)` and the factor of each vector, or None where all are 1."""


class _FloatCodec(_BlockCodec):
    def __init__(self, name: str, dim: int) -> None:
        super().__init__(name, dim, np.dtype([("values", "<f4" if name == "float32" else "<f2", (dim,))]))

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        records = np.empty(len(vectors), dtype=self._record)
        records["values"] = vectors
        return records

    def _unpack(self, records: NDArray[Any]) -> tuple[FloatArray, None]:
        return records["values"].astype(np.float32, copy=False), None


class _Int8Codec(_BlockCodec):
    def __init__(self, dim: int) -> None:
        super().__init__("int8", dim, np.dtype([("scale", "<f4"), ("codes", "i1", (dim,))]))

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        scale = np.maximum(np.abs(vectors).max(axis=1, initial=0), np.finfo(np.float32).tiny) / np.float32(127)
        records = np.empty(len(vectors), dtype=self._record)
        records["scale"] = scale
        records["codes"] = np.rint(vectors / scale[:, None])
        return records

    def _unpack(self, records: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        return records["codes"].astype(np.float32), records["scale"]


class _RotatedCodec(_BlockCodec):
    """A few bits a dimension of the rotated vector, corrected so that dot products are unbiased.

    With o the rotated unit vector and x the grid point its codes stand for, q.x / (o.x) estimates
    q.o; 1 / (o.x) is what the record keeps beside the codes.

    Source: RaBitQ (arXiv 2405.12497), theorem 3.2; more bits as in arXiv 2409.09913.
    """

    def __init__(self, name: str, bits: int, dim: int) -> None:
        width = math.ceil(dim * bits / 8)
        super().__init__(name, dim, np.dtype([("factor", "<f2"), ("codes", "u1", (width,))]))
        self._bits = bits
        self._step = np.float32(_STEPS[bits] / math.sqrt(dim))
        codes = np.arange(256)[:, None] >> np.arange(8 - bits, -1, -bits) & (2**bits - 1)
        # What each byte stands for, one float a code; factors take up the step, so that float16 holds them well.
        self._values = (codes - (2**bits - 1) / 2).astype(np.float32)

    def _turn(self, vectors: FloatArray) -> FloatArray:
        turned: FloatArray = vectors @ _rotation(self.dim)
        return turned

    def _turn_back(self, vectors: FloatArray) -> FloatArray:
        back: FloatArray = vectors @ _rotation(self.dim).T
        return back

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        turned = self._turn(vectors)
        highest = 2**self._bits - 1
        codes = np.clip(np.floor(turned / self._step) + (highest + 1) // 2, 0, highest).astype(np.uint8)
        overlap = np.einsum("ij,ij->i", turned, codes - np.float32(highest / 2))
        records = np.zeros(len(vectors), dtype=self._record)
        records["factor"] = 1 / np.maximum(overlap, np.float32(1e-3))
        records["codes"] = self._squeeze(codes)
        return records

    def _squeeze(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        each = 8 // self._bits
        padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each)))
        groups = padded.reshape(len(codes), -1, each) << np.arange(8 - self._bits, -1, -self._bits, dtype=np.uint8)
        packed: NDArray[np.uint8] = np.bitwise_or.reduce(groups, axis=2)
        return packed

    def _unpack(self, records: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        values = self._values.take(records["codes"], axis=0).reshape(len(records), -1)
        return values[:, : self.dim], records["factor"].astype(np.float32)


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield neighbouring texts of up to `_BLOCK` vectors together, at least one text each."""
    start = held = 0
    for at, length in enumerate(lengths):
        if at > start and held + length > _BLOCK:
            yield start, at
            start, held = at, 0
        held += length
    if start < len(lengths):
        yield start, len(lengths)


@cache
def _rotation(dim: int) -> FloatArray:
    """Return an orthogonal `(dim, dim)` matrix that spreads any vector evenly over all dimensions.

    Random signs and Hadamard transforms, in turn on the first and the last power of two of the
    dimensions. Written to disk in every code: neither the seed nor the order may change.
    """
    # NOTE: RandomState, not Generator: only its stream is promised never to change (NEP 19).
    random = np.random.RandomState(_SEED)
    size = 1 << (dim.bit_length() - 1)
    matrix = np.eye(dim)
    for _ in range(3):
        for part in (slice(0, size), slice(dim - size, dim)):
            matrix = matrix * (2 * random.randint(0, 2, dim) - 1)
            matrix[:, part] = _hadamard(matrix[:, part])
    return matrix.astype(np.float32)


def _hadamard(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Walsh-Hadamard transform of each row, scaled to keep its norm."""
    n, size = vectors.shape
    half = 1
    while half < size:
        pairs = vectors.reshape(n, -1, 2, half)
        vectors = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(n, size)
        half *= 2
    return vectors / math.sqrt(size)
