"""Head outputs of many batches -> representations of texts, in input order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from bgem3.backends.base import HeadOutputs
from bgem3.embeddings import MultiVectors
from bgem3.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequences:
    """Token ids ready for the forward pass.

    Attributes:
        ids: One sequence a text, or one a window, in the order of the texts.
        owners: The text that each sequence belongs to, rising, `(n_sequences,)`.
        n_texts: Number of texts; each owns at least one sequence.
    """

    ids: list[IntArray]
    owners: IntArray
    n_texts: int

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sequence, `(n_sequences,)`."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    @classmethod
    def of_parts(cls, parts: Sequence[Sequence[IntArray]]) -> TokenSequences:
        """Take the sequences of each text."""
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return cls([ids for part in parts for ids in part], owners, len(parts))

    @classmethod
    def join(cls, members: Sequence[TokenSequences]) -> TokenSequences:
        """Put the texts of several callers one after another."""
        starts = np.cumsum([0, *(member.n_texts for member in members)])
        owners = [member.owners + start for member, start in zip(members, starts, strict=False)]
        return cls([ids for member in members for ids in member.ids], np.concatenate(owners), int(starts[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutputs:
    """What the backend gave for one batch; `members` are positions in `TokenSequences.ids`."""

    members: IntArray
    heads: HeadOutputs


def dense_rows(batches: Sequence[BatchOutputs], sequences: TokenSequences, dim: int) -> FloatArray:
    """Return `(n_texts, dim)`; several windows of one text become their mean, normalised again."""
    rows = np.empty((len(sequences.ids), dim), dtype=np.float32)
    for batch in batches:
        rows[batch.members] = batch.heads.dense
    if len(rows) == sequences.n_texts:
        return rows
    first = np.searchsorted(sequences.owners, np.arange(sequences.n_texts))
    sums = np.add.reduceat(rows, first, axis=0)
    means: FloatArray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    several = np.bincount(sequences.owners) > 1
    return np.where(several[:, None], means, rows[first])


def sparse_rows(batches: Sequence[BatchOutputs], sequences: TokenSequences, dropped: IntArray, width: int) -> csr_array:
    """Return `(n_texts, width)`: the largest weight of each token id in a text, over all its windows."""
    order = [int(i) for batch in batches for i in batch.members]
    ids = np.concatenate([sequences.ids[i] for i in order] or [np.empty(0, np.int64)])
    owners = np.repeat(sequences.owners[order], sequences.lengths[order]) if order else ids
    weights = [batch.heads.token_weights for batch in batches if batch.heads.token_weights is not None]
    values = np.concatenate(weights or [np.empty(0, np.float32)])
    return merge_tokens(ids, values, owners, (sequences.n_texts, width), dropped, np.maximum)


def merge_tokens(
    ids: IntArray, values: FloatArray, owners: IntArray, shape: tuple[int, int], dropped: IntArray, reduce: np.ufunc
) -> csr_array:
    """Merge the values of equal ids within a text; `dropped` ids and zeros are left out."""
    kept = (values > 0) & ~np.isin(ids, dropped)
    keys = owners[kept] * shape[1] + ids[kept]
    order = np.argsort(keys, kind="stable")
    keys, data = keys[order], values[kept][order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    if len(first):
        data = reduce.reduceat(data, first)
    rows, columns = np.divmod(keys[first], shape[1])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return csr_array((data, columns.astype(np.int32), offsets.astype(np.int32)), shape=shape)


def token_vectors(batches: Sequence[BatchOutputs], sequences: TokenSequences, dim: int) -> MultiVectors:
    """Return each text's token vectors; the windows of one text follow each other."""
    counts = sequences.lengths - 1
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    vectors = np.empty((int(starts[-1]), dim), dtype=np.float32)
    for batch in batches:
        assert batch.heads.token_vectors is not None  # the caller asked for them
        taken = 0
        for i in batch.members:
            vectors[starts[i] : starts[i + 1]] = batch.heads.token_vectors[taken : taken + counts[i]]
            taken += counts[i]
    first = np.searchsorted(sequences.owners, np.arange(sequences.n_texts + 1))
    return MultiVectors(vectors, starts[first])
