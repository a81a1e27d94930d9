"""What the encoder returns: three representations of each text, from one forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np
from scipy.sparse import csr_array, vstack

from bgem3.errors import HeadNotEncodedError, InvalidInputError
from bgem3.types import HEADS, FloatArray, Head, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class MultiVectors(Sequence[FloatArray]):
    """The token vectors of several texts, kept in one array.

    `multi_vectors[i]` is a view of shape `(n_tokens_i, multi_dim)`, float32, rows of norm 1.

    Attributes:
        vectors: All token vectors, `(total_tokens, multi_dim)` float32.
        offsets: Where each text begins and the last one ends, `(n + 1,)` int64.

    Raises:
        InvalidInputError: the offsets do not cover the vectors.
    """

    vectors: FloatArray
    offsets: IntArray

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.vectors) or np.any(np.diff(self.offsets) < 0):
            raise InvalidInputError(
                f"offsets: expected to rise from 0 to {len(self.vectors)}, got {self.offsets[0]} to {self.offsets[-1]}"
            )

    @classmethod
    def from_list(cls, arrays: Sequence[FloatArray], dim: int = 0) -> MultiVectors:
        """Join one `(n_tokens, multi_dim)` array per text; `dim` is the width where there is none."""
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        vectors = np.concatenate(arrays) if arrays else np.empty((0, dim))
        return cls(np.ascontiguousarray(vectors, dtype=np.float32), offsets)

    @property
    def dim(self) -> int:
        """Width of a token vector."""
        return int(self.vectors.shape[1])

    @property
    def lengths(self) -> IntArray:
        """Token vectors per text, `(n,)` int64."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> FloatArray: ...
    @overload
    def __getitem__(self, index: slice) -> MultiVectors: ...
    def __getitem__(self, index: int | slice) -> FloatArray | MultiVectors:
        if isinstance(index, slice):
            return MultiVectors.from_list([self[i] for i in range(*index.indices(len(self)))], self.dim)
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        return self.vectors[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[FloatArray]:
        for start, stop in pairwise(self.offsets):
            yield self.vectors[start:stop]


class M3Embeddings:
    """Dense vectors, lexical weights and token vectors of `n` texts, in input order.

    A head that was not asked for raises `HeadNotEncodedError` when it is read.

    Args:
        dense: `(n, dim)` float32, rows of norm 1.
        sparse: `(n, vocab_size)` float32 `csr_array`, values > 0 with sorted indices.
        multi_vector: one `(n_tokens_i, multi_dim)` float32 array per text, rows of norm 1.

    Raises:
        InvalidInputError: no head at all, or heads of different lengths.
    """

    __slots__ = ("_dense", "_multi_vector", "_sparse")

    def __init__(
        self,
        *,
        dense: FloatArray | None = None,
        sparse: csr_array | None = None,
        multi_vector: MultiVectors | None = None,
    ) -> None:
        self._dense = dense
        self._sparse = sparse
        self._multi_vector = multi_vector
        lengths = {head: self._length(head) for head in self.heads}
        if not lengths or len(set(lengths.values())) != 1:
            raise InvalidInputError(f"heads: expected one or more of equal length, got {lengths}")

    @property
    def dense(self) -> FloatArray:
        """`(n, dim)` float32, rows of norm 1."""
        if self._dense is None:
            raise _not_encoded("dense")
        return self._dense

    @property
    def sparse(self) -> csr_array:
        """`(n, vocab_size)` float32, values > 0."""
        if self._sparse is None:
            raise _not_encoded("sparse")
        return self._sparse

    @property
    def multi_vector(self) -> MultiVectors:
        """One `(n_tokens_i, multi_dim)` float32 array per text, rows of norm 1."""
        if self._multi_vector is None:
            raise _not_encoded("multi_vector")
        return self._multi_vector

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that are there."""
        return tuple(head for head in HEADS if getattr(self, f"_{head}") is not None)

    def _length(self, head: Head) -> int:
        part = getattr(self, f"_{head}")
        return int(part.shape[0]) if head == "sparse" else len(part)

    def __len__(self) -> int:
        return self._length(self.heads[0])

    def __repr__(self) -> str:
        return f"M3Embeddings({len(self)} texts, heads={self.heads})"

    def __getitem__(self, rows: int | slice | Sequence[int] | IntArray) -> M3Embeddings:
        """Return the texts of a slice or a list of positions, or of one position the one text."""
        picked = np.atleast_1d(np.arange(len(self))[rows])
        return M3Embeddings(
            dense=None if self._dense is None else self._dense[picked],
            sparse=None if self._sparse is None else self._sparse[picked],
            multi_vector=None
            if self._multi_vector is None
            else MultiVectors.from_list([self._multi_vector[int(i)] for i in picked], self._multi_vector.dim),
        )

    def only(self, heads: Collection[Head]) -> M3Embeddings:
        """Return the same texts with no other heads than these; at least one of them is there."""
        if set(self.heads) <= set(heads):
            return self
        return M3Embeddings(**{head: getattr(self, f"_{head}") for head in heads})

    @classmethod
    def concatenate(cls, parts: Sequence[M3Embeddings]) -> M3Embeddings:
        """Join several results of the same heads, in order.

        Raises:
            InvalidInputError: `parts` is empty or the heads differ.
        """
        heads = {part.heads for part in parts}
        if len(heads) != 1:
            raise InvalidInputError(f"parts: expected one or more with the same heads, got {sorted(heads)}")
        has = next(iter(heads))
        return cls(
            dense=np.concatenate([p.dense for p in parts]) if "dense" in has else None,
            sparse=vstack([p.sparse for p in parts], format="csr") if "sparse" in has else None,
            multi_vector=MultiVectors.from_list([v for p in parts for v in p.multi_vector], parts[0].multi_vector.dim)
            if "multi_vector" in has
            else None,
        )

    def lexical_weights(self, row: int) -> dict[int, float]:
        """Return one text's sparse row as `{token id: weight}`, plain Python numbers."""
        sparse, row = self.sparse, range(len(self))[row]
        part = slice(int(sparse.indptr[row]), int(sparse.indptr[row + 1]))
        return dict(zip(sparse.indices[part].tolist(), sparse.data[part].tolist(), strict=True))

    def lexical_rows(self, empty: Mapping[int, float] | None = None) -> list[dict[int, float]]:
        """Return the sparse row of each text, as `lexical_weights` does; `empty` in the place of one without a token."""
        return [self.lexical_weights(row) or dict(empty or {}) for row in range(len(self))]

    def to_flag(self) -> dict[str, object]:
        """Return the dictionary that FlagEmbedding's `BGEM3FlagModel.encode` returns.

        Keys are `dense_vecs`, `lexical_weights` (one dictionary per text, keys are token ids as
        strings, 0 under others) and `colbert_vecs` (one array per text); a head that is not there is `None`.
        """
        has = self.heads
        return {
            "dense_vecs": self.dense if "dense" in has else None,
            "lexical_weights": [
                defaultdict(int, {str(token): weight for token, weight in row.items()}) for row in self.lexical_rows()
            ]
            if "sparse" in has
            else None,
            "colbert_vecs": list(self.multi_vector) if "multi_vector" in has else None,
        }


def unit_row(vector: Sequence[float], dim: int, name: str, fix: str) -> FloatArray:
    """Return a vector that a caller gives as `(1, dim)` float32 of norm 1.

    Args:
        vector: Any numbers.
        dim: How many there must be.
        name: What an error calls it.
        fix: What to pass in its place.

    Raises:
        InvalidInputError: it has another width, a number that is not finite, or no direction.
    """
    try:
        row = np.array([vector], dtype=np.float32)
    except (TypeError, ValueError):
        row = np.empty((1, 0), dtype=np.float32)
    if row.shape != (1, dim) or not np.isfinite(row).all() or not row.any():
        raise InvalidInputError(f"{name}: expected {dim} finite numbers, not all 0, got {row.size} numbers. Fix: {fix}")
    return unit_rows(row)


def unit_rows(rows: FloatArray) -> FloatArray:
    """Return rows scaled to norm 1, float32; a row of zeros stays."""
    wide = rows.astype(np.float64)  # it holds the squares of what float32 holds
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    units: FloatArray = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0).astype(np.float32)
    return units


def _not_encoded(head: Head) -> HeadNotEncodedError:
    return HeadNotEncodedError(f"{head}: this head was not encoded. Fix: pass it to encode, e.g. heads=({head!r},)")
