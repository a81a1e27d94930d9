"""Made-up passages: sentences joined, for the languages without question-passage pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from data import Texts

PASSAGE_TOKENS, QUESTION_TOKENS = 190, 60


@dataclass(frozen=True)
class Joined:
    """Questions and passages as token ids; the language of each, and whether both are in it."""

    questions: list[np.ndarray]
    passages: list[np.ndarray]
    languages: np.ndarray
    crossing: np.ndarray


def join_passages(
    texts: Texts, left: np.ndarray, right: np.ndarray, by_language: dict[str, np.ndarray], *, count: int, seed: int
) -> Joined:
    """Make passages of two to six sentences, half of them neighbours, and a question to each.

    Half of the questions are one of the sentences in the other language. The other half are a
    fragment of one in its own: some words of a sentence, as a search box would get them.

    Args:
        texts: Token ids of all sentences.
        left: English row of each pair.
        right: Row of its translation.
        by_language: Positions of each language's pairs, in the order of the files.
        count: How many to make.
        seed: Of the choices.
    """
    random = np.random.default_rng(seed)
    names = sorted(by_language)
    share = np.sqrt([len(by_language[name]) for name in names])
    languages = random.choice(names, count, p=share / share.sum())
    crossing = random.random(count) < 0.5
    questions, passages = [], []
    for language, crosses in zip(languages, crossing, strict=True):
        rows = by_language[language]
        size = int(random.integers(2, 7))
        start = int(random.integers(0, len(rows) - 8))
        group = rows[start : start + size] if random.random() < 0.5 else random.choice(rows, size)
        asked = group[int(random.integers(0, size))]
        english = random.random() < (0.5 if crosses else 0.15)
        here, there = (left, right) if english else (right, left)
        passages.append(np.concatenate([texts[here[row]] for row in group])[:PASSAGE_TOKENS])
        question = texts[there[asked]] if crosses else _fragment(texts[here[asked]], random)
        questions.append(question[:QUESTION_TOKENS])
    return Joined(questions, passages, languages, crossing)


def _fragment(sentence: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Keep a stretch of at most 16 tokens, a quarter of them dropped."""
    start = int(random.integers(0, max(1, len(sentence) - 8)))
    stretch = sentence[start : start + int(random.integers(4, 17))]
    kept = stretch[random.random(len(stretch)) > 0.25]
    return kept if len(kept) else stretch
