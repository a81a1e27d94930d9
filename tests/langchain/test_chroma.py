"""A collection that langchain-chroma made, adopted: both classes read it."""

from langchain_chroma import Chroma

from bgem3 import ChromaStore, HybridIndex
from bgem3.stores.chroma_upkeep import Report, verify
from langchain_bgem3 import BGEM3VectorStore
from tests.langchain.conftest import TEXTS

IDS = ["a", "b", "c", "d", "e"]


def old_class(folder, embeddings):
    return Chroma("notes", embeddings, persist_directory=str(folder))


def test_both_classes_read_it(tmp_path, embeddings):
    old = old_class(tmp_path, embeddings)
    old.add_texts(TEXTS, metadatas=[{"n": i} for i in range(5)], ids=IDS)
    before = old.get(include=["documents", "metadatas"])
    query = TEXTS[2]
    ranked = [(doc.id, doc.page_content, doc.metadata) for doc in old.similarity_search(query, k=5)]
    old._client.close()
    encoder = embeddings.shared.encoder
    store = ChromaStore.adopt(tmp_path, encoder=encoder, collection="notes")
    assert verify(store) == Report(5)
    ours = BGEM3VectorStore(index=HybridIndex(encoder, store))
    for mode in ("dense", "sparse", "multi_vector", "hybrid"):
        found = ours.similarity_search(query, k=1, mode=mode)[0]
        assert (found.id, found.page_content, found.metadata) == ("c", query, {"n": 2})
    assert [doc.id for doc in ours.similarity_search(query, k=5, mode="dense")] == [id_ for id_, _, _ in ranked]
    ours.add_texts(["A new text."], ids=["f"], metadatas=[{"n": 5}])
    ours.delete(["b"])
    ours.close()
    again = old_class(tmp_path, embeddings)
    kept = again.get(ids=["a", "c", "d", "e"], include=["documents", "metadatas"])
    assert kept["documents"] == [text for text in before["documents"] if text != TEXTS[1]]
    assert kept["metadatas"] == [{"n": n} for n in (0, 2, 3, 4)]
    assert {doc.id for doc in again.similarity_search(query, k=10)} == {"a", "c", "d", "e", "f"}
    assert again.similarity_search("A new text.", k=1)[0].page_content == "A new text."
    again._client.close()


def test_what_the_old_class_writes_later_is_told_when_opening(tmp_path, embeddings, caplog):
    old = old_class(tmp_path, embeddings)
    old.add_texts(TEXTS[:2], ids=IDS[:2])
    old._client.close()
    ChromaStore.adopt(tmp_path, encoder=embeddings.encoder, collection="notes").close()
    assert not caplog.records
    old = old_class(tmp_path, embeddings)
    old.add_texts(TEXTS[2:], ids=IDS[2:])
    old._client.close()
    store = ChromaStore(tmp_path, collection="notes")
    with HybridIndex(embeddings.encoder, store) as index:
        assert "'notes': 3 chunks were written by another program and are not found" in caplog.text
        assert index.count() == 2
