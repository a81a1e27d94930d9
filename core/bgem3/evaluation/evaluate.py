"""Measure ways to search on a labelled set, with the code that searches in an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError
from bgem3.evaluation.cached_encoder import CachedEncoder
from bgem3.evaluation.candidates import Candidates, find_candidates
from bgem3.evaluation.dataset import Dataset
from bgem3.evaluation.measures import measure_rankings, require_measures
from bgem3.evaluation.statistics import Values
from bgem3.evaluation.systems import System, make_systems
from bgem3.stores.local import run_plan

# Passages a search returns -> what is measured on them; apart, since a cascade's depth depends on k.
_BY_DEPTH = {10: ("nDCG@10", "MRR@10", "Recall@10"), 100: ("Recall@100",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured on one data set.

    Attributes:
        dataset: Its name.
        n_passages: Passages in the pool.
        query_ids: The questions asked.
        encoder: What `M3Encoder.describe` says.
        values: By system and by measure (`nDCG@10`, `MRR@10`, `Recall@10`, `Recall@100`): one value
            in [0, 1] a question, `(n_queries,)` float64.
    """

    dataset: str
    n_passages: int
    query_ids: Sequence[str]
    encoder: Mapping[str, object]
    values: Mapping[str, Mapping[str, Values]]

    def mean(self, system: str, measure: str = "nDCG@10") -> float:
        """Return the mean over the questions, in [0, 1].

        Raises:
            KeyError: no such system or measure.
        """
        return float(self.values[system][measure].mean())


def evaluate(
    dataset: Dataset,
    encoder: M3Encoder,
    systems: Sequence[System] | None = None,
    *,
    cache: str | Path | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Search for every question of a data set in several ways, and measure the answers.

    Every way runs over the same candidates, with the code of the embedded stores and exact dense search.

    Args:
        dataset: Passages, questions and judgements.
        encoder: Encodes both, once: embeddings are kept on disk.
        systems: Ways to search; None: each head alone, and each strategy with balanced weights.
        cache: Folder of the embeddings; None: `embeddings` in the project's cache folder.
        show_progress: Show bars over the passages.

    Raises:
        InvalidInputError: no system, two of one name, or an unknown codec.
        MissingExtraError: ir-measures is not installed.
        StoreWriteError: the cache folder cannot be written to.
    """
    chosen = make_systems() if systems is None else systems
    if not chosen or len({system.name for system in chosen}) != len(chosen):
        raise InvalidInputError(
            f"systems: expected one or more with different names, got {[s.name for s in chosen]}. Fix: make_systems()"
        )
    require_measures()
    candidates = candidates_for(dataset, CachedEncoder(encoder, cache), chosen, show_progress=show_progress)
    return Evaluation(
        dataset=dataset.name,
        n_passages=dataset.n_passages,
        query_ids=[*dataset.queries],
        encoder=encoder.describe(),
        values={system.name: measure_system(dataset, candidates, system) for system in chosen},
    )


def candidates_for(
    dataset: Dataset, cache: CachedEncoder, systems: Sequence[System], *, show_progress: bool = False
) -> Candidates:
    """Find and score all candidates that some systems can ask for; arguments as `evaluate` has them."""
    plans = [system.plan(max(_BY_DEPTH)) for system in systems]
    return find_candidates(
        dataset,
        cache,
        depth=max(max(plan.k, plan.fetch_k, *plan.cascade) for plan in plans),
        lexicals=[*dict.fromkeys(system.lexical for system in systems)],
        codecs=[*dict.fromkeys(system.codec for system in systems if system.scores_tokens)],
        show_progress=show_progress,
    )


def measure_system(dataset: Dataset, candidates: Candidates, system: System) -> dict[str, Values]:
    """Return one value in [0, 1] a question, `(n_queries,)`, of each measure."""
    result: dict[str, Values] = {}
    for k, measures in _BY_DEPTH.items():
        result |= measure_rankings(dataset.qrels, search(dataset, candidates, system, k), measures)
    return result


def search(dataset: Dataset, candidates: Candidates, system: System, k: int) -> dict[str, list[str]]:
    """Return the ids of the `k` best passages of each question, best first, by query id."""
    plan = system.plan(k)
    query = _scored_query(system.scores_tokens)
    pools = candidates.pools(system.lexical, system.codec)
    return {
        id_: [hit.id for hit in run_plan(pool, query, plan)] for id_, pool in zip(dataset.queries, pools, strict=True)
    }


def _scored_query(with_tokens: bool) -> M3Embeddings:
    """Return a question whose candidates are scored already: a search reads only which heads it has."""
    nothing = np.zeros((1, 1), dtype=np.float32)
    tokens = MultiVectors.from_list([nothing]) if with_tokens else None
    return M3Embeddings(dense=nothing, sparse=csr_array(nothing), multi_vector=tokens)
