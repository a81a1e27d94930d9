"""The small pure parts: options, relevance, diversity, the document index's answers, docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module
from threading import get_ident

import numpy as np
import pytest
from langchain_core.documents import Document

import langchain_bgem3
from bgem3 import Weights
from bgem3.errors import InvalidInputError
from bgem3.types import make_plan
from langchain_bgem3 import BGEM3DocumentIndex, BGEM3VectorStore
from langchain_bgem3.diversity import most_diverse
from langchain_bgem3.options import relevance, to_options, to_weights

_MODULES = sorted({*langchain_bgem3._HOMES.values(), "langchain_bgem3.milvus", "langchain_bgem3.rescoring"})


def test_weights():
    assert to_weights(None) is Weights.balanced
    assert to_weights(Weights.lexical) is Weights.lexical
    assert to_weights({"sparse": 2}) == Weights(dense=0, sparse=2, multi_vector=0)


def test_options():
    options = to_options({"k": 3, "filter": {"a": 1}, "weights": {"dense": 1}})
    assert options == {"k": 3, "where": {"a": 1}, "weights": Weights(1, 0, 0)}
    assert to_options({"filter": {}}) == {"where": None, "weights": None}
    with pytest.raises(InvalidInputError, match="unknown search options top"):
        to_options({"top": 3})


@pytest.mark.parametrize(
    ("score", "options", "expected"),
    [
        (0.7, {"mode": "dense"}, 0.7),
        (-0.2, {"mode": "dense"}, 0.0),
        (1.4, {"mode": "sparse"}, 1.0),
        (0.5, {}, 0.5),
        # two heads of weight 1, first in both: 2 / 61 of 2 / 61
        (2 / 61, {"strategy": "rrf", "weights": Weights(1, 1, 0)}, 1.0),
        # second in one of them, absent from the other: 1 / 62 of 2 / 61
        (1 / 62, {"strategy": "rrf", "weights": Weights(1, 1, 0)}, 61 / 124),
        (1 / 20, {"strategy": "rrf", "weights": Weights(1, 0, 0), "rrf_k": 9}, 0.5),
        (0.4, {"strategy": "rrf", "mode": "dense"}, 0.4),
    ],
)
def test_relevance(score, options, expected):
    assert relevance(score, make_plan(options)) == pytest.approx(expected)


def test_diversity():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    # after 0: 1 is worth 0.5 * 0.9 - 0.5 * 1 = -0.05, 2 is worth 0.5 * 0.2 - 0.5 * 0 = 0.1
    assert most_diverse([1.0, 0.9, 0.2], vectors, k=3, lambda_mult=0.5) == [0, 2, 1]
    assert most_diverse([1.0, 0.9, 0.2], vectors, k=2, lambda_mult=1) == [0, 1]
    assert most_diverse([0.2, 0.9, 1.0], vectors, k=1, lambda_mult=0) == [2]
    with pytest.raises(InvalidInputError, match="lambda_mult: got -1"):
        most_diverse([1.0], vectors[:1], k=1, lambda_mult=-1)


async def test_document_index_finds_what_it_was_given(index):
    documents = BGEM3DocumentIndex(index=index, k=1, head_scores=True)
    await documents.aupsert([Document("A new key.", id="new", metadata={"lang": "en"})])
    found = documents.invoke("A new key.", filter={"lang": "en"})[0]
    assert (found.id, set(found.metadata)) == ("new", {"lang", "relevance_score", "scores"})
    assert (await documents.ainvoke("A new key."))[0].id == "new"


def test_document_index_refuses_what_it_does_not_know(index):
    documents = BGEM3DocumentIndex(index=index)
    for call in (documents.upsert, documents.get, documents.delete):
        with pytest.raises(InvalidInputError, match="unknown arguments batch"):
            call([], batch=1)
    with pytest.raises(InvalidInputError, match="ids: expected a list of strings, got one str"):
        documents.delete("012")
    assert documents.delete(["0", "0", "missing"]) == {
        "num_deleted": 1,
        "succeeded": ["0"],
        "failed": [],
        "num_failed": 0,
    }


@pytest.mark.parametrize("name", [*_MODULES, "langchain_bgem3.store_retriever"])
def test_docstring_examples(name, embeddings):
    module = import_module(name)
    names = {"embeddings": embeddings, "Document": Document}
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


async def test_documents_of_a_lazy_loader_keep_ids_and_metadata(embeddings):
    def lazy_load():
        yield from (Document(text, id=text, metadata={"n": n}) for n, text in enumerate(["a", "b"]))

    stores = [BGEM3VectorStore.from_documents(lazy_load(), embeddings)]
    stores.append(await BGEM3VectorStore.afrom_documents(lazy_load(), embeddings))
    stores += [BGEM3VectorStore(embeddings) for _ in range(3)]
    assert stores[2].add_documents(lazy_load()) == ["a", "b"]
    assert await stores[3].aadd_documents(lazy_load()) == ["a", "b"]
    BGEM3DocumentIndex(index=stores[4].index).upsert(lazy_load())
    for store in stores:
        assert store.get_by_ids(["a", "b"]) == list(lazy_load())
    assert len(stores[2].add_documents(Document(text) for text in "cd")) == 2


async def test_async_methods_read_a_loader_beside_the_event_loop(embeddings):
    readers = set()

    def lazy_load():
        readers.add(get_ident())
        yield Document("tea", id="a")

    store = await BGEM3VectorStore.afrom_documents(lazy_load(), embeddings)
    await store.aadd_documents(lazy_load())
    await store.aadd_texts(document.page_content for document in lazy_load())
    await BGEM3DocumentIndex(index=store.index).aupsert(lazy_load())
    assert get_ident() not in readers
