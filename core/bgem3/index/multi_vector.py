"""Codecs for token vectors, and MaxSim on their codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from bgem3.embeddings import MultiVectors
from bgem3.errors import InvalidInputError, StoreCorruptError
from bgem3.index.threads import run_all, thread_count
from bgem3.types import FloatArray, IntArray

# Token vectors at a time: a block stays within the processor's cache.
_BLOCK = 512
# Token vectors pooled together at most: clustering takes the square of them.
_POOLED_TOGETHER = 512
_TINY = np.finfo(np.float32).tiny
_SEED = 20241

# Step of the uniform quantiser with the least error on a normal variable of variance 1.
# Source: Max, "Quantizing for minimum distortion", 1960, table II.
_STEPS = {1: 1.596, 2: 0.9957, 4: 0.3352}
_BITS = {"int8": 8, "int4": 4, "int2": 2, "binary": 1, "int4-plain": 4, "int2-plain": 2, "binary-plain": 1}


class Codec(Protocol):
    """Turns the token vectors of a text into bytes, and scores queries against such bytes.

    Attributes:
        name: What `get_codec` takes.
        bytes_per_vector: Size of one token vector; a blob's length tells how many it holds.
        pools: A text's vectors are fewer than its tokens.
    """

    name: str
    bytes_per_vector: int
    pools: bool

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
            or 1 bit a dimension after a random rotation, with a correction factor a vector. With
            `-plain` behind (`binary-plain`) neither rotated nor corrected. With `+pool2` behind
            (`int2+pool2`) like token vectors of a text are joined first, until half are left.
        dim: Width of a token vector.

    Raises:
        InvalidInputError: an unknown name.
    """
    base, _, pooling = name.partition("+")
    if base in _BITS and pooling in ("", "pool2"):
        plain = base == "int8" or base.endswith("-plain")
        codec: _RecordCodec = _CodeCodec(name, dim, _BITS[base], rotated=not plain)
    elif base in ("float32", "float16") and pooling in ("", "pool2"):
        codec = _FloatCodec(name, dim)
    else:
        raise InvalidInputError(
            f"token_codec: got {name!r}, expected one of float32, float16, {', '.join(_BITS)}, or one with +pool2"
        )
    return _PooledCodec(codec) if pooling else codec


class _RecordCodec(ABC):
    """One record a vector; a text's records one after another are its blob."""

    pools = False

    def __init__(self, name: str, dim: int, record: np.dtype[Any]) -> None:
        self.name = name
        self.dim = dim
        self._record = record
        self.bytes_per_vector = record.itemsize

    def encode(self, vectors: MultiVectors) -> list[bytes]:
        records = self._pack(vectors.vectors)
        return [records[start:stop].tobytes() for start, stop in pairwise(vectors.offsets.tolist())]

    def decode(self, blob: bytes) -> FloatArray:
        return self._unpack(np.frombuffer(blob, dtype=self._record))

    def scores(self, query: FloatArray, blobs: Sequence[bytes]) -> FloatArray:
        lengths = self._count_vectors(blobs)
        if not blobs:
            return np.empty(0, dtype=np.float32)
        best = np.full((len(blobs), len(query)), -np.inf, dtype=np.float32)
        self._match(query, np.frombuffer(b"".join(blobs), dtype=self._record), lengths, best)
        means: FloatArray = best.mean(axis=1)
        return means

    def _count_vectors(self, blobs: Sequence[bytes]) -> IntArray:
        size = self.bytes_per_vector
        for blob in blobs:
            if not blob or len(blob) % size:
                raise StoreCorruptError(
                    f"token vectors: got {len(blob)} bytes, expected a multiple of {size} ({self.name}, "
                    f"dim {self.dim}). Fix: add the chunk again"
                )
        return np.array([len(blob) // size for blob in blobs], dtype=np.int64)

    @abstractmethod
    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        """Return one record a vector, `(n,)` of the record type."""

    @abstractmethod
    def _unpack(self, records: NDArray[Any]) -> FloatArray:
        """Return the vectors, `(n, dim)` float32, as far as they were kept."""

    @abstractmethod
    def _match(self, query: FloatArray, records: NDArray[Any], lengths: IntArray, best: FloatArray) -> None:
        """Write each query vector's largest similarity in each text to `best`, `(n_texts, n_query_vectors)`."""


class _FloatCodec(_RecordCodec):
    def __init__(self, name: str, dim: int) -> None:
        super().__init__(name, dim, np.dtype([("values", "<f4" if "32" in name else "<f2", (dim,))]))

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        records = np.empty(len(vectors), dtype=self._record)
        records["values"] = vectors
        return records

    def _unpack(self, records: NDArray[Any]) -> FloatArray:
        return records["values"].astype(np.float32, copy=False)

    def _match(self, query: FloatArray, records: NDArray[Any], lengths: IntArray, best: FloatArray) -> None:
        turned = np.ascontiguousarray(query.T)
        firsts = np.cumsum([0, *lengths])
        start = 0
        while start < len(lengths):
            stop = max(int(np.searchsorted(firsts, firsts[start] + _BLOCK, side="right")) - 1, start + 1)
            similarity = self._unpack(records[firsts[start] : firsts[stop]]) @ turned
            best[start:stop] = np.maximum.reduceat(similarity, firsts[start:stop] - firsts[start], axis=0)
            start = stop


class _CodeCodec(_RecordCodec):
    """A few bits a dimension, multiplied as integers: the query becomes int8, one scale a vector.

    With o the vector and x the grid point its codes stand for, o.o q.x / (o.x) estimates q.o; for a rotated o
    without bias. o.o / (o.x) is what the record keeps beside the codes, so that what was decoded is encoded to the
    same record again; a plain codec keeps 1 / |x|.

    Source: RaBitQ (arXiv 2405.12497), theorem 3.2; more bits as in arXiv 2409.09913.
    """

    def __init__(self, name: str, dim: int, bits: int, *, rotated: bool) -> None:
        each = 8 // bits
        width = math.ceil(dim / each)
        super().__init__(name, dim, np.dtype([("factor", "<f4" if bits == 8 else "<f2"), ("codes", "u1", (width,))]))
        self._bits, self._rotated = bits, rotated
        self._centre = np.float32(128 if bits == 8 else (2**bits - 1) / 2)
        # Two products of a byte and a query's byte must fit 16 bits; see `multiply`.
        self._limit = 63 if bits == 8 else 127
        codes = np.arange(256)[:, None] >> np.arange(8 - bits, -1, -bits) & (2**bits - 1)
        # The codes in each byte, side by side in one unsigned integer.
        self._table = np.ascontiguousarray(codes.astype(np.uint8)).view(f"u{each}")[:, 0]

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        turned: FloatArray = vectors @ _rotation(self.dim) if self._rotated else vectors
        highest = 2**self._bits - 1
        if self._bits == 8:
            step = np.maximum(np.abs(turned).max(axis=1, initial=0, keepdims=True), _TINY) / np.float32(127)
            codes = (np.rint(turned / step) + 128).astype(np.uint8)
        else:
            step = np.float32(_STEPS[self._bits] / math.sqrt(self.dim))
            codes = np.clip(np.floor(turned / step) + (highest + 1) // 2, 0, highest).astype(np.uint8)
        records = np.zeros(len(vectors), dtype=self._record)
        records["factor"] = self._factors(turned, codes - self._centre, step)
        records["codes"] = self._squeeze(codes)
        return records

    def _factors(self, turned: FloatArray, grid: FloatArray, step: FloatArray | np.float32) -> FloatArray:
        """Return what the similarity with a grid point is multiplied with, `(n,)`."""
        if self._bits == 8:
            return np.asarray(step)[:, 0]
        if not self._rotated:
            return np.asarray(1 / np.maximum(np.linalg.norm(grid, axis=1), np.float32(1e-3)), dtype=np.float32)
        # Squares are 1 for what an encoder gives, and not for what another store decoded.
        squares, overlap = (np.einsum("ij,ij->i", turned, other) for other in (turned, grid))
        factors: FloatArray = squares / np.maximum(overlap, np.float32(1e-3))
        return factors

    def _squeeze(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        each = 8 // self._bits
        padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % each)))
        groups = padded.reshape(len(codes), -1, each) << np.arange(8 - self._bits, -1, -self._bits, dtype=np.uint8)
        packed: NDArray[np.uint8] = np.bitwise_or.reduce(groups, axis=2)
        return packed

    def _unpack(self, records: NDArray[Any]) -> FloatArray:
        codes = np.ascontiguousarray(self._table[records["codes"]]).view(np.uint8).reshape(len(records), -1)
        grid = codes[:, : self.dim] - self._centre
        vectors: FloatArray = grid * records["factor"].astype(np.float32)[:, None]
        return vectors @ _rotation(self.dim).T if self._rotated else vectors

    def _match(self, query: FloatArray, records: NDArray[Any], lengths: IntArray, best: FloatArray) -> None:
        from bgem3.index.products import best_matches, multiply, unpack

        right, scale = self._query_codes(query)
        centres = right.sum(axis=0, dtype=np.float32) * self._centre
        factors = records["factor"].astype(np.float32)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        width = self._record["codes"].shape[0]
        raw = records.view(np.uint8).reshape(len(records), -1)

        def visit(part: tuple[int, int]) -> None:
            room = np.empty((_BLOCK, width), dtype=self._table.dtype)
            for start in range(*part, _BLOCK):
                stop = min(start + _BLOCK, part[1])
                if self._bits == 8:
                    codes = np.ascontiguousarray(records["codes"][start:stop])
                else:
                    unpack(raw[start:stop], raw.shape[1] - width, self._table, room[: stop - start])
                    codes = room[: stop - start].view(np.uint8)
                best_matches(multiply(codes, right), centres, factors, start, owners, best)

        run_all(visit, _shares(lengths))
        best *= scale

    def _query_codes(self, query: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
        """Return a query's codes, `(padded dim, n)` int8, and the scale of each vector, `(n,)`."""
        from bgem3.index.products import multiply_floats

        turned = multiply_floats(query, _rotation(self.dim)) if self._rotated else query
        scale = np.maximum(np.abs(turned).max(axis=1, initial=0), _TINY) / np.float32(self._limit)
        padded = self._record["codes"].shape[0] * (8 // self._bits)
        codes = np.zeros((padded, len(query)), dtype=np.int8)
        codes[: self.dim] = np.rint(turned / scale[:, None]).T
        return codes, scale


class _PooledCodec:
    """Joins like token vectors of a text before another codec encodes them."""

    pools = True

    def __init__(self, inner: _RecordCodec) -> None:
        self.name, self.bytes_per_vector = inner.name, inner.bytes_per_vector
        self.decode, self.scores = inner.decode, inner.scores
        self._inner = inner

    def encode(self, vectors: MultiVectors) -> list[bytes]:
        return self._inner.encode(MultiVectors.from_list([_pool_by_half(one) for one in vectors], vectors.dim))


def _pool_by_half(vectors: FloatArray) -> FloatArray:
    """Return the normalised means of clusters, half as many as there are vectors.

    Source: token pooling, Clavié et al. 2024 (arXiv 2409.14683), with Ward's method.
    """
    pooled = []
    for start in range(0, len(vectors), _POOLED_TOGETHER):
        part = vectors[start : start + _POOLED_TOGETHER]
        if len(part) < 3:
            pooled.append(part)
            continue
        clusters = fcluster(linkage(part, "ward"), math.ceil(len(part) / 2), criterion="maxclust")
        sums = np.zeros((int(clusters.max()), part.shape[1]), dtype=np.float32)
        np.add.at(sums, clusters - 1, part)
        pooled.append(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _TINY))
    return np.concatenate(pooled) if pooled else vectors


def _shares(lengths: IntArray) -> list[tuple[int, int]]:
    """Cut the vectors of all texts into equal shares, one a thread, between texts."""
    ends = np.cumsum(lengths)
    count = thread_count() if ends[-1] >= 2 * _BLOCK else 1
    cuts = [0, *(int(ends[np.searchsorted(ends, ends[-1] * i // count)]) for i in range(1, count)), int(ends[-1])]
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]


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
