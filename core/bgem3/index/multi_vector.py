"""Codecs for token vectors, and MaxSim on their codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from bgem3.embeddings import MultiVectors
from bgem3.errors import InvalidInputError, StoreCorruptError
from bgem3.index.rotation import rotate, rotate_back
from bgem3.index.threads import map_shared, thread_count
from bgem3.intake import slices
from bgem3.types import FloatArray, IntArray

# Texts that one thread scores at a time, at most.
_TEXTS = 64
# Token vectors at a time: a block stays within the processor's cache, when they are compared and when they are encoded.
_BLOCK, _PACKED = 1024, 128
# Token vectors pooled together at most: clustering takes the square of them.
_POOLED_TOGETHER = 512
_TINY = np.finfo(np.float32).tiny

# Step of the uniform quantiser with the least error on a normal variable of variance 1.
# Source: Max, "Quantizing for minimum distortion", 1960, table II.
_STEPS = {1: 1.596, 2: 0.9957, 4: 0.3352}
_BITS = {"int8": 8, "int4": 4, "int2": 2, "binary": 1, "int4-plain": 4, "int2-plain": 2, "binary-plain": 1}


# Scores one query against blobs, as `Codec.scores` does, in the calling thread.
Matcher: TypeAlias = Callable[[Sequence[bytes]], FloatArray]
# Texts' records, one after another, and how many each has (at least one), to the best match of each query vector in each
# text, `(n_texts, n_query_vectors)`.
_Match: TypeAlias = Callable[[NDArray[Any], IntArray], FloatArray]


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

    def matcher(self, query: FloatArray) -> Matcher:
        """Return what scores a query, prepared once, against a few blobs at a time; safe in several threads."""


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
    base, _, pooling = str(name).partition("+")
    if base in _BITS and pooling in ("", "pool2"):
        plain = base == "int8" or base.endswith("-plain")
        kind = _BitCodec if _BITS[base] == 1 else _CodeCodec
        codec: _RecordCodec = kind(name, dim, _BITS[base], rotated=not plain)
    elif base in ("float32", "float16") and pooling in ("", "pool2"):
        codec = _FloatCodec(name, dim)
    else:
        raise InvalidInputError(
            f"codec: got {name!r}, expected one of float32, float16, {', '.join(_BITS)}, or one with +pool2. "
            f"Fix: codec='binary'"
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
        parts = [vectors.vectors[i : i + _PACKED] for i in range(0, len(vectors.vectors), _PACKED)]
        records = np.concatenate([np.empty(0, dtype=self._record), *map_shared(self._pack, parts)])
        return [records[start:stop].tobytes() for start, stop in pairwise(vectors.offsets.tolist())]

    def decode(self, blob: bytes) -> FloatArray:
        return self._unpack(np.frombuffer(blob, dtype=self._record))

    def scores(self, query: FloatArray, blobs: Sequence[bytes]) -> FloatArray:
        each = min(_TEXTS, max(1, len(blobs) // (2 * thread_count())))
        return np.concatenate([np.empty(0, dtype=np.float32), *map_shared(self.matcher(query), slices(blobs, each))])

    def matcher(self, query: FloatArray) -> Matcher:
        match = self._matcher(query)

        def scores(blobs: Sequence[bytes]) -> FloatArray:
            lengths = self._count_vectors(blobs)
            means: FloatArray = match(np.frombuffer(b"".join(blobs), dtype=self._record), lengths).mean(axis=1)
            return means

        return scores

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
    def _matcher(self, query: FloatArray) -> _Match:
        """Prepare a query."""


class _FloatCodec(_RecordCodec):
    def __init__(self, name: str, dim: int) -> None:
        super().__init__(name, dim, np.dtype([("values", "<f4" if "32" in name else "<f2", (dim,))]))

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        records = np.empty(len(vectors), dtype=self._record)
        records["values"] = vectors
        return records

    def _unpack(self, records: NDArray[Any]) -> FloatArray:
        return records["values"].astype(np.float32, copy=False)

    def _matcher(self, query: FloatArray) -> _Match:
        from bgem3.index.products import multiply_floats

        turned = np.ascontiguousarray(query.T)

        def match(records: NDArray[Any], lengths: IntArray) -> FloatArray:
            best = np.empty((len(lengths), len(query)), dtype=np.float32)
            firsts = np.cumsum([0, *lengths])
            start = 0
            while start < len(lengths):
                stop = max(int(np.searchsorted(firsts, firsts[start] + _BLOCK, side="right")) - 1, start + 1)
                similarity = multiply_floats(self._unpack(records[firsts[start] : firsts[stop]]), turned)
                best[start:stop] = np.maximum.reduceat(similarity, firsts[start:stop] - firsts[start], axis=0)
                start = stop
            return best

        return match


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
        turned = rotate(vectors) if self._rotated else vectors
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
        return rotate_back(vectors) if self._rotated else vectors

    def _matcher(self, query: FloatArray) -> _Match:
        from bgem3.index.products import best_matches, multiply, unpack

        right, scale = self._query_codes(query)
        centres = right.sum(axis=0, dtype=np.float32) * self._centre
        width = self._record["codes"].shape[0]

        def match(records: NDArray[Any], lengths: IntArray) -> FloatArray:
            factors = records["factor"].astype(np.float32)
            owners = np.repeat(np.arange(len(lengths)), lengths)
            raw = records.view(np.uint8).reshape(len(records), -1)
            room = np.empty((min(_BLOCK, len(raw)), width), dtype=self._table.dtype)
            best = np.full((len(lengths), len(query)), -np.inf, dtype=np.float32)
            for start in range(0, len(raw), _BLOCK):
                part = slice(start, start + _BLOCK)
                if self._bits == 8:
                    codes = np.ascontiguousarray(records["codes"][part])
                else:
                    some = room[: len(raw[part])]
                    unpack(raw[part], raw.shape[1] - width, self._table, some)
                    codes = some.view(np.uint8)
                best_matches(multiply(codes, right), centres, factors, start, owners, best)
            return best * scale

        return match

    def _query_codes(self, query: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
        """Return a query's codes, `(padded dim, n)` int8, and the scale of each vector, `(n,)`."""
        turned = rotate(query) if self._rotated else query
        scale = np.maximum(np.abs(turned).max(axis=1, initial=0), _TINY) / np.float32(self._limit)
        padded = self._record["codes"].shape[0] * (8 // self._bits)
        codes = np.zeros((padded, len(query)), dtype=np.int8)
        codes[: self.dim] = np.rint(turned / scale[:, None]).T
        return codes, scale


class _BitCodec(_CodeCodec):
    """One bit a dimension, looked up instead of multiplied."""

    def _pack(self, vectors: FloatArray) -> NDArray[Any]:
        turned = rotate(vectors) if self._rotated else vectors
        positive = turned >= 0
        records = np.zeros(len(vectors), dtype=self._record)
        records["factor"] = self._factors(turned, positive - self._centre, np.float32(1))
        records["codes"] = np.packbits(positive, axis=1)
        return records

    def _matcher(self, query: FloatArray) -> _Match:
        from bgem3.index.bit_products import best_of_bits, query_table

        turned = (rotate(query) if self._rotated else query).astype(np.float32, copy=False)
        table, step = query_table(turned)
        centres = turned.sum(axis=1) / step * self._centre

        def match(records: NDArray[Any], lengths: IntArray) -> FloatArray:
            factors, owners = records["factor"].astype(np.float32), np.repeat(np.arange(len(lengths)), lengths)
            return best_of_bits(records["codes"], table, centres, factors, owners) * step

        return match


class _PooledCodec:
    """Joins like token vectors of a text before another codec encodes them."""

    pools = True

    def __init__(self, inner: _RecordCodec) -> None:
        self.name, self.bytes_per_vector = inner.name, inner.bytes_per_vector
        self.decode, self.scores, self.matcher = inner.decode, inner.scores, inner.matcher
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
