"""Last stage: the transformer trained as a whole, all three heads together, on an accelerator.

It begins as the bag of tokens it was made from (`student.py`) and learns what a bag cannot: which words matter beside
which others, and that a passage of another language answers better than one of the asker's own on the same topic. Batches
of thousands make that hard enough. The sparse head learns BM25's weights, which it began with, as numbers: it never sees
which passage is right except where there are questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from batches import SENTENCE_TOKENS, Batch, Draw, Material
from data import Texts
from losses import MAX_SIM_TEMPERATURE, contrast, dense_contrast, max_sim
from progress import Progress
from saturation import K1, MEAN_LENGTH, B
from space import SPECIALS
from student import Student
from teacher import Teacher
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

ROUND = ("translations", "crossing", "questions", "words", "translations", "crossing", "questions", "fragments")
SIZES = {"translations": 4096, "crossing": 2048, "questions": 768, "fragments": 1024, "words": 8192}
# MaxSim of every query with every passage is dear: it takes pairs from the middle of a batch. The share that fits the
# device multiplies both.
PAIRS = {"translations": 512, "crossing": 512, "questions": 256, "fragments": 384}
PASSAGE_TOKENS = {"questions": 300}
_PASSAGE_TOKENS, _POSITIONS = 160, 510
_START, _PAD, _END = 0, 1, 2
_SHOWN = 64
_RATE, _TABLE_RATE, _WARM = 5e-4, 2e-3, 0.05
# Rows of a batch that are padded to one length, at least, and their tokens.
_ROWS, _TOKENS = 512, 160_000
# Weights of the losses; the sum of all scores, as a hybrid search takes it by default, is told apart too.
_LEXICAL, _LEXICAL_CONTRAST, _SUM, _NEAR = 4.0, 0.1, 0.5, 3.0
_SPARSE_SHARE, _SUM_TEMPERATURE, _LEXICAL_TEMPERATURE = 0.3, 0.04, 0.1
# A sentence stands for a passage of this many when it is asked how rare a token is.
_SENTENCES, _RAREST, _SCALE = 8.0, 8.0, 0.85


def padded(rows: list[np.ndarray]) -> Tensor:
    """Return rows of token ids between `<s>` and `</s>`, `(n, longest)` int32, padded to a multiple of eight."""
    rows = [row[:_POSITIONS] for row in rows]
    lengths = np.array([len(row) for row in rows])
    ids = np.full((len(rows), -(-(int(lengths.max()) + 2) // 8) * 8), _PAD, np.int32)
    places = np.arange(ids.shape[1])
    ids[(places >= 1) & (places <= lengths[:, None])] = np.concatenate(rows)
    ids[:, 0], ids[np.arange(len(rows)), lengths + 1] = _START, _END
    return torch.from_numpy(ids)


class Batches(Dataset):
    """Batches by step, made in worker processes."""

    def __init__(self, material: Material, seed: int, share: float) -> None:
        self.material, self.seed, self.share = material, seed, share

    def __getitem__(self, step: int) -> tuple[str, Tensor, Tensor, np.ndarray]:
        """Return kind, ids of both sides, and meanings."""
        kind = ROUND[step % len(ROUND)]
        longest = PASSAGE_TOKENS.get(kind, _PASSAGE_TOKENS)
        draw = Draw(self.material, [self.seed, step], passage_tokens=longest, switching=True)
        batch = draw.batch(kind, int(self.share * SIZES[kind]))
        if kind == "translations":  # less padding
            batch = _sorted(batch)
        return kind, padded(batch.left), padded(batch.right), batch.meaning


def _sorted(batch: Batch) -> Batch:
    """Return a batch by rising length."""
    order = np.argsort(
        [len(one) + len(other) for one, other in zip(batch.left, batch.right, strict=True)], kind="stable"
    )
    left, right = ([side[i] for i in order] for side in (batch.left, batch.right))
    return Batch(batch.kind, left, right, batch.meaning[order])


@dataclass(frozen=True)
class Encoded:
    """What the heads say: dense `(n, h)`, weights `(n, t)`, unit vectors `(n, t - 1, h)` and which of them are real."""

    ids: Tensor
    dense: Tensor
    weights: Tensor
    vectors: Tensor
    real: Tensor


def encode(student: Student, ids: Tensor, *, shifted: bool = True) -> Encoded:
    """Encode padded ids; half of the texts begin at a random position, so that all positions are learnt."""
    ids = ids.long()
    parts = [_encode(student, part, shifted) for part in ids.split(max(_ROWS, _TOKENS // ids.shape[1]))]
    longest = ids.shape[1]
    dense, weights, vectors = zip(*parts, strict=True)
    return Encoded(
        ids=ids,
        dense=torch.cat(dense),
        weights=torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in weights]),
        vectors=torch.cat([F.pad(part, (0, 0, 0, longest - 1 - part.shape[1])) for part in vectors]),
        real=(ids != _PAD)[:, 1:],
    )


def _encode(student: Student, ids: Tensor, shifted: bool) -> tuple[Tensor, Tensor, Tensor]:
    mask = ids != _PAD
    longest = -(-int(mask.sum(1).max()) // 8) * 8
    ids, mask = ids[:, :longest], mask[:, :longest]
    positions = torch.arange(ids.shape[1], device=ids.device)[None] + 2
    if shifted:
        start = torch.randint(0, max(1, _POSITIONS + 2 - longest), (len(ids), 1), device=ids.device)
        positions = positions + start * (torch.rand(len(ids), 1, device=ids.device) < 0.5)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
        hidden = student.body(
            input_ids=ids, attention_mask=mask, position_ids=positions * mask + ~mask
        ).last_hidden_state
        weights, vectors = student.sparse_linear(hidden)[..., 0], student.colbert_linear(hidden[:, 1:])
    dense, vectors = (F.normalize(part.float(), dim=-1) for part in (hidden[:, 0], vectors))
    return dense, weights.float().relu(), vectors


@torch.no_grad()
def dense_vectors(student: Student, texts: Texts, rows: np.ndarray, device: str) -> np.ndarray:
    """Return the dense vectors `(n, width)` of some sentences."""
    student.to(device)
    some = np.array_split(rows, len(rows) // _ROWS + 1)
    parts = [padded([texts[row][:SENTENCE_TOKENS] for row in part]).to(device) for part in some]
    return torch.cat([encode(student, part, shifted=False).dense.cpu() for part in parts]).numpy()


class LexicalGoal:
    """The weights that make a product of two texts BM25's score: a root of the rarity, times the quotient.

    Args:
        common: How often each token stands in a sentence of the language where it is most common.
    """

    def __init__(self, common: Tensor) -> None:
        here = -torch.expm1(-_SENTENCES * common)
        rarity = torch.log1p((1 - here) / here.clamp_min(1e-9)).clamp(0, _RAREST)
        self.root = _SCALE * (rarity / _RAREST).sqrt()

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights `(n, t)` of tokens, and which of them count."""
        counts = ids >= SPECIALS
        often = (ids[:, :, None] == ids[:, None, :]).sum(-1).float()
        length = counts.sum(1, keepdim=True).float()
        return self.root[ids] * often / (often + K1 * (1 - B + B * length / MEAN_LENGTH)), counts


def lexical_rows(text: Encoded, vocab: int) -> Tensor:
    """Return the largest weight of each token id in a text, `(n, vocab)`."""
    weights = text.weights * (text.ids >= SPECIALS)
    rows = torch.zeros(len(weights), vocab, device=weights.device)
    return rows.scatter_reduce(1, text.ids, weights, "amax")


def losses(
    student: Student,
    kind: str,
    sides: tuple[Encoded, Encoded],
    meaning: Tensor,
    goal: LexicalGoal,
    share: float | None = None,
) -> dict[str, Tensor]:
    """Return each part of the loss of a batch but the teacher's."""
    left, right = sides
    found = {"dense": dense_contrast(left.dense, right.dense, meaning)}
    if kind == "words":
        one, other = left.vectors[:, 0], right.vectors[:, 0]
        found["multi-vector"] = _NEAR * (1 - (one * other).sum(-1)).mean() + dense_contrast(one, other, meaning)
        return found
    lexical = []
    for side in sides:
        wanted, counts = goal(side.ids)
        lexical.append((side.weights - wanted).abs()[counts].mean() / wanted[counts].mean())
    found["lexical"] = _LEXICAL * torch.stack(lexical).mean()
    count = int(len(meaning) * (share or PAIRS[kind] / SIZES[kind]))
    first = (len(meaning) - count) // 2
    some = slice(first, first + count)
    late = max_sim(left.vectors[some], left.real[some].float(), right.vectors[some], right.real[some])
    found["multi-vector"] = contrast(late, meaning[some], MAX_SIM_TEMPERATURE)
    part = [
        Encoded(side.ids[some], side.dense[some], side.weights[some], side.vectors[some], side.real[some])
        for side in sides
    ]
    rows = [lexical_rows(side, student.config.vocab_size) for side in part]
    lexical_scores = rows[0] @ rows[1].T
    if kind == "questions":
        found["sparse"] = _LEXICAL_CONTRAST * contrast(lexical_scores, meaning[some], _LEXICAL_TEMPERATURE)
    total = part[0].dense @ part[1].dense.T + late + _SPARSE_SHARE * lexical_scores.detach()
    found["sum"] = _SUM * contrast(total, meaning[some], _SUM_TEMPERATURE)
    return found


def rate(done: float) -> float:
    """Return the share of the full learning rate when this share of the steps is done: up, then a cosine down to a hundredth."""
    if done < _WARM:
        return done / _WARM
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (done - _WARM) / (1 - _WARM))) / 2


def parameter_groups(student: Student) -> list[dict[str, object]]:
    """Return the table of tokens, then matrices, then what is not decayed."""
    table = student.body.embeddings.word_embeddings.weight
    rest = [one for one in student.parameters() if one is not table]
    return [
        {"params": [table], "rate": _TABLE_RATE, "weight_decay": 0.0},
        {"params": [one for one in rest if one.ndim > 1], "rate": _RATE, "weight_decay": 0.01},
        {"params": [one for one in rest if one.ndim == 1], "rate": _RATE, "weight_decay": 0.0},
    ]


def train_transformer(
    student: Student,
    material: Material,
    teacher: Teacher,
    common: np.ndarray,
    file: Path,
    *,
    steps: int,
    seed: int,
    device: str,
    workers: int,
    share: float,
) -> None:
    """Train in place, from the last saved state if there is one.

    Args:
        student: Started from the bag.
        material: What batches are drawn from.
        teacher: Vectors for the dense head where English sentences are meant.
        common: See `LexicalGoal`.
        file: Where the state is kept.
        steps: Batches.
        seed: Of every choice.
        device: A torch device name.
        workers: Processes that draw batches.
        share: Of the batches' full sizes.
    """
    student.to(device).train()
    torch.backends.cuda.matmul.allow_tf32 = True
    goal = LexicalGoal(torch.from_numpy(common).float().to(device))
    optimizer = torch.optim.AdamW(parameter_groups(student), lr=_RATE, betas=(0.9, 0.98), fused=device != "cpu")
    progress = Progress("transformer", file, steps, student=student, optimizer=optimizer)
    loader = DataLoader(
        Batches(material, seed, share),
        batch_size=None,
        sampler=range(progress.start, steps),
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        pin_memory=device != "cpu",
    )
    for step, (kind, *ids, meaning) in zip(progress, loader, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * rate(step / steps)
        sides = tuple(encode(student, side.to(device, non_blocking=True)) for side in ids)
        on_device = torch.as_tensor(meaning).to(device)
        found = losses(student, kind, sides, on_device, goal)
        if kind == "translations":
            places, vectors = teacher.of(np.asarray(meaning))
            if len(places):
                wanted = torch.as_tensor(vectors, device=device).float()
                found["teacher"] = torch.stack(
                    [3 * (1 - (side.dense[places] * wanted).sum(-1).mean()) for side in sides]
                ).sum()
        torch.stack([*found.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % _SHOWN < len(ROUND):  # reading a loss waits for the device
            progress.show(kind, found)
    student.to("cpu")
