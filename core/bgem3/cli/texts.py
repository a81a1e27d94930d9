"""`bgem3 encode` and `bgem3 compare`: texts on the command line or on standard input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bgem3.cli.options import BackendOption, JsonOption, ModelOption, PrecisionOption, load_encoder
from bgem3.cli.output import HEAD_NAMES, console, is_terminal, read_texts, shortened, table, write_json, write_json_line
from bgem3.errors import InvalidInputError
from bgem3.types import HEADS, Head, Weights, check_choice

if TYPE_CHECKING:
    from bgem3.embeddings import M3Embeddings
    from bgem3.encoder import M3Encoder
    from bgem3.scoring import Scores

TextsArgument = Annotated[list[str] | None, typer.Argument(help="Texts; without any, the lines of standard input.")]
_TOP = 8


def encode(
    texts: TextsArgument = None,
    *,
    heads: Annotated[
        list[str] | None, typer.Option("--head", help="dense, sparse or multi_vector; more than once for several.")
    ] = None,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Encode texts into their dense vector, lexical weights and token vectors.

    With --json one line a text: {"text", "dense", "sparse": {token id: weight}, "multi_vector"}.
    """
    chosen = _heads(heads or HEADS)
    given = read_texts(texts)
    encoder = load_encoder(model, backend, precision)
    embeddings = encoder.encode(given, heads=chosen, show_progress=is_terminal() and len(given) > 1)
    for row, text in enumerate(given):
        if as_json:
            write_json_line({"text": text, **_plain(embeddings, row)})
        else:
            _show(text, embeddings, row, encoder)


def compare(
    texts: TextsArgument = None,
    *,
    threshold: Annotated[float, typer.Option(help="Mark scores from here on.")] = 0.75,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare the first text with each of the others, by each head and by all of them."""
    from bgem3.scoring import score

    given = read_texts(texts)
    if len(given) < 2:
        raise InvalidInputError(f"texts: got {len(given)}, expected two or more. Fix: bgem3 compare 'a text' 'another'")
    embeddings = load_encoder(model, backend, precision).encode(given)
    scores = score(embeddings[[0]], embeddings[1:])
    rows: list[dict[str, Any]] = [{"text": text, **_scores(scores, row)} for row, text in enumerate(given[1:])]
    if as_json:
        write_json({"query": given[0], "passages": rows})
        return
    shown = table("text", *HEAD_NAMES.values(), "hybrid", text=["text"])
    for row in rows:
        cells = [_cell(row[name], threshold) for name in (*HEADS, "hybrid")]
        shown.add_row(escape(row["text"]), *cells)
    out = console()
    out.print(given[0], style="bold", markup=False)
    out.print()
    out.print(shown)
    out.print(f"\n* {threshold:g} or above", style="dim")


def _heads(names: list[str] | tuple[Head, ...]) -> list[Head]:
    for name in names:
        check_choice("--head", name, HEADS)
    return [head for head in HEADS if head in names]


def _plain(embeddings: M3Embeddings, row: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "dense" in embeddings.heads:
        found["dense"] = embeddings.dense[row].tolist()
    if "sparse" in embeddings.heads:
        found["sparse"] = embeddings.lexical_weights(row)
    if "multi_vector" in embeddings.heads:
        found["multi_vector"] = embeddings.multi_vector[row].tolist()
    return found


def _show(text: str, embeddings: M3Embeddings, row: int, encoder: M3Encoder) -> None:
    out = console()
    out.print(shortened(text, 100), style="bold", markup=False)
    if "dense" in embeddings.heads:
        vector = embeddings.dense[row]
        out.print(f"  dense         {len(vector)} numbers: {' '.join(f'{one:+.3f}' for one in vector[:6])} ...")
    if "sparse" in embeddings.heads:
        weights = sorted(embeddings.lexical_weights(row).items(), key=lambda pair: -pair[1])
        pieces = encoder.tokenizer.tokens([token for token, _ in weights[:_TOP]])
        named = "  ".join(f"{piece} {weight:.2f}" for piece, (_, weight) in zip(pieces, weights, strict=False))
        out.print(f"  sparse        {len(weights)} tokens: {named}", markup=False)
    if "multi_vector" in embeddings.heads:
        count, width = embeddings.multi_vector[row].shape
        out.print(f"  multi-vector  {count} vectors of {width} numbers")


def _scores(scores: Scores, row: int) -> dict[Any, float]:
    return {**scores.pair(0, row), "hybrid": float(scores.combine(Weights.balanced)[0, row])}


def _cell(value: float, threshold: float) -> str:
    return f"{value:.2f}{'*' if value >= threshold else ' '}"
