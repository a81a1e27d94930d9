"""First stage: token embeddings alone, as weighted bags of tokens.

A sentence is the weighted mean of its tokens' vectors. Translations are pulled together and
the English sentence encoder's vectors are matched, so that words of 29 languages that mean the
same get similar vectors in minutes; the transformer starts from here instead of from noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from data import Texts
from torch import Tensor, nn
from tqdm import trange


@dataclass(frozen=True)
class Pairs:
    """Rows of two text tables that mean the same; ``meaning`` is equal for equal English rows."""

    left: np.ndarray
    right: np.ndarray
    meaning: np.ndarray


class Bag(nn.Module):
    """Token vectors and, for each token, the logarithm of how much it counts."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(vocab, width) / width**0.5)
        self.log_weight = nn.Parameter(torch.zeros(vocab))

    def forward(self, rows: list[np.ndarray]) -> Tensor:
        """Return unit vectors `(n, width)` of lists of token ids."""
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))
        offsets = torch.from_numpy(np.cumsum([0, *(len(row) for row in rows[:-1])]))
        weights = self.log_weight[ids].exp()
        return F.normalize(F.embedding_bag(ids, self.vectors, offsets, mode="sum", per_sample_weights=weights), dim=-1)


def contrast(left: Tensor, right: Tensor, meaning: Tensor, temperature: float) -> Tensor:
    """Contrastive loss both ways, against the other side and against one's own.

    A text's own side is mostly its own language: without those negatives a question would rather
    have any text of its language than the right one of another. Rows of one meaning are not each
    other's negatives.
    """
    same = meaning[:, None] == meaning[None, :]
    others = same.clone().fill_diagonal_(False)
    target = torch.arange(len(left))

    def one_way(a: Tensor, b: Tensor) -> Tensor:
        across = (a @ b.T / temperature).masked_fill(others, -1e4)
        within = (a @ a.T / temperature).masked_fill(same, -1e4)
        return F.cross_entropy(torch.cat([across, within], dim=1), target)

    return (one_way(left, right) + one_way(right, left)) / 2


def train_bag(
    bag: Bag, texts: Texts, pairs: Pairs, teacher: dict[int, int], vectors: np.ndarray, *, epochs: int, seed: int
) -> None:
    """Train in place.

    Args:
        bag: What is trained.
        texts: Token ids of all texts.
        pairs: Translations and question-passage pairs, as rows of ``texts``.
        teacher: Meaning -> row of ``vectors``, where the teacher has seen it.
        vectors: The teacher's unit vectors, brought to the bag's width.
        epochs: Passes over the pairs.
        seed: Of the order.
    """
    batch, random = 2048, np.random.default_rng(seed)
    steps = epochs * (len(pairs.left) // batch)
    optimizer = torch.optim.Adam(bag.parameters(), lr=5e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps, pct_start=0.05)
    order = np.concatenate([random.permutation(len(pairs.left)) for _ in range(epochs)])
    known = np.array([teacher.get(int(m), -1) for m in range(int(pairs.meaning.max()) + 1)])
    progress = trange(steps, desc="bag", unit="step", mininterval=10)
    for step in progress:
        chosen = order[step * batch : (step + 1) * batch]
        left = bag([texts[i][:192] for i in pairs.left[chosen]])
        right = bag([texts[i][:192] for i in pairs.right[chosen]])
        meaning = pairs.meaning[chosen]
        loss = contrast(left, right, torch.from_numpy(meaning), 0.05)
        seen = np.flatnonzero(known[meaning] >= 0)
        wanted = torch.from_numpy(vectors[known[meaning[seen]]].astype(np.float32))
        matched = (left[seen] * wanted).sum(-1).mean() + (right[seen] * wanted).sum(-1).mean()
        (loss - 2.0 * matched).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(contrast=f"{loss.item():.3f}", teacher=f"{matched.item() / 2:.3f}")
