"""Contrastive losses of the dense and the multi-vector head, and the scores they are taken on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.05
# MaxSim averages over the query's tokens: between two passages it differs by little.
MAX_SIM_TEMPERATURE = 0.02
_NEVER = -1e4


def contrast(scores: Tensor, meaning: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross-entropy of finding the passage by its query; scores `(n, n)`, right answers on the diagonal.

    Rows of one meaning are not each other's negatives. Only in this direction: MaxSim and lexical
    scores of two queries are not made to be compared.
    """
    same = (meaning[:, None] == meaning[None, :]).fill_diagonal_(False)
    logits = (scores / temperature).masked_fill(same, _NEVER)
    return F.cross_entropy(logits, torch.arange(len(scores), device=scores.device))


def dense_contrast(left: Tensor, right: Tensor, meaning: Tensor) -> Tensor:
    """Contrastive loss of unit vectors `(n, h)` against the other side and against one's own.

    A text's own side is mostly its own language: without those negatives a question would rather
    have any text of its language than the right one of another.
    """
    same = meaning[:, None] == meaning[None, :]
    others = same.clone().fill_diagonal_(False)
    goal = torch.arange(len(left), device=left.device)

    def one_way(a: Tensor, b: Tensor) -> Tensor:
        across = (a @ b.T / TEMPERATURE).masked_fill(others, _NEVER)
        within = (a @ a.T / TEMPERATURE).masked_fill(same, _NEVER)
        return F.cross_entropy(torch.cat([across, within], dim=1), goal)

    return (one_way(left, right) + one_way(right, left)) / 2


def max_sim(queries: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor) -> Tensor:
    """Mean MaxSim of padded unit vectors, `(n, q, h)` against `(m, p, h)`: `(n, m)`."""
    (n, q, width), (m, p, _) = queries.shape, passages.shape
    similarity = (queries.reshape(-1, width) @ passages.reshape(-1, width).T).view(n, q, m, p)
    best = similarity.masked_fill(~passage_mask[None, None], -2.0).amax(-1)
    return (best * query_mask[:, :, None]).sum(1) / query_mask.sum(1, keepdim=True)
