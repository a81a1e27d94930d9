"""Train bge-m3-mini from parallel sentences and question-passage pairs.

Usage: python examples/train_mini/train.py --data FOLDER --lexicon FOLDER --teacher FOLDER --work FOLDER --out FOLDER

Every stage leaves its result in the work folder and is skipped when it is there; one that was cut
off goes on from its last saved step. Needs `pip install "bgem3[torch,convert]" transformers sentencepiece opencc wordfreq`.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from alignment import inflections, rarity, retrofit, token_vectors, without_languages, word_pairs
from bag import Bag, start, train_bag
from batches import DEFINITIONS, Material
from data import Corpus, RetrievalSet, Texts, load
from export import export
from progress import whole
from space import OWN, RESERVED
from student import Student, start_from_bag
from teacher import Teacher, cache_vectors, topics
from tokenizer import VOCAB_SIZE, convert, train_vocabulary
from tokenizers import Tokenizer
from transformer import dense_vectors, train_transformer

WIDTH, LAYERS, INNER, POSITIONS = 192, 4, 640, 512
# The bag has no use for what serves the sparse head; the rest of it has a meaning of its own, and one dimension less for
# the zero mean.
BAG_WIDTH = WIDTH - RESERVED
CONTENT = BAG_WIDTH - OWN - 1
# On a processor two minutes' worth; the transformer is the better for all that there are.
TEACHER_TEXTS, ALL_TEXTS, TOPICS = 60_000, 500_000, 3_000
TRANSFORMER_STEPS = 3_800


def tokenize(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Return token ids without the specials; an empty text becomes `<unk>`."""
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array(one.ids[:POSITIONS] or [3], dtype=np.uint32) for one in encoded]


def make_material(corpus: Corpus, tokenizer: Tokenizer, known: tuple[np.ndarray, np.ndarray], seed: int) -> Material:
    """Bring everything that batches are drawn from into one table of texts.

    Args:
        corpus: The training texts.
        tokenizer: Of the student.
        known: English rows that the teacher has seen, and its vectors.
        seed: Of the topics.
    """
    rows: list[np.ndarray] = []

    def add(texts: list[str]) -> np.ndarray:
        first = len(rows)
        rows.extend(tokenize(tokenizer, texts))
        return np.arange(first, len(rows))

    def add_set(data: RetrievalSet) -> tuple[np.ndarray, np.ndarray]:
        asked, passages = add(data.queries), add(data.passages)
        return asked, passages[[min(relevant) for relevant in data.relevant]]

    add(corpus.english)
    other = add([text for _, text, _ in corpus.pairs])
    questions = {data.lang: add_set(data) for data in corpus.retrieval}
    questions[DEFINITIONS] = tuple(add([*texts]) for texts in zip(*corpus.definitions, strict=True))
    topic = np.full(len(corpus.english), -1)
    topic[known[0]] = topics(known[1], TOPICS, seed)
    return Material(
        texts=Texts(np.concatenate(rows), np.cumsum([0, *(len(row) for row in rows)])),
        english=np.array([row for row, _, _ in corpus.pairs]),
        other=other,
        languages=np.array([language for _, _, language in corpus.pairs]),
        questions=questions,
        topics=topic,
    )


def aligned(material: Material, tokenizer: Tokenizer, file: Path, seed: int) -> tuple[Bag, Material, np.ndarray]:
    """Return the bag as training begins with it, the material with its word pairs, and the rarity of each token."""
    if not file.exists():
        content = token_vectors(material, VOCAB_SIZE, CONTENT, seed)
        pieces = [tokenizer.id_to_token(token) for token in range(VOCAB_SIZE)]
        counts = np.bincount(material.texts.flat, minlength=VOCAB_SIZE)
        words = np.concatenate([word_pairs(material, VOCAB_SIZE), inflections(pieces, counts, content)])
        with whole(file) as beside:
            np.savez(beside, content=content, rarity=rarity(material, VOCAB_SIZE), words=words)
    bag = Bag(VOCAB_SIZE, BAG_WIDTH)
    with np.load(file) as kept:
        start(bag, kept["content"], kept["rarity"], seed)
        return bag, replace(material, words=kept["words"]), kept["rarity"]


@torch.no_grad()
def polish(bag: Bag, material: Material, seed: int) -> None:
    """Draw translations nearer than training left them: MaxSim gives an equal word 1, so a translation must come near that."""
    vectors = bag.states().numpy()[:, 1:]
    bag.vectors.copy_(torch.from_numpy(without_languages(retrofit(vectors, material.words), material, seed)))


def main() -> None:
    """Run every stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "lexicon", "teacher", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--transformer-steps", type=int, default=TRANSFORMER_STEPS, help="0: the bag alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--batch-share", type=float, default=1.0, help="of the transformer's batches, if memory is short"
    )
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that draw batches"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    corpus = load(options.data, options.lexicon, options.seed)
    tokenizer_file = options.work / "tokenizer" / "tokenizer.json"
    if not tokenizer_file.exists():
        convert(train_vocabulary(corpus, options.work / "spm", options.seed), corpus, tokenizer_file.parent, POSITIONS)
    count = TEACHER_TEXTS if options.device == "cpu" else ALL_TEXTS
    known = cache_vectors(corpus, options.teacher, options.work / "teacher", count, options.seed, options.device)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    material = make_material(corpus, tokenizer, known, options.seed)
    bag, material, rare = aligned(material, tokenizer, options.work / "aligned.npz", options.seed)
    teacher = Teacher(*known, meanings=len(corpus.english), student=bag.encode(material.texts, known[0]))
    train_bag(bag, material, teacher, options.work / "bag.pt", steps=options.steps, seed=options.seed)
    polish(bag, material, options.seed)
    student = Student(VOCAB_SIZE, WIDTH, LAYERS, INNER, POSITIONS)
    start_from_bag(student, bag, rare, options.seed)
    if options.transformer_steps:
        vectors = dense_vectors(student, material.texts, known[0], options.device)
        teacher = Teacher(*known, meanings=len(corpus.english), student=vectors)
        train_transformer(
            student,
            material,
            teacher,
            np.exp(-rare),
            options.work / "transformer.pt",
            steps=options.transformer_steps,
            seed=options.seed,
            device=options.device,
            workers=options.workers,
            share=options.batch_share,
        )
    export(student.eval(), tokenizer_file.parent, options.out)


if __name__ == "__main__":
    main()
