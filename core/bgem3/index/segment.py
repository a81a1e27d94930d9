"""A part of the inverted index: the posting lists of up to 65,536 rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from bgem3.types import FloatArray, IntArray

# Documents are numbered by uint16 within a segment; one float32 each stays within the processor's cache.
SEGMENT_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Posting lists one after the other: `tokens[i]` has the postings `starts[i]:starts[i + 1]`.

    Attributes:
        rows: The row number of each document, rising, `(n,)` int64, n <= 65,536.
        lengths: The sum of each document's weights, `(n,)` float32.
        tokens: The token ids that occur, rising, `(n_tokens,)` uint32.
        starts: `(n_tokens + 1,)` int64.
        highest: The largest weight of each list, `(n_tokens,)` float32.
        docs: The document of each posting, rising within a list, `(n_postings,)` uint16.
        weights: The weight of each posting, > 0, `(n_postings,)` float32.
    """

    rows: IntArray
    lengths: FloatArray
    tokens: NDArray[np.uint32]
    starts: IntArray
    highest: FloatArray
    docs: NDArray[np.uint16]
    weights: FloatArray

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.rows)

    def places(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return which of `rows` are here, as positions in `rows` and as documents, both `(m,)`."""
        docs = np.searchsorted(self.rows, rows)
        docs[docs == len(self.rows)] = 0
        here = np.flatnonzero(self.rows[docs] == rows) if len(self.rows) else np.empty(0, dtype=np.int64)
        return here, docs[here]


def invert(blocks: Sequence[tuple[IntArray, csr_array]]) -> list[Segment]:
    """Make segments of rows and their weights, `(n, vocab_size)`, all rows distinct."""
    rows = np.concatenate([block_rows for block_rows, _ in blocks])
    sparse = vstack([block for _, block in blocks], format="csr")
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        rows, sparse = rows[order], sparse[order]
    cuts = [*range(0, len(rows), SEGMENT_ROWS), len(rows)]
    return [_invert(rows[start:stop], sparse[start:stop]) for start, stop in pairwise(cuts)]


def _invert(rows: IntArray, sparse: csr_array) -> Segment:
    columns = sparse.tocsc()
    sizes = np.diff(columns.indptr)
    tokens = np.flatnonzero(sizes)
    lengths = np.asarray(sparse.sum(axis=1), dtype=np.float32)
    return _segment(rows, lengths, np.repeat(tokens, sizes[tokens]), columns.indices, columns.data)


def merge(parts: Sequence[tuple[Segment, NDArray[np.bool_]]]) -> Segment:
    """Join segments of together up to 65,536 living documents, and leave out the dead.

    Args:
        parts: Each segment with the documents that live, `(n,)` bool.
    """
    rows = np.concatenate([segment.rows[alive] for segment, alive in parts])
    lengths = np.concatenate([segment.lengths[alive] for segment, alive in parts])
    order = np.argsort(rows, kind="stable")
    number = np.empty(len(rows), dtype=np.int64)
    number[order] = np.arange(len(rows))
    ends = np.cumsum([np.count_nonzero(alive) for _, alive in parts])
    tokens, docs, weights = [], [], []
    for (segment, alive), own in zip(parts, np.split(number, ends[:-1]), strict=True):
        new = np.full(len(segment), -1, dtype=np.int64)
        new[alive] = own
        kept = alive[segment.docs]
        tokens.append(np.repeat(segment.tokens, np.diff(segment.starts))[kept])
        docs.append(new[segment.docs][kept])
        weights.append(segment.weights[kept])
    keys = np.concatenate(tokens).astype(np.int64) * SEGMENT_ROWS + np.concatenate(docs)
    # The segments are sorted runs, which a stable sort merges in linear time.
    by_token = np.argsort(keys, kind="stable")
    keys = keys[by_token]
    joined = np.concatenate(weights)[by_token]
    return _segment(rows[order], lengths[order], keys // SEGMENT_ROWS, keys % SEGMENT_ROWS, joined)


def _segment(
    rows: IntArray, lengths: FloatArray, tokens: NDArray[Any], docs: NDArray[Any], weights: FloatArray
) -> Segment:
    """Make a segment of postings sorted by token and document."""
    first = np.flatnonzero(np.diff(tokens, prepend=-1))
    weights = weights.astype(np.float32, copy=False)
    return Segment(
        rows=rows.astype(np.int64, copy=False),
        lengths=lengths,
        tokens=tokens[first].astype(np.uint32),
        starts=np.append(first, len(tokens)).astype(np.int64),
        highest=np.maximum.reduceat(weights, first) if len(first) else np.empty(0, dtype=np.float32),
        docs=docs.astype(np.uint16),
        weights=weights,
    )
