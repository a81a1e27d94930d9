"""Measures of rankings, by ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bgem3.errors import MissingExtraError
from bgem3.evaluation.dataset import Qrels
from bgem3.evaluation.statistics import Values

# What tables call a measure -> what ir-measures does.
MEASURES = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "Recall@10": "R@10", "Recall@100": "R@100"}


def measure_rankings(qrels: Qrels, ranked: Mapping[str, Sequence[str]], measures: Sequence[str]) -> dict[str, Values]:
    """Return one value in [0, 1] a question of each measure, `(n_queries,)`, in the order of `ranked`.

    Args:
        qrels: Relevance > 0 by query id and passage id.
        ranked: Passage ids by query id, best first.
        measures: Some of `MEASURES`.

    Raises:
        MissingExtraError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ModuleNotFoundError as error:
        raise MissingExtraError("ir-measures", "eval", "measuring retrieval") from error
    wanted = {ir_measures.parse_measure(MEASURES[name]): name for name in measures}
    judged = {query_id: dict(qrels[query_id]) for query_id in ranked}
    # ranks in place of scores: ir-measures has its own order among equal scores
    run = {query_id: {id_: -float(rank) for rank, id_ in enumerate(ids)} for query_id, ids in ranked.items()}
    place = {query_id: position for position, query_id in enumerate(ranked)}
    result = {name: np.zeros(len(ranked)) for name in measures}
    for found in ir_measures.iter_calc([*wanted], judged, run):
        result[wanted[found.measure]][place[found.query_id]] = found.value
    return result
