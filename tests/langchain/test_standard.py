"""LangChain's own suites over every class that one exists for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.integration_tests.indexer import AsyncDocumentIndexTestSuite, DocumentIndexerTestSuite
from langchain_tests.unit_tests import EmbeddingsUnitTests

from bgem3 import HybridIndex
from langchain_bgem3 import BGEM3DocumentIndex, BGEM3Embeddings, BGEM3Retriever, BGEM3VectorStore
from langchain_bgem3.rescoring import BGEM3RescoringRetriever


class EmbeddingsParams:
    @pytest.fixture(autouse=True)
    def _settings(self, settings):
        self.settings = settings

    @property
    def embeddings_class(self):
        return BGEM3Embeddings

    @property
    def embedding_model_params(self):
        return self.settings


class TestEmbeddingsUnit(EmbeddingsParams, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(EmbeddingsParams, EmbeddingsIntegrationTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _index(self, index):
        self.index = index

    @property
    def retriever_constructor(self):
        return BGEM3Retriever

    @property
    def retriever_constructor_params(self):
        return {"index": self.index}

    @property
    def retriever_query_example(self):
        return "Where is the key?"


class TestRescoringRetriever(TestRetriever):
    @pytest.fixture(autouse=True)
    def _source(self, index):
        self.source = BGEM3VectorStore(index=index)

    @property
    def retriever_constructor(self):
        return BGEM3RescoringRetriever

    @property
    def retriever_constructor_params(self):
        return {"source": self.source, "encoder": self.index.encoder}


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture(params=["foreign", "bgem3"])
    def embedding(self, request):
        return self.get_embeddings() if request.param == "foreign" else request.getfixturevalue("embeddings")

    @pytest.fixture
    def vectorstore(self, embedding, store) -> Iterator[BGEM3VectorStore]:
        made = BGEM3VectorStore(embedding, store=store)
        yield made
        made.close()


@pytest.fixture
def document_index(encoder, store) -> Iterator[BGEM3DocumentIndex]:
    with HybridIndex(encoder, store) as index:
        yield BGEM3DocumentIndex(index=index)


class TestDocumentIndex(DocumentIndexerTestSuite):
    @pytest.fixture
    def index(self, document_index) -> BGEM3DocumentIndex:
        return document_index


class TestAsyncDocumentIndex(AsyncDocumentIndexTestSuite):
    @pytest.fixture
    async def index(self, document_index) -> BGEM3DocumentIndex:
        return document_index


def test_the_suite_embeds_with_a_model_of_another_kind():
    assert isinstance(VectorStoreIntegrationTests.get_embeddings(), DeterministicFakeEmbedding)
