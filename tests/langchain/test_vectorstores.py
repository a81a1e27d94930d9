from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from bgem3 import ChromaStore, HybridIndex, MemoryStore, Weights
from bgem3.errors import (
    BackendError,
    DuplicateIdError,
    IndexMismatchError,
    InvalidFilterError,
    InvalidInputError,
    InvalidMetadataError,
    StoreClosedError,
)
from bgem3.types import MODES, STRATEGIES
from langchain_bgem3 import BGEM3Embeddings, BGEM3VectorStore
from tests.langchain.conftest import TEXTS

QUERY = "The key lies under the mat."
METADATAS = [{"lang": "en", "n": 0}, {"lang": "de", "n": 1}, {"lang": "en", "n": 2}, {"lang": "en", "n": 3}, {}]
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def texts(embeddings, store) -> BGEM3VectorStore:
    made = BGEM3VectorStore.from_texts(TEXTS, embeddings, METADATAS, ids=IDS, store=store)
    yield made
    made.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_finds_what_the_index_finds(texts, mode):
    expected = [(hit.id, hit.score) for hit in texts.index.search(QUERY, k=3, mode=mode)]
    found = texts.similarity_search_with_score(QUERY, k=3, mode=mode)
    assert [(document.id, score) for document, score in found] == expected
    assert found[0][0] == Document(TEXTS[0], id="a", metadata=METADATAS[0])
    assert [document.id for document in texts.search(QUERY, mode, k=3)] == [one for one, _ in expected]


@pytest.mark.parametrize("options", [{}, {"mode": "dense"}, {"strategy": "rrf", "k": 2, "rrf_k": 10}], ids=str)
async def test_async_gives_the_same(texts, options):
    assert await texts.asimilarity_search(QUERY, **options) == texts.similarity_search(QUERY, **options)
    for name in ("similarity_search_with_score", "similarity_search_with_relevance_scores"):
        awaited = await getattr(texts, f"a{name}")(QUERY, **options)
        assert [(doc.id, pytest.approx(score, abs=1e-5)) for doc, score in awaited] == [
            (doc.id, score) for doc, score in getattr(texts, name)(QUERY, **options)
        ]
    for search_type in ("similarity", "mmr", "sparse"):
        assert await texts.asearch(QUERY, search_type, k=2) == texts.search(QUERY, search_type, k=2)


def test_weights_and_candidates_reach_the_index(texts):
    dense_only = texts.similarity_search_with_score(QUERY, k=5, weights={"dense": 2})
    assert [score for _, score in dense_only] == pytest.approx(
        [score for _, score in texts.similarity_search_with_score(QUERY, k=5, mode="dense")], abs=1e-3
    )
    assert texts.similarity_search(QUERY, weights=Weights.lexical, fetch_k=1, k=1)[0].id == "a"


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ({"lang": "de"}, ["b"]),
        ({"$and": [{"lang": "en"}, {"n": {"$gte": 2}}]}, ["c", "d"]),
        ({"lang": {"$nin": ["en", "de"]}}, ["e"]),
        ({"lang": "fr"}, []),
        ({}, IDS),
        (None, IDS),
    ],
    ids=str,
)
def test_filters(texts, condition, ids):
    assert sorted(document.id for document in texts.similarity_search(QUERY, k=5, filter=condition)) == ids
    near = texts.similarity_search_by_vector(texts.embeddings.embed_query(QUERY), k=5, filter=condition)
    assert sorted(document.id for document in near) == ids
    diverse = texts.max_marginal_relevance_search(QUERY, k=5, filter=condition)
    assert sorted(document.id for document in diverse) == ids


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("mode", MODES)
def test_relevance_scores_lie_between_0_and_1(texts, mode, strategy):
    found = texts.similarity_search_with_relevance_scores(QUERY, k=5, mode=mode, strategy=strategy)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert scores[0] > 0


def test_a_rank_fusion_score_is_measured_by_the_best_possible(texts):
    # first in every list: (1 + 0.3 + 1) / (60 + 1), which is all there is to get
    [(document, score)] = texts.similarity_search_with_relevance_scores(QUERY, k=1, strategy="rrf")
    assert (document.id, score) == ("a", pytest.approx(1))
    assert texts.similarity_search_with_score(QUERY, k=1, strategy="rrf")[0][1] == pytest.approx(2.3 / 61)


def test_a_threshold_of_similarity(texts):
    [(_, best), (_, second)] = texts.similarity_search_with_relevance_scores(QUERY, k=2)
    threshold = (best + second) / 2
    retriever = texts.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": threshold, "k": 5}
    )
    assert [document.id for document in retriever.invoke(QUERY)] == ["a"]
    assert texts._select_relevance_score_fn()(best) == pytest.approx(best)


def test_by_vector(texts):
    vector = texts.embeddings.embed_query(QUERY)
    found = [document.id for document in texts.similarity_search_by_vector(vector, k=3)]
    assert found == [document.id for document in texts.similarity_search(QUERY, k=3, mode="dense")]
    doubled = texts.similarity_search_by_vector([2 * one for one in vector], k=3)
    assert [document.id for document in doubled] == found


@pytest.mark.parametrize(
    "vector", [[1.0, 2.0], [0.0] * 64, [float("nan")] * 64, "abc"], ids=["short", "zero", "nan", "str"]
)
def test_a_vector_that_cannot_be_compared_is_refused(texts, vector):
    with pytest.raises(InvalidInputError, match="embedding: expected 64 finite numbers, not all 0"):
        texts.similarity_search_by_vector(vector)


def test_a_vector_whose_squares_float32_cannot_hold(texts):
    vector = np.array(texts.embeddings.embed_query(QUERY))
    expected = [document.id for document in texts.similarity_search_by_vector(vector.tolist())]
    for factor in (1e30, 1e-30):
        assert [document.id for document in texts.similarity_search_by_vector((vector * factor).tolist())] == expected


def test_mmr_prefers_what_is_unlike_what_it_has(embeddings):
    store = BGEM3VectorStore.from_texts(
        ["key under the mat", "key under the mat", "Honey never spoils."], embeddings, ids=["a", "b", "c"]
    )
    for found in (
        store.max_marginal_relevance_search("key under the mat", k=2, lambda_mult=0.1),
        store.max_marginal_relevance_search_by_vector(
            embeddings.embed_query("key under the mat"), k=2, lambda_mult=0.1
        ),
        store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1}).invoke("key under the mat"),
    ):
        assert [document.id for document in found] == ["a", "c"]
    found = store.max_marginal_relevance_search("key under the mat", k=2, lambda_mult=1)
    assert [document.id for document in found] == ["a", "b"]


POINTS = {"north": [1.0, 0, 0], "near": [0.9, 0.436, 0], "aside": [-0.1, 0.9, 0.424], "south": [-1.0, 0, 0]}


class Compass(DeterministicFakeEmbedding):
    def embed_query(self, text):
        return POINTS.get(text, POINTS["north"])

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


def test_mmr_tells_negative_scores_apart():
    texts = ["near", "aside", "south"]
    store = BGEM3VectorStore.from_texts(texts, Compass(size=3), ids=texts)
    # 0.9 * -0.1 - 0.1 * 0.30 for aside, 0.9 * -1 + 0.1 * 0.9 for south
    found = store.max_marginal_relevance_search("north", k=2, lambda_mult=0.9)
    assert [document.id for document in found] == ["near", "aside"]


async def test_mmr_in_async_code(texts):
    vector = texts.embeddings.embed_query(QUERY)
    assert await texts.amax_marginal_relevance_search(QUERY, k=3) == texts.max_marginal_relevance_search(QUERY, k=3)
    assert await texts.amax_marginal_relevance_search_by_vector(
        vector, k=3
    ) == texts.max_marginal_relevance_search_by_vector(vector, k=3)
    assert await texts.asimilarity_search_by_vector(vector) == texts.similarity_search_by_vector(vector)


@pytest.mark.parametrize("search_type", ["similarity", "mmr", *MODES])
async def test_retriever_of_every_search_type(texts, search_type):
    retriever = texts.as_retriever(search_type=search_type, search_kwargs={"k": 2, "filter": {"lang": "en"}})
    found = retriever.invoke(QUERY)
    assert found[0].id == "a"
    assert {document.metadata["lang"] for document in found} == {"en"}
    assert await retriever.ainvoke(QUERY) == found
    assert len(retriever.invoke(QUERY, k=1)) == 1
    assert retriever.tags == ["BGEM3VectorStore", "BGEM3Embeddings"]


def test_an_unknown_search_type_is_refused(texts):
    with pytest.raises(ValueError, match="search_type of colbert not allowed"):
        texts.as_retriever(search_type="colbert")
    with pytest.raises(ValueError, match="search_type of colbert not allowed"):
        texts.search(QUERY, "colbert")


def test_what_the_caller_holds_and_what_is_stored_stay_apart(texts):
    document = Document("tagged", metadata={"tags": ["x"]})
    [id_] = texts.add_documents([document])
    assert (document.id, document.metadata) == (None, {"tags": ["x"]})
    document.metadata["tags"].append("mine")
    for found in (texts.get_by_ids([id_])[0], texts.similarity_search("tagged", k=1)[0]):
        assert found.metadata == {"tags": ["x"]}
        found.metadata["tags"].append("yours")
    assert texts.get_by_ids([id_])[0].metadata == {"tags": ["x"]}


def test_ids_given_for_some(texts):
    ids = texts.add_texts((text for text in ["one", "two"]), ids=["x", None], batch_size=1)
    assert ids[0] == "x"
    assert [document.page_content for document in texts.get_by_ids(ids)] == ["one", "two"]
    assert texts.add_documents([Document("1", id="y"), Document("2")], show_progress=False)[0] == "y"
    assert texts.add_texts([]) == []


async def test_writing_in_async_code(embeddings):
    store = await BGEM3VectorStore.afrom_texts(TEXTS, embeddings, METADATAS, ids=IDS)
    assert [document.page_content for document in await store.aget_by_ids(["b", "missing", "a"])] == TEXTS[1::-1]
    assert await store.aadd_documents([Document("new", id="a")]) == ["a"]
    assert await store.aget_by_ids(["a"]) == [Document("new", id="a")]
    assert await store.adelete(["a", "missing"])
    assert await store.adelete(filter={"lang": "en"})
    assert store.index.count() == 2


def test_deleting(texts):
    assert texts.delete(["a", "missing"])
    assert texts.delete(filter={"lang": "de"})
    assert [document.id for document in texts.get_by_ids(IDS)] == ["c", "d", "e"]
    with pytest.raises(InvalidInputError, match="delete: expected exactly one of ids and where"):
        texts.delete()


def test_it_is_there_when_opened_again(embeddings, tmp_path):
    first = BGEM3VectorStore.from_documents(
        [Document(TEXTS[0], id="a")], embeddings, persist_directory=tmp_path / "db", collection_name="mine"
    )
    first.close()
    again = BGEM3VectorStore(embeddings, persist_directory=str(tmp_path / "db"), collection_name="mine")
    assert again.similarity_search(QUERY) == [Document(TEXTS[0], id="a")]
    again.close()
    with pytest.raises(StoreClosedError, match="closed"):
        again.similarity_search(QUERY)


def test_over_an_index_that_is_open_already(index, embeddings):
    store = BGEM3VectorStore(index=index)
    assert store.similarity_search(QUERY, k=1)[0].id == "0"
    assert isinstance(store.embeddings, BGEM3Embeddings)
    assert store.embeddings.shared is embeddings.shared


def test_defaults_of_the_store(embeddings):
    store = BGEM3VectorStore(embeddings, mode="sparse", strategy="rrf", weights={"sparse": 1}, fetch_k=7)
    store.add_texts(TEXTS, ids=IDS)
    expected = store.index.search(QUERY, k=4, mode="sparse")
    assert [document.id for document in store.similarity_search(QUERY)] == [hit.id for hit in expected]
    bm25 = BGEM3VectorStore.from_texts(TEXTS, embeddings, ids=IDS, lexical="bm25")
    assert bm25.similarity_search("4711", k=1, mode="sparse")[0].id == "c"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "colbert"}, InvalidInputError, "mode: got 'colbert', expected one of dense, sparse"),
        ({"strategy": "mean"}, InvalidInputError, "strategy: got 'mean'"),
        ({"k": 0}, InvalidInputError, "k: expected a whole number >= 1, got 0"),
        ({"fetch_k": -1}, InvalidInputError, "fetch_k: expected a whole number >= 1"),
        ({"weights": {"dense": 0}}, InvalidInputError, "the sum must be > 0"),
        ({"weights": {"dense": -1}}, InvalidInputError, "dense must be a finite number >= 0"),
        ({"weights": {"colbert": 1}}, InvalidInputError, "weights: got .*expected Weights or a mapping"),
        ({"weights": {"dense": "much"}}, InvalidInputError, "dense must be a finite number >= 0, got 'much'"),
        ({"weights": {"dense": 1e308, "sparse": 1e308}}, InvalidInputError, "the sum must be > 0 and finite"),
        ({"cascade": 5}, InvalidInputError, "cascade: expected two depths"),
        ({"filters": {"lang": "en"}}, InvalidInputError, "unknown search options filters; .* filter, "),
        ({"where": {"lang": "en"}}, InvalidInputError, "unknown search options where; .* filter, "),
        ({"filter": ""}, InvalidFilterError, "filter: expected a mapping, got ''"),
        ({"filter": {"lang": {"$like": "e"}}}, InvalidFilterError, r"\$like"),
    ],
    ids=str,
)
def test_bad_options(texts, options, error, message):
    with pytest.raises(error, match=message):
        texts.similarity_search(QUERY, **options)
    with pytest.raises(error, match=message):
        texts.as_retriever(search_kwargs=options).invoke(QUERY)


def test_bad_depths_of_mmr(texts):
    with pytest.raises(InvalidInputError, match="lambda_mult: got 2, expected 0 to 1"):
        texts.max_marginal_relevance_search(QUERY, lambda_mult=2)
    with pytest.raises(InvalidInputError, match="k: expected a whole number >= 1, got 0"):
        texts.max_marginal_relevance_search(QUERY, k=0)
    with pytest.raises(InvalidInputError, match="fetch_k: expected a whole number >= 1, got 'x'"):
        texts.max_marginal_relevance_search(QUERY, fetch_k="x")
    with pytest.raises(InvalidInputError, match="lambda_mult: got None, expected 0 to 1"):
        texts.max_marginal_relevance_search(QUERY, lambda_mult=None)


def test_bad_documents_leave_the_store_as_it_was(texts):
    with pytest.raises(InvalidMetadataError, match=r"metadatas\[1\]\['page'\]: expected str"):
        texts.add_documents([Document("x"), Document("y", metadata={"page": None})])
    with pytest.raises(DuplicateIdError, match="'z' stands twice"):
        texts.add_texts(["x", "y"], ids=["z", "z"])
    with pytest.raises(InvalidInputError, match="differ in length"):
        texts.add_texts(["x", "y"], ids=["z"])
    with pytest.raises(InvalidInputError, match="differ in length"):
        texts.add_texts(["x", "y"], [{}])
    with pytest.raises(InvalidInputError, match="unknown arguments overwrite"):
        texts.add_texts(["x"], overwrite=True)
    with pytest.raises(InvalidInputError, match="texts: expected an iterable of strings, got one str"):
        texts.add_texts("xy")
    with pytest.raises(InvalidInputError, match="ids: expected a list of strings, got one str"):
        texts.add_texts(["x", "y"], ids="pq")
    with pytest.raises(InvalidInputError, match="ids: got a set, which has no order"):
        texts.add_texts(["x", "y"], ids={"p", "q"})
    with pytest.raises(InvalidMetadataError, match=r"metadatas\[0\]: expected a mapping, got list"):
        texts.add_texts(["x"], [[1]])
    assert texts.index.count() == len(TEXTS)


def test_bad_constructors(embeddings, index, tmp_path):
    with pytest.raises(InvalidInputError, match="exactly one of embedding and index"):
        BGEM3VectorStore()
    with pytest.raises(InvalidInputError, match="exactly one of embedding and index"):
        BGEM3VectorStore(embeddings, index=index)
    with pytest.raises(InvalidInputError, match="index: it has a store and a lexical"):
        BGEM3VectorStore(index=index, store=MemoryStore())
    with pytest.raises(InvalidInputError, match="index: it has a store and a lexical"):
        BGEM3VectorStore(index=index, lexical="bm25")
    with pytest.raises(InvalidInputError, match="index: got int, expected a HybridIndex"):
        BGEM3VectorStore(index=5)
    with pytest.raises(InvalidInputError, match="expected an encoder and a store, got M3Encoder and str"):
        BGEM3VectorStore(embeddings, store="./db")
    for path in ("", "a\0b", "\ud800", 5):
        with pytest.raises(InvalidInputError, match="path: expected the path of a folder"):
            BGEM3VectorStore(embeddings, persist_directory=path)
    with pytest.raises(InvalidInputError, match="store: got persist_directory beside it"):
        BGEM3VectorStore(embeddings, store=MemoryStore(), persist_directory=tmp_path)
    with pytest.raises(InvalidInputError, match="embedding: got str, expected an embedding model"):
        BGEM3VectorStore("BAAI/bge-m3")
    with pytest.raises(InvalidInputError, match="mode: got 'colbert'"):
        BGEM3VectorStore(embeddings, mode="colbert")


class Broken(DeterministicFakeEmbedding):
    vector: list[float]
    lost: int = 0

    def embed_documents(self, texts):
        return [self.vector for _ in texts[self.lost :]]


class TestOfAnotherModel:
    """Any embedding model works by its dense vectors."""

    @pytest.fixture
    def model(self) -> DeterministicFakeEmbedding:
        return DeterministicFakeEmbedding(size=6)

    async def test_cosine_decides(self, model, store):
        other = BGEM3VectorStore.from_texts(TEXTS, model, ids=IDS, store=store)
        rows = np.array(model.embed_documents(TEXTS))
        cosines = rows @ rows[0] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[0])
        found = other.similarity_search_with_score(TEXTS[0], k=5)
        assert [document.id for document, _ in found] == [IDS[i] for i in np.argsort(-cosines)]
        assert [score for _, score in found] == pytest.approx(sorted(cosines, reverse=True), abs=2e-3)
        assert (await other.asimilarity_search(TEXTS[0], k=1))[0].id == "a"
        assert other.embeddings is model
        other.close()

    @pytest.mark.parametrize("mode", ["hybrid", "sparse", "multi_vector"])
    def test_other_modes_are_refused(self, model, mode):
        other = BGEM3VectorStore.from_texts(TEXTS, model)
        with pytest.raises(InvalidInputError, match=f"mode: got '{mode}', expected 'dense': DeterministicFake"):
            other.similarity_search(QUERY, mode=mode)

    def test_another_width_is_another_index(self, model, tmp_path):
        BGEM3VectorStore.from_texts(TEXTS, model, persist_directory=tmp_path).close()
        BGEM3VectorStore(DeterministicFakeEmbedding(size=6), persist_directory=tmp_path).close()
        with pytest.raises(IndexMismatchError, match="fingerprint: the index was made with"):
            BGEM3VectorStore(DeterministicFakeEmbedding(size=7), persist_directory=tmp_path)

    def test_an_index_of_bge_m3_is_refused(self, model, encoder, tmp_path):
        HybridIndex(encoder, ChromaStore(tmp_path, collection="langchain")).close()
        with pytest.raises(IndexMismatchError, match="fingerprint: the index was made with"):
            BGEM3VectorStore(model, persist_directory=tmp_path)

    def test_a_model_that_is_broken(self):
        with pytest.raises(BackendError, match="Broken gave a number that is not finite"):
            BGEM3VectorStore.from_texts(["x"], Broken(size=6, vector=[float("inf")] * 6))
        with pytest.raises(BackendError, match=r"Broken gave vectors \[5\] wide, and 6 wide before"):
            BGEM3VectorStore.from_texts(["x"], Broken(size=6, vector=[0.0] * 5))
        with pytest.raises(BackendError, match="Broken gave 1 vectors for 2 texts"):
            BGEM3VectorStore.from_texts(["x", "y"], Broken(size=6, vector=[1.0] * 6, lost=1))
