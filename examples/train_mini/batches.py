"""Batches of pairs to tell apart, drawn from translations and question-passage pairs.

* translations: a sentence and the same in another language;
* crossing: a sentence, and a made-up passage with its translation among others; half of the
  sentences come in groups of one topic, so that passages on it in the asker's language are negatives;
* fragments: some words of a sentence, and a made-up passage with it, in one language;
* questions: a question and its passage, in one language, or the question with most words in another;
* words: tokens that translate each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from data import Texts

# One round of training: most of what there is to learn is in the translations.
ROUND = (
    "translations",
    "crossing",
    "translations",
    "questions",
    "translations",
    "crossing",
    "translations",
    "fragments",
)
SENTENCE_TOKENS, QUERY_TOKENS = 48, 32
# Among the questions: English words that ask for what they mean.
DEFINITIONS = "en"
# Languages are drawn by this power of their size, so that small ones are heard.
_EVENNESS = 0.6
_THIRD_LANGUAGE = 0.35
_TOPIC_GROUP = 8
# Tokens that make a sentence of a text, and how many of them a made-up passage has besides the one asked for.
_SENTENCE, _OTHERS = 5, (1, 9)
# Of the questions that change their words, and of a question's words that change.
_SWITCHED, _SWITCHED_WORDS = 0.5, 0.7


@dataclass(frozen=True)
class Batch:
    """Token ids of two sides without specials; rows of one ``meaning`` are not each other's negatives."""

    kind: str
    left: list[np.ndarray]
    right: list[np.ndarray]
    meaning: np.ndarray


@dataclass(frozen=True)
class Material:
    """All texts as token ids, and which rows belong together.

    Attributes:
        english: Row of the English side of each translation.
        other: Row of its other side.
        languages: Language of the other side.
        questions: Language -> rows of questions, and of the passage that answers each.
        topics: Topic of each English row, negative where none is known.
        words: Ids of tokens that translate each other, `(n, 2)`.
    """

    texts: Texts
    english: np.ndarray
    other: np.ndarray
    languages: np.ndarray
    questions: dict[str, tuple[np.ndarray, np.ndarray]]
    topics: np.ndarray
    words: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @cached_property
    def partners(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the translations of each token begin, `(vocab + 1,)`, and those tokens."""
        both = np.concatenate([self.words, self.words[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        return np.searchsorted(both[:, 0], np.arange(int(self.texts.flat.max()) + 2)), both[:, 1]

    @cached_property
    def by_language(self) -> dict[str, np.ndarray]:
        """Language -> places of its translations."""
        return {str(name): np.flatnonzero(self.languages == name) for name in np.unique(self.languages)}

    @cached_property
    def prose(self) -> dict[str, np.ndarray]:
        """Language -> places of its translations that are sentences rather than words."""
        lengths = np.diff(self.texts.offsets)
        long = np.minimum(lengths[self.english], lengths[self.other]) >= _SENTENCE
        return {name: places[long[places]] for name, places in self.by_language.items()}

    @cached_property
    def by_english(self) -> tuple[np.ndarray, np.ndarray]:
        """Places sorted by English row, and where each English row begins in them."""
        order = np.argsort(self.english, kind="stable")
        return order, np.searchsorted(self.english[order], np.arange(self.english.max() + 2))

    @cached_property
    def by_topic(self) -> list[np.ndarray]:
        """Places of the translations of each topic, where there are enough for a group."""
        topics = self.topics[self.english]
        order = np.argsort(topics, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(topics[order])) + 1)
        return [group for group in groups if topics[group[0]] >= 0 and len(group) >= _TOPIC_GROUP]


class Draw:
    """Draws batches; the same seed gives the same batches.

    Args:
        material: What is drawn from.
        seed: Of every choice.
        passage_tokens: Longest passage.
        switching: Whether questions change words for their translations.
    """

    def __init__(self, material: Material, seed: list[int], *, passage_tokens: int, switching: bool = False) -> None:
        self.material, self.random = material, np.random.default_rng(seed)
        self.longest, self.switching = passage_tokens, switching

    def batch(self, kind: str, size: int) -> Batch:
        """Draw ``size`` pairs of one kind."""
        draw: dict[str, Callable[[int], tuple[list[np.ndarray], list[np.ndarray], np.ndarray]]] = {
            "translations": self._translations,
            "crossing": self._crossing,
            "questions": self._questions,
            "fragments": self._fragments,
            "words": self._words,
        }
        return Batch(kind, *draw[kind](size))

    def _text(self, row: int, longest: int = SENTENCE_TOKENS) -> np.ndarray:
        return self.material.texts[row][:longest]

    def _places(self, size: int, groups: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Places of translations, of some of them where groups are given; their languages are drawn first."""
        groups = groups or self.material.by_language
        share = np.array([len(group) for group in groups.values()]) ** _EVENNESS
        counts = self.random.multinomial(size, share / share.sum())
        drawn = [self.random.choice(rows, count) for rows, count in zip(groups.values(), counts, strict=True)]
        return self.random.permutation(np.concatenate(drawn))

    def _partner(self, place: int) -> int:
        """Row that says the same as a translation's other side: English, or at times a third language."""
        row = self.material.english[place]
        order, start = self.material.by_english
        if self.random.random() < _THIRD_LANGUAGE:
            twin = order[self.random.integers(start[row], start[row + 1])]
            if twin != place:
                return int(self.material.other[twin])
        return int(row)

    def _translations(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        places = self._places(size)
        left = [self._text(self._partner(place)) for place in places]
        return left, [self._text(self.material.other[place]) for place in places], self.material.english[places]

    def _passage(self, place: int, side: np.ndarray) -> np.ndarray:
        """A translation's text on one side among some others of the same two languages."""
        pool = self.material.prose[str(self.material.languages[place])]
        places = np.append(self.random.choice(pool, self.random.integers(*_OTHERS)), place)
        self.random.shuffle(places)
        return np.concatenate([self._text(side[other]) for other in places])[: self.longest]

    def _crossing(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        places = np.concatenate([self._topical(size // 2), self._places(size - size // 2, self.material.prose)])
        left, right = [], []
        for place in places:
            english, other = self.material.english, self.material.other
            asked, side = (
                (self._partner(place), other),
                (other[place], english),
                (english[place], english),
                (other[place], other),
            )[self.random.choice(4, p=(0.45, 0.2, 0.25, 0.1))]
            sentence = self._text(asked, QUERY_TOKENS)
            own_language = asked == side[place]
            left.append(self._fragment(sentence) if own_language else sentence)
            right.append(self._passage(place, side))
        return left, right, self.material.english[places]

    def _topical(self, size: int) -> np.ndarray:
        """Places of translations in groups of one topic."""
        groups = self.material.by_topic
        chosen = self.random.integers(0, len(groups), -(-size // _TOPIC_GROUP))
        return np.concatenate([self.random.choice(groups[one], _TOPIC_GROUP, replace=False) for one in chosen])[:size]

    def _fragments(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        places, left, right = self._places(size, self.material.prose), [], []
        for place in places:
            side = self.material.english if self.random.random() < 0.15 else self.material.other
            left.append(self._fragment(self._text(side[place])))
            right.append(self._passage(place, side))
        return left, right, self.material.english[places]

    def _fragment(self, sentence: np.ndarray) -> np.ndarray:
        """A stretch of at most 16 tokens, a quarter of them dropped: what a search box would get."""
        start = int(self.random.integers(0, max(1, len(sentence) - 8)))
        stretch = sentence[start : start + int(self.random.integers(4, 17))]
        kept = stretch[self.random.random(len(stretch)) > 0.25]
        return kept if len(kept) else stretch

    def _questions(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Runs of neighbouring questions: their passages are of one article and hard to tell apart."""
        groups = self.material.questions
        share = np.sqrt([len(asked) for asked, _ in groups.values()])
        asked, answers = groups[str(self.random.choice(list(groups), p=share / share.sum()))]
        starts = self.random.integers(0, len(asked) - 8, -(-size // 8))
        rows = (starts[:, None] + np.arange(8)).ravel()[:size]
        left = [self._switched(self._text(row, QUERY_TOKENS)) for row in asked[rows]]
        return left, [self._stretch(self.material.texts[row]) for row in answers[rows]], answers[rows]

    def _switched(self, text: np.ndarray) -> np.ndarray:
        """At times a text with most words in other languages, through English into any; else the text."""
        if not self.switching or self.random.random() > _SWITCHED:
            return text
        start, partners = self.material.partners
        for _ in range(self.random.integers(1, 3)):
            count = start[text + 1] - start[text]
            chosen = (count > 0) & (self.random.random(len(text)) < _SWITCHED_WORDS)
            drawn = (self.random.random(len(text)) * count).astype(np.int64) + start[text]
            text = np.where(chosen, partners[np.where(chosen, drawn, 0)], text)
        return text

    def _words(self, size: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        pairs = self.material.words[self.random.integers(len(self.material.words), size=size)]
        return [*pairs[:, :1]], [*pairs[:, 1:]], pairs[:, 0]

    def _stretch(self, passage: np.ndarray) -> np.ndarray:
        """Half of the time a passage's beginning, else some other part of it."""
        last = max(0, len(passage) - self.longest)
        start = int(self.random.integers(0, last + 1)) if self.random.random() < 0.5 else 0
        return passage[start : start + self.longest]
