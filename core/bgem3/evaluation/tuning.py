"""Find strategy and weights from a small labelled sample, and say how far to trust them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError, TuningWarning
from bgem3.evaluation.cached_encoder import CachedEncoder
from bgem3.evaluation.candidates import Candidates
from bgem3.evaluation.dataset import Dataset
from bgem3.evaluation.evaluate import candidates_for, search
from bgem3.evaluation.measures import measure_rankings, require_measures
from bgem3.evaluation.statistics import Values, mean_interval, paired_p
from bgem3.evaluation.systems import System
from bgem3.tuned import Tuned
from bgem3.types import STRATEGIES, Lexical, Strategy, Weights

MEASURE = "nDCG@10"
FOLDS = 5
_STEPS = (0.0, 0.1, 0.3, 1.0)
# A chance of one in twenty that the sample shows this gain where there is none.
_LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a sample says.

    Attributes:
        best: Best strategy and weights on the whole sample.
        default: Mean nDCG@10 of balanced weights under `union`, on the sample.
        held_out: Mean nDCG@10 of what was chosen on four fifths, on the fifth left out, over five folds.
        low, high: 95 % interval of `held_out - default`.
        p: Of that difference, two-sided, paired.
    """

    best: Tuned
    default: float
    held_out: float
    low: float
    high: float
    p: float

    @property
    def trusted(self) -> bool:
        """Whether the sample tells the choice from the default: better, with p below 0.05."""
        return self.held_out > self.default and self.p < _LEVEL

    @property
    def advised(self) -> Tuned:
        """The best where it is trusted, else the default."""
        return self.best if self.trusted else replace(self.best, strategy="union", weights=Weights.balanced)


def tune(
    dataset: Dataset,
    encoder: M3Encoder,
    *,
    strategies: Sequence[Strategy] = STRATEGIES,
    lexical: Lexical = "m3",
    codec: str = "float32",
    seed: int = 0,
    cache: str | Path | None = None,
    show_progress: bool = False,
) -> Tuning:
    """Find the strategy and weights that suit labelled questions best; 50 to 200 of them are usual.

    Weights of 0, 0.1, 0.3 and 1 a head are tried with each strategy. What the choice is worth is
    measured by five-fold cross-validation, on questions it was not made on.

    Args:
        dataset: Passages, questions and judgements.
        encoder: Encodes both, once: embeddings are kept on disk.
        strategies: Which of `union`, `cascade`, `rrf` to try.
        lexical: Weighting of the sparse head, as the index has it.
        codec: Codec of the token vectors, as the store has it.
        seed: Of the folds.
        cache: Folder of the embeddings; None: `embeddings` in the project's cache folder.
        show_progress: Show bars over the passages.

    Warns:
        TuningWarning: the sample cannot tell the choice from the default.

    Raises:
        InvalidInputError: fewer than 10 questions.
        MissingExtraError: the extra `eval` is not installed.
        StoreWriteError: the folder of the embeddings cannot be written to.
    """
    if len(dataset.queries) < 2 * FOLDS:
        raise InvalidInputError(
            f"queries: got {len(dataset.queries)}, expected {2 * FOLDS} or more. Fix: label some more, 50 to 200 are usual"
        )
    require_measures()
    systems = grid(strategies, lexical, codec)
    candidates = candidates_for(dataset, CachedEncoder(encoder, cache), systems, show_progress=show_progress)
    found = choose(systems, measure_grid(dataset, candidates, systems), seed=seed)
    evidence = {"dataset": dataset.name, "codec": codec, **found.best.evidence}
    best = replace(found.best, evidence=evidence, fingerprint=encoder.fingerprint, lexical=lexical)
    found = replace(found, best=best)
    if not found.trusted:
        warnings.warn(
            f"{len(dataset.queries)} questions cannot tell {_shown(found.best)} (held out: {found.held_out:.3f}) from "
            f"balanced weights ({found.default:.3f}, p = {found.p:.2f}): keep those, or label more questions",
            TuningWarning,
            stacklevel=2,
        )
    return found


def grid(strategies: Sequence[Strategy], lexical: Lexical = "m3", codec: str = "float32") -> list[System]:
    """Return the default, and for each strategy the 37 combinations of 0, 0.1, 0.3 and 1 whose largest weight is 1."""
    weights = [Weights(*steps) for steps in product(_STEPS, repeat=3) if max(steps) == 1]
    tried = [Tuned(strategy, one) for strategy in strategies for one in weights]
    return [
        System(_shown(one), {"mode": "hybrid", **one.options}, lexical, codec)
        for one in (Tuned(), *(one for one in tried if one != Tuned()))
    ]


def measure_grid(dataset: Dataset, candidates: Candidates, systems: Sequence[System]) -> NDArray[np.float64]:
    """Return nDCG@10 of each system and question, `(n_systems, n_queries)`."""
    return np.stack([_ndcg(dataset, candidates, system) for system in systems])


def choose(systems: Sequence[System], values: NDArray[np.float64], *, seed: int = 0) -> Tuning:
    """Choose the best system; the first one is the default that it is compared with.

    Args:
        systems: As `grid` gives them.
        values: `(n_systems, n_queries)`, as `measure_grid` gives them.
        seed: Of the folds.
    """
    n = values.shape[1]
    folds = np.random.default_rng(seed).permutation(n) % FOLDS
    held_out = np.empty(n)
    for fold in range(FOLDS):
        inside = folds == fold
        held_out[inside] = values[np.argmax(values[:, ~inside].mean(axis=1))][inside]
    difference = held_out - values[0]
    low, high = mean_interval(difference)
    p = paired_p(held_out, values[0])
    evidence: dict[str, object] = {
        "measure": MEASURE,
        "questions": n,
        "default": round(float(values[0].mean()), 4),
        "held_out": round(float(held_out.mean()), 4),
        "p": round(p, 4),
    }
    plan = systems[int(np.argmax(values.mean(axis=1)))].plan(1)
    return Tuning(
        best=Tuned(plan.strategy, plan.weights, evidence),
        default=float(values[0].mean()),
        held_out=float(held_out.mean()),
        low=low,
        high=high,
        p=p,
    )


def _ndcg(dataset: Dataset, candidates: Candidates, system: System) -> Values:
    return measure_rankings(dataset.qrels, search(dataset, candidates, system, 10), (MEASURE,))[MEASURE]


def _shown(tuned: Tuned) -> str:
    weights = tuned.weights
    return f"{tuned.strategy} {weights.dense:g}/{weights.sparse:g}/{weights.multi_vector:g}"
