"""`bgem3 eval` and `bgem3 tune`: measure retrieval on labelled questions, and tune what decides it."""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_args

import typer

from bgem3.cli.options import BackendOption, JsonOption, ModelOption, PrecisionOption, load_encoder, parse_weights
from bgem3.cli.output import console, is_terminal, table, write_json_line
from bgem3.errors import InvalidInputError, TuningWarning
from bgem3.types import MODES, STRATEGIES, Lexical, check_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bgem3.evaluation.dataset import Dataset
    from bgem3.evaluation.evaluate import Evaluation
    from bgem3.evaluation.tuning import Tuning

Choice = TypeVar("Choice", bound=str)
LEXICALS: tuple[Lexical, ...] = get_args(Lexical)

Folders = Annotated[
    list[Path], typer.Argument(help="Folders with corpus.jsonl, queries.jsonl and qrels.tsv, plain, .gz or .xz.")
]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of one forward pass.")]
Overflow = Annotated[
    Literal["window", "truncate", "error"], typer.Option(help="Longer texts: window, truncate or error.")
]
QrelsFile = Annotated[str | None, typer.Option("--qrels", help="Name of the judgements' file in each folder.")]
Titles = Annotated[bool, typer.Option(help="Put a passage's title before its text, as BEIR does.")]
Sample = Annotated[int | None, typer.Option("--queries", help="Ask only so many random questions a folder.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of the embeddings; default: in BGEM3_CACHE.")]
Modes = Annotated[str, typer.Option(help="Some of dense, sparse, multi_vector, hybrid, with commas between.")]
Strategies = Annotated[str, typer.Option(help="For hybrid: some of union, cascade, rrf.")]
WeightsNames = Annotated[
    str, typer.Option(help="For hybrid: balanced, long_document, lexical, numbers as 1/0.3/1, or a file of bgem3 tune.")
]
Lexicals = Annotated[str, typer.Option(help="Weighting of the sparse head: m3, bm25.")]
Codecs = Annotated[str, typer.Option(help="Codecs of the token vectors, e.g. float32,binary.")]


def eval(
    folders: Folders,
    *,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    max_length: MaxLength = None,
    overflow: Overflow = "window",
    qrels: QrelsFile = None,
    titles: Titles = True,
    queries: Sample = None,
    mode: Modes = "dense,sparse,multi_vector,hybrid",
    strategy: Strategies = "union,cascade,rrf",
    weights: WeightsNames = "balanced",
    lexical: Lexicals = "m3",
    codec: Codecs = "float32",
    baseline: Annotated[str | None, typer.Option(help="System that p values compare with; default: the first.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.md, .json and .png.")] = None,
    cache: Cache = None,
    as_json: JsonOption = False,
) -> None:
    """Measure each head and each way to join them on labelled questions (extra: eval)."""
    from bgem3.evaluation.evaluate import evaluate
    from bgem3.evaluation.report import baseline_of, save, to_json
    from bgem3.evaluation.systems import make_systems

    datasets = _read(folders, qrels, titles, queries)
    systems = make_systems(
        modes=_choices("mode", mode, MODES),
        strategies=_choices("strategy", strategy, STRATEGIES),
        weights={name: parse_weights(name) for name in weights.split(",")},
        lexicals=_choices("lexical", lexical, LEXICALS),
        codecs=codec.split(","),
    )
    baseline_of([one.name for one in systems], baseline)
    encoder = load_encoder(model, backend, precision, max_length=max_length, overflow=overflow)
    evaluations = [evaluate(one, encoder, systems, cache=cache, show_progress=is_terminal()) for one in datasets]
    if as_json:
        sys.stdout.write(to_json(evaluations, baseline=baseline) + "\n")
    else:
        _print(evaluations, baseline)
    if out:
        paths = save(evaluations, out, baseline=baseline)
        sys.stderr.write(f"written: {', '.join(map(str, paths))}\n")


def tune(
    folder: Annotated[Path, typer.Argument(help="Folder with corpus.jsonl, queries.jsonl and qrels.tsv.")],
    *,
    out: Annotated[Path, typer.Option(help="File to write, for HybridIndex(..., tuned=FILE).")] = Path("tuned.json"),
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    max_length: MaxLength = None,
    overflow: Overflow = "window",
    qrels: QrelsFile = None,
    titles: Titles = True,
    queries: Sample = None,
    strategy: Strategies = "union,cascade,rrf",
    lexical: Annotated[str, typer.Option(help="Weighting of the index's sparse head: m3 or bm25.")] = "m3",
    codec: Annotated[str, typer.Option(help="Codec of the index's token vectors.")] = "float32",
    cache: Cache = None,
    as_json: JsonOption = False,
) -> None:
    """Find strategy and weights from labelled questions, cross-validated, for an index to pick up (extra: eval).

    Where the questions cannot tell them from the default, the file holds the default, and a warning says so.
    """
    from bgem3.evaluation.tuning import tune as find

    strategies = _choices("strategy", strategy, STRATEGIES)
    weighting, *more = _choices("lexical", lexical, LEXICALS)
    if more:
        raise InvalidInputError(f"--lexical: expected one, got {lexical!r}. Fix: tune each on its own")
    (dataset,) = _read([folder], qrels, titles, queries)
    encoder = load_encoder(model, backend, precision, max_length=max_length, overflow=overflow)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TuningWarning)
        found = find(
            dataset,
            encoder,
            strategies=strategies,
            lexical=weighting,
            codec=codec,
            cache=cache,
            show_progress=is_terminal(),
        )
    found.advised.save(out)
    _tell(found, out, as_json)
    sys.stderr.writelines(f"warning: {one.message}\n" for one in caught)


def _tell(found: Tuning, out: Path, as_json: bool) -> None:
    if as_json:
        write_json_line({**asdict(found), "trusted": found.trusted, "file": str(out)})
        return
    weights = found.best.weights
    sys.stdout.write(
        f"best on all {found.best.evidence['questions']} questions: {found.best.strategy}, dense {weights.dense:g}, "
        f"sparse {weights.sparse:g}, multi-vector {weights.multi_vector:g}\n"
        f"nDCG@10 on questions left out: {found.held_out:.3f}; default: {found.default:.3f} "
        f"(difference {found.low:+.3f} to {found.high:+.3f}, p = {found.p:.3f})\n"
        f"written: {out} ({'tuned' if found.trusted else 'default'})\n"
    )


def _choices(option: str, text: str, known: tuple[Choice, ...]) -> list[Choice]:
    """Return the values of an option with commas between them."""
    by_name = {str(one): one for one in known}
    for name in text.split(","):
        check_choice(f"--{option}", name, [*by_name])
    return [by_name[name] for name in text.split(",")]


def _read(folders: Sequence[Path], qrels: str | None, titles: bool, queries: int | None) -> list[Dataset]:
    from bgem3.evaluation.dataset import Dataset

    return [Dataset.read(folder, qrels=qrels, titles=titles).sample(queries) for folder in folders]


def _print(evaluations: Sequence[Evaluation], baseline: str | None) -> None:
    from rich.markup import escape

    from bgem3.evaluation.report import HEADER, rows

    out = console()
    if not out.is_terminal:
        out.width = 120
    for one in evaluations:
        shown = table(*HEADER, text=HEADER[:1])
        shown.padding = (0, 1, 0, 0)  # 80 columns with names as long as `cascade balanced`
        for row in rows(one, baseline=baseline):
            shown.add_row(*map(escape, row.cells()))
        title = f"{one.dataset}: {len(one.query_ids)} questions, {one.n_passages} passages"
        out.print(title, markup=False)
        out.print(shown)
