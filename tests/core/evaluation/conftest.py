"""A small labelled set on disk, of words that the fake encoder knows as they come."""

import json
import random
from pathlib import Path

import pytest

WORDS = [f"word{i}" for i in range(40)]


def write_set(folder: Path, corpus: dict[str, str], queries: dict[str, str], qrels: dict[tuple[str, str], int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps({"_id": id_, "text": text}) for id_, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    lines = [f"{query}\t{passage}\t{score}" for (query, passage), score in qrels.items()]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Return a folder of 300 passages and 20 questions; each asks with three of its passage's eight words."""
    rng = random.Random(0)
    corpus = {f"p{i}": " ".join(rng.sample(WORDS, 8)) for i in range(300)}
    queries = {f"q{i}": " ".join(rng.sample(corpus[f"p{i * 7}"].split(), 3)) for i in range(20)}
    return write_set(tmp_path / "set", corpus, queries, {(f"q{i}", f"p{i * 7}"): 1 for i in range(20)})
