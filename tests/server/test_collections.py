"""`/v1/collections`: what a `HybridIndex` does, over HTTP."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from bgem3 import ChromaStore, HybridIndex, M3Encoder, MemoryStore
from bgem3_server.settings import Limits
from tests.support.full_disk import fill, small_disk

DOCUMENTS = [
    {"id": "zh", "text": "茶叶含有茶氨酸，能让人放松。", "metadata": {"lang": "zh", "year": 2020}},
    {"id": "en", "text": "Part KX-220B fits the small pump.", "metadata": {"lang": "en", "year": 2021}},
    {"id": "de", "text": "Die Bremsen sind abgenutzt 🚲.", "metadata": {"lang": "de", "tags": ["bike"]}},
]
QUERY = "Which part fits the pump?"


@pytest.fixture(params=["memory", "chroma"])
def filled(request, make_client, tmp_path):
    client = make_client(db=None if request.param == "memory" else str(tmp_path / "db"))
    answer = client.post("/v1/collections/parts/documents", json={"documents": DOCUMENTS})
    assert answer.json() == {"ids": ["zh", "en", "de"], "count": 3}
    return client


def test_search_is_the_indexes(filled, encoder):
    with HybridIndex(encoder, MemoryStore()) as index:
        index.add([one["text"] for one in DOCUMENTS], ids=[one["id"] for one in DOCUMENTS])
        expected = index.search(QUERY)
    answer = filled.post("/v1/collections/parts/search", json={"query": QUERY, "explain": True}).json()
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    for hit, other in zip(answer["hits"], expected, strict=True):
        # Chroma's sidecar keeps token vectors in one bit a number
        assert hit["scores"]["dense"] == pytest.approx(other.scores["dense"], abs=1e-3)
        assert hit["scores"]["sparse"] == pytest.approx(other.scores["sparse"], abs=1e-3)
    assert answer["hits"][0]["metadata"] == {"lang": "en", "year": 2021}
    assert answer["stages"][0]["name"] == "encode"
    assert sum(stage["seconds"] for stage in answer["stages"]) == pytest.approx(answer["seconds"], rel=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sparse"},
        {"strategy": "cascade", "cascade": [10, 5]},
        {"strategy": "rrf", "rrf_k": 10},
        {"exhaustive": True, "fetch_k": 1},
        {"weights": {"dense": 0, "sparse": 1, "multi_vector": 0}},
    ],
)
def test_search_options(filled, options):
    answer = filled.post("/v1/collections/parts/search", json={"query": "pump", "k": 1, **options})
    assert [hit["id"] for hit in answer.json()["hits"]] == ["en"]


def test_search_with_a_filter(filled):
    body = {"query": QUERY, "where": {"lang": {"$in": ["zh", "de"]}}}
    hits = filled.post("/v1/collections/parts/search", json=body).json()["hits"]
    assert {hit["id"] for hit in hits} == {"zh", "de"}


def test_highlights_are_the_pieces_that_match(filled):
    body = {"query": "pump part 🚲", "explain": True}
    hits = filled.post("/v1/collections/parts/search", json=body).json()["hits"]
    (hit,) = (hit for hit in hits if hit["id"] == "en")
    found = {place for one in hit["matches"] if one["head"] == "sparse" for place in range(one["start"], one["end"])}
    assert "".join(hit["text"][place] for place in sorted(found)) == "Partpump"
    assert max(one["strength"] for one in hit["matches"] if one["head"] == "sparse") == 1
    assert all(0 < one["strength"] <= 1 for one in hit["matches"])


def test_documents_come_back_whole(filled):
    answer = filled.get("/v1/collections/parts/documents", params={"ids": ["de", "nobody", "zh"]})
    assert answer.json() == {"documents": [DOCUMENTS[2], DOCUMENTS[0]]}


def test_the_same_id_replaces(filled):
    body = {"documents": [{"id": "en", "text": "Nothing fits.", "metadata": {"year": 2024}}]}
    assert filled.post("/v1/collections/parts/documents", json=body).json()["count"] == 3
    (document,) = filled.get("/v1/collections/parts/documents", params={"ids": ["en"]}).json()["documents"]
    assert document == body["documents"][0]


def test_delete_by_id(filled):
    path = "/v1/collections/parts/documents"
    assert filled.delete(path, params={"ids": ["zh", "nobody"]}).json() == {"deleted": 1}
    assert filled.get(path, params={"ids": ["zh", "en"]}).json()["documents"][0]["id"] == "en"
    assert filled.delete(path).status_code == 422


def test_delete_by_id_and_by_filter(filled):
    answer = filled.post("/v1/collections/parts/documents/delete", json={"ids": ["zh", "nobody"]})
    assert answer.json() == {"deleted": 1}
    answer = filled.post("/v1/collections/parts/documents/delete", json={"where": {"year": {"$gte": 2021}}})
    assert answer.json() == {"deleted": 1}
    assert filled.get("/v1/collections/parts").json()["count"] == 1
    assert filled.post("/v1/collections/parts/documents/delete", json={}).status_code == 422


def test_delete_the_collection(filled):
    filled.post("/v1/collections/others/documents", json={"documents": DOCUMENTS[:2]})
    assert filled.delete("/v1/collections/parts").json() == {"name": "parts", "deleted": True}
    assert filled.delete("/v1/collections/parts").status_code == 404
    assert filled.post("/v1/collections/parts/search", json={"query": "a"}).status_code == 404
    assert filled.get("/v1/collections").json() == {"collections": [{"name": "others", "count": 2}]}
    assert filled.post("/v1/collections/parts/documents", json={"documents": DOCUMENTS[:1]}).json()["count"] == 1


def test_what_uses_a_collection_that_is_deleted_is_told_so(filled, held):
    begun, go = held
    with ThreadPoolExecutor() as pool:
        more = {"documents": [{"id": "more", "text": "Tea calms."}]}
        adding = pool.submit(filled.post, "/v1/collections/parts/documents", json=more)
        begun.wait()
        assert filled.delete("/v1/collections/parts").status_code == 200
        go.set()
        answer = adding.result()
    assert answer.status_code == 409
    assert answer.json()["error"]["message"] == "The collection was deleted meanwhile. Fix: send the request again"
    assert filled.get("/v1/collections").json() == {"collections": []}


def test_a_disk_that_is_full_and_then_is_not(make_client, tmp_path):
    with small_disk(tmp_path / "disk", megabytes=24) as disk:
        client = make_client(db=str(disk / "db"))
        place = "/v1/collections/parts"
        client.post(f"{place}/documents", json={"documents": DOCUMENTS})
        fill(disk / "ballast")
        more = [{"id": "more", "text": "Part 7.", "metadata": {"drawing": "x" * 2**20}}]
        refused = ""
        while "Chroma refused" not in refused:  # room for the sidecar's part, and not for Chroma's
            os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - 2**17)
            answer = client.post(f"{place}/documents", json={"documents": more})
            assert answer.status_code == 507
            refused = answer.json()["error"]["message"]
        fill(disk / "rest")
        for method, path, body in (
            ("POST", f"{place}/documents", {"documents": more}),
            ("POST", f"{place}/search", {"query": QUERY}),
            ("DELETE", place, None),
        ):
            answer = client.request(method, path, json=body)
            assert answer.status_code == 507
            said = answer.json()["error"]["message"].partition("Fix: ")[2]
            assert "free disk space" in said
            assert "Fix: " not in said
        for name in ("ballast", "rest"):
            (disk / name).unlink()
        found = client.post(f"{place}/search", json={"query": QUERY, "k": 1}).json()["hits"]
        assert [hit["id"] for hit in found] == ["en"]
        assert client.get(place).json()["count"] == 3
        assert client.post(f"{place}/documents", json={"documents": more}).json()["count"] == 4


def test_a_collection_of_another_model_can_be_deleted(make_client, tmp_path, checkpoint):
    with HybridIndex(M3Encoder.from_pretrained(checkpoint), ChromaStore(tmp_path / "db", collection="parts")) as index:
        index.add(["a text"])
    client = make_client(db=str(tmp_path / "db"))
    assert client.get("/v1/collections/parts").status_code == 409
    assert client.delete("/v1/collections/parts").status_code == 200
    assert client.get("/v1/collections").json() == {"collections": []}


def test_a_collection_that_cannot_be_opened_does_not_hide_the_others(make_client, tmp_path, checkpoint):
    with HybridIndex(M3Encoder.from_pretrained(checkpoint), ChromaStore(tmp_path / "db", collection="parts")) as index:
        index.add(["a text"])
    client = make_client(db=str(tmp_path / "db"))
    client.post("/v1/collections/others/documents", json={"documents": DOCUMENTS})
    good, bad = client.get("/v1/collections").json()["collections"]
    assert good == {"name": "others", "count": 3}
    assert (bad["name"], bad["count"]) == ("parts", None)
    assert bad["error"] == client.get("/v1/collections/parts").json()["error"]["message"]


def test_a_list_opens_none_of_many(make_client, encoder, tmp_path):
    for n in range(3):
        with HybridIndex(encoder, ChromaStore(tmp_path, collection=f"parts-{n}")) as index:
            index.add(["tea"] * n, ids=[str(i) for i in range(n)])
    client = make_client(db=str(tmp_path))
    listed = client.get("/v1/collections").json()["collections"]
    assert listed == [{"name": f"parts-{n}", "count": n} for n in range(3)]
    assert client.app.state.parts.collections._open == {}


def test_a_collection_that_another_program_writes_is_not_deleted(make_client, encoder, tmp_path):
    with HybridIndex(encoder, ChromaStore(tmp_path / "db", collection="parts")) as index:
        index.add(["a text"])
        answer = make_client(db=str(tmp_path / "db")).delete("/v1/collections/parts")
        assert answer.status_code == 409
        assert "is writing to collection" in answer.json()["error"]["message"]
        assert index.count() == 1


def test_documents_that_are_refused_make_no_collection(client):
    for document in ({"text": "Tea.", "metadata": {"a": {"b": 1}}}, {"text": "Tea.", "metadata": {"#id": 1}}):
        answer = client.post("/v1/collections/refused/documents", json={"documents": [document]})
        assert answer.status_code == 422
    twice = [{"id": "1", "text": "Tea."}] * 2
    assert client.post("/v1/collections/refused/documents", json={"documents": twice}).status_code == 422
    assert client.get("/v1/collections").json() == {"collections": []}


def test_documents_are_counted_beside_the_event_loop(client, monkeypatch):
    threads: list[int] = []

    def noted(self):
        threads.append(threading.get_ident())
        return 0

    monkeypatch.setattr(HybridIndex, "count", noted)
    client.post("/v1/collections/parts/documents", json={"documents": DOCUMENTS})
    client.get("/v1/collections/parts")
    client.get("/v1/collections")
    assert len(threads) == 3
    assert client.portal.call(threading.get_ident) not in threads


def test_collections_are_listed(filled):
    filled.post("/v1/collections/another.one/documents", json={"documents": []})
    names = [one["name"] for one in filled.get("/v1/collections").json()["collections"]]
    assert names == ["another.one", "parts"]


def test_what_is_on_disk_is_there_again(make_client, tmp_path):
    db = str(tmp_path / "db")
    first = make_client(db=db)
    first.post("/v1/collections/parts/documents", json={"documents": DOCUMENTS})
    first.__exit__(None, None, None)
    first.__enter__ = first.__exit__ = lambda *_: None
    second = make_client(db=db)
    assert second.get("/v1/collections").json() == {"collections": [{"name": "parts", "count": 3}]}
    hits = second.post("/v1/collections/parts/search", json={"query": QUERY, "k": 1}).json()["hits"]
    assert [hit["id"] for hit in hits] == ["en"]


@pytest.mark.parametrize("path", ["", "/search", "/documents/delete", "/chat"])
def test_a_collection_that_is_not_there(client, path):
    bodies = {"/search": {"query": "a"}, "/documents/delete": {"ids": []}}
    body = bodies.get(path, {"messages": [{"role": "user", "content": "a"}]})
    answer = client.post(f"/v1/collections/nobody{path}", json=body) if path else client.get("/v1/collections/nobody")
    assert answer.status_code == 404
    assert "none is called 'nobody'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["ab", "-abc", "a" * 64, "a b c", "..%2F..%2Fetc", "täglich"])
def test_names_no_collection_can_have(client, name):
    answer = client.post(f"/v1/collections/{name}/documents", json={"documents": []})
    assert answer.status_code in (404, 422)


@pytest.mark.parametrize("name", ["a..b", "10.0.0.1", "-abc"])
def test_a_name_that_chroma_refuses_is_explained_and_leaves_nothing(make_client, tmp_path, name):
    client = make_client(db=str(tmp_path / "db"))
    answer = client.post(f"/v1/collections/{name}/documents", json={"documents": DOCUMENTS})
    assert answer.status_code == 422
    assert f"collection: got '{name}', expected 3 to 63" in answer.json()["error"]["message"]
    assert "no two dots in a row" in answer.json()["error"]["message"]
    assert not [path for path in tmp_path.rglob("*") if name in path.name]
    assert client.get(f"/v1/collections/{name}").status_code == 404
    body = {"messages": [{"role": "user", "content": "a"}]}
    assert client.post(f"/v1/collections/{name}/chat", json=body).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"documents": [{"text": "a", "metadata": {"x": None}}]},
        {"documents": [{"text": "a", "metadata": {"x": {"y": 1}}}]},
        {"documents": [{"text": "a", "id": "1"}, {"text": "b", "id": "1"}]},
        {"documents": [{"text": "a", "id": ""}]},
        {"documents": [{"text": "a", "extra": 1}]},
        {"documents": [{"text": "a", "metadata": {"n": 2**80}}]},
        {"documents": [{"text": "a", "metadata": {"n": [1, -(2**63) - 1]}}]},
    ],
)
def test_bad_documents_change_nothing(filled, body):
    assert filled.post("/v1/collections/parts/documents", json=body).status_code == 422
    assert filled.get("/v1/collections/parts").json()["count"] == 3


@pytest.mark.parametrize(
    "body", [{"k": 0}, {"mode": "best"}, {"where": {"a": {"$near": 1}}}, {"where": {}}, {"cascade": [1]}, {"k": 2000}]
)
def test_bad_searches(filled, body):
    assert filled.post("/v1/collections/parts/search", json={"query": "a", **body}).status_code == 422


def test_a_count_that_waits_for_a_write_holds_up_nobody(make_client, tmp_path):
    client = make_client(db=str(tmp_path / "db"))
    client.post("/v1/collections/parts/documents", json={"documents": DOCUMENTS})
    parts = client.app.state.parts
    with ThreadPoolExecutor(2) as pool:
        with parts.collections._open["parts"].store._lock:  # as a thread that writes
            waiting = pool.submit(client.get, "/v1/collections/parts")
            while not parts.metrics.under_way._value.get():
                pass
            answers = pool.submit(lambda: [client.get("/health").status_code for _ in range(20)])
            wait([answers], timeout=60)
            assert (answers.done(), waiting.done()) == (True, False)
        assert waiting.result().json()["count"] == 3


def test_too_many_collections(make_client):
    client = make_client(limits=Limits(max_collections=1))
    assert client.post("/v1/collections/one/documents", json={"documents": []}).status_code == 200
    answer = client.post("/v1/collections/two/documents", json={"documents": []})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "max_collections"


def test_two_clients_make_the_same_collection_at_once(make_client, tmp_path):
    client = make_client(db=str(tmp_path / "db"))
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(
                client.post, "/v1/collections/same/documents", json={"documents": [{"id": f"{i}", "text": "a"}]}
            )
            for i in range(8)
        ]
    assert [job.result().status_code for job in jobs] == [200] * 8
    assert client.get("/v1/collections/same").json()["count"] == 8


@pytest.mark.parametrize("asked", [True, False])
def test_a_server_whose_folder_is_gone_is_not_ready(make_client, tmp_path, asked):
    folder, elsewhere = tmp_path / "db", tmp_path / "elsewhere"
    client = make_client(db=str(folder))
    assert client.get("/ready").json() == {"status": "ready"}  # it is made with the first collection
    client.post("/v1/collections/parts/documents", json={"documents": DOCUMENTS})
    if not asked:  # another server over it, of which nobody asked anything yet
        client = make_client(db=str(folder))
    assert client.get("/ready").json() == {"status": "ready"}
    folder.rename(elsewhere)
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "gone")
    assert "The folder of the collections is not there any more, or another one is" in answer.json()["error"]
    folder.mkdir()  # as a place to mount at is left
    for name in ("parts", "other"):  # made there, it would hide the one that comes back
        answer = client.post(f"/v1/collections/{name}/documents", json={"documents": DOCUMENTS})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "not_ready_error")
    assert not [*folder.iterdir()]
    assert client.get("/ready").status_code == 503
    folder.rmdir()
    elsewhere.rename(folder)
    assert client.get("/ready").json() == {"status": "ready"}
