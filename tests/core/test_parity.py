"""Our encoder against FlagEmbedding's own `BGEM3FlagModel`, in float32, on seeded checkpoints.

The checkpoints are random, so that nothing cancels out; what is compared is the whole way from
text to scores: tokens, positions, truncation, heads, and the three formulas.
"""

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from FlagEmbedding import BGEM3FlagModel

from bgem3.checkpoint import load_checkpoint
from bgem3.convert import convert_checkpoint
from bgem3.encoder import M3Encoder
from bgem3.scoring import score
from bgem3.types import Weights

pytestmark = pytest.mark.filterwarnings("ignore::bgem3.errors.TruncationWarning")

TOLERANCE = 1e-4
POSITIONS = 128
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "square": {"seed": 1},
    "wide": {"seed": 2, "hidden_size": 96, "heads": 8, "intermediate": 200, "multi_dim": 40, "weights": "bin"},
    "deep": {"seed": 3, "hidden_size": 32, "heads": 2, "layers": 5, "multi_dim": 48, "external": True},
}
TEXTS = {
    "empty": "",
    "spaces": "   ",
    "line breaks": "\n\t\r\n",
    "one letter": "a",
    "one digit": "7",
    "one ideograph": "水",
    "one emoji": "🚀",
    "one unknown": "ᚠ",
    "sentence": "The river rises in the mountains and flows into the northern sea.",
    "repeated word": "water water water water water",
    "repeated letters": "a a a a a a a a",
    "repeated unknown": "ᚠ ᚢ ᚦ ᚠ ᚢ ᚦ and a known word",
    "emoji": "Great 🎉 the build is green ✅ 👍🏽 ❤️ 👨‍👩‍👧‍👦 🏳️‍🌈",
    "arabic": "تفتح المكتبة في التاسعة صباحا وتغلق في السادسة مساء.",
    "hebrew and latin": "הספרייה library נפתחת בתשע 9:00",
    "thai": "ห้องสมุดเปิดเวลาเก้าโมงเช้าและปิดเวลาหกโมงเย็น",
    "chinese": "图书馆早上九点开门，晚上六点关门。",
    "normalised": "Ⅷ ﬁn ｆｕｌｌ　ｗｉｄｔｈ ① é é ℃ ½",
    "invisible": "zero\u200bwidth\u200djoin \u00a0 \ufeff soft\u00adhyphen \x07",
    "literal pad": "before <pad> after <pad><pad> end",
    "literal mask": "a <mask> b<mask>c",
    "literal ends": "one </s> two <s> three </s></s>",
    "literal unknown": "one <unk> two",
    "only specials": "<s></s><pad><unk><mask>",
    "code": 'if x >= 10: return {"ok": true, "items": [1, 2, 3]}',
    "far too long": " ".join(f"order AB-{n} water" for n in range(200)),
    "long without spaces": "水" * 300,
}
QUERIES = ["river", "", "water at 100 degrees 🚀", "<pad> word", "図書館は何時に開きますか"]
PASSAGES = ["empty", "one emoji", "sentence", "repeated word", "hebrew and latin", "literal pad", "far too long"]


def of_tokens(encoder: M3Encoder, count: int) -> str:
    """Return a text of exactly `count` tokens, specials included."""
    text = "a " * (count - 2)
    assert len(encoder.tokenizer.encode([text])[0]) == count
    return text


@pytest.fixture(scope="module", params=CHECKPOINTS)
def folder(request, checkpoint_factory):
    return checkpoint_factory(positions=POSITIONS, **CHECKPOINTS[request.param])


class Reference:
    """FlagEmbedding's model, which computes each thing once for the three backends held against it."""

    def __init__(self, folder: Path) -> None:
        width = len(load_checkpoint(folder).multi_vector_head.weight)
        self.model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu", colbert_dim=width)
        self.encode = cache(self._encode)
        self.pair = cache(self._pair)

    def _encode(self, texts: tuple[str, ...], max_length: int, batch_size: int = 4):
        heads = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
        return self.model.encode(list(texts), batch_size=batch_size, max_length=max_length, **heads)

    def _pair(self, query: str, passage: str):
        # one pair at a time: in a batch FlagEmbedding lets padding win a maximum that is negative
        lengths = {"max_query_length": POSITIONS, "max_passage_length": POSITIONS}
        weights = [1.0, 0.3, 1.0]
        scores = self.model.compute_score(
            [(query, passage)], batch_size=1, weights_for_different_modes=weights, **lengths
        )
        return {name: values[0] for name, values in scores.items()}


@pytest.fixture(scope="module")
def reference(folder):
    return Reference(folder)


@pytest.fixture(scope="module", params=["torch", "onnx", "flag", "openvino", "onnx converted"])
def encoder(request, folder, tmp_path_factory):
    if request.param == "onnx converted":
        made = tmp_path_factory.mktemp("converted")
        convert_checkpoint(load_checkpoint(folder), made, "float32", show_progress=False)
        encoder = M3Encoder.from_pretrained(made, overflow="truncate")
        yield encoder
        encoder.close()
        return
    encoder = M3Encoder.from_pretrained(folder, backend=request.param, precision="float32", overflow="truncate")
    yield encoder
    encoder.close()


def assert_same(ours, theirs, row: int, label: str) -> None:
    dense = theirs["dense_vecs"][row]
    np.testing.assert_allclose(ours.dense[row], dense, atol=TOLERANCE, rtol=0, err_msg=f"{label}: dense")
    expected = {int(token): float(weight) for token, weight in theirs["lexical_weights"][row].items()}
    weights = ours.lexical_weights(row)
    assert weights.keys() == expected.keys(), f"{label}: sparse ids"
    for token, weight in expected.items():
        assert weights[token] == pytest.approx(weight, abs=TOLERANCE), f"{label}: weight of token {token}"
    vectors = theirs["colbert_vecs"][row]
    assert ours.multi_vector[row].shape == vectors.shape, f"{label}: token vectors"
    np.testing.assert_allclose(
        ours.multi_vector[row], vectors, atol=TOLERANCE, rtol=0, err_msg=f"{label}: token vectors"
    )


@pytest.mark.parametrize("max_length", [3, 8, 16, 64, POSITIONS - 1, POSITIONS])
def test_texts(encoder, reference, max_length):
    ours = encoder.encode(list(TEXTS.values()), max_length=max_length)
    theirs = reference.encode(tuple(TEXTS.values()), max_length)
    for row, label in enumerate(TEXTS):
        assert_same(ours, theirs, row, label)


@pytest.mark.parametrize("max_length", [8, 16, 64, POSITIONS])
def test_lengths_around_a_limit(encoder, reference, max_length):
    counts = range(max_length - 2, max_length + 4)
    texts = [of_tokens(encoder, count) for count in counts]
    ours = encoder.encode(texts, max_length=max_length)
    theirs = reference.encode(tuple(texts), max_length)
    for row, count in enumerate(counts):
        assert_same(ours, theirs, row, f"{count} tokens")
        assert len(ours.multi_vector[row]) == min(count, max_length) - 1


def test_one_text_at_a_time(encoder, reference):
    texts = list(TEXTS.values())
    theirs = reference.encode(tuple(texts), POSITIONS, batch_size=1)
    for row, label in enumerate(TEXTS):
        alone = encoder.encode([texts[row]])
        assert alone.dense.shape == (1, encoder.dim)
        assert_same(alone, {name: values[row : row + 1] for name, values in theirs.items()}, 0, label)


def test_pair_scores(encoder, reference):
    scores = score(encoder.encode(QUERIES), encoder.encode([TEXTS[name] for name in PASSAGES]))
    combined = scores.combine(Weights.balanced)
    for (i, query), (j, name) in product(enumerate(QUERIES), enumerate(PASSAGES)):
        theirs = reference.pair(query, TEXTS[name])
        where = f"{query!r} and {name}"
        assert scores.dense[i, j] == pytest.approx(theirs["dense"], abs=TOLERANCE), where
        assert scores.sparse[i, j] == pytest.approx(theirs["sparse"], abs=TOLERANCE), where
        assert scores.multi_vector[i, j] == pytest.approx(theirs["colbert"], abs=TOLERANCE), where
        assert combined[i, j] == pytest.approx(theirs["colbert+sparse+dense"], abs=TOLERANCE), where


def test_the_heads_are_not_degenerate(encoder):
    """Random weights that gave the same vector for every text would let any test above pass."""
    out = encoder.encode(list(TEXTS.values()))
    similar = out.dense @ out.dense.T - np.eye(len(out))
    assert np.median(similar) < 0.9
    assert 0.2 < np.mean([len(out.lexical_weights(row)) > 0 for row in range(len(out))]) <= 1
    assert out.multi_vector.vectors.std(axis=0).min() > 0.01
