"""Compare one English sentence with the same statement in five languages, and with unrelated ones.

python examples/cross_language.py                        with the small model of this folder
python examples/cross_language.py --model BAAI/bge-m3    with the real one
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _table import make_console, plain_table

from bgem3 import M3Encoder, score
from bgem3.errors import BGEM3Error

HERE = Path(__file__).parent
COLUMNS = ("dense", "sparse", "multi-vector", "hybrid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "bge-m3-mini"), help="a folder or a hub id")
    parser.add_argument("--threshold", type=float, default=0.75, help="mark scores from here on (default: 0.75)")
    args = parser.parse_args()
    data = json.loads((HERE / "data" / "sentences.json").read_text(encoding="utf-8"))
    translations = [{"lang": lang, "text": text} for lang, text in data["translations"].items()]
    try:
        scores = score_all(args.model, data["query"], [*translations, *data["distractors"]])
    except BGEM3Error as error:
        sys.exit(f"Error: {error}")
    show(data["query"], translations, data["distractors"], scores, args.threshold)


def score_all(model: str, query: str, sentences: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Return one row a sentence: dense, sparse, multi-vector, and their weighted mean."""
    encoder = M3Encoder.from_pretrained(model)
    scores = score(encoder.encode_queries([query]), encoder.encode_passages([one["text"] for one in sentences]))
    heads = [scores.dense, scores.sparse, scores.multi_vector, scores.combine()]
    return np.concatenate([head for head in heads if head is not None]).T


def show(
    query: str,
    translations: Sequence[Mapping[str, str]],
    distractors: Sequence[Mapping[str, str]],
    scores: np.ndarray,
    threshold: float,
) -> None:
    console = make_console()
    console.print(f"{query}\n", style="bold")
    table = plain_table("lang", "sentence", *COLUMNS, text=["sentence"])
    for i, sentence in enumerate([*translations, *distractors]):
        if i == len(translations):
            table.add_section()
        cells = [f"{value:.2f}{'*' if value >= threshold else ' '}" for value in scores[i]]
        table.add_row(sentence["lang"], sentence["text"], *cells)
    console.print(table)
    console.print(f'\n* at or above the threshold of {threshold:g}: "highly related". A threshold is for dense or')
    console.print("multi-vector; sparse counts shared words, of which two languages have few.\n")

    same, other = scores[: len(translations)], scores[len(translations) :]
    for column, name in enumerate(COLUMNS):
        lowest, highest = same[:, column].min(), other[:, column].max()
        above = f"{(same[:, column] >= threshold).sum()} of {len(same)} translations and "
        above += f"{(other[:, column] >= threshold).sum()} of {len(other)} others are above"
        found = f"any from {highest:.2f} to {lowest:.2f} would do" if lowest - highest > 0.01 else "none would do"
        console.print(f"{name:<13} {above}; {found}")


if __name__ == "__main__":
    main()
