"""A suite for document compressors that rerank; LangChain has none."""

from __future__ import annotations

from copy import deepcopy

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document


class CompressorSuite:
    """Subclasses give `make`, which returns a compressor for some `top_n`, and documents in any order but the best."""

    query = "The key lies under the mat."

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    @pytest.fixture
    def documents(self) -> list[Document]:
        return [
            Document("Honey never spoils.", id="c", metadata={"n": 2, "tags": ["x"]}),
            Document("The key lies somewhere.", id="b"),
            Document(self.query, id="a", metadata={"relevance_score": -5.0}),
            Document("Order 4711-B left the warehouse.", metadata={"n": 3}),
        ]

    def test_it_is_a_compressor(self, make):
        assert isinstance(make(3), BaseDocumentCompressor)

    def test_order(self, make, documents):
        found = make(4).compress_documents(documents, self.query)
        scores = [document.metadata["relevance_score"] for document in found]
        assert found[0].page_content == self.query
        assert scores == sorted(scores, reverse=True)
        assert all(type(score) is float for score in scores)

    @pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (10, 4), (None, 4)])
    def test_top_n(self, make, documents, top_n, count):
        found = make(top_n).compress_documents(documents, self.query)
        assert len(found) == count
        assert found[0].id == "a"

    async def test_no_documents(self, make):
        assert list(make(3).compress_documents([], self.query)) == []
        assert list(await make(3).acompress_documents([], self.query)) == []

    def test_ids_and_metadata_are_kept(self, make, documents):
        before = {document.page_content: document for document in deepcopy(documents)}
        for found in make(4).compress_documents(documents, self.query):
            origin = before[found.page_content]
            assert found.id == origin.id
            assert found.metadata | origin.metadata == {**found.metadata, **origin.metadata}
            assert set(found.metadata) == {*origin.metadata, "relevance_score"}

    def test_nothing_of_the_callers_is_changed(self, make, documents):
        before = deepcopy(documents)
        found = make(4).compress_documents(documents, self.query)
        for document in found:
            document.metadata.setdefault("tags", []).append("mine")
        assert documents == before

    def test_any_sequence(self, make, documents):
        assert make(1).compress_documents(tuple(documents), self.query)[0].id == "a"

    def test_equal_texts_keep_their_order(self, make):
        twins = [Document("same", id=str(i)) for i in range(3)]
        assert [document.id for document in make(3).compress_documents(twins, self.query)] == ["0", "1", "2"]

    async def test_async_gives_the_same(self, make, documents):
        found = make(3).compress_documents(documents, self.query)
        awaited = await make(3).acompress_documents(documents, self.query)
        assert [document.id for document in awaited] == [document.id for document in found]
        assert [document.metadata["relevance_score"] for document in awaited] == pytest.approx(
            [document.metadata["relevance_score"] for document in found], abs=1e-5
        )

    async def test_callbacks_are_accepted(self, make, documents):
        callbacks = [BaseCallbackHandler()]
        assert len(make(2).compress_documents(documents, self.query, callbacks=callbacks)) == 2
        assert len(await make(2).acompress_documents(documents, self.query, callbacks=callbacks)) == 2
