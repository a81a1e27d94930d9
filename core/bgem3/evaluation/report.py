"""Evaluations as tables for people, JSON for scripts, and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bgem3.errors import MissingExtraError, StoreWriteError
from bgem3.evaluation.evaluate import Evaluation
from bgem3.evaluation.measures import MEASURES
from bgem3.evaluation.statistics import holm, mean_interval, paired_p
from bgem3.types import check_choice

HEADER = ("system", *MEASURES, "95 % interval", "p")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One system on one data set.

    Attributes:
        means: Mean over the questions of each measure.
        low, high: 95 % bootstrap interval of nDCG@10.
        p: Of the difference in nDCG@10 from the baseline, two-sided, paired, corrected by Holm over
            the systems of the table; None for the baseline itself.
    """

    system: str
    means: dict[str, float]
    low: float
    high: float
    p: float | None

    def cells(self) -> list[str]:
        """Return the row as text, one cell for each of `HEADER`."""
        p = "-" if self.p is None else "< 0.001" if self.p < 0.001 else f"{self.p:.3f}"
        return [self.system, *(f"{mean:.3f}" for mean in self.means.values()), f"{self.low:.3f}-{self.high:.3f}", p]


def rows(evaluation: Evaluation, *, baseline: str | None = None) -> list[Row]:
    """Return one row a system, each compared with the baseline; None: the first system.

    Raises:
        InvalidInputError: no system has the baseline's name.
    """
    values = {name: measured["nDCG@10"] for name, measured in evaluation.values.items()}
    base = baseline_of([*values], baseline)
    others = [name for name in values if name != base]
    p_values = dict(zip(others, holm([paired_p(values[name], values[base]) for name in others]), strict=True))
    return [_row(evaluation, name, p_values.get(name)) for name in values]


def baseline_of(systems: Sequence[str], baseline: str | None) -> str:
    """Return the system that the others are compared with; None: the first.

    Raises:
        InvalidInputError: no system has the baseline's name.
    """
    if baseline is not None:
        check_choice("baseline", baseline, systems)
    return systems[0] if baseline is None else baseline


def _row(evaluation: Evaluation, system: str, p: float | None) -> Row:
    low, high = mean_interval(evaluation.values[system]["nDCG@10"])
    means = {measure: evaluation.mean(system, measure) for measure in MEASURES}
    return Row(system=system, means=means, low=low, high=high, p=p)


def markdown(evaluations: Sequence[Evaluation], *, baseline: str | None = None) -> str:
    """Return one table a data set, and one of nDCG@10 over all where there are several."""
    parts = [_markdown_of(one, baseline) for one in evaluations]
    return "\n".join([*([_overview(evaluations)] if len(evaluations) > 1 else []), *parts])


def to_json(evaluations: Sequence[Evaluation], *, baseline: str | None = None) -> str:
    """Return everything measured, with nDCG@10 of each question, as JSON."""
    return json.dumps([_json_of(one, baseline) for one in evaluations], ensure_ascii=False, indent=1)


def save(evaluations: Sequence[Evaluation], folder: str | Path, *, baseline: str | None = None) -> list[Path]:
    """Write `evaluation.md`, `evaluation.json` and `evaluation.png` into a folder, and return their paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StoreWriteError: the folder cannot be written to.
    """
    root = Path(folder)
    paths = [root / f"evaluation.{ending}" for ending in ("md", "json", "png")]
    try:
        root.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(markdown(evaluations, baseline=baseline), encoding="utf-8")
        paths[1].write_text(to_json(evaluations, baseline=baseline), encoding="utf-8")
        plot(evaluations, paths[2])
    except OSError as error:
        raise StoreWriteError(f"{root}: {error}. Fix: out=a folder that can be written to") from error
    return paths


def plot(evaluations: Sequence[Evaluation], path: str | Path) -> None:
    """Draw nDCG@10 of each system with its 95 % interval, one panel a data set, into a PNG or SVG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "eval", "drawing the result") from error
    most = max(len(one.values) for one in evaluations)
    figure = Figure(figsize=(4 * len(evaluations) + 1, 1.2 + 0.3 * most), layout="constrained")
    panels = figure.subplots(1, len(evaluations), sharey=False, squeeze=False)[0]
    for panel, evaluation in zip(panels, evaluations, strict=True):
        found = rows(evaluation)[::-1]
        means = [row.means["nDCG@10"] for row in found]
        below = [mean - row.low for mean, row in zip(means, found, strict=True)]
        above = [row.high - mean for mean, row in zip(means, found, strict=True)]
        panel.errorbar(means, range(len(found)), xerr=[below, above], fmt="o", capsize=3)
        # names are names: between two dollar signs matplotlib would read formulas
        panel.set_yticks(range(len(found)), [row.system for row in found], parse_math=False)
        panel.set_title(f"{evaluation.dataset} ({len(evaluation.query_ids)} questions)", parse_math=False)
        panel.set_xlabel("nDCG@10")
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def _markdown_of(evaluation: Evaluation, baseline: str | None) -> str:
    found = rows(evaluation, baseline=baseline)
    base = next(row.system for row in found if row.p is None)
    about = (
        f"{len(evaluation.query_ids)} questions, {evaluation.n_passages} passages. "
        f"Interval: bootstrap of nDCG@10; p: paired against {base}, Holm."
    )
    return f"## {evaluation.dataset}\n\n{about}\n\n{table([list(HEADER), *(row.cells() for row in found)])}"


def _overview(evaluations: Sequence[Evaluation]) -> str:
    systems = list(dict.fromkeys(name for one in evaluations for name in one.values))
    cells = [
        [name, *(f"{one.mean(name):.3f}" if name in one.values else "-" for one in evaluations)] for name in systems
    ]
    return f"## nDCG@10\n\n{table([['system', *(one.dataset for one in evaluations)], *cells])}"


def table(cells: Sequence[Sequence[str]]) -> str:
    """Return rows of text, the first one the header, as a Markdown table."""
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([head, "|---" * len(cells[0]) + "|", *body, ""])


def _json_of(evaluation: Evaluation, baseline: str | None) -> dict[str, object]:
    ndcg = {
        name: dict(zip(evaluation.query_ids, measured["nDCG@10"].round(4).tolist(), strict=True))
        for name, measured in evaluation.values.items()
    }
    return {
        "dataset": evaluation.dataset,
        "passages": evaluation.n_passages,
        "queries": len(evaluation.query_ids),
        "encoder": evaluation.encoder,
        "systems": [
            {"system": row.system, **row.means, "low": row.low, "high": row.high, "p": row.p}
            for row in rows(evaluation, baseline=baseline)
        ],
        "nDCG@10": ndcg,
    }
