#!/usr/bin/env python3
"""Draw the README's picture: three of the demo's questions, as a terminal shows them.

Usage: python tools/picture.py docs/images/demo.svg
"""

from __future__ import annotations

import html
import io
import re
import sys
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from _table import hits_table
from demo import HERE, KINDS, Question, preferred, rank_of, read_lines, why

from bgem3 import HybridIndex, M3Encoder, MemoryStore

# The width of a character in rich's pictures.
_CELL = 12.2
SHOWN = ("q17", "q10", "q54")


def main(target: Path) -> None:
    """Search and write the picture."""
    console = Console(record=True, highlight=False, width=100, file=io.StringIO(), force_terminal=True)
    # the same numbers on every processor
    encoder = M3Encoder.from_pretrained(HERE / "bge-m3-mini", backend="onnx", precision="float32")
    index = HybridIndex(encoder, MemoryStore())
    documents = read_lines("collection.jsonl")
    index.add([f"{one['title']}\n{one['text']}" for one in documents], ids=[str(one["id"]) for one in documents],
              metadatas=[{"lang": str(one["lang"])} for one in documents])  # fmt: skip
    for question in [Question(**line) for line in read_lines("questions.jsonl")]:
        if question.id in SHOWN:
            hits = index.search(question.text, k=10)
            console.print(f"\n{question.text}", style="bold")
            console.print(f"{question.lang}: {KINDS[question.kind]}", style="dim")
            ranks = {1, 2, 3, rank_of(hits, question.answers), *preferred(hits).values()}
            console.print(hits_table(hits, question.answers, ranks))
            console.print(why(hits, question.answers), style="dim")
    target.parent.mkdir(parents=True, exist_ok=True)
    # The fonts rich names would be fetched from a foreign server by whoever looks at the picture.
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)
    picture = re.sub(r'textLength="[\d.]+"([^>]*)>([^<]*)<', _as_wide_as_its_cells, picture)
    target.write_text(picture, encoding="utf-8")


def _as_wide_as_its_cells(text: re.Match[str]) -> str:
    """Return a text with its width: rich gives each character one cell, and Chinese ones have two."""
    return f'textLength="{_CELL * max(1, cell_len(html.unescape(text[2]))):g}"{text[1]}>{text[2]}<'


if __name__ == "__main__":
    main(Path(sys.argv[1]))
