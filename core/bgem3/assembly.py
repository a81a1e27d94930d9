"""Head outputs of many batches -> representations of texts, in input order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from scipy.sparse import csr_array

from bgem3.backends.base import HeadOutputs
from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.types import FloatArray, Head, IntArray


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


def token_runs(
    texts: Iterable[str],
    prepare: Callable[[list[str], int], TokenSequences],
    tokens: int,
    count: int,
    start: int | None = None,
) -> Iterator[TokenSequences]:
    """Tokenise texts, `count` at a time, into runs of at least `tokens` tokens.

    Args:
        texts: Read as they are needed.
        prepare: Tokenises texts, the first of which stands at a position.
        tokens: Of a run; the last may have fewer.
        count: Texts given to `prepare`.
        start: Tokens of the first run; each next one has twice as many, up to `tokens`. None: all alike.
    """
    source, first, enough = iter(texts), 0, tokens if start is None else start
    members: list[TokenSequences] = []
    while group := list(islice(source, count)):
        members.append(prepare(group, first))
        first += len(group)
        if sum(len(ids) for member in members for ids in member.ids) >= enough:
            yield TokenSequences.join(members)
            members, enough = [], min(tokens, 2 * enough)
    if members:
        yield TokenSequences.join(members)


class Assembly:
    """The results of all sequences, written in place as batches come, in any order.

    Args:
        sequences: What is encoded.
        heads: Which heads will come.
        dim: Width of a dense vector.
        multi_dim: Width of a token vector.
    """

    def __init__(self, sequences: TokenSequences, heads: Collection[Head], dim: int, multi_dim: int) -> None:
        lengths = sequences.lengths
        tokens = int(lengths.sum())
        self._sequences = sequences
        self._lengths = lengths
        self._starts = np.cumsum(lengths) - lengths
        self._dense = np.empty((len(lengths), dim), np.float32) if "dense" in heads else None
        self._weights = np.empty(tokens, np.float32) if "sparse" in heads else None
        self._vectors = np.empty((tokens - len(lengths), multi_dim), np.float32) if "multi_vector" in heads else None

    def put(self, members: IntArray, outputs: HeadOutputs) -> None:
        """Take what the backend gave for one batch; `members` are positions in `TokenSequences.ids`."""
        if self._dense is not None:
            self._dense[members] = outputs.dense
        if self._weights is not None:
            self._weights[_ranges(self._starts[members], self._lengths[members])] = outputs.token_weights
        if self._vectors is not None:
            # each sequence before it has one vector less than tokens
            starts, counts = self._starts[members] - members, self._lengths[members] - 1
            self._vectors[_ranges(starts, counts)] = outputs.token_vectors

    def finish(self, dropped: IntArray, vocab_size: int) -> M3Embeddings:
        """Return the texts' representations, once every batch was put; `dropped` ids get no lexical weight."""
        return M3Embeddings(
            dense=None if self._dense is None else _mean_of_windows(self._dense, self._sequences),
            sparse=None if self._weights is None else self._sparse_rows(self._weights, dropped, vocab_size),
            multi_vector=None if self._vectors is None else self._token_vectors(self._vectors),
        )

    def _sparse_rows(self, weights: FloatArray, dropped: IntArray, width: int) -> csr_array:
        """Return `(n_texts, width)`: the largest weight of each token id in a text, over all its windows."""
        ids = np.concatenate([*self._sequences.ids, np.empty(0, np.int64)])
        owners = np.repeat(self._sequences.owners, self._lengths)
        return merge_tokens(ids, weights, owners, (self._sequences.n_texts, width), dropped, np.maximum)

    def _token_vectors(self, vectors: FloatArray) -> MultiVectors:
        """Return each text's token vectors; the windows of one text follow each other."""
        starts = np.concatenate([[0], np.cumsum(self._lengths - 1)]).astype(np.int64)
        first = np.searchsorted(self._sequences.owners, np.arange(self._sequences.n_texts + 1))
        return MultiVectors(vectors, starts[first])


def _ranges(starts: IntArray, counts: IntArray) -> IntArray:
    """Return `start, start + 1, ...` of each range, joined."""
    shifts = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    joined: IntArray = shifts + np.arange(len(shifts))
    return joined


def _mean_of_windows(rows: FloatArray, sequences: TokenSequences) -> FloatArray:
    """Return `(n_texts, dim)`; several windows of one text become their mean, normalised again."""
    if len(rows) == sequences.n_texts:
        return rows
    first = np.searchsorted(sequences.owners, np.arange(sequences.n_texts))
    sums = np.add.reduceat(rows, first, axis=0)
    means: FloatArray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    several = np.bincount(sequences.owners) > 1
    return np.where(several[:, None], means, rows[first])


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
