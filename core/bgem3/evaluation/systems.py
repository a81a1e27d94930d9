"""What is compared: ways to search, each with a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from bgem3.errors import InvalidInputError
from bgem3.types import (
    MODES,
    STRATEGIES,
    Lexical,
    Mode,
    SearchOptions,
    SearchPlan,
    Strategy,
    Weights,
    check_choice,
    make_plan,
)


@dataclass(frozen=True, slots=True)
class System:
    """A way to search: options of `HybridIndex.search`, and what the index was made with.

    Attributes:
        name: How tables name it.
        options: Mode, strategy, weights and depths of the search.
        lexical: Weighting of the sparse head.
        codec: Codec of the token vectors.

    Raises:
        InvalidInputError: an option is unknown or out of range.
    """

    name: str
    options: SearchOptions
    lexical: Lexical = "m3"
    codec: str = "float32"

    def __post_init__(self) -> None:
        if meaningless := sorted(set(self.options) & {"k", "where", "exhaustive", "explain"}):
            raise InvalidInputError(f"options: {', '.join(meaningless)} cannot be measured. Fix: leave them out")
        check_choice("lexical", self.lexical, get_args(Lexical))
        self.plan(1)

    def plan(self, k: int) -> SearchPlan:
        """Return the plan of a search for `k` passages."""
        return make_plan({**self.options, "k": k})

    @property
    def scores_tokens(self) -> bool:
        """Whether the multi-vector head has a say."""
        plan = self.plan(1)
        return plan.mode == "multi_vector" or (plan.mode == "hybrid" and plan.weights.multi_vector > 0)


def make_systems(
    *,
    modes: Sequence[Mode] = MODES,
    strategies: Sequence[Strategy] = STRATEGIES,
    weights: Mapping[str, Weights] | None = None,
    lexicals: Sequence[Lexical] = ("m3",),
    codecs: Sequence[str] = ("float32",),
) -> list[System]:
    """Return each head alone and each way to join them; what does not touch a system does not multiply it.

    Args:
        modes: `dense`, `sparse`, `multi_vector`, `hybrid`.
        strategies: `union`, `cascade`, `rrf`, for hybrid.
        weights: By name, for hybrid; None: `Weights.balanced`.
        lexicals: `m3`, `bm25`: the sparse head, alone and in hybrid.
        codecs: Names `get_codec` takes, for multi-vector and hybrid.
    """
    named = {"balanced": Weights.balanced} if weights is None else weights
    by_mode: dict[Mode, list[System]] = {
        "dense": [System("dense", {"mode": "dense"})],
        "sparse": [System("sparse" if one == "m3" else one, {"mode": "sparse"}, one) for one in lexicals],
        "multi_vector": [
            System(_label("multi-vector", lexicals[0], codec), {"mode": "multi_vector"}, lexicals[0], codec)
            for codec in codecs
        ],
        "hybrid": [*_hybrids(strategies, named, lexicals, codecs)],
    }
    return [system for mode in modes for system in by_mode[mode]]


def _hybrids(
    strategies: Sequence[Strategy], weights: Mapping[str, Weights], lexicals: Sequence[Lexical], codecs: Sequence[str]
) -> Iterator[System]:
    for strategy, (name, chosen), lexical, codec in product(strategies, weights.items(), lexicals, codecs):
        options: SearchOptions = {"mode": "hybrid", "strategy": strategy, "weights": chosen}
        yield System(_label(f"{strategy} {name}", lexical, codec), options, lexical, codec)


def _label(name: str, lexical: Lexical, codec: str) -> str:
    """Add to a name what is not the default."""
    return name + (f" {lexical}" if lexical != "m3" else "") + (f" {codec}" if codec != "float32" else "")
