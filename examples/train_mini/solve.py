"""Token vectors that add up to what a teacher says of texts: the bag of tokens nearest to it, in closed form.

A text's dense vector is about the mean of its tokens' vectors, by the shares of `<s>`'s attention that they get. With these
measured, the vectors are a least-squares problem, ridge regression towards the vectors that there are; conjugate gradients
solve it in two minutes, where gradients a batch at a time would hardly have moved a rare token.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from data import Texts
from space import OWN, RESERVED, SPECIALS
from student import Student
from torch import Tensor
from torch.nn.functional import normalize
from transformer import padded

LONGEST = 160
_SAMPLE, _PARTS, _SEEN, _BIN = 30_000, 120, 3, 0.75
_ROUNDS, _RIDGE = 48, 1.0
# How much more a token may weigh than the median one.
_LEAST, _MOST = 0.25, 3.0


@torch.no_grad()
def attention_shares(student: Student, texts: Texts, rows: np.ndarray, rarity: np.ndarray, seed: int) -> np.ndarray:
    """Return how much of `<s>`'s attention each token gets, `(vocab,)`; 1 is its share of the text.

    A token that a sample of ``rows`` lacks gets what others as rare get.
    """
    lengths = np.diff(texts.offsets)[rows]
    rows = np.random.default_rng(seed).permutation(rows[(lengths > SPECIALS) & (lengths < LONGEST // 4)])[:_SAMPLE]
    rows = rows[np.argsort(np.diff(texts.offsets)[rows])]
    total, seen = np.zeros(len(rarity)), np.zeros(len(rarity))
    student.body.set_attn_implementation("eager")  # the only one that tells its shares
    for part in np.array_split(rows, _PARTS):
        ids = padded([texts[row] for row in part]).long()
        mask = ids != 1
        places = (torch.arange(ids.shape[1])[None] + 2) * mask + ~mask
        found = student.body(input_ids=ids, attention_mask=mask, position_ids=places, output_attentions=True)
        real = ids >= SPECIALS
        shares = found.attentions[-1].mean(1)[:, 0] * real
        shares *= real.sum(1, keepdim=True) / shares.sum(1, keepdim=True)
        np.add.at(total, ids[real].numpy(), shares[real].numpy())
        np.add.at(seen, ids[real].numpy(), 1)
    student.body.set_attn_implementation("sdpa")
    known = seen >= _SEEN
    mean = total / np.maximum(seen, 1)
    steps = np.arange(1.0, 10.5, 2 * _BIN)
    alike = {float(step): mean[known & (abs(rarity - step) < _BIN)] for step in steps}
    usual = {step: found.mean() for step, found in alike.items() if len(found)}
    return np.where(known, mean, np.interp(rarity, [*usual], [*usual.values()]))


def solve(texts: Texts, rows: np.ndarray, wanted: Tensor, shares: np.ndarray, start: Tensor) -> Tensor:
    """Return token vectors `(vocab, width)` whose weighted sums over texts are nearest to the wanted vectors.

    Args:
        texts: The table of texts.
        rows: Those that the teacher knows, `(n,)`.
        wanted: Its unit vectors, `(n, width)`.
        shares: Weight of each token, `(vocab,)`; those of a text are scaled to a root of squares of 1.
        start: Unit vectors of tokens to stay near to, `(vocab, width)`.
    """
    ids = [texts[row][:LONGEST].astype(np.int64) for row in rows]
    flat, ends = np.concatenate(ids), np.cumsum([0, *(len(one) for one in ids)])
    bags = sp.csr_matrix((shares[flat].astype(np.float32), flat, ends), shape=(len(rows), len(shares)))
    bags.sum_duplicates()
    sizes = np.sqrt(np.asarray(bags.multiply(bags).sum(1)).ravel())
    bags = (sp.diags(1 / np.maximum(sizes, 1e-6)).astype(np.float32) @ bags).tocsr()
    forward, back = _tensor(bags), _tensor(bags.T.tocsr())
    first = forward @ start
    found = start * ((first * wanted).sum() / (first * first).sum())
    residual = back @ (wanted - forward @ found)
    direction, size = residual.clone(), (residual * residual).sum(0)
    for _ in range(_ROUNDS):  # conjugate gradients, a column each
        image = back @ (forward @ direction) + _RIDGE * direction
        step = size / (direction * image).sum(0).clamp_min(1e-12)
        found += step * direction
        residual -= step * image
        before, size = size, (residual * residual).sum(0)
        direction = residual + (size / before.clamp_min(1e-12)) * direction
    return found


def _tensor(matrix: sp.csr_matrix) -> Tensor:
    parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
    return torch.sparse_csr_tensor(*(torch.from_numpy(part) for part in parts), size=matrix.shape)


@torch.no_grad()
def put(student: Student, vectors: Tensor) -> None:
    """Give the model's tokens these vectors: their directions, and the root of how long they are beside each other."""
    table = student.body.embeddings.word_embeddings.weight
    content = slice(OWN, table.shape[1] - RESERVED)
    lengths = vectors[SPECIALS:, content].norm(dim=1, keepdim=True)
    weight = (lengths / lengths.median()).clamp(_LEAST, _MOST).sqrt()
    old = table[SPECIALS:, content].norm(dim=1, keepdim=True)
    table[SPECIALS:, content] = normalize(vectors[SPECIALS:, content], dim=1) * old * weight


def near_words(student: Student, tokens: np.ndarray, wanted: Tensor) -> Tensor:
    """Return unit vectors to start from: what the model has for a token, and what the teacher says of it as a word."""
    table = student.body.embeddings.word_embeddings.weight.detach()
    content = slice(OWN, table.shape[1] - RESERVED)
    start = torch.zeros_like(table)
    start[:, content] = normalize(table[:, content] - table[SPECIALS:, content].mean(0), dim=1)
    start[torch.from_numpy(tokens)] += wanted
    return normalize(start, dim=1)
