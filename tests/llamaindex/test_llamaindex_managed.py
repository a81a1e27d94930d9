"""Moving from the managed index: its JSON is read, its pickle never."""

from __future__ import annotations

import pytest
from llama_index.core import StorageContext
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import TextNode

from bgem3.errors import StoreCorruptError, StoreError
from llamaindex_bgem3 import BGEM3Index
from llamaindex_bgem3.managed import convert_managed_index, managed_nodes

TEXTS = [f"Fact number {number} about bees." for number in range(12)]


@pytest.fixture
def folder(tmp_path):
    """Return a folder as the managed index's `persist` writes it, with a pickle that leaves a trace when loaded."""
    nodes = [TextNode(id_=f"node-{i}", text=text, metadata={"page": i}) for i, text in enumerate(TEXTS)]
    struct, storage = IndexDict(), StorageContext.from_defaults()
    storage.docstore.add_documents(nodes[::-1])
    for position, node in enumerate(nodes):
        struct.add_node(node, text_id=str(position))
    storage.index_store.add_index_struct(struct)
    old = tmp_path / "old"
    storage.persist(persist_dir=str(old))
    (old / "multi_embed_store.pkl").write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR.".encode())
    return old


def test_nodes_come_back_in_the_order_they_were_indexed(folder):
    nodes = managed_nodes(folder)
    assert [node.node_id for node in nodes] == [f"node-{i}" for i in range(12)]
    assert [node.get_content() for node in nodes] == TEXTS
    assert nodes[10].metadata == {"page": 10}


def test_the_index_is_made_anew_and_the_pickle_is_not_run(folder, embed_model, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    convert_managed_index(folder, embed_model=embed_model).persist(str(tmp_path / "new"))
    index = BGEM3Index.load_from_disk(str(tmp_path / "new"), embed_model=embed_model)
    found = index.as_retriever(similarity_top_k=20).retrieve(TEXTS[7])
    assert {one.node_id: one.text for one in found} == {f"node-{i}": text for i, text in enumerate(TEXTS)}
    assert not (tmp_path / "ran").exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(StoreError, match="no docstore.json. Fix: the folder given to"):
        managed_nodes(tmp_path)


@pytest.mark.parametrize("name", ["docstore.json", "index_store.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_folder(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(StoreCorruptError, match=r"not the JSON that LlamaIndex writes .*Fix"):
        managed_nodes(folder)
