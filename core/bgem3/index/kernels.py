"""The compiled loops of the inverted index, and of the dense vectors beside it.

Imported on the first query: compiling takes a moment, once a machine.

A posting list is `docs[start:stop]`, rising numbers of one segment, and the weights beside them. With
`damping` (one value a document) a weight w counts as w / (w + damping), which is BM25; an empty array
means plain weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bgem3.index.compiling import compiled

Array = NDArray[Any]

# Finding a document in a list costs as much as reading so many postings.
_LOOKUP = 20


@compiled()
def find_lists(tokens: Array, starts: Array, wanted: Array, lists: Array) -> None:
    """Write the start and stop of each wanted token's list to `lists`, `(n, 2)`; equal where there is none."""
    places = np.searchsorted(tokens, wanted)
    for t in range(len(wanted)):
        at = places[t]
        if at < len(tokens) and tokens[at] == wanted[t]:
            lists[t, 0], lists[t, 1] = starts[at], starts[at + 1]
        else:
            lists[t, 0] = lists[t, 1] = 0


@compiled()
def mark(rows: Array, alive: Array, allowed: Array, mask: Array) -> int:
    """Mark the living documents whose rows are allowed, both rising; return how many."""
    place = count = 0
    for doc in range(len(rows)):
        while place < len(allowed) and allowed[place] < rows[doc]:
            place += 1
        mask[doc] = alive[doc] and place < len(allowed) and allowed[place] == rows[doc]
        count += mask[doc]
    return count


@compiled()
def _add_list(total: Array, docs: Array, weights: Array, damping: Array, factor: np.float32) -> None:
    if len(damping):
        for i in range(len(docs)):
            total[docs[i]] += factor * (weights[i] / (weights[i] + damping[docs[i]]))
    else:
        for i in range(len(docs)):
            total[docs[i]] += factor * weights[i]


@compiled()
def score_docs(
    chosen: Array, docs: Array, weights: Array, damping: Array, lists: Array, factors: Array, scores: Array
) -> None:
    """Score chosen documents, finding each in every list; adds up in the order of the lists, as `search` does."""
    for c in range(len(chosen)):
        doc = chosen[c]
        total = np.float32(0)
        for t in range(len(factors)):
            low, high = lists[t, 0], lists[t, 1]
            while low < high:
                middle = (low + high) >> 1
                if docs[middle] < doc:
                    low = middle + 1
                else:
                    high = middle
            if low < lists[t, 1] and docs[low] == doc:
                weight = weights[low]
                if len(damping):
                    weight = weight / (weight + damping[doc])
                total += factors[t] * weight
        scores[c] = total


@compiled()
def _skippable(bounds: Array, threshold: float, skip: Array) -> float:
    """Mark the lists that cannot lift a document to the threshold even together; return what they add at most."""
    rest = 0.0
    for t in np.argsort(bounds):
        if rest + bounds[t] >= threshold:
            break
        rest += bounds[t]
        skip[t] = True
    return rest


@compiled()
def search(
    docs: Array,
    weights: Array,
    damping: Array,
    lists: Array,
    factors: Array,
    bounds: Array,
    mask: Array,
    threshold: float,
    total: Array,
    found: Array,
    scores: Array,
) -> int:
    """Find the documents of a segment that score at least `threshold` and above 0; return how many.

    Lists that cannot decide alone are not read through: the documents that the others leave possible are
    looked up in them.

    Args:
        docs: The segment's postings: documents.
        weights: The segment's postings: weights.
        damping: Of each document, under BM25.
        lists: Start and stop of each query token's list, `(n_tokens, 2)`.
        factors: What a weight is multiplied with, by query token.
        bounds: The most that each query token can add.
        mask: Which documents may be found; an empty array: all.
        threshold: Scores below it are of no use.
        total: Room for one float32 a document, all 0; is all 0 again afterwards.
        found: Room for the documents found.
        scores: Room for their scores.

    Source: MaxScore, Turtle and Flood 1995.
    """
    skip = np.zeros(len(factors), dtype=np.bool_)
    # Sums are rounded in another order than bounds are.
    floor = threshold * (1 - 1e-5)
    rest = _skippable(bounds, floor, skip)
    left_out = 0
    for t in range(len(factors)):
        if skip[t]:
            left_out += lists[t, 1] - lists[t, 0]
        else:
            _add_list(total, docs[lists[t, 0] : lists[t, 1]], weights[lists[t, 0] : lists[t, 1]], damping, factors[t])
    low = max(floor - rest, 0.0)
    if left_out and _LOOKUP * len(factors) * _count(total, low) > left_out:
        for t in range(len(factors)):
            if skip[t]:
                part = slice(lists[t, 0], lists[t, 1])
                _add_list(total, docs[part], weights[part], damping, factors[t])
        low = floor
    count = 0
    for doc in range(len(total)):
        if total[doc] > 0 and total[doc] >= low and (len(mask) == 0 or mask[doc]):
            found[count] = doc
            scores[count] = total[doc]
            count += 1
    total[:] = 0
    if left_out:
        # The same sums in the same order as `scores` gives, to the last bit.
        score_docs(found[:count], docs, weights, damping, lists, factors, scores)
    return count


@compiled()
def _count(total: Array, low: float) -> int:
    count = 0
    for doc in range(len(total)):
        count += total[doc] > 0 and total[doc] >= low
    return count


@compiled(fastmath=True)
def dots(codes: Array, steps: Array, places: Array, vector: Array, result: Array) -> None:
    """Write the dot product of a vector and each place's numbers times their step to `result`, `(n,)` float32."""
    for i in range(len(places)):
        numbers, total = codes[places[i]], np.float32(0)
        for j in range(len(vector)):
            total += np.float32(numbers[j]) * vector[j]
        result[i] = total * steps[places[i]]
