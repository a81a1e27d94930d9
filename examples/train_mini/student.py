"""The small XLM-RoBERTa with its two extra heads, started from the bag of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from bag import Bag
from space import MARK, OWN, RARITY
from torch import Tensor, nn
from transformers import XLMRobertaConfig, XLMRobertaModel

_SPECIALS = 4
_START, _END = 0, 2
_HEAD = 64


@dataclass(frozen=True)
class Outputs:
    """Heads of one padded batch: dense `(n, h)`, weights `(n, l)`, vectors `(n, l - 1, h)`, mask `(n, l)`."""

    dense: Tensor
    weights: Tensor
    vectors: Tensor
    mask: Tensor
    ids: Tensor


class Student(nn.Module):
    """The model that is trained; its three heads are computed as FlagEmbedding does."""

    def __init__(self, vocab: int, width: int, layers: int, positions: int) -> None:
        super().__init__()
        self.config = XLMRobertaConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // _HEAD,
            intermediate_size=2 * width,
            max_position_embeddings=positions + 2,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.body = XLMRobertaModel(self.config, add_pooling_layer=False)
        self.sparse_linear = nn.Linear(width, 1)
        self.colbert_linear = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Outputs:
        """Encode padded ids `(n, l)`; padding is id 1."""
        mask = ids != 1
        hidden = self.body(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        weights = F.relu(self.sparse_linear(hidden)[..., 0].float()) * mask * (ids >= _SPECIALS)
        vectors = F.normalize(self.colbert_linear(hidden[:, 1:]), dim=-1) * mask[:, 1:, None]
        return Outputs(F.normalize(hidden[:, 0], dim=-1), weights, vectors, mask, ids)


@torch.no_grad()
def start_from_bag(student: Student, bag: Bag, rarity: np.ndarray) -> None:
    """Make the transformer compute what the bag computes, and lexical weights from how rare tokens are.

    Every sublayer begins by adding nothing, but for the last attention. There `<s>`, marked by a
    dimension of its own, attends to tokens by the bag's weights and takes their mean, while every
    other token attends to itself.
    """
    width, layers = student.config.hidden_size, student.body.encoder.layer
    _start_embeddings(student, bag, rarity)
    for layer in layers:
        nn.init.zeros_(layer.output.dense.weight)
        nn.init.zeros_(layer.attention.output.dense.weight)
    attention = layers[-1].attention
    for part in (attention.self.query, attention.self.key):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    for head in range(width // _HEAD):
        first = head * _HEAD
        # Divided by the root of the head's size, the product is the bag's log weight.
        attention.self.query.weight[first, MARK] = _HEAD**0.5 / width**0.5
        attention.self.key.weight[first] = bag.attention
        for i in range(1, _HEAD):
            own = 1 + head * (_HEAD - 1) + i - 1
            attention.self.query.weight[first + i, own] = attention.self.key.weight[first + i, own] = 1.0
    nn.init.eye_(attention.self.value.weight)
    attention.self.value.weight[[*range(OWN), *RARITY]] = 0
    nn.init.zeros_(attention.self.value.bias)
    # Little is added, so that a token's own neutral part keeps its share.
    nn.init.eye_(attention.output.dense.weight).mul_(0.25)
    # The mark has done its work: it must not drown the mean.
    attention.output.LayerNorm.weight[MARK] = 0.0
    nn.init.eye_(student.colbert_linear.weight)[list(RARITY)] = 0
    nn.init.zeros_(student.colbert_linear.bias)
    nn.init.zeros_(student.sparse_linear.weight)
    # A weight runs from 0 for the most frequent tokens to 0.5 for the rare ones.
    student.sparse_linear.weight[0, list(RARITY)] = torch.tensor([0.25, -0.25])
    nn.init.constant_(student.sparse_linear.bias, 0.25)


def _start_embeddings(student: Student, bag: Bag, rarity: np.ndarray) -> None:
    width = student.config.hidden_size
    words = student.body.embeddings.word_embeddings.weight
    words.copy_(bag.states())
    # Rarer than once in 3,000 texts makes no difference: those counts are noise.
    rare = torch.from_numpy(np.minimum(rarity, 8.0) / 8.0 - 0.5)
    words[:, RARITY[0]], words[:, RARITY[1]] = rare, -rare
    words[:_SPECIALS] = 0
    words[_START, MARK] = width**0.5
    # `</s>` has the state that counts least, so that it neither weighs in the mean nor tells passages apart.
    words[_END] = -bag.attention * (width**0.5 / bag.attention.norm())
    words[_END, MARK] = 0
    nn.init.normal_(student.body.embeddings.position_embeddings.weight, std=0.01)
    nn.init.zeros_(student.body.embeddings.token_type_embeddings.weight)
