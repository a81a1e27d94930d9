"""Every mode and strategy of a search plan against a reference that scores everything in plain Python."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from bgem3.errors import HeadNotEncodedError
from bgem3.stores.memory import MemoryStore
from bgem3.types import HEADS, Chunk, SearchPlan, Weights
from tests.support.embeddings import SETTINGS, VOCABULARY, head_scores, random_embeddings

N = 80
PASSAGES = random_embeddings(N, seed=1)
QUERIES = random_embeddings(6, seed=2)
# Not in the order of the rows, so that ties by id and ties by row differ.
IDS = [f"id {(37 * i) % N:02d}" for i in range(N)]
GROUPS = [i % 4 for i in range(N)]


@pytest.fixture(scope="module")
def store():
    store = MemoryStore()
    store.open(SETTINGS)
    store.upsert([Chunk(IDS[i], f"text {i}", {"group": GROUPS[i]}) for i in range(N)], PASSAGES)
    return store


def best(rows, score, n):
    return sorted(rows, key=lambda i: (-score[i], IDS[i]))[:n]


def candidates(scores, rows, depth):
    dense = best(rows, scores["dense"], depth)
    sparse = best([i for i in rows if scores["sparse"][i] > 0], scores["sparse"], depth)
    return dense, sparse


def weighted(scores, weights):
    total = weights.dense + weights.sparse + weights.multi_vector
    return sum(getattr(weights, head) / total * scores[head] for head in HEADS)


def reference_union(scores, rows, plan):
    dense, sparse = candidates(scores, rows, plan.fetch_k)
    total = weighted(scores, plan.weights)
    return [(i, total[i]) for i in best({*dense, *sparse}, total, plan.k)]


def reference_cascade(scores, rows, plan):
    first, second = plan.cascade
    dense, sparse = candidates(scores, rows, first)
    kept = (sparse + [i for i in dense if i not in sparse])[:first]
    kept = best(kept, scores["dense"], second)
    total = weighted(scores, plan.weights)
    return [(i, total[i]) for i in best(kept, total, plan.k)]


def reference_rrf(scores, rows, plan):
    dense, sparse = candidates(scores, rows, plan.fetch_k)
    late = best({*dense, *sparse}, scores["multi_vector"], N)
    total = dict.fromkeys(late, 0.0)
    for ranking, weight in (
        (dense, plan.weights.dense),
        (sparse, plan.weights.sparse),
        (late, plan.weights.multi_vector),
    ):
        for rank, i in enumerate(ranking, start=1):
            total[i] += weight / (plan.rrf_k + rank)
    return [(i, total[i]) for i in best(total, total, plan.k)]


REFERENCES = {"union": reference_union, "cascade": reference_cascade, "rrf": reference_rrf}


@pytest.mark.parametrize("number", range(len(QUERIES)))
@pytest.mark.parametrize("weights", [Weights(), Weights.long_document, Weights.lexical, Weights(0, 0, 1)])
@pytest.mark.parametrize("where", [None, {"group": 1}])
@pytest.mark.parametrize("strategy", REFERENCES)
def test_hybrid(store, strategy, where, weights, number):
    query = QUERIES[[number]]
    plan = SearchPlan(k=5, strategy=strategy, fetch_k=9, cascade=(15, 7), weights=weights, where=where)
    scores = head_scores(query, PASSAGES)
    rows = [i for i in range(N) if where is None or GROUPS[i] == where["group"]]
    expected = REFERENCES[strategy](scores, rows, plan)
    hits = store.search(query, plan)
    assert [hit.id for hit in hits] == [IDS[i] for i, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-5)
    for hit, (i, _) in zip(hits, expected, strict=True):
        assert (hit.text, hit.metadata) == (f"text {i}", {"group": GROUPS[i]})
        assert hit.scores == pytest.approx({head: scores[head][i] for head in HEADS}, abs=1e-5)


@pytest.mark.parametrize("number", range(len(QUERIES)))
@pytest.mark.parametrize("mode", HEADS)
def test_one_head(store, mode, number):
    query = QUERIES[[number]]
    scores = head_scores(query, PASSAGES)
    dense, sparse = candidates(scores, range(N), 20)
    rows = {"dense": dense, "sparse": sparse, "multi_vector": {*dense, *sparse}}[mode]
    expected = best(rows, scores[mode], 6)
    hits = store.search(query, SearchPlan(k=6, mode=mode, fetch_k=20))
    assert [hit.id for hit in hits] == [IDS[i] for i in expected]
    for hit, i in zip(hits, expected, strict=True):
        assert hit.scores == {mode: hit.score}
        assert hit.score == pytest.approx(scores[mode][i], abs=1e-5)


@pytest.mark.parametrize("mode", ["dense", "multi_vector", "hybrid"])
def test_exhaustive_finds_what_no_list_of_candidates_holds(store, mode):
    for number in range(len(QUERIES)):
        query = QUERIES[[number]]
        scores = head_scores(query, PASSAGES)
        total = weighted(scores, Weights()) if mode == "hybrid" else scores[mode]
        hits = store.search(query, SearchPlan(k=5, mode=mode, fetch_k=1, exhaustive=True))
        assert [hit.id for hit in hits] == [IDS[i] for i in best(range(N), total, 5)]


@pytest.mark.parametrize("plan", [{"strategy": s} for s in REFERENCES] + [{"mode": "dense"}, {"mode": "multi_vector"}])
def test_k_above_every_depth_is_still_filled(store, plan):
    hits = store.search(QUERIES[[0]], SearchPlan(k=30, fetch_k=2, cascade=(3, 2), **plan))
    assert len({hit.id for hit in hits}) == 30


@pytest.mark.parametrize("plan", [{"strategy": s} for s in REFERENCES] + [{"mode": mode} for mode in HEADS])
def test_ties_go_to_the_smaller_id(plan):
    store = MemoryStore()
    store.open(SETTINGS)
    same = PASSAGES[[0] * 6]
    store.upsert([Chunk(f"{5 - i}", "", {}) for i in range(6)], same)
    hits = store.search(
        same[[0]], SearchPlan(k=4, mode=plan.get("mode", "hybrid"), strategy=plan.get("strategy", "union"))
    )
    expected = ["0", "1", "2", "3"]
    if plan.get("strategy") == "rrf":
        # Equal scores get different ranks, by the row: the tie is gone before ids are compared.
        expected = ["5", "4", "3", "2"]
    assert [hit.id for hit in hits] == expected


def test_a_query_without_words_is_filled_up_from_dense(store):
    query = QUERIES[[0]]
    wordless = type(query)(
        dense=query.dense, sparse=csr_array((1, VOCABULARY), dtype=np.float32), multi_vector=query.multi_vector
    )
    dense = store.search(wordless, SearchPlan(k=4, mode="dense"))
    cascade = store.search(wordless, SearchPlan(k=4, strategy="cascade", cascade=(50, 4), weights=Weights(1, 0, 0)))
    assert [hit.id for hit in cascade] == [hit.id for hit in dense]
    assert store.search(wordless, SearchPlan(mode="sparse")) == []


def test_stages_tell_what_was_done(store):
    hits = store.search(QUERIES[[0]], SearchPlan(k=3, fetch_k=9, where={"group": 1}, explain=True))
    assert [stage.name for stage in hits.stages] == [
        "filter", "dense top", "sparse top", "dense scores", "sparse scores", "multi_vector scores", "rank", "chunks", "matches",
    ]  # fmt: skip
    assert [stage.candidates for stage in hits.stages[:2]] == [20, 9]
    assert hits.stages[-1].candidates == 3
    assert all(stage.seconds >= 0 for stage in hits.stages)


def test_a_head_the_plan_needs_and_the_query_lacks(store):
    query = type(QUERIES)(dense=QUERIES.dense[:1])
    with pytest.raises(HeadNotEncodedError, match="sparse: this head was not encoded"):
        store.search(query, SearchPlan())


def test_a_head_without_weight_need_not_be_encoded(store):
    query = QUERIES[[0]]
    two = type(query)(dense=query.dense, sparse=query.sparse)
    plan = SearchPlan(weights=Weights.lexical)
    hits = store.search(two, plan)
    assert [hit.id for hit in hits] == [hit.id for hit in store.search(query, plan)]
    assert set(hits[0].scores) == {"dense", "sparse"}


def test_an_empty_store():
    store = MemoryStore()
    store.open(SETTINGS)
    for mode in ("dense", "sparse", "multi_vector"):
        assert store.search(QUERIES[[0]], SearchPlan(mode=mode)) == []
    for strategy in REFERENCES:
        assert store.search(QUERIES[[0]], SearchPlan(strategy=strategy)) == []
