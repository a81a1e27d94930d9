"""Second stage: the whole model, all three heads together, on four kinds of batches.

* translations: a sentence and its English side, dense and multi-vector, and the teacher's vector;
* questions: a question and its passage in one language, all heads;
* fragments: some words of a sentence and a made-up passage with it, one language, all heads;
* crossing: a sentence and a made-up passage with its translation, dense and multi-vector.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bag import Pairs, contrast
from data import Texts
from student import Outputs, Student
from torch import Tensor
from tqdm import tqdm

SENTENCE_TOKENS, QUESTION_TOKENS, PASSAGE_TOKENS = 48, 40, 192
TEMPERATURE = 0.05
# Translations come aligned from the bag; passages are what is left to learn.
_KINDS = ("translations", "questions", "fragments", "crossing")


@dataclass(frozen=True)
class Batch:
    """Padded ids of two sides, which rows mean the same, and the teacher's vectors where known."""

    kind: str
    left: Tensor
    right: Tensor
    meaning: Tensor
    seen: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class Material:
    """Everything batches are drawn from; ``the groups hold positions in ``pairs``."""

    texts: Texts
    pairs: Pairs
    by_language: dict[str, np.ndarray]
    questions: dict[str, np.ndarray]
    joined: dict[str, dict[str, np.ndarray]]
    known: np.ndarray
    vectors: np.ndarray


def batches(material: Material, seed: int, start: int) -> Iterator[Batch]:
    """Yield batches for ever; the same seed and start give the same batches."""
    step = start
    while True:
        random = np.random.default_rng([seed, step])
        kind = _KINDS[step % len(_KINDS)]
        yield {"translations": _translations, "questions": _questions}.get(kind, _joined)(material, random, kind)
        step += 1


def _language(groups: dict[str, np.ndarray], random: np.random.Generator) -> str:
    """Choose a language by the square root of its size, so that small ones are heard."""
    names = sorted(groups)
    share = np.sqrt([len(groups[name]) for name in names])
    return str(random.choice(names, p=share / share.sum()))


def _translations(material: Material, random: np.random.Generator, kind: str) -> Batch:
    chosen = []
    for _ in range(4):
        rows = material.by_language[_language(material.by_language, random)]
        chosen.append(random.choice(rows, 256))
    picked = np.concatenate(chosen)
    # Of four times too many, take a stretch of similar length: less padding, harder negatives.
    lengths = np.diff(material.texts.offsets)[material.pairs.left[picked]]
    order = np.argsort(lengths + random.random(len(lengths)), kind="stable")
    first = int(random.integers(0, len(order) - 159))
    picked = picked[order[first : first + 160]]
    return _batch(material, kind, picked, SENTENCE_TOKENS, SENTENCE_TOKENS)


def _questions(material: Material, random: np.random.Generator, kind: str) -> Batch:
    """Runs of neighbouring questions: their passages are of one article and hard to tell apart."""
    rows = material.questions[_language(material.questions, random)]
    starts = random.integers(0, len(rows) - 8, 5)
    picked = np.concatenate([rows[start : start + 8] for start in starts])
    return _batch(material, kind, picked, QUESTION_TOKENS, PASSAGE_TOKENS)


def _joined(material: Material, random: np.random.Generator, kind: str) -> Batch:
    """Two languages a batch, so that most negatives are in the language of the passage."""
    groups = material.joined[kind]
    picked = np.concatenate([random.choice(groups[_language(groups, random)], 20) for _ in range(2)])
    return _batch(material, kind, picked, SENTENCE_TOKENS, PASSAGE_TOKENS)


def _batch(material: Material, kind: str, picked: np.ndarray, left: int, right: int) -> Batch:
    texts, pairs = material.texts, material.pairs
    meaning = pairs.meaning[picked]
    seen = np.flatnonzero(material.known[meaning] >= 0)
    wanted = material.vectors[material.known[meaning[seen]]].astype(np.float32)
    return Batch(
        kind,
        _pad([texts[i][: left - 2] for i in pairs.left[picked]]),
        _pad([texts[i][: right - 2] for i in pairs.right[picked]]),
        torch.from_numpy(meaning),
        torch.from_numpy(seen),
        torch.from_numpy(wanted),
    )


def _pad(rows: list[np.ndarray]) -> Tensor:
    ids = np.ones((len(rows), max(len(row) for row in rows) + 2), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, 0] = 0
        ids[i, 1 : len(row) + 1] = row
        ids[i, len(row) + 1] = 2
    return torch.from_numpy(ids)


def max_sim(queries: Outputs, passages: Outputs) -> Tensor:
    """Return mean MaxSim of every query with every passage, `(n_queries, n_passages)`."""
    (n, q, width), (m, p, _) = queries.vectors.shape, passages.vectors.shape
    similarity = (queries.vectors.reshape(-1, width) @ passages.vectors.reshape(-1, width).T).float()
    similarity = similarity.view(n, q, m, p).masked_fill(~passages.mask[None, None, :, 1:], -2.0)
    best = similarity.amax(-1) * queries.mask[:, 1:, None]
    return best.sum(1) / queries.mask[:, 1:].sum(1, keepdim=True)


def lexical(queries: Outputs, passages: Outputs, vocab: int) -> Tensor:
    """Return dot products of the largest weights per token id."""
    rows = [
        torch.zeros(len(side.ids), vocab).scatter_reduce(1, side.ids, side.weights, "amax")
        for side in (queries, passages)
    ]
    return rows[0] @ rows[1].T


def losses(student: Student, batch: Batch) -> dict[str, Tensor]:
    """Return each part of the loss of one batch."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        left, right = student(batch.left), student(batch.right)
    same = (batch.meaning[:, None] == batch.meaning[None, :]).fill_diagonal_(False)
    scores = {"dense": left.dense @ right.dense.T, "multi_vector": max_sim(left, right)}
    # Words are shared within a language only.
    if batch.kind in ("questions", "fragments"):
        scores["sparse"] = lexical(left, right, student.config.vocab_size)
    total = scores["dense"] + scores["multi_vector"] + 0.3 * scores.get("sparse", torch.zeros(()))
    goal = torch.arange(len(left.ids))
    found: dict[str, Tensor] = {}
    soft = (total.detach() / TEMPERATURE).masked_fill(same, -1e4).softmax(-1)
    found["own language"] = contrast(left.dense, right.dense, batch.meaning, TEMPERATURE)
    for name, score in {**scores, "sum": total}.items():
        logits = (score / TEMPERATURE).masked_fill(same, -1e4)
        found[name] = (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2
        if name != "sum":
            # The paper's self-distillation: each head learns from the sum.
            found[f"{name} distilled"] = 0.5 * F.cross_entropy(logits, soft)
    if len(batch.seen) and batch.kind == "translations":
        found["teacher"] = sum(
            3.0 * (1 - (side.dense[batch.seen] * batch.wanted).sum(-1).mean()) for side in (left, right)
        )
    return found


def train_full(
    student: Student, material: Material, folder: Path, *, steps: int, seed: int, save_every: int = 250
) -> Student:
    """Train, from the last saved state if there is one; return the averaged model."""
    state_file = folder / "full.pt"
    groups = [
        {"params": [p for n, p in student.named_parameters() if ("word_embeddings" in n) == words], "lr": rate}
        for words, rate in ((False, 6e-4), (True, 4e-4))
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [6e-4, 4e-4], total_steps=steps, pct_start=0.05)
    average, start = copy.deepcopy(student), 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for part, name in (
            (student, "student"),
            (average, "average"),
            (optimizer, "optimizer"),
            (schedule, "schedule"),
        ):
            part.load_state_dict(state[name])
        start = state["step"]
    drawn = batches(material, seed, start)
    shown: dict[str, float] = {}
    progress = tqdm(range(start, steps), desc="full", unit="step", initial=start, total=steps, mininterval=20)
    for step in progress:
        batch = next(drawn)
        found = losses(student, batch)
        sum(found.values()).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        _average(average, student, min(0.998, step / (step + 100)))
        for name, value in found.items():
            key = f"{batch.kind[:2]}.{name}"
            shown[key] = 0.95 * shown.get(key, value.item()) + 0.05 * value.item()
        if step % 50 == 0:
            progress.set_postfix({k: f"{v:.2f}" for k, v in shown.items() if "distilled" not in k})
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save(state_file, step + 1, student, average, optimizer, schedule)
    return average


@torch.no_grad()
def _average(average: Student, student: Student, decay: float) -> None:
    for old, new in zip(average.parameters(), student.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


def _save(
    file: Path,
    step: int,
    student: Student,
    average: Student,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Write the state beside the old one, then put it in its place."""
    state = {
        "step": step,
        "student": student.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    torch.save(state, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
