"""The value types that every room shares: heads, weights, chunks, hits, search plans."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from bgem3.errors import InvalidInputError

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

Head: TypeAlias = Literal["dense", "sparse", "multi_vector"]
HEADS: tuple[Head, ...] = get_args(Head)
Mode: TypeAlias = Literal["dense", "sparse", "multi_vector", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)
Strategy: TypeAlias = Literal["union", "cascade", "rrf"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Lexical: TypeAlias = Literal["m3", "bm25"]

MetadataValue: TypeAlias = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]
Metadata: TypeAlias = Mapping[str, MetadataValue]
Where: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each head counts in a hybrid score; the score is the weighted mean of the heads.

    Only ratios matter. The default is the `balanced` preset.

    Raises:
        InvalidInputError: a weight is negative, not finite or no number, or all are zero.

    Source:
        balanced is the model's own training ensemble, and its MIRACL and MKQA evaluation;
        long_document is its MLDR evaluation, lexical its two-head MLDR evaluation
        (FlagEmbedding, research/C_MTEB).
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi_vector: float = 1.0

    balanced: ClassVar[Weights]
    long_document: ClassVar[Weights]
    lexical: ClassVar[Weights]

    def __post_init__(self) -> None:
        for head in HEADS:
            value = getattr(self, head)
            if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
                raise InvalidInputError(
                    f"weights: {head} must be a finite number >= 0, got {value!r}. Fix: Weights({head}=0.3)"
                )
        if not 0 < self.total < math.inf:
            raise InvalidInputError(
                f"weights: the sum must be > 0 and finite, got {self.total}. Fix: give one head a weight, e.g. Weights(dense=1)"
            )

    @property
    def total(self) -> float:
        """The sum of the three weights, > 0."""
        return self.dense + self.sparse + self.multi_vector

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads with a weight above zero."""
        return tuple(head for head in HEADS if getattr(self, head) > 0)


def check_weights(weights: object) -> None:
    """Check that what somebody hands over as weights is `Weights`.

    Raises:
        InvalidInputError: it is not.
    """
    if not isinstance(weights, Weights):
        raise InvalidInputError(
            f"weights: got {weights!r}, expected Weights. Fix: Weights(dense=1.0, sparse=0.3, multi_vector=1.0)"
        )


Weights.balanced = Weights()
Weights.long_document = Weights(dense=0.15, sparse=0.5, multi_vector=0.35)
Weights.lexical = Weights(dense=0.2, sparse=0.8, multi_vector=0.0)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored piece of text. `metadata` is empty where there is none."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text.

    Attributes:
        position: Which of the text's token vectors is its own.
        text: The vocabulary's piece, `▁` marking the start of a word; `""` where only the position is known.
        start, end: The characters of the text it stands for, `text[start:end]`; equal for `</s>`.
    """

    position: int
    text: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class LexicalMatch:
    """A token that query and chunk share, and its part of the sparse score; the parts add up to it."""

    token_id: int
    score: float
    token: str = ""


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """A query token and the chunk's token nearest to it; the mean over the query is the multi-vector score.

    Under a codec within some thousandths of it, for there the query's vectors are rounded too.
    """

    query: Token
    passage: Token
    score: float


@dataclass(frozen=True, slots=True)
class Matches:
    """Which tokens made a hit.

    Attributes:
        lexical: The shared tokens, the largest part first; empty where none or no sparse head was used.
        tokens: One for each query token, in the query's order; empty where no multi-vector head was
            used, or where the codec pools token vectors.
        vectors: How many token vectors the store has of the chunk. Qdrant pools those of long chunks: where there
            are fewer than tokens, positions are places among them, and stay without a text.
    """

    lexical: tuple[LexicalMatch, ...] = ()
    tokens: tuple[TokenMatch, ...] = ()
    vectors: int = 0


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result; a higher `score` is better.

    Attributes:
        score: The score the results are ordered by: the head's own in a one-head mode, the
            weighted mean in hybrid mode (about -1 to 1), the RRF sum under `strategy="rrf"`.
        scores: Raw score of each head that was computed for this chunk.
        matches: Which tokens matched most, under `explain=True`.
    """

    id: str
    text: str
    metadata: Metadata
    score: float
    scores: Mapping[Head, float]
    matches: Matches | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all but the matches as JSON has it."""
        own = {"id": self.id, "text": self.text, "score": self.score}
        return {**own, "metadata": dict(self.metadata), "scores": dict(self.scores)}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One reranked text; a higher `score` is better.

    Attributes:
        index: Its place in the texts that were given.
        score: The weighted mean of the heads.
        scores: Raw score of each head.
    """

    index: int
    text: str
    score: float
    scores: Mapping[Head, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """What one step of a search did: its name, how many candidates it left, how long it took."""

    name: str
    candidates: int
    seconds: float


class Hits(list[Hit]):
    """Search results, best first. `stages` tells what each step of the search did, where it was asked for."""

    def __init__(self, hits: Iterable[Hit] = (), stages: Sequence[Stage] = ()) -> None:
        super().__init__(hits)
        self.stages = tuple(stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """Everything about a search but the query; `HybridIndex.search` documents each field.

    Raises:
        InvalidInputError: an unknown mode or strategy, weights that are not `Weights`, a depth below 1, or an exhaustive
            cascade.
    """

    k: int = 10
    mode: Mode = "hybrid"
    strategy: Strategy = "union"
    fetch_k: int = 100
    weights: Weights = Weights.balanced
    rrf_k: int = 60
    where: Where | None = None
    exhaustive: bool = False
    cascade: tuple[int, int] = (100, 20)
    explain: bool = False

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_choice("strategy", self.strategy, STRATEGIES)
        check_weights(self.weights)
        for name in ("k", "fetch_k", "rrf_k"):
            _check_depth(name, getattr(self, name))
        if self.rrf_k > sys.maxsize:  # scores are divided by it
            raise InvalidInputError("rrf_k: expected a whole number of 64 bits, got a larger one. Fix: rrf_k=60")
        if not isinstance(self.cascade, Sequence) or len(self.cascade) != 2:
            raise InvalidInputError(
                f"cascade: expected two depths (sparse, dense), got {self.cascade!r}. Fix: cascade=(100, 20)"
            )
        for depth in self.cascade:
            _check_depth("cascade", depth, "(100, 20)")
        if self.exhaustive and self.mode == "hybrid" and self.strategy == "cascade":
            raise InvalidInputError(
                "exhaustive: a cascade pre-selects, so it cannot score every chunk. Fix: strategy='union'"
            )

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads a query must be encoded with."""
        if self.mode == "multi_vector":
            return HEADS
        if self.mode != "hybrid":
            return (self.mode,)
        late = self.strategy == "cascade" or self.weights.multi_vector > 0
        return HEADS if late else ("dense", "sparse")


class SearchOptions(TypedDict, total=False):
    """The options of a search, for the methods that pass them on; `HybridIndex.search` documents each."""

    k: int
    mode: Mode
    strategy: Strategy | None
    fetch_k: int
    weights: Weights | None
    rrf_k: int
    where: Where | None
    exhaustive: bool
    cascade: tuple[int, int]
    explain: bool


def make_plan(options: SearchOptions) -> SearchPlan:
    """Return the checked plan of some options; None is `union` as strategy and `Weights.balanced` as weights.

    Raises:
        InvalidInputError: an option is unknown or out of range.
    """
    unknown = set(options) - set(SearchOptions.__annotations__)
    if unknown:
        raise InvalidInputError(
            f"unknown search options {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(SearchOptions.__annotations__)}. Fix: leave out what is unknown"
        )
    values: dict[str, Any] = {**options}
    for name in ("strategy", "weights"):
        if values.get(name) is None:
            values.pop(name, None)
    return SearchPlan(**values)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of those a parameter takes.

    Raises:
        InvalidInputError: names the parameter and its values.
    """
    if value not in choices:
        raise InvalidInputError(
            f"{name}: got {value!r}, expected one of {', '.join(choices)}. Fix: e.g. {name}={choices[0]!r}"
        )


def _check_depth(name: str, value: object, fix: str = "10") -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{name}: expected a whole number >= 1, got {value!r}. Fix: {name}={fix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """What an index was made with, kept beside its chunks.

    Attributes:
        fingerprint: Hash of the checkpoint; another one is refused.
        lexical: Weighting of the sparse head; another one is refused.
        max_length, overflow, window, window_overlap: How long texts were read, in tokens;
            others are refused when adding and warned about when searching.
        backend, precision: Warned about only, so that an index built on a GPU opens on a laptop.
        dim, multi_dim, vocab_size: Width of a dense vector, a token vector and a sparse row.
    """

    fingerprint: str
    dim: int
    multi_dim: int
    vocab_size: int
    lexical: Lexical = "m3"
    max_length: int = 8192
    overflow: str = "window"
    window: int = 8192
    window_overlap: int = 64
    backend: str = ""
    precision: str = ""
