"""Lexical weights as BM25 has them, computed by two attention heads without a step of training.

BM25 multiplies a word's rarity by `tf / (tf + k1 (1 - b + b length / mean))`, with tf how often the word stands in the
text. Softmax has that very form: a token attends to each of its occurrences, which it knows by their code, with one logit,
and to `<s>` with that logit plus `log(k1 (1 - b + b length / mean))`; what is left for the occurrences is BM25's quotient.
Their value is the rarity, the same for each, and that of `<s>` is nothing.

The length comes from the layer before: every token attends to all alike, but to `<s>` as to `_COMMON` of them, so that
`<s>` gets `_COMMON / (_COMMON + length)`, in which the logarithm is nearly linear.

Source of the formula: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from space import BALANCE, CODE, HEAD, MARK, RARITY, RESERVED, SHORTNESS, SPECIALS, WEIGHT
from torch import nn
from transformers import XLMRobertaModel

K1, B, MEAN_LENGTH = 1.2, 0.75, 200.0
# A weight stays below this.
SCALE = 1.0
# Rarer than once in 3,000 texts makes no difference: those counts are noise. Query and passage both carry the rarity, so a
# root of it would be BM25's; the last normalisation takes a quarter from the rarest, which leaves a power near 0.75.
_RAREST = 8.0
_COMMON = 150.0
# Logit of a token and its occurrence; size of the weight's dimension, which must not show in the vector of `<s>`.
_LOGIT, _SMALL = 14.0, 0.2
_NEVER = 30.0


def start_saturation(body: XLMRobertaModel, sparse: nn.Linear, rarity: np.ndarray, seed: int) -> None:
    """Set the code and rarity of tokens, the first layer's first head, the last layer's attention, the sparse head.

    Args:
        body: Started but for this; `<s>` is the only token whose state has the mark.
        sparse: The sparse head.
        rarity: Of each token, natural logarithm.
        seed: Of the codes.
    """
    width, first, last = body.config.hidden_size, body.encoder.layer[0].attention, body.encoder.layer[-1].attention
    mark, root = 1 / width**0.5, HEAD**0.5
    nn.init.zeros_(first.self.value.weight)
    first.self.query.bias[0], first.self.query.weight[0, MARK] = root, -_NEVER
    first.self.key.weight[0, MARK] = np.log(_COMMON) * mark
    first.self.value.weight[0, MARK] = mark
    _write(first, SHORTNESS, 0, 1.0)

    code = slice(width - RESERVED, width - RESERVED + CODE)
    sharpness = (_LOGIT * root / CODE * (width - 4) / width) ** 0.5
    for head in range(0, width, HEAD):
        for part in (last.self.query, last.self.key):
            part.weight[head + 1 : head + 1 + CODE, code] = torch.eye(CODE) * sharpness
        # `<s>` itself has nothing to say to `<s>`
        last.self.query.weight[head + HEAD - 1, MARK] = -_NEVER
        last.self.key.weight[head + HEAD - 1, MARK] = mark
    sink, query = width - 1, last.self.query
    slope = _slope()
    query.bias[sink] = root * (_LOGIT + np.log(K1) - slope * _share(MEAN_LENGTH))
    query.weight[sink, SHORTNESS] = root * slope
    last.self.value.weight[-RESERVED:] = 0
    last.self.value.weight[WEIGHT, RARITY] = 1.0
    _write(last, WEIGHT, width + WEIGHT, _SMALL)
    nn.init.zeros_(sparse.weight)
    nn.init.zeros_(sparse.bias)
    sparse.weight[0, WEIGHT] = SCALE / _SMALL

    words, random = body.embeddings.word_embeddings.weight, np.random.default_rng(seed)
    signs = random.permuted(np.tile(np.repeat([1.0, -1.0], CODE // 2), (len(words) - SPECIALS, 1)), axis=1)
    words[:, -RESERVED:] = 0
    words[SPECIALS:, code] = torch.from_numpy(signs).float()
    words[:, RARITY] = torch.from_numpy(np.minimum(rarity, _RAREST) / _RAREST)
    words[:SPECIALS, RARITY] = 0
    words[:, BALANCE] = -words[:, RARITY]


def _write(attention: nn.Module, dimension: int, value: int, factor: float) -> None:
    """Let one value of attention reach one dimension of the state, and keep what attention adds balanced."""
    weight = attention.output.dense.weight
    weight[[dimension, BALANCE]] = 0
    weight[dimension, value] = factor
    weight[BALANCE] = -weight.sum(0)


def _slope() -> float:
    """Return how BM25's logarithm changes with the share that `<s>` gets."""
    lengths = np.geomspace(5, 500, 50)
    return float(np.polyfit(_share(lengths), np.log(1 - B + B * lengths / MEAN_LENGTH), 1)[0])


def _share(length: Any) -> Any:
    return _COMMON / (_COMMON + length + 1)
