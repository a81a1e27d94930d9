"""A collection that LlamaIndex's ChromaVectorStore made, adopted: both classes read it."""

import chromadb
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.chroma import ChromaVectorStore

from bgem3 import ChromaStore
from bgem3.stores.chroma_upkeep import Report, verify
from llamaindex_bgem3 import BGEM3VectorStore

TEXTS = {"a": "The key lies under the mat.", "b": "Der Schlüssel liegt im Amt.", "c": "Rain is expected."}


def collection_of(client):
    return client.get_or_create_collection("notes", embedding_function=None)


@pytest.fixture
def folder(tmp_path, embed_model):
    client = chromadb.PersistentClient(str(tmp_path / "db"))
    nodes = [
        TextNode(
            id_=id_,
            text=text,
            metadata={"page": i, "file": f"{id_}.txt"},
            excluded_embed_metadata_keys=["page"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{id_}")},
        )
        for i, (id_, text) in enumerate(TEXTS.items())
    ]
    storage = StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection_of(client)))
    VectorStoreIndex(nodes, storage_context=storage, embed_model=embed_model)
    client.close()
    return tmp_path / "db"


def test_both_classes_read_it(folder, embed_model):
    client = chromadb.PersistentClient(str(folder))
    before = collection_of(client).get(include=["documents", "metadatas", "embeddings"])
    client.close()
    encoder = embed_model.shared.encoder
    store = ChromaStore.adopt(folder, encoder=encoder, collection="notes")
    assert verify(store) == Report(3)
    ours = BGEM3VectorStore.from_store(store, embed_model)
    for mode in ("default", "sparse", "hybrid"):
        query = TEXTS["a"]
        asked = VectorStoreQuery(query_str=query, query_embedding=embed_model.get_query_embedding(query), mode=mode)
        node = ours.query(asked).nodes[0]
        assert (node.node_id, node.text, node.metadata) == ("a", TEXTS["a"], {"page": 0, "file": "a.txt"})
        assert node.ref_doc_id == "doc-a"
    filters = MetadataFilters(filters=[MetadataFilter(key="page", value=1)])
    assert [(node.node_id, node.text) for node in ours.get_nodes(filters=filters)] == [("b", TEXTS["b"])]
    # encoded as LlamaIndex embeds it: the file's name is part of the text
    asked = VectorStoreQuery(query_str="c.txt", mode="sparse", similarity_top_k=1)
    assert ours.query(asked).ids == ["c"]
    # what ours adds, the old class reads, and what ours reads was not changed
    ours.add([TextNode(id_="d", text="Snow will fall.", metadata={"page": 3})])
    ours.delete("doc-b")
    store.close()
    client = chromadb.PersistentClient(str(folder))
    after = collection_of(client).get(ids=["a", "c"], include=["documents", "metadatas", "embeddings"])
    for part in ("documents", "metadatas"):
        assert after[part] == [before[part][0], before[part][2]]
    assert after["embeddings"] == pytest.approx(before["embeddings"][[0, 2]], abs=1e-6)
    old = ChromaVectorStore(chroma_collection=collection_of(client))
    index = VectorStoreIndex.from_vector_store(old, embed_model=embed_model)
    found = {hit.node_id: hit.text for hit in index.as_retriever(similarity_top_k=10).retrieve("snow")}
    assert found == {"a": TEXTS["a"], "c": TEXTS["c"], "d": "page: 3\n\nSnow will fall."}
    client.close()


def test_repair_encodes_a_node_as_llamaindex_does(folder, embed_model):
    from functools import partial

    from bgem3.index_settings import encode_passages
    from bgem3.stores.chroma_upkeep import backfill

    encoder = embed_model.shared.encoder
    store = ChromaStore.adopt(folder, encoder=encoder, collection="notes")
    store._sidecar.database.run("UPDATE rows SET weights = x'00' WHERE id = 'c'")
    assert backfill(store, partial(encode_passages, encoder, "m3")) == {"c": "damaged"}
    ours = BGEM3VectorStore.from_store(store, embed_model)
    asked = VectorStoreQuery(query_str="c.txt", mode="sparse", similarity_top_k=1)
    assert ours.query(asked).ids == ["c"]
    store.close()
