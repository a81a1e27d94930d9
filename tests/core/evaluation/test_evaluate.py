"""What is measured is what an index finds."""

import sys

import numpy as np
import pytest

from bgem3 import HybridIndex, MemoryStore, Weights
from bgem3.errors import InvalidInputError, MissingExtraError
from bgem3.evaluation import Dataset, System, evaluate, make_systems
from bgem3.evaluation.cached_encoder import CachedEncoder
from bgem3.evaluation.evaluate import candidates_for, search
from bgem3.evaluation.measures import MEASURES, measure_rankings
from bgem3.evaluation.tuning import tune
from tests.support.fake_encoder import FakeEncoder

SYSTEMS = [
    *make_systems(weights={"a": Weights(1, 0.3, 1), "b": Weights(0.2, 0.8, 0)}, lexicals=("m3", "bm25")),
    *make_systems(modes=("multi_vector", "hybrid"), codecs=("binary",)),
    System("narrow", {"mode": "hybrid", "fetch_k": 15}),
    System("steep", {"mode": "hybrid", "strategy": "cascade", "cascade": (40, 5)}),
]


@pytest.mark.parametrize("k", [3, 10, 100])
def test_every_system_finds_what_an_index_finds(labelled, tmp_path, k):
    dataset = Dataset.read(labelled)
    encoder = FakeEncoder()
    candidates = candidates_for(dataset, CachedEncoder(encoder, tmp_path), SYSTEMS)
    passages = dict(dataset.passages())
    for system in SYSTEMS:
        index = HybridIndex(encoder, MemoryStore(codec=system.codec), lexical=system.lexical)
        index.add(list(passages.values()), ids=list(passages))
        expected = index.search_many(list(dataset.queries.values()), **{**system.options, "k": k})
        found = search(dataset, candidates, system, k)
        assert list(found.values()) == [[hit.id for hit in hits] for hits in expected], system.name


@pytest.mark.parametrize("measure", [evaluate, tune])
def test_a_missing_extra_is_told_of_before_anything_is_encoded(measure, labelled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    encoder = FakeEncoder()
    with pytest.raises(MissingExtraError, match=r"bgem3\[eval\]"):
        measure(Dataset.read(labelled), encoder, cache=tmp_path)
    assert encoder.calls == []


def test_measures_are_not_parsed_which_fails_on_python_3_14(monkeypatch):
    monkeypatch.delattr("ir_measures.parse_measure")
    found = measure_rankings({"a": {"r": 1}}, {"a": ["r"]}, tuple(MEASURES))
    assert {name: values.tolist() for name, values in found.items()} == {name: [1.0] for name in MEASURES}


def test_the_measures_by_hand():
    # first query: the relevant passages at ranks 2 and 11; second: none found
    ranked = {"a": ["x", "r1", *(f"n{i}" for i in range(8)), "r2"], "b": ["x"]}
    found = measure_rankings({"a": {"r1": 1, "r2": 1}, "b": {"y": 1}}, ranked, ("nDCG@10", "MRR@10", "Recall@10"))
    ideal = 1 + 1 / np.log2(3)
    assert found["nDCG@10"].tolist() == pytest.approx([1 / np.log2(3) / ideal, 0])
    assert found["MRR@10"].tolist() == [0.5, 0]
    assert found["Recall@10"].tolist() == [0.5, 0]


def test_graded_relevance_counts():
    found = measure_rankings({"a": {"good": 2, "fair": 1}}, {"a": ["fair", "good"]}, ("nDCG@10",))
    assert found["nDCG@10"][0] == pytest.approx((1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)))


def test_an_evaluation_encodes_each_text_once(labelled, tmp_path):
    encoder = FakeEncoder()
    first = evaluate(Dataset.read(labelled), encoder, cache=tmp_path)
    texts = [text for call, _ in encoder.calls for text in call]
    assert len(texts) == 320
    again = evaluate(Dataset.read(labelled), encoder, cache=tmp_path)
    assert len(encoder.calls) == len({tuple(call) for call, _ in encoder.calls})
    assert first.mean("dense") == again.mean("dense")
    assert [*first.values] == ["dense", "sparse", "multi-vector", "union balanced", "cascade balanced", "rrf balanced"]
    assert 0.5 < first.mean("sparse", "Recall@10") <= first.mean("sparse", "Recall@100") <= 1


def test_fewer_passages_than_are_measured(tmp_path, labelled):
    from tests.core.evaluation.conftest import write_set

    write_set(tmp_path / "tiny", {"a": "word1", "b": "word2"}, {"q": "word1"}, {("q", "a"): 1})
    result = evaluate(Dataset.read(tmp_path / "tiny"), FakeEncoder(), cache=tmp_path)
    assert {result.mean(name) for name in result.values} == {1.0}


def test_systems_must_have_names_of_their_own(labelled, tmp_path):
    twice = [System("a", {"mode": "dense"}), System("a", {"mode": "sparse"})]
    with pytest.raises(InvalidInputError, match="different names"):
        evaluate(Dataset.read(labelled), FakeEncoder(), twice, cache=tmp_path)
    with pytest.raises(InvalidInputError, match="mode: got 'x'"):
        System("a", {"mode": "x"})
    with pytest.raises(InvalidInputError, match="where cannot be measured"):
        System("a", {"where": {}})


def test_ids_are_told_apart_whatever_is_in_them():
    # trec_eval, in C, would end each id at U+0000 and cannot write half a surrogate pair
    qrels = {"q\0a": {"p\0a": 1}, "q\0b": {"p\0b": 1}, "\ud800": {"\ud801": 1}}
    ranked = {"q\0a": ["p\0a"], "q\0b": ["p\0a", "p\0b"], "\ud800": ["\ud802", "\ud803", "\ud801"]}
    found = measure_rankings(qrels, ranked, ("nDCG@10", "MRR@10", "Recall@10"))
    assert found["MRR@10"].tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert found["nDCG@10"].tolist() == pytest.approx([1, 1 / np.log2(3), 1 / np.log2(4)])
    assert found["Recall@10"].tolist() == [1, 1, 1]


def test_equal_passages_stand_as_in_an_index(tmp_path):
    from tests.core.evaluation.conftest import WORDS, write_set

    encoder = FakeEncoder()
    # each text stands 20 times in the corpus, far apart: a matrix product rounds by place
    corpus = {f"p{i:03}": " ".join([WORDS[i % 13]] * (1 + i % 5)) for i in range(13 * 5 * 20)}
    queries = {f"q{i}": f"{WORDS[i]} {WORDS[i + 1]}" for i in range(12)}
    dataset = Dataset.read(write_set(tmp_path / "set", corpus, queries, {(q, "p000"): 1 for q in queries}))
    system = System("dense", {"mode": "dense"})
    found = search(dataset, candidates_for(dataset, CachedEncoder(encoder, tmp_path), [system]), system, 100)
    index = HybridIndex(encoder, MemoryStore())
    index.add(list(corpus.values()), ids=list(corpus))
    expected = index.search_many(list(queries.values()), mode="dense", k=100)
    assert list(found.values()) == [[hit.id for hit in hits] for hits in expected]


def test_what_cannot_be_measured_is_said_before_anything_is_encoded(labelled, tmp_path, monkeypatch):
    encoder, dataset = FakeEncoder(), Dataset.read(labelled)
    with pytest.raises(InvalidInputError, match="codec: got 'x'"):
        evaluate(dataset, encoder, make_systems(codecs=("x",)), cache=tmp_path)
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingExtraError, match=r"bgem3\[eval\]"):
        evaluate(dataset, encoder, cache=tmp_path)
    with pytest.raises(MissingExtraError, match=r"bgem3\[eval\]"):
        tune(dataset, encoder, cache=tmp_path)
    assert encoder.calls == []
