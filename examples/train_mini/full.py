"""Second stage: the whole model, all three heads together, started from the bag."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bag import match
from batches import Batch, Draw, Material
from losses import MAX_SIM_TEMPERATURE, TEMPERATURE, contrast, dense_contrast, lexical, max_sim
from progress import Progress
from student import Outputs, Student
from teacher import Teacher
from torch import Tensor

# Translations come aligned from the bag; passages are what is left to learn.
ROUND = ("crossing", "translations", "questions", "crossing", "translations", "fragments")
SIZES = {"translations": 96, "crossing": 40, "questions": 32, "fragments": 32}
PASSAGE_TOKENS = 160
_RATES = (4e-4, 3e-4)
# How much a head learns from the sum of all, as in the paper's self-distillation.
_DISTILLED = 0.5


def _pad(rows: list[np.ndarray]) -> Tensor:
    ids = np.ones((len(rows), max(len(row) for row in rows) + 2), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, 0] = 0
        ids[i, 1 : len(row) + 1] = row
        ids[i, len(row) + 1] = 2
    return torch.from_numpy(ids)


def _multi_vector(left: Outputs, right: Outputs) -> Tensor:
    return max_sim(left.vectors, left.mask[:, 1:].float(), right.vectors, right.mask[:, 1:])


def losses(student: Student, batch: Batch, teacher: Teacher) -> dict[str, Tensor]:
    """Return each part of the loss of one batch."""
    left, right = student(_pad(batch.left)), student(_pad(batch.right))
    meaning = torch.from_numpy(batch.meaning)
    scores = {"dense": left.dense @ right.dense.T, "multi-vector": _multi_vector(left, right)}
    # Words are shared within a language only.
    if batch.kind in ("questions", "fragments"):
        scores["sparse"] = lexical(left.ids, left.weights, right.ids, right.weights)
    total = scores["dense"] + scores["multi-vector"] + 0.3 * scores.get("sparse", torch.zeros(()))
    warmth = {name: MAX_SIM_TEMPERATURE if name == "multi-vector" else TEMPERATURE for name in (*scores, "sum")}
    found = {name: contrast(score, meaning, warmth[name]) for name, score in {**scores, "sum": total}.items()}
    found["own side"] = dense_contrast(left.dense, right.dense, meaning)
    same = (meaning[:, None] == meaning[None, :]).fill_diagonal_(False)
    soft = (total.detach() / TEMPERATURE).masked_fill(same, -1e4).softmax(-1)
    for name, score in scores.items():
        logits = (score / warmth[name]).masked_fill(same, -1e4)
        found[f"{name} from sum"] = _DISTILLED * F.cross_entropy(logits, soft)
    if batch.kind == "translations":
        found["teacher"] = match([left.dense, right.dense], *teacher.of(batch.meaning))
    return found


def train_full(student: Student, material: Material, teacher: Teacher, file: Path, *, steps: int, seed: int) -> Student:
    """Train, from the last saved state if there is one; return the averaged model."""
    groups = [
        {"params": [p for n, p in student.named_parameters() if ("embeddings" in n) == words], "lr": rate}
        for words, rate in zip((False, True), _RATES, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(_RATES), total_steps=steps, pct_start=0.08)
    average = copy.deepcopy(student)
    parts = {"student": student, "average": average, "optimizer": optimizer, "schedule": schedule}
    progress = Progress("full", file, steps, **parts)
    for step in progress:
        kind = ROUND[step % len(ROUND)]
        batch = Draw(material, [seed, 1, step], passage_tokens=PASSAGE_TOKENS, spare=4).batch(kind, SIZES[kind])
        found = losses(student, batch, teacher)
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        _average(average, student, min(0.99, step / (step + 10)))
        progress.show(kind, found)
    return average


@torch.no_grad()
def _average(average: Student, student: Student, decay: float) -> None:
    for old, new in zip(average.parameters(), student.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
