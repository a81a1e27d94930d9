"""Weights from a labelled sample: found where the sample tells, refused where it does not."""

import numpy as np
import pytest

from bgem3 import HybridIndex, MemoryStore, Weights
from bgem3.errors import DatasetError, IndexMismatchError, InvalidInputError, StoreWriteError, TuningWarning
from bgem3.evaluation import Dataset, System, tune
from bgem3.evaluation.tuning import choose, grid
from bgem3.tuned import Tuned
from tests.support.fake_encoder import FakeEncoder

SYSTEMS = [System(f"s{i}", {"mode": "hybrid", "weights": Weights(1, i, 1)}) for i in range(3)]


def test_a_clear_winner_is_trusted():
    values = np.array([[0.5] * 40, [0.8] * 40, [0.2] * 40])
    found = choose(SYSTEMS, values)
    assert (found.best.weights, found.default, found.trusted) == (Weights(1, 1, 1), pytest.approx(0.5), True)
    assert found.held_out == pytest.approx(0.8)
    assert found.advised is found.best


def test_noise_is_not_trusted():
    values = np.random.default_rng(0).random((3, 40))
    found = choose(SYSTEMS, values)
    assert not found.trusted
    assert found.advised.options == Tuned().options


def test_the_value_held_out_is_that_of_questions_not_chosen_on():
    # each of two systems is perfect on one half: whichever four fifths favour, the fifth left out pays
    values = np.array([[0.6] * 10, [1.0, 0.0] * 5, [0.0, 1.0] * 5])
    assert choose(SYSTEMS, values).held_out <= 0.6


def test_equal_systems_leave_the_default():
    assert choose(SYSTEMS, np.full((3, 20), 0.7)).best.weights == Weights(1, 0, 1)


def test_the_grid_has_each_ratio_once_and_the_default_first():
    systems = grid(("union", "rrf"))
    assert systems[0].name == "union 1/0.3/1"
    # 4 ** 3 triples less the 3 ** 3 without a 1, for two strategies
    assert len({system.name for system in systems}) == len(systems) == 2 * 37


def test_tuning_a_set_and_searching_with_it(labelled, tmp_path):
    dataset = Dataset.read(labelled)
    with pytest.warns(TuningWarning, match="20 questions cannot tell"):
        found = tune(dataset, FakeEncoder(), strategies=("union",), cache=tmp_path)
    assert found.best.evidence["dataset"] == "set"
    with pytest.raises(InvalidInputError, match="queries: got 9, expected 10 or more"):
        tune(dataset.sample(9), FakeEncoder(), cache=tmp_path)


def test_an_index_picks_the_file_up(tmp_path):
    encoder, file = FakeEncoder(), tmp_path / "folder" / "tuned.json"
    Tuned("rrf", Weights(0, 1, 0.3), {"questions": 50}).save(file)
    assert Tuned.load(file) == Tuned("rrf", Weights(0, 1, 0.3), {"questions": 50})
    texts = ["word1 word2", "word2 word3", "word3 word4"]
    plain, tuned = HybridIndex(encoder, MemoryStore()), HybridIndex(encoder, MemoryStore(), tuned=file)
    for index in (plain, tuned):
        index.add(texts, ids=list("abc"))

    def scores(index, **options):
        return [(hit.id, hit.score) for hit in index.search("word2", **options)]

    assert scores(tuned) == scores(plain, strategy="rrf", weights=Weights(0, 1, 0.3)) != scores(plain)
    # a search that names one of the two gets what it would get without the file
    assert scores(tuned, strategy="union") == scores(plain)
    assert scores(tuned, weights=Weights.lexical) == scores(plain, weights=Weights.lexical)


NO_TUNED = [
    "nonsense",
    "{}",
    "[]",
    '{"strategy": "union", "weights": {"heavy": 1}}',
    '{"strategy": "union", "weights": {"dense": 1}}',  # what the others are must be said
    pytest.param("[" * 100_000, id="deep"),
    pytest.param(
        f'{{"strategy": "union", "weights": {{"dense": {"9" * 400}, "sparse": 1, "multi_vector": 1}}}}', id="huge"
    ),
]


@pytest.mark.parametrize("text", NO_TUNED)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "tuned.json").write_text(text)
    with pytest.raises(DatasetError, match="no tuned weights"):
        HybridIndex(FakeEncoder(), MemoryStore(), tuned=tmp_path / "tuned.json")


def test_bad_values_and_paths(tmp_path):
    (tmp_path / "tuned.json").write_text(
        '{"strategy": "best", "weights": {"dense": 1, "sparse": 0, "multi_vector": 1}}'
    )
    with pytest.raises(InvalidInputError, match="strategy: got 'best'"):
        Tuned.load(tmp_path / "tuned.json")
    with pytest.raises(DatasetError, match="missing.json"):
        Tuned.load(tmp_path / "missing.json")
    with pytest.raises(StoreWriteError, match="Fix: a path"):
        Tuned().save(tmp_path / "tuned.json" / "below")


@pytest.mark.parametrize("other", [{"fingerprint": "b" * 64}, {"lexical": "bm25"}])
def test_weights_found_with_other_heads_are_refused(labelled, tmp_path, other):
    with pytest.warns(TuningWarning):
        tune(Dataset.read(labelled), FakeEncoder(), strategies=("union",), cache=tmp_path).advised.save(tmp_path / "t")
    assert Tuned.load(tmp_path / "t").lexical == "m3"
    HybridIndex(FakeEncoder(), MemoryStore(), tuned=tmp_path / "t")
    encoder = FakeEncoder(**{k: v for k, v in other.items() if k == "fingerprint"})
    with pytest.raises(IndexMismatchError, match=f"tuned: found with {next(iter(other))}="):
        HybridIndex(encoder, MemoryStore(), lexical=other.get("lexical", "m3"), tuned=tmp_path / "t")
