"""Measures of rankings, by ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from bgem3.errors import MissingExtraError
from bgem3.evaluation.dataset import Qrels
from bgem3.evaluation.statistics import Values

# What tables call a measure -> its name in ir-measures, and how many passages count.
MEASURES = {"nDCG@10": ("nDCG", 10), "MRR@10": ("RR", 10), "Recall@10": ("R", 10), "Recall@100": ("R", 100)}


def require_measures() -> ModuleType:
    """Return ir-measures; asked before anything is encoded.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ir_measures
    except ModuleNotFoundError as error:
        raise MissingExtraError("ir-measures", "eval", "measuring retrieval") from error
    return ir_measures


def measure_rankings(qrels: Qrels, ranked: Mapping[str, Sequence[str]], measures: Sequence[str]) -> dict[str, Values]:
    """Return one value in [0, 1] a question of each measure, `(n_queries,)`, in the order of `ranked`.

    Args:
        qrels: Relevance > 0 by query id and passage id.
        ranked: Passage ids by query id, best first.
        measures: Some of `MEASURES`.

    Raises:
        MissingExtraError: ir-measures is not installed.
    """
    ir_measures = require_measures()
    # not by parse_measure, which asks for what Python 3.14 no longer has
    wanted = {getattr(ir_measures, MEASURES[name][0]) @ MEASURES[name][1]: name for name in measures}
    judged: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for place, (query_id, ids) in enumerate(ranked.items()):
        # numbers in place of ids: trec_eval, in C, ends an id at U+0000 and the process where two then are one
        numbers = {id_: str(number) for number, id_ in enumerate([*qrels[query_id], *ids])}
        judged[str(place)] = {numbers[id_]: grade for id_, grade in qrels[query_id].items()}
        # ranks in place of scores: it has its own order among equal scores
        run[str(place)] = {numbers[id_]: -float(rank) for rank, id_ in enumerate(ids)}
    result = {name: np.zeros(len(ranked)) for name in measures}
    for found in ir_measures.iter_calc([*wanted], judged, run):
        result[wanted[found.measure]][int(found.query_id)] = found.value
    return result
