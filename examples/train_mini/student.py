"""The small XLM-RoBERTa with its two extra heads, started from the bag of tokens."""

from __future__ import annotations

import numpy as np
import torch
from bag import Bag
from saturation import start_saturation
from space import HEAD, MARK, OWN, RESERVED, SPECIALS
from torch import nn
from transformers import XLMRobertaConfig, XLMRobertaModel

_START, _END = 0, 2
# Attention logits of this size squared change next to nothing.
_FAINT = 0.02


class Student(nn.Module):
    """The model that is written: a transformer and the two heads beside its first token's state."""

    def __init__(self, vocab: int, width: int, layers: int, inner: int, positions: int) -> None:
        super().__init__()
        self.config = XLMRobertaConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD,
            intermediate_size=inner,
            max_position_embeddings=positions + 2,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.body = XLMRobertaModel(self.config, add_pooling_layer=False)
        self.sparse_linear = nn.Linear(width, 1)
        self.colbert_linear = nn.Linear(width, width)


@torch.no_grad()
def start_from_bag(student: Student, bag: Bag, rarity: np.ndarray, seed: int) -> None:
    """Make the transformer compute what the bag computes, and lexical weights from how rare tokens are.

    Every sublayer begins by adding nothing, but for the attention of the first and the last layer. In the last `<s>`, marked by a dimension of its
    own, attends to tokens by the bag's weights and takes their mean, while every other token attends to its own occurrences (`saturation.py`).
    """
    width, layers = student.config.hidden_size, student.body.encoder.layer
    _start_embeddings(student, bag)
    for layer in layers:
        nn.init.zeros_(layer.output.dense.weight)
        nn.init.zeros_(layer.attention.output.dense.weight)
        for part in (layer.attention.self.query, layer.attention.self.key):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    attention, content = layers[-1].attention, width - RESERVED
    for first in range(0, width, HEAD):
        # Divided by the root of the head's size, the product is the bag's log weight.
        attention.self.query.weight[first, MARK] = HEAD**0.5 / width**0.5
        attention.self.key.weight[first, :content] = bag.attention
    nn.init.eye_(attention.self.value.weight)
    attention.self.value.weight[:OWN] = 0
    nn.init.zeros_(attention.self.value.bias)
    # Little is added, so that a token's own neutral part keeps its share.
    nn.init.eye_(attention.output.dense.weight).mul_(0.25)
    # The mark has done its work: it must not drown the mean.
    attention.output.LayerNorm.weight[MARK] = 0.0
    nn.init.eye_(student.colbert_linear.weight)[-RESERVED:] = 0
    nn.init.zeros_(student.colbert_linear.bias)
    start_saturation(student.body, student.sparse_linear, rarity, seed)
    for layer in layers:
        _wake(layer.attention.self, torch.Generator().manual_seed(seed))


def _wake(attention: nn.Module, random: torch.Generator) -> None:
    """Let training use what is zero: a query and a key that are both nothing would stay so."""
    query, key = attention.query, attention.key
    idle = (query.weight == 0).all(1) & (key.weight == 0).all(1) & (query.bias == 0)
    for part in (query, key):
        part.weight[idle] = _FAINT * torch.randn(int(idle.sum()), part.in_features, generator=random)


def _start_embeddings(student: Student, bag: Bag) -> None:
    width = student.config.hidden_size
    words = student.body.embeddings.word_embeddings.weight
    content = width - RESERVED
    words[:, :content] = bag.states()
    words[:SPECIALS] = 0
    words[_START, MARK] = width**0.5
    # `</s>` has the state that counts least, so that it neither weighs in the mean nor tells passages apart.
    words[_END, :content] = -bag.attention * (content**0.5 / bag.attention.norm())
    words[_END, MARK] = 0
    nn.init.zeros_(student.body.embeddings.position_embeddings.weight)
    nn.init.zeros_(student.body.embeddings.token_type_embeddings.weight)
