"""Dense vectors of a collection that is not large, in memory: all are compared with a query.

Up to some ten thousand chunks that is faster than the way through a graph, and misses none; see
docs/decisions/dense-scan.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bgem3.index.threads import run_all, thread_count
from bgem3.types import FloatArray, IntArray

# The most rows: 64 MB at 1,024 dimensions, about 3 ms a search on two cores.
LIMIT = 32_768
# Rows read at a time.
_SLICE = 1000
# So many rows are worth a second thread.
_SHARED = 4096


@dataclass(frozen=True, slots=True, eq=False)
class DenseRows:
    """One state of all rows' vectors, as 16-bit numbers with one step a row: a score is right to about 1e-6.

    Later states share the arrays and fill what this one leaves free.

    Attributes:
        rows: `(n,)` int64, rising.
        places: `(n,)` int64, where each row's numbers are.
        codes: `(room, dim)` int16.
        steps: `(room,)` float32.
        used: How many places this state and those before have filled.
    """

    rows: IntArray
    places: IntArray
    codes: NDArray[np.int16]
    steps: FloatArray
    used: int = 0

    @classmethod
    def none(cls, dim: int) -> DenseRows:
        """Return a state without rows."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing, np.empty((0, dim), dtype=np.int16), np.empty(0, dtype=np.float32))

    def follow(self, live: IntArray, read: Callable[[IntArray], FloatArray]) -> DenseRows:
        """Return the state with other rows; only the last state may be followed.

        Args:
            live: The rows from now on, rising, none of them ever used before for another vector.
            read: Returns the vectors of rows, `(n, dim)` float32.
        """
        kept = np.isin(self.rows, live, assume_unique=True)
        state = replace(self, rows=self.rows[kept], places=self.places[kept])
        new = np.setdiff1d(live, self.rows, assume_unique=True)
        for rows in np.split(new, range(_SLICE, len(new), _SLICE)) if len(new) else []:
            state = state._with(rows, read(rows), len(live))
        return state

    def top(self, vector: FloatArray, n: int, allowed: IntArray | None = None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows and their scores for a `(dim,)` vector, best first; ties by row.

        Args:
            vector: float32.
            n: How many rows at most.
            allowed: Only these rows, rising; None: all.
        """
        rows = self.rows if allowed is None else np.intersect1d(self.rows, allowed, assume_unique=True)
        scores = self.scores(vector, rows)
        if len(rows) > n:
            best = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
            rows, scores = rows[best], scores[best]
        order = np.lexsort((rows, -scores))[:n]
        return rows[order], scores[order]

    def scores(self, vector: FloatArray, rows: IntArray) -> FloatArray:
        """Return the dot products of a `(dim,)` vector with rows that are there, `(n,)` float32 in their order."""
        from bgem3.index.kernels import dots

        places = self.places if rows is self.rows else self.places[np.searchsorted(self.rows, rows)]
        result = np.empty(len(rows), dtype=np.float32)
        count = thread_count() if len(rows) >= _SHARED else 1
        cuts = [len(rows) * i // count for i in range(count + 1)]
        shares = [slice(start, stop) for start, stop in pairwise(cuts)]
        run_all(lambda part: dots(self.codes, self.steps, places[part], vector, result[part]), shares)
        return result

    def _with(self, rows: IntArray, vectors: FloatArray, expected: int) -> DenseRows:
        state = self
        if self.used + len(rows) > len(self.codes):
            needed = len(self.rows) + len(rows)
            room = max(needed + needed // 4, min(LIMIT, max(expected, 2 * needed)))
            codes, steps = np.empty((room, vectors.shape[1]), dtype=np.int16), np.empty(room, dtype=np.float32)
            used = len(self.rows)
            codes[:used], steps[:used] = self.codes[self.places], self.steps[self.places]
            state = DenseRows(self.rows, np.arange(used), codes, steps, used)
        places = np.arange(state.used, state.used + len(rows))
        largest = np.abs(vectors).max(axis=1, initial=0)
        state.steps[places] = np.maximum(largest, np.finfo(np.float32).tiny) / np.float32(32767)
        state.codes[places] = np.rint(vectors / state.steps[places, None])
        order = np.argsort(joined := np.concatenate([state.rows, rows]), kind="stable")
        places = np.concatenate([state.places, places])[order]
        return replace(state, rows=joined[order], places=places, used=state.used + len(rows))
