"""Read the training data, cut the held-out translations, and hand out token sequences.

The folder given has ``parallel/<lang>.tsv.xz`` (source, English, other) and retrieval sets
``train/<name>`` and ``dev/<name>`` (``corpus.jsonl.xz``, ``queries.jsonl.xz``, ``qrels.tsv.xz``).
"""

import json
import lzma
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lexicon import definitions, read_lexicon

HELD_OUT_LANGUAGES = ("zh", "ja", "es", "fr", "de", "ru", "ar")
HELD_OUT_PAIRS = 1000
MIN_HELD_OUT_WORDS = 4
TRAIN_SETS = ("jaquad_train", "cmrc2018", "iapp_train")


@dataclass
class RetrievalSet:
    """Passages, questions and which passages answer which question, in file order."""

    passages: list[str]
    queries: list[str]
    relevant: list[set[int]]
    lang: str


@dataclass
class Corpus:
    """Everything the stages train on.

    ``pairs`` hold (English row, other text, language), ``words`` a lexicon's texts by language,
    ``definitions`` English words and what they mean.
    """

    english: list[str]
    pairs: list[tuple[int, str, str]]
    retrieval: list[RetrievalSet]
    words: dict[str, list[str]]
    definitions: list[tuple[str, str]]


def _lines(path: Path) -> Iterator[str]:
    with lzma.open(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            if line.strip():
                yield line.rstrip("\n")


def read_retrieval_set(folder: Path) -> RetrievalSet:
    """Read one BEIR-style folder; questions without a relevant passage are left out."""
    corpus = [json.loads(line) for line in _lines(folder / "corpus.jsonl.xz")]
    row = {entry["id"]: index for index, entry in enumerate(corpus)}
    relevant: dict[str, set[int]] = {}
    for line in list(_lines(folder / "qrels.tsv.xz"))[1:]:
        query_id, passage_id, score = line.split("\t")[:3]
        if int(score) > 0:
            relevant.setdefault(query_id, set()).add(row[passage_id])
    asked = [json.loads(line) for line in _lines(folder / "queries.jsonl.xz")]
    asked = [entry for entry in asked if entry["id"] in relevant]
    return RetrievalSet(
        passages=[entry["text"] for entry in corpus],
        queries=[entry["text"] for entry in asked],
        relevant=[relevant[entry["id"]] for entry in asked],
        lang=corpus[0]["lang"],
    )


def read_parallel(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Return (English, other) pairs by language; lines left untranslated are dropped."""
    parallel: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(folder.glob("*.tsv.xz")):
        rows = (line.split("\t") for line in _lines(path))
        kept = [(row[1], row[2]) for row in rows if len(row) == 3 and row[1] != row[2]]
        parallel[path.name.split(".")[0]] = kept
    return parallel


def normalise(text: str) -> str:
    """Case and spacing folded, so that a sentence that recurs is recognised."""
    return " ".join(text.casefold().split())


def hold_out(parallel: dict[str, list[tuple[str, str]]], seed: int) -> dict[str, list[tuple[str, str]]]:
    """Cut test pairs out of ``parallel`` in place, their English sides from every language."""
    rng = random.Random(seed)
    held: dict[str, list[tuple[str, str]]] = {}
    for lang in HELD_OUT_LANGUAGES:
        by_english: dict[str, tuple[str, str]] = {}
        for english, other in parallel[lang]:
            if len(english.split()) >= MIN_HELD_OUT_WORDS:
                by_english.setdefault(normalise(english), (english, other))
        held[lang] = [by_english[key] for key in rng.sample(sorted(by_english), HELD_OUT_PAIRS)]
    banned = {normalise(english) for pairs in held.values() for english, _ in pairs}
    for lang, pairs in parallel.items():
        parallel[lang] = [pair for pair in pairs if normalise(pair[0]) not in banned]
    return held


def without(dataset: RetrievalSet, banned: set[str]) -> RetrievalSet:
    """Drop the passages whose text is in ``banned`` and the questions that lose their answer."""
    keep = [i for i, text in enumerate(dataset.passages) if text not in banned]
    new_row = {old: new for new, old in enumerate(keep)}
    remaining = [{new_row[r] for r in rel if r in new_row} for rel in dataset.relevant]
    asked = [i for i, rel in enumerate(remaining) if rel]
    return RetrievalSet(
        passages=[dataset.passages[i] for i in keep],
        queries=[dataset.queries[i] for i in asked],
        relevant=[remaining[i] for i in asked],
        lang=dataset.lang,
    )


def traditional(texts: Iterable[str]) -> list[str]:
    """Simplified Chinese written in traditional characters as used in Taiwan."""
    from opencc import OpenCC

    converter = OpenCC("s2tw")
    return [converter.convert(text) for text in texts]


def traditional_set(dataset: RetrievalSet) -> RetrievalSet:
    """The same questions and passages in traditional characters."""
    return RetrievalSet(
        passages=traditional(dataset.passages),
        queries=traditional(dataset.queries),
        relevant=dataset.relevant,
        lang="zh-Hant",
    )


def read_training(folder: Path, seed: int) -> tuple[dict[str, list[tuple[str, str]]], list[RetrievalSet]]:
    """Return translations by language without those held out, and questions; traditional characters beside Chinese."""
    parallel = read_parallel(folder / "parallel")
    hold_out(parallel, seed)
    chinese = parallel["zh"]
    converted = traditional(other for _, other in chinese)
    parallel["zh-Hant"] = [(english, text) for (english, _), text in zip(chinese, converted, strict=True)]
    banned: set[str] = set()
    for path in sorted((folder / "dev").glob("*/qrels.tsv.xz")):
        banned |= set(read_retrieval_set(path.parent).passages)
    sets = [without(read_retrieval_set(folder / "train" / name), banned) for name in TRAIN_SETS]
    sets += [traditional_set(dataset) for dataset in sets if dataset.lang == "zh"]
    return parallel, sets


def load(folder: Path, lexicon: Path, seed: int) -> Corpus:
    """Read all training data of ``folder`` and ``lexicon`` with the held-out part already removed.

    Nothing under ``dev/`` is trained on; it is read only to drop training passages that
    occur there too.
    """
    parallel, sets = read_training(folder, seed)
    words = read_lexicon(lexicon, [*parallel])
    for lang, rows in words.items():
        parallel[lang] = parallel[lang] + rows

    english: dict[str, int] = {}
    pairs = [
        (english.setdefault(source, len(english)), other, lang)
        for lang, rows in parallel.items()
        for source, other in rows
    ]
    return Corpus(
        english=list(english),
        pairs=pairs,
        retrieval=sets,
        words={
            "en": [source for source, _ in words["fr"]],
            **{lang: [other for _, other in rows] for lang, rows in words.items()},
        },
        definitions=[*definitions(lexicon)],
    )


class Texts:
    """Token ids of many texts, without ``<s>`` and ``</s>``, in one flat array."""

    def __init__(self, flat: np.ndarray, offsets: np.ndarray) -> None:
        self.flat = flat
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]
