"""The small XLM-RoBERTa with its two extra heads, started from the bag of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from bag import Bag
from torch import Tensor, nn
from transformers import XLMRobertaConfig, XLMRobertaModel

# The dimension that marks `<s>`: its first state must not drown the mean that attention brings.
_MARK = 0
_SPECIALS = 4


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
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
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
def start_from_bag(student: Student, bag: Bag) -> None:
    """Make the first layer's attention take the bag's weighted mean, and the others pass it on."""
    width = student.config.hidden_size
    words = student.body.embeddings.word_embeddings.weight
    words.copy_(bag.vectors * (width**0.5 / bag.vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)))
    words[:, _MARK] = 0
    words[:_SPECIALS] = 0
    words[0, _MARK] = width**0.5
    student.body.embeddings.position_embeddings.weight.mul_(0.05)
    student.body.embeddings.token_type_embeddings.weight.zero_()
    states = student.body.embeddings.LayerNorm(words)
    _attend_by_weight(student, states, bag)
    for layer in student.body.encoder.layer[1:]:
        layer.attention.output.dense.weight.mul_(0.3)
    for layer in student.body.encoder.layer:
        layer.output.dense.weight.mul_(0.3)
    student.body.encoder.layer[-1].output.LayerNorm.weight[_MARK] = 0.05
    nn.init.eye_(student.colbert_linear.weight)
    nn.init.zeros_(student.colbert_linear.bias)
    readout = _fit(states, torch.sigmoid(bag.log_weight - bag.log_weight.mean()))
    student.sparse_linear.weight.copy_(readout[None] * 0.3)
    nn.init.constant_(student.sparse_linear.bias, 0.2)


def _attend_by_weight(student: Student, states: Tensor, bag: Bag) -> None:
    """Set query, key, value and output of the first layer."""
    width, size = student.config.hidden_size, 64
    layer = student.body.encoder.layer[0].attention
    log_weight = bag.log_weight + bag.vectors.norm(dim=1).clamp_min(1e-6).log()
    readout = _fit(states, log_weight)
    for part in (layer.self.query, layer.self.key):
        part.weight.mul_(0.1)
        nn.init.zeros_(part.bias)
    for head in range(width // size):
        layer.self.key.weight[head * size] = readout
        layer.self.query.weight[head * size] = 0
        layer.self.query.bias[head * size] = size**0.5
    nn.init.eye_(layer.self.value.weight)
    layer.self.value.weight[_MARK] = 0
    nn.init.zeros_(layer.self.value.bias)
    nn.init.eye_(layer.output.dense.weight)
    layer.output.dense.weight.mul_(1.5)
    nn.init.zeros_(layer.output.dense.bias)


def _fit(states: Tensor, values: Tensor) -> Tensor:
    """Return the linear readout of values from token states, by ridge regression without the specials."""
    x, y = states[_SPECIALS:].double(), values[_SPECIALS:].double()
    gram = x.T @ x + 10.0 * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ (y - y.mean())).float()
