"""The tree of errors: as its picture says, and whole on the other side of a process."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from bgem3 import ChromaStore, HybridIndex, M3Encoder, MemoryStore, QdrantStore, Weights, errors
from bgem3.checkpoint import load_checkpoint
from bgem3.convert import convert_checkpoint
from bgem3.errors import (
    BGEM3Error,
    DatasetError,
    InvalidInputError,
    MissingExtraError,
    PartialWriteError,
    TextTooLongError,
)
from bgem3.filters import parse_filter
from bgem3.metadata import check_metadata
from bgem3.types import make_plan
from tests.support.fake_encoder import FakeEncoder

MADE = {
    MissingExtraError: ("torch", "torch", "backend='torch'"),
    DatasetError: (Path("qrels"), 3, "not a number"),
    PartialWriteError: ("the disk is full", ["a", "b"]),
    TextTooLongError: (4, "9 tokens, max_length=8", "passage 'x'"),
}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BGEM3Error)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_passes_between_processes(kind):
    error = kind(*MADE.get(kind, ("what is wrong. Fix: this",)))
    again = ForkingPickler.loads(ForkingPickler.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
    assert str(error)


# A parameter that is wrong, and how the message names it and what to pass in its place.
BAD = [
    (lambda _: make_plan({"mode": "colbert"}), "mode: .*Fix: e.g. mode='dense'"),
    (lambda _: make_plan({"strategy": "sum"}), "strategy: .*Fix: e.g. strategy='union'"),
    (lambda _: make_plan({"cascade": (0, 20)}), r"cascade: .*Fix: cascade=\(100, 20\)"),
    (lambda _: make_plan({"top_k": 3}), "unknown search options top_k.*Fix: "),
    (lambda _: Weights(0, 0, 0), "weights: .*Fix: "),
    (lambda _: parse_filter({"a": {"$near": 1}}), r"unknown operator .*Fix: where=\{'a': \{'\$eq'"),
    (lambda _: parse_filter({"a": None}), r"\$eq expects .*Fix: where=\{'a': \{'\$eq': 'zh'\}\}"),
    (
        lambda _: parse_filter({"a": {"$in": "x"}}),
        r"\$in expects a list.*Fix: where=\{'a': \{'\$in': \['zh', 'en'\]\}\}",
    ),
    (lambda _: parse_filter({"$or": []}), r"\$or expects .*Fix: \{'\$or': \["),
    (lambda _: parse_filter({"$nor": [{"a": 1}]}), "expected a metadata key .*Fix: "),
    (lambda _: check_metadata({"a": [1, "x"]}, "metadatas[0]"), "of one type.*Fix: "),
    (lambda _: check_metadata({"a": []}, "metadatas[0]"), "of one type.*Fix: "),
    (lambda _: check_metadata({1: "a"}, "metadatas[0]"), r"keys that are strings.*Fix: str\(key\)"),
    (lambda _: check_metadata("a", "metadatas[0]"), "expected a mapping.*Fix: "),
    (lambda _: HybridIndex(FakeEncoder(), MemoryStore(), lexical="tfidf"), "lexical: .*Fix: e.g. lexical='m3'"),
    (lambda _: HybridIndex(FakeEncoder(), MemoryStore()).search(None), "^query: expected a str.*Fix: "),
    (lambda _: ChromaStore("db", codec="pq"), "^codec: got 'pq'.*Fix: codec='binary'"),
    (lambda _: QdrantStore("db", quantization="pq"), "quantization: .*Fix: e.g. quantization='none'"),
    (
        lambda folder: M3Encoder.from_pretrained(folder, backend="cuda"),
        "backend: got 'cuda', expected one of auto, .*Fix: e.g. backend='auto'",
    ),
    (
        lambda folder: M3Encoder.from_pretrained(folder, precision="fp16"),
        "precision: got 'fp16', expected .*Fix: e.g. precision='auto'",
    ),
    (
        lambda folder: M3Encoder.from_pretrained(folder, overflow="cut"),
        "overflow: got 'cut', expected .*Fix: e.g. overflow='window'",
    ),
    (lambda folder: M3Encoder.from_pretrained(folder, max_length=10**6), "max_length: .*Fix: max_length="),
    (lambda folder: M3Encoder.from_pretrained(folder, window=10**6), "window: .*Fix: window="),
    (lambda folder: convert_checkpoint(load_checkpoint(folder), folder / "out", "fp8"), "precision: .*Fix: "),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_a_wrong_argument_is_named_with_what_to_pass(call, message, checkpoint):
    with pytest.raises(InvalidInputError, match=message):
        call(checkpoint)
