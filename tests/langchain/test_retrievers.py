from __future__ import annotations

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from bgem3 import HybridIndex, MemoryStore, Weights
from bgem3.errors import InvalidFilterError, InvalidInputError
from bgem3.tuned import Tuned
from langchain_bgem3 import BGEM3Retriever, BGEM3VectorStore
from tests.langchain.conftest import TEXTS

QUERY = "The key lies under the mat."


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.started, self.metadata, self.errors = [], [], []

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, metadata=None, **kwargs):
        self.started.append((kwargs.get("name"), parent_run_id))
        self.metadata.append(metadata)

    def on_retriever_error(self, error, **kwargs):
        self.errors.append(error)


@pytest.fixture
def retriever(index) -> BGEM3Retriever:
    return BGEM3Retriever(index=index)


def test_documents_carry_id_and_score(retriever, index):
    hits = index.search(QUERY, k=4)
    found = retriever.invoke(QUERY)
    assert [document.id for document in found] == [hit.id for hit in hits]
    assert found[0] == Document(TEXTS[0], id="0", metadata={"n": 0, "relevance_score": hits[0].score})


async def test_async_gives_the_same(retriever):
    awaited = await retriever.ainvoke(QUERY)
    assert [document.id for document in awaited] == [document.id for document in retriever.invoke(QUERY)]
    assert [[d.id for d in found] for found in await retriever.abatch([QUERY, "Honey"])] == [
        [d.id for d in found] for found in retriever.batch([QUERY, "Honey"])
    ]


def test_what_was_tuned_decides_where_nothing_is_named(embeddings):
    tuned = HybridIndex(embeddings.encoder, MemoryStore(), tuned=Tuned("rrf", Weights(0, 1, 0)))
    retriever, store = BGEM3Retriever(index=tuned), BGEM3VectorStore(index=tuned)
    store.add_texts(TEXTS)
    best = retriever.invoke(QUERY, k=1)[0].metadata["relevance_score"]
    # first by the sparse head: 1 / (60 + 1)
    assert best == pytest.approx(1 / 61)
    assert store.similarity_search_with_score(QUERY, k=1)[0][1] == best
    # of the highest score possible
    assert store.similarity_search_with_relevance_scores(QUERY, k=1)[0][1] == pytest.approx(1)
    assert retriever.invoke(QUERY, k=1, strategy="union")[0].metadata["relevance_score"] > 0.1


def test_head_scores_on_demand(index):
    found = BGEM3Retriever(index=index, head_scores=True).invoke(QUERY, k=1)[0]
    assert found.metadata["scores"] == index.search(QUERY, k=1)[0].scores
    assert set(found.metadata["scores"]) == {"dense", "sparse", "multi_vector"}


def test_fields_hold_and_one_call_may_differ(index):
    retriever = BGEM3Retriever(index=index, k=2, mode="dense", filter={"n": {"$gte": 1}}, weights={"dense": 1})
    expected = index.search(QUERY, k=2, mode="dense", where={"n": {"$gte": 1}})
    assert [document.id for document in retriever.invoke(QUERY)] == [hit.id for hit in expected]
    assert [document.id for document in retriever.invoke(QUERY, k=1, mode="hybrid", filter={"n": 0})] == ["0"]
    found = retriever.invoke(QUERY, strategy="cascade", mode="hybrid", cascade=(5, 3), weights=Weights.lexical)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, InvalidInputError, "k: expected a whole number >= 1, got 0"),
        ({"mode": "colbert"}, InvalidInputError, "mode: got 'colbert'"),
        ({"weights": {"dense": -1}}, InvalidInputError, "dense must be a finite number"),
    ],
    ids=str,
)
def test_bad_options(retriever, index, options, error, message):
    with pytest.raises(error, match=message):
        BGEM3Retriever(index=index, **options)
    with pytest.raises(error, match=message):
        retriever.invoke(QUERY, **options)


def test_unknown_options_and_filters_are_refused(retriever, index):
    with pytest.raises(InvalidInputError, match="unknown search options top_k"):
        retriever.invoke(QUERY, top_k=3)
    with pytest.raises(InvalidFilterError, match=r"\$like"):
        retriever.invoke(QUERY, filter={"n": {"$like": 1}})
    with pytest.raises(ValueError, match="top_k"):
        BGEM3Retriever(index=index, top_k=3)
    with pytest.raises(InvalidInputError, match="index: got MemoryStore, expected a HybridIndex"):
        BGEM3Retriever(index=MemoryStore())


def test_from_texts_and_documents(embeddings, tmp_path):
    made = BGEM3Retriever.from_texts(TEXTS, embeddings, [{"n": i} for i in range(5)], ids=list("abcde"), k=1)
    assert made.invoke(QUERY)[0].id == "a"
    documents = [Document(TEXTS[0], metadata={"n": 0}, id="x"), Document(TEXTS[1])]
    made = BGEM3Retriever.from_documents(documents, embeddings, persist_directory=tmp_path / "db", k=2)
    assert {"x"} < {document.id for document in made.invoke(QUERY)}
    assert documents == [Document(TEXTS[0], metadata={"n": 0}, id="x"), Document(TEXTS[1])]
    made.index.close()


def test_a_model_of_another_kind(retriever):
    other = DeterministicFakeEmbedding(size=6)
    assert BGEM3Retriever.from_texts(TEXTS, other, mode="dense", k=1).invoke(TEXTS[1])[0].page_content == TEXTS[1]
    with pytest.raises(InvalidInputError, match="mode: got 'hybrid', expected 'dense': DeterministicFakeEmbedding"):
        BGEM3Retriever.from_texts(TEXTS, other)


def test_tracing_names_store_and_model(retriever, checkpoint):
    recorder = Recorder()
    retriever.invoke(QUERY, {"callbacks": [recorder]})
    assert recorder.started == [("BGEM3Retriever", None)]
    assert recorder.metadata[0] == {
        "ls_retriever_name": "bgem3",
        "ls_vector_store_provider": "MemoryStore",
        "ls_embedding_provider": "BGEM3Embeddings",
        "ls_embedding_model": str(checkpoint),
    }
    with pytest.raises(InvalidInputError, match="k: expected"):
        retriever.invoke(QUERY, {"callbacks": [recorder]}, k=0)
    assert len(recorder.errors) == 1


def test_in_a_chain(retriever):
    chain = {"found": retriever, "question": RunnablePassthrough()} | RunnableLambda(
        lambda given: f"{given['question']} {given['found'][0].page_content}"
    )
    assert chain.invoke(QUERY) == f"{QUERY} {QUERY}"


async def test_in_an_ensemble(retriever, index):
    ensemble = EnsembleRetriever(
        retrievers=[retriever, BGEM3Retriever(index=index, mode="sparse")], weights=[0.5, 0.5], id_key="n"
    )
    found = ensemble.invoke(QUERY)
    assert found[0].id == "0"
    assert len({document.id for document in found}) == len(found)
    assert [document.id for document in await ensemble.ainvoke(QUERY)] == [document.id for document in found]


class TestRescoring:
    """All three heads over candidates of any store or retriever."""

    @pytest.fixture
    def other(self, embeddings) -> InMemoryVectorStore:
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=6))
        store.add_documents([Document(text, id=str(i), metadata={"n": i}) for i, text in enumerate(TEXTS)])
        return store

    @pytest.mark.parametrize("source", ["store", "retriever"])
    async def test_the_order_is_the_rerankers(self, other, embeddings, index, source):
        origin = other if source == "store" else other.as_retriever(search_kwargs={"k": 5})
        retriever = BGEM3Retriever.from_vectorstore(origin, embeddings, k=3, fetch_k=5, head_scores=True)
        expected = index.search(QUERY, k=3, exhaustive=True)
        for found in (retriever.invoke(QUERY), await retriever.ainvoke(QUERY)):
            assert [document.id for document in found] == [hit.id for hit in expected]
            assert [document.metadata["relevance_score"] for document in found] == pytest.approx(
                [hit.score for hit in expected], abs=1e-4
            )
            assert set(found[0].metadata["scores"]) == {"dense", "sparse", "multi_vector"}
        assert other.get_by_ids(["0"])[0].metadata == {"n": 0}

    def test_the_stores_own_model_scores(self, embeddings):
        store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
        assert BGEM3Retriever.from_vectorstore(store, k=1).invoke(QUERY)[0].page_content == TEXTS[0]

    def test_depth_and_weights_of_one_call(self, other, embeddings, passes):
        retriever = BGEM3Retriever.from_vectorstore(other, embeddings, k=1, fetch_k=2)
        retriever.invoke(QUERY)
        assert passes.sequences == 3
        assert len(retriever.invoke(QUERY, k=4, fetch_k=3, weights={"sparse": 1})) == 4
        assert retriever.invoke(QUERY, k=1, fetch_k=5)[0].id == "0"

    def test_a_filter_goes_to_the_store_in_its_own_language(self, other, embeddings):
        retriever = BGEM3Retriever.from_vectorstore(other, embeddings, filter=lambda document: document.id == "3")
        assert [document.id for document in retriever.invoke(QUERY)] == ["3"]
        ours = BGEM3VectorStore.from_texts(TEXTS, embeddings, [{"n": i} for i in range(5)])
        assert BGEM3Retriever.from_vectorstore(ours).invoke(QUERY, filter={"n": 2})[0].page_content == TEXTS[2]

    def test_nothing_found(self, embeddings):
        empty = InMemoryVectorStore(embeddings)
        assert BGEM3Retriever.from_vectorstore(empty).invoke(QUERY) == []

    def test_the_inner_retriever_is_a_child_run(self, other, embeddings):
        recorder = Recorder()
        retriever = BGEM3Retriever.from_vectorstore(other.as_retriever(), embeddings)
        retriever.invoke(QUERY, {"callbacks": [recorder]})
        names = [name for name, _ in recorder.started]
        assert names == ["BGEM3RescoringRetriever", "VectorStoreRetriever"]
        assert recorder.started[1][1] is not None
        assert recorder.metadata[0]["ls_vector_store_provider"] == "VectorStoreRetriever"

    def test_bad_input(self, other, embeddings):
        with pytest.raises(InvalidInputError, match="embedding: got DeterministicFakeEmbedding, expected BGEM3"):
            BGEM3Retriever.from_vectorstore(other)
        with pytest.raises(InvalidInputError, match="filter: VectorStoreRetriever takes none"):
            BGEM3Retriever.from_vectorstore(other.as_retriever(), embeddings, filter={"n": 1})
        with pytest.raises(InvalidInputError, match="vectorstore: got MemoryStore"):
            BGEM3Retriever.from_vectorstore(MemoryStore(), embeddings)
        with pytest.raises(InvalidInputError, match="k: expected a whole number >= 1"):
            BGEM3Retriever.from_vectorstore(other, embeddings, k=0)
        with pytest.raises(InvalidInputError, match="fetch_k: expected a whole number >= 1"):
            BGEM3Retriever.from_vectorstore(other, embeddings).invoke(QUERY, fetch_k=0)


@pytest.mark.parametrize("options", [{}, {"strategy": "rrf"}, {"strategy": "cascade"}, {"mode": "sparse"}], ids=str)
def test_every_store_finds_what_is_found_in_memory(make_store, embeddings, options):
    answers = []
    for store in (MemoryStore(), make_store(codec="float32")):
        vectorstore = BGEM3VectorStore(embeddings, store=store)
        documents = [Document(text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
        vectorstore.add_documents(documents, ids=[f"t{n}" for n in range(len(TEXTS))])
        vectorstore.delete(["t3"])
        retriever = BGEM3Retriever(index=vectorstore.index, k=3, **options)
        found = [
            retriever.invoke(QUERY),
            retriever.invoke("4711-B"),
            retriever.invoke(QUERY, filter={"n": {"$gte": 1}}),
        ]
        answers.append([(document.id, document.metadata.pop("relevance_score")) for one in found for document in one])
        assert [document.id for document in vectorstore.similarity_search(QUERY, k=3, **options)] == [
            document.id for document in found[0]
        ]
        vectorstore.close()
    assert [id_ for id_, _ in answers[0]] == [id_ for id_, _ in answers[1]]
    assert [score for _, score in answers[0]] == pytest.approx([score for _, score in answers[1]], abs=2e-3)
