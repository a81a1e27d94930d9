"""Train bge-m3-mini from parallel sentences and question-passage pairs.

Usage: python examples/train_mini/train.py --data FOLDER --teacher FOLDER --work FOLDER --out FOLDER

Every stage leaves its result in the work folder and is skipped when it is there; the last one goes
on from its last saved step. Needs `pip install "bgem3[torch,convert]" transformers sentencepiece opencc`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bag import Bag, Pairs, train_bag
from data import Corpus, RetrievalSet, Texts, load
from export import export
from full import Material, train_full
from passages import join_passages
from student import Student, start_from_bag
from teacher import cache_vectors
from tokenizer import VOCAB_SIZE, convert, train_vocabulary
from tokenizers import Tokenizer

WIDTH, LAYERS, POSITIONS = 320, 3, 512
TEACHER_SENTENCES = 260_000
JOINED_PASSAGES = 200_000


@dataclass
class Table:
    """All texts as token ids, and pairs of their rows with what they mean."""

    rows: list[np.ndarray]
    left: list[int]
    right: list[int]
    meaning: list[int]

    def add(self, left: list[np.ndarray], right: list[np.ndarray]) -> np.ndarray:
        """Add pairs of new texts; return their positions."""
        base, first = len(self.rows), len(self.left)
        start = max(self.meaning, default=-1) + 1
        self.rows += left + right
        self.left += range(base, base + len(left))
        self.right += range(base + len(left), base + 2 * len(left))
        self.meaning += range(start, start + len(left))
        return np.arange(first, len(self.left))

    def pairs(self) -> Pairs:
        """Return the pairs as arrays."""
        return Pairs(np.array(self.left), np.array(self.right), np.array(self.meaning))


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Return token ids without the specials; an empty text becomes `<unk>`."""
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array(one.ids[:POSITIONS] or [3], dtype=np.uint16) for one in encoded]


def material(corpus: Corpus, tokenizer: Tokenizer, vectors: np.ndarray, seen: np.ndarray, seed: int) -> Material:
    """Bring everything that batches are drawn from into one place."""
    table = Table(tokenize(tokenizer, corpus.english), [], [], [])
    english = len(table.rows)
    table.rows += tokenize(tokenizer, [other for _, other, _ in corpus.pairs])
    table.left = [row for row, _, _ in corpus.pairs]
    table.meaning = list(table.left)
    table.right = list(range(english, len(table.rows)))
    languages = np.array([language for _, _, language in corpus.pairs])
    by_language = {str(one): np.flatnonzero(languages == one) for one in np.unique(languages)}
    left, right = np.array(table.left), np.array(table.right)
    questions = {one.lang: _questions(table, tokenizer, one) for one in corpus.retrieval}
    sentences = _texts(table.rows)
    made = join_passages(sentences, left, right, by_language, count=JOINED_PASSAGES, seed=seed)
    places = table.add(made.questions, made.passages)
    joined = {
        kind: {one: places[(made.languages == one) & (made.crossing == crossing)] for one in by_language}
        for kind, crossing in (("fragments", False), ("crossing", True))
    }
    known = np.full(max(table.meaning) + 1, -1)
    known[seen] = np.arange(len(seen))
    return Material(_texts(table.rows), table.pairs(), by_language, questions, joined, known, vectors)


def _questions(table: Table, tokenizer: Tokenizer, data: RetrievalSet) -> np.ndarray:
    passages = tokenize(tokenizer, data.passages)
    answers = [min(relevant) for relevant in data.relevant]
    start = max(table.meaning) + 1
    places = table.add(tokenize(tokenizer, data.queries), [passages[row] for row in answers])
    # Questions about one passage are not each other's negatives.
    for place, row in zip(places, answers, strict=True):
        table.meaning[place] = start + row
    return places


def _texts(rows: list[np.ndarray]) -> Texts:
    return Texts(np.concatenate(rows), np.cumsum([0, *(len(row) for row in rows)]))


def shrink(vectors: np.ndarray, width: int) -> np.ndarray:
    """Bring the teacher's vectors to a width by PCA without centring, which keeps cosines."""
    values = vectors.astype(np.float32)
    axes = np.linalg.svd(values[:20_000], full_matrices=False)[2][:width]
    values = values @ axes.T
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def main() -> None:
    """Run every stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "teacher", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--bag-epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    corpus = load(options.data, options.seed)
    if not (options.work / "tokenizer" / "tokenizer.json").exists():
        model = train_vocabulary(corpus, options.work / "spm", options.seed)
        convert(model, options.work / "tokenizer", POSITIONS)
    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer" / "tokenizer.json"))
    seen, vectors = cache_vectors(corpus, options.teacher, options.work / "teacher", TEACHER_SENTENCES, options.seed)
    drawn = material(corpus, tokenizer, shrink(vectors, WIDTH), seen, options.seed)
    bag = _bag(drawn, options.work / "bag.pt", options.bag_epochs, options.seed)
    student = Student(VOCAB_SIZE, WIDTH, LAYERS, POSITIONS)
    start_from_bag(student, bag)
    average = train_full(student, drawn, options.work, steps=options.steps, seed=options.seed)
    export(average.eval(), options.work / "tokenizer", options.out)


def _bag(drawn: Material, file: Path, epochs: int, seed: int) -> Bag:
    bag = Bag(VOCAB_SIZE, WIDTH)
    if file.exists():
        bag.load_state_dict(torch.load(file, weights_only=True))
        return bag
    teacher = {int(meaning): int(drawn.known[meaning]) for meaning in np.flatnonzero(drawn.known >= 0)}
    train_bag(bag, drawn.texts, drawn.pairs, teacher, drawn.vectors, epochs=epochs, seed=seed)
    torch.save(bag.state_dict(), file)
    return bag


if __name__ == "__main__":
    main()
