"""Tables for the examples: one row a search result, right answers marked."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bgem3.types import Hit

RIGHT = "✓"


def make_console() -> Console:
    """Return a console that prints colours on a terminal only."""
    return Console(highlight=False, emoji=False, markup=False)


def plain_table(*columns: str, text: Collection[str] = ()) -> Table:
    """Return a table whose `text` columns take the room that is left; the others hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, expand=bool(text))
    for column in columns:
        if column in text:
            table.add_column(column, ratio=1, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(
                column, justify="left" if column in ("lang", "questions") else "right", no_wrap=True, min_width=1
            )
    return table


def hits_table(hits: Sequence[Hit], answers: Collection[str], ranks: Collection[int]) -> Table:
    """Return the hits of these ranks, with the score of each head."""
    table = plain_table("", "#", "lang", "document", "score", "dense", "sparse", "multi", text=["document"])
    for rank, hit in enumerate(hits, start=1):
        right = hit.id in answers
        if rank in ranks:
            heads = [f"{hit.scores[head]:.2f}" for head in ("dense", "sparse", "multi_vector")]
            style = "green" if right else ""
            mark = RIGHT if right else ""
            table.add_row(
                mark, str(rank), hit.metadata["lang"], _headline(hit), f"{hit.score:.2f}", *heads, style=style
            )
    return table


def _headline(hit: Hit) -> Text:
    title, _, body = hit.text.partition("\n")
    return Text.assemble((title, "bold"), (f"  {body}", "dim"))
