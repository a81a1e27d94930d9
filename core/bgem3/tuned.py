"""What tuning found, as a small file that an index reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bgem3.errors import DatasetError, IndexMismatchError, InvalidInputError, StoreWriteError
from bgem3.types import HEADS, IndexSettings, Lexical, SearchOptions, SearchPlan, Strategy, Weights


@dataclass(frozen=True, slots=True)
class Tuned:
    """Strategy and weights of hybrid searches that name none.

    Attributes:
        strategy: `union`, `cascade` or `rrf`.
        weights: How much each head counts.
        evidence: What speaks for them, for people: data set, questions, measured gain.
        fingerprint: Of the checkpoint they were found with; None: any.
        lexical: Weighting of the sparse head they were found with; None: any.

    Raises:
        InvalidInputError: an unknown strategy.
    """

    strategy: Strategy = "union"
    weights: Weights = Weights.balanced
    evidence: dict[str, object] = field(default_factory=dict)
    fingerprint: str | None = None
    lexical: Lexical | None = None

    def __post_init__(self) -> None:
        SearchPlan(strategy=self.strategy)

    @property
    def options(self) -> SearchOptions:
        """The options of a search: `index.search(query, **tuned.options)`."""
        return {"strategy": self.strategy, "weights": self.weights}

    def check(self, settings: IndexSettings) -> None:
        """Refuse an index whose heads are not those that the weights were found with.

        Raises:
            IndexMismatchError: it has another checkpoint or another weighting of the sparse head.
        """
        for name in ("fingerprint", "lexical"):
            wanted, got = getattr(self, name), getattr(settings, name)
            if wanted is not None and wanted != got:
                raise IndexMismatchError(
                    f"tuned: found with {name}={wanted!r}, but the index has {got!r}. "
                    "Fix: bgem3 tune again for this index, or tuned=None"
                )

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises:
            StoreWriteError: it cannot be written.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise StoreWriteError(f"{path}: {error}. Fix: a path that can be written to") from error

    @classmethod
    def load(cls, path: str | Path) -> Tuned:
        """Read a file that `save` wrote.

        Raises:
            DatasetError: it is missing, or holds something else.
            InvalidInputError: an unknown strategy, or weights that are no weights.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            weights = Weights(**{head: record["weights"][head] for head in HEADS})
            made_with = {name: record.get(name) for name in ("fingerprint", "lexical")}
            return cls(record["strategy"], weights, record.get("evidence", {}), **made_with)
        except InvalidInputError:
            raise
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DatasetError(
                Path(path), 0, f"no tuned weights: {error!r}. Fix: bgem3 tune DATASET --out FILE"
            ) from error
