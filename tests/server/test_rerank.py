"""`/v1/rerank`, `/v1/score`, `/v1/inspect`: the core's scores, in other people's shapes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from bgem3 import Reranker, Weights, rerank, score, scoring
from bgem3_server import routes
from bgem3_server.settings import Limits

QUERY = "Which part fits the pump?"
DOCUMENTS = ["Brake pads wear out.", "Part KX-220B fits the small pump.", "茶叶含有茶氨酸。"]


def test_rerank_is_the_rerankers(client, encoder):
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    expected = Reranker(encoder).rerank(QUERY, DOCUMENTS)
    assert [result["index"] for result in answer["results"]] == [one.index for one in expected]
    for result, one in zip(answer["results"], expected, strict=True):
        assert result["relevance_score"] == pytest.approx(one.score, abs=1e-5)
        assert result["scores"] == pytest.approx(one.scores, abs=1e-5)


def test_rerank_options(client):
    body = {"query": QUERY, "documents": [{"text": text} for text in DOCUMENTS], "top_n": 1, "return_documents": True}
    (result,) = client.post("/v1/rerank", json=body).json()["results"]
    assert result["document"] == {"text": DOCUMENTS[1]}


def test_rerank_weights(client, encoder):
    body = {"query": QUERY, "documents": DOCUMENTS, "weights": {"dense": 0, "sparse": 1, "multi_vector": 0}}
    results = client.post("/v1/rerank", json=body).json()["results"]
    assert all(result["relevance_score"] == result["scores"]["sparse"] for result in results)


def test_equal_documents_keep_their_order_and_score(client):
    documents = [DOCUMENTS[1]] * 3 + [DOCUMENTS[0]] + [DOCUMENTS[1]] * 9
    results = client.post("/v1/rerank", json={"query": QUERY, "documents": documents}).json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2, *range(4, 13), 3]
    assert len({result["relevance_score"] for result in results[:12]}) == 1


def test_rerank_nothing(client):
    assert client.post("/v1/rerank", json={"query": QUERY, "documents": []}).json()["results"] == []


def test_score_of_pairs(client, encoder):
    pairs = [[QUERY, text] for text in DOCUMENTS] + [[DOCUMENTS[0], DOCUMENTS[1]]]
    scores = client.post("/v1/score", json={"pairs": pairs}).json()["scores"]
    for row, (left, right) in enumerate(pairs):
        expected = score(encoder.encode([left]), encoder.encode([right]))
        for head in ("dense", "sparse", "multi_vector"):
            assert scores[head][row] == pytest.approx(getattr(expected, head)[0, 0], abs=1e-5)
        assert scores["hybrid"][row] == pytest.approx(expected.combine()[0, 0], abs=1e-5)


def test_too_many_pairs(make_client):
    client = make_client(limits=Limits(max_texts=2))
    assert client.post("/v1/score", json={"pairs": [["a", "a"]] * 2}).status_code == 200
    answer = client.post("/v1/score", json={"pairs": [["a", "a"]] * 3})
    assert answer.status_code == 422
    assert answer.json()["error"]["limit"] == {"name": "max_texts", "value": 2, "got": 3}


def test_token_vectors_that_are_scored_have_a_bound(make_client, encoder):
    client = make_client(limits=Limits(max_numbers=encoder.multi_dim))
    few, many = ["a"] * 2, ["a " * 30] * 2
    for path, body in (("rerank", {"query": "a"}), ("score", {"queries": ["a"]})):
        name = "documents" if path == "rerank" else "passages"
        assert client.post(f"/v1/{path}", json={**body, name: few}).status_code == 200
        answer = client.post(f"/v1/{path}", json={**body, name: [*many, "b " * 30]})
        assert (answer.status_code, answer.json()["error"]["limit"]["name"]) == (422, "max_numbers")


def test_scores_are_computed_beside_the_event_loop_once_a_left_text(client, monkeypatch):
    threads: list[int] = []

    def noted(queries, passages):
        threads.append(threading.get_ident())
        return score(queries, passages)

    for module in (rerank, routes.rerank, scoring):
        monkeypatch.setattr(module, "score", noted)
    pairs = [[left, right] for right in DOCUMENTS for left in (QUERY, "pump")]
    client.post("/v1/score", json={"pairs": pairs})
    assert len(threads) == 2
    client.post("/v1/score", json={"queries": [QUERY], "passages": DOCUMENTS})
    client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS})
    assert len(threads) == 4
    assert client.portal.call(threading.get_ident) not in threads


def test_score_of_all_against_all(client, encoder):
    weights = {"dense": 0.2, "sparse": 0.8, "multi_vector": 0}
    body = {"queries": [QUERY, DOCUMENTS[0]], "passages": DOCUMENTS, "weights": weights}
    scores = client.post("/v1/score", json=body).json()["scores"]
    expected = score(encoder.encode(body["queries"]), encoder.encode(DOCUMENTS))
    np.testing.assert_allclose(scores["multi_vector"], expected.multi_vector, atol=1e-5)
    np.testing.assert_allclose(scores["hybrid"], expected.combine(Weights.lexical), atol=1e-5)


@pytest.mark.parametrize("body", [{}, {"pairs": [], "queries": []}, {"queries": ["tea"]}])
def test_score_of_neither(client, body):
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 422
    assert "either pairs, or queries and passages" in answer.json()["error"]["message"]


def test_no_pair(client):
    assert client.post("/v1/score", json={"pairs": []}).json()["scores"]["hybrid"] == []


def test_weights_without_any(client):
    body = {"pairs": [["a", "b"]], "weights": {"dense": 0, "sparse": 0, "multi_vector": 0}}
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 422
    assert "the sum must be > 0" in answer.json()["error"]["message"]


def test_inspect_shows_tokens_and_their_matches(client, encoder):
    query, passage = "calm tea", "Tea is 😀 calm"
    answer = client.post("/v1/inspect", json={"query": query, "passage": passage}).json()
    embeddings = encoder.encode([query, passage])
    for name, text, row in (("query", query, 0), ("passage", passage, 1)):
        lexical = encoder.tokenizer.tokens(embeddings.sparse.indices[slice(*embeddings.sparse.indptr[row : row + 2])])
        for token in answer[name]:
            assert (token["weight"] > 0) == (token["piece"] in lexical)
            # a piece of the space alone covers what stands after it
            if token["weight"] > 0 and (piece := token["piece"].strip("▁")):
                assert text[token["start"] : token["end"]].lower() == piece
    shared = {token["piece"] for token in answer["query"] if token["shared"]}
    assert "▁calm" in shared
    expected = embeddings.multi_vector[0] @ embeddings.multi_vector[1].T
    np.testing.assert_allclose(answer["similarity"], expected, atol=1e-4)
    assert answer["best"] == expected.argmax(axis=1).tolist()
    assert answer["scores"]["multi_vector"] == pytest.approx(expected.max(axis=1).mean(), abs=1e-5)


def test_token_vectors_of_all_requests_together_have_a_bound(make_client, encoder, monkeypatch):
    # room for 32 tokens, of which each request needs more than half
    client = make_client(limits=Limits(max_numbers=encoder.multi_dim))
    ranked, running, most = routes.rerank.ranked, [], []

    def slow(*arguments):
        running.append(1)
        most.append(len(running))
        begun.set()
        go.wait()
        running.pop()
        return ranked(*arguments)

    begun, go = threading.Event(), threading.Event()
    monkeypatch.setattr(routes.rerank, "ranked", slow)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.post("/v1/rerank", json={"query": "a", "documents": ["a " * 20]}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    while client.app.state.parts.metrics.under_way._value.get() < 3:
        time.sleep(0.01)
    # who asks for no token vectors waits for nobody
    assert client.post("/v1/embeddings", json={"input": "tea"}).status_code == 200
    go.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 3
    assert most == [1, 1, 1]


def test_inspect_counts_before_it_encodes(client, encoder, monkeypatch):
    monkeypatch.setattr(encoder._backend, "forward", None)
    answer = client.post("/v1/inspect", json={"query": "tea " * 600, "passage": "tea"})
    assert (answer.status_code, answer.json()["error"]["limit"]["name"]) == (422, "max_inspect_tokens")


def test_inspect_too_much(client):
    answer = client.post("/v1/inspect", json={"query": "tea", "passage": "tea " * 600})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "max_inspect_tokens"
