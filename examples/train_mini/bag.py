"""First stage: token embeddings alone, as weighted bags of tokens.

The dense and the multi-vector head without a transformer: a text's dense vector is the weighted mean
of its tokens' vectors, its token vectors are those of the embedding table. Hundreds of steps take
minutes, and words of 30 languages that mean the same come together. Weights are linear in the token's
vector, as the attention of the transformer that starts from here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from batches import ROUND, Batch, Draw, Material
from data import Texts
from losses import MAX_SIM_TEMPERATURE, contrast, dense_contrast, max_sim
from progress import Progress
from space import OWN
from teacher import Teacher
from torch import Tensor, nn

SIZES = {"translations": 1024, "crossing": 768, "questions": 320, "fragments": 192}
# MaxSim of every query with every passage is dear: it takes some pairs of a batch, and cuts them.
_PAIRS = {"translations": 64, "crossing": 32, "questions": 24, "fragments": 24}
_QUERY, _PASSAGE = 24, 80
# Pairs of words in a step, and what their nearness weighs.
_WORDS, _NEAR = 1024, 3.0
PASSAGE_TOKENS = 320


class Bag(nn.Module):
    """Token vectors, and a linear readout of how much a token counts in the dense vector."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(vocab, width - 1))
        self.attention = nn.Parameter(torch.zeros(width))

    def states(self, tokens: Tensor | None = None) -> Tensor:
        """Return states `(n, width)` of tokens (None: all), with zero mean and variance one."""
        # an embedding, since the gradient of indexing takes many times as long
        chosen = self.vectors if tokens is None else F.embedding(tokens, self.vectors)
        return F.pad(F.layer_norm(chosen, chosen.shape[1:]), (1, 0))

    @torch.no_grad()
    def encode(self, texts: Texts, rows: np.ndarray) -> np.ndarray:
        """Return dense vectors `(n, width)` of some texts."""
        states = self.states()
        weights = (states @ self.attention).exp()
        chosen = [texts[row].astype(np.int64) for row in rows]
        parts = [dense_of(states, weights, chosen[i : i + 4096]) for i in range(0, len(chosen), 4096)]
        return torch.cat(parts).numpy()


@torch.no_grad()
def start(bag: Bag, content: np.ndarray, rarity: np.ndarray, seed: int) -> None:
    """Set token vectors from aligned ones: rare tokens are content, frequent ones are neutral.

    Args:
        bag: What is set.
        content: Unit vectors `(vocab, c)`, c at most width - 4 (`space.OWN` and one for the zero mean).
        rarity: Of each token, natural logarithm.
        seed: Of the rotation, and of the vectors of tokens without content.
    """
    random = np.random.default_rng(seed)
    width = bag.vectors.shape[1] - 2
    turn = np.linalg.qr(np.concatenate([np.ones((width, 1)), random.standard_normal((width, width - 1))], axis=1))[0]
    unknown = np.linalg.norm(content, axis=1) == 0
    content[unknown] = random.standard_normal((int(unknown.sum()), content.shape[1])) / content.shape[1] ** 0.5
    share = np.clip((rarity - 2.0) / 5.0, 0.05, 1.0)[:, None]
    neutral = np.sqrt((1 - share**2) / 2)
    parts = [neutral, -neutral, share * (content @ turn[:, 1 : 1 + content.shape[1]].T)]
    bag.vectors.copy_(torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32)) * (width + 2) ** 0.5)


def _pad(rows: list[np.ndarray], longest: int) -> tuple[Tensor, Tensor]:
    rows = [row[:longest] for row in rows]
    ids = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    mask = np.zeros(ids.shape, np.bool_)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def dense_of(states: Tensor, weights: Tensor, rows: list[np.ndarray]) -> Tensor:
    """Return unit vectors `(n, width)` of texts: weighted means of their tokens' content."""
    states = F.pad(states[:, OWN:], (OWN, 0))
    ids = torch.from_numpy(np.concatenate(rows))
    offsets = torch.from_numpy(np.cumsum([0, *(len(row) for row in rows[:-1])]))
    return F.normalize(
        F.embedding_bag(ids, states, offsets, mode="sum", per_sample_weights=F.embedding(ids, weights[:, None])[:, 0]),
        dim=-1,
    )


def losses(bag: Bag, batch: Batch, teacher: Teacher) -> dict[str, Tensor]:
    """Return each part of the loss of one batch.

    Args:
        bag: What is trained.
        batch: Pairs to tell apart.
        teacher: Vectors for the dense head where English sentences are meant.
    """
    used = np.unique(np.concatenate([*batch.left, *batch.right]))
    left, right = ([np.searchsorted(used, row) for row in side] for side in (batch.left, batch.right))
    states = bag.states(torch.from_numpy(used.astype(np.int64)))
    weights = (states @ bag.attention).exp()
    meaning = torch.from_numpy(batch.meaning)
    dense = [dense_of(states, weights, side) for side in (left, right)]
    found = {"dense": dense_contrast(*dense, meaning)}
    if batch.kind == "translations":
        found["teacher"] = match(dense, *teacher.of(batch.meaning))
    few, unit = _PAIRS[batch.kind], F.normalize(states, dim=-1)
    (ids, mask), (other, other_mask) = _pad(left[:few], _QUERY), _pad(right[:few], _PASSAGE)
    scores = max_sim(F.embedding(ids, unit), mask.float(), F.embedding(other, unit), other_mask)
    found["multi-vector"] = contrast(scores, meaning[:few], MAX_SIM_TEMPERATURE)
    return found


def word_loss(bag: Bag, pairs: np.ndarray) -> Tensor:
    """Return how far tokens that translate each other are from one another, and from being told from others.

    In MaxSim a word of the question's own language scores 1; what says the same in another must come near that.
    """
    left, right = (F.normalize(bag.states(torch.from_numpy(side.copy())), dim=-1) for side in pairs.T)
    near = (1 - (left * right).sum(-1)).mean()
    return _NEAR * near + dense_contrast(left, right, torch.from_numpy(pairs[:, 0].copy()))


def match(sides: list[Tensor], places: np.ndarray, vectors: np.ndarray) -> Tensor:
    """Return how far the dense vectors of both sides, at some places, are from the teacher's."""
    if not len(places):
        return torch.zeros(())
    goal = torch.from_numpy(vectors)
    return torch.stack([3.0 * (1 - (side[places] * goal).sum(-1).mean()) for side in sides]).sum()


def train_bag(bag: Bag, material: Material, teacher: Teacher, file: Path, *, steps: int, seed: int) -> None:
    """Train in place, from the last saved state if there is one."""
    rates = [5e-3, 2e-3]
    groups = [{"params": [bag.vectors], "lr": rates[0]}, {"params": [bag.attention], "lr": rates[1]}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.05)
    progress = Progress("bag", file, steps, bag=bag, optimizer=optimizer, schedule=schedule)
    for step in progress:
        kind = ROUND[step % len(ROUND)]
        batch = Draw(material, [seed, step], passage_tokens=PASSAGE_TOKENS).batch(kind, SIZES[kind])
        found = losses(bag, batch, teacher)
        chosen = np.random.default_rng([seed, step]).integers(len(material.words), size=_WORDS)
        found["words"] = word_loss(bag, material.words[chosen])
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        progress.show(kind, found)
