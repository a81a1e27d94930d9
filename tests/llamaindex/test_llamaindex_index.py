from __future__ import annotations

import numpy as np
import pytest
from llama_index.core import Document, MockEmbedding, StorageContext
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import IndexNode, TextNode

from bgem3 import ChromaStore, Weights
from bgem3.errors import IndexMismatchError, InvalidInputError, StoreCorruptError, StoreError, StoreWriteError
from bgem3.scoring import score
from bgem3.stores.memory import MemoryStore
from llamaindex_bgem3 import BGEM3Embedding, BGEM3Index
from tests.llamaindex.conformance import equals, full_node, ids_of, nodes_of, scores_of

DOCUMENTS = [
    Document(id_="cats", text="the cat sat on the mat", metadata={"kind": "animal"}),
    Document(id_="dogs", text="a dog barked at night", metadata={"kind": "animal"}),
    Document(id_="pumps", text="part KX-220B fits the pump", metadata={"kind": "thing"}),
]


@pytest.fixture
def index(embed_model):
    return BGEM3Index.from_documents(DOCUMENTS, embed_model=embed_model)


def sources(found):
    return [one.node.ref_doc_id for one in found]


def test_is_a_llamaindex_class():
    assert BaseIndex.__name__ in [base.__name__ for base in BGEM3Index.__mro__]


def test_the_managed_index_s_constructor(checkpoint):
    index = BGEM3Index(
        nodes=nodes_of("d0", "d1"),
        model_name=str(checkpoint),
        index_name="mine",
        pooling_method="cls",
        normalize_embeddings=True,
        use_fp16=False,
        batch_size=32,
        doc_maxlen=100,
        query_maxlen=60,
        weights_for_different_modes=[0.4, 0.2, 0.4],
        show_progress=False,
    )
    assert index.index_name == "mine"
    assert index.embed_model.max_length == 100
    assert index.weights == Weights(0.4, 0.2, 0.4)
    assert len(index.query("cat", top_k=1)) == 1
    assert len(index.as_retriever(similarity_top_k=2).retrieve("cat")) == 2


def test_scores_are_the_weighted_mean(embed_model):
    nodes = nodes_of("d0", "d1", "d2", "d3")
    weights = [0.5, 0.2, 0.3]
    index = BGEM3Index(nodes=nodes, embed_model=embed_model, weights_for_different_modes=weights)
    encoder = embed_model.shared.encoder
    texts = [node.get_content("embed") for node in nodes]
    expected = score(encoder.encode(["the dog"]), encoder.encode(texts)).combine(Weights(*weights))[0]
    found = index.query("the dog", top_k=4)
    assert ids_of(found) == [f"n{i}" for i in np.argsort(-expected)]
    assert scores_of(found) == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_default_weights_are_the_managed_index_s(index):
    assert index.weights == Weights(1, 1, 1)


async def test_insert_update_delete(index):
    index.insert(Document(id_="birds", text="a bird sings"))
    await index.ainsert(Document(id_="fish", text="a fish swims"))
    assert sources(index.query("a bird sings", 1)) == ["birds"]
    assert set(index.ref_doc_info) == {"cats", "dogs", "pumps", "birds", "fish"}
    index.update_ref_doc(Document(id_="birds", text="an ostrich runs"))
    await index.aupdate_ref_doc(Document(id_="fish", text="a whale dives"))
    texts = {one.node.text for one in index.query("animals", 10)}
    assert {"an ostrich runs", "a whale dives"} <= texts
    assert not {"a bird sings", "a fish swims"} & texts
    index.delete_ref_doc("birds", delete_from_docstore=True)
    await index.adelete_ref_doc("fish")
    assert sorted(sources(index.query("animals", 10))) == ["cats", "dogs", "pumps"]
    assert index.refresh_ref_docs([DOCUMENTS[0], Document(id_="dogs", text="a wolf howls")]) == [False, True]
    assert "a wolf howls" in {one.node.text for one in index.query("animals", 10)}


async def test_insert_and_delete_nodes(embed_model):
    index = BGEM3Index(nodes=[], embed_model=embed_model)
    index.insert_nodes([full_node("a")])
    await index.ainsert_nodes([TextNode(id_="b", text="b")])
    assert sorted(ids_of(index.query("x"))) == ["a", "b"]
    assert next(one.node for one in index.query("x") if one.node.node_id == "a") == full_node("a")
    await index.adelete_nodes(["a"])
    assert ids_of(index.query("x")) == ["b"]


def test_filters(index):
    retriever = index.as_retriever(similarity_top_k=5, filters=equals("kind", "animal"))
    assert sorted(sources(retriever.retrieve("x"))) == ["cats", "dogs"]
    assert sources(index.as_retriever(doc_ids=["pumps"]).retrieve("x")) == ["pumps"]


async def test_query_engine(index):
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=1)
    response = engine.query("Where is the cat?")
    assert len(response.source_nodes) == 1
    assert (await engine.aquery("Where is the cat?")).source_nodes == response.source_nodes


def test_persist_and_load(index, embed_model, tmp_path, passes):
    index.persist(str(tmp_path))
    before = index.query("the dog", 3)
    passes.sequences = 0
    again = BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model, index_name="again")
    assert passes.sequences == 0
    assert again.index_name == "again"
    assert again.index_id == index.index_id
    after = again.query("the dog", 3)
    assert ids_of(after) == ids_of(before)
    assert scores_of(after) == pytest.approx(scores_of(before), abs=1e-6)
    again.insert(Document(id_="birds", text="a bird sings"))
    again.delete_ref_doc("cats", delete_from_docstore=True)
    again.persist(str(tmp_path))
    third = BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)
    assert sorted(sources(third.query("x", 10))) == ["birds", "dogs", "pumps"]


def test_persisting_leaves_other_files_alone(index, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    index.persist(str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob("*.pkl"))


def test_an_empty_index_is_kept_too(embed_model, tmp_path):
    BGEM3Index(nodes=[], embed_model=embed_model).persist(str(tmp_path))
    again = BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)
    assert again.query("x") == []
    again.insert_nodes([TextNode(id_="a", text="a")])
    assert ids_of(again.query("x")) == ["a"]


def test_over_chroma(embed_model, tmp_path):
    index = BGEM3Index.from_documents(DOCUMENTS, embed_model=embed_model, store=ChromaStore(tmp_path / "db"))
    before = index.query("the dog", 3)
    index.persist(str(tmp_path / "index"))
    index.hybrid_index.close()
    again = BGEM3Index.load_from_disk(
        str(tmp_path / "index"), embed_model=embed_model, store=ChromaStore(tmp_path / "db")
    )
    assert ids_of(again.query("the dog", 3)) == ids_of(before)
    again.hybrid_index.close()


def test_the_managed_index_s_pickle_is_not_opened(embed_model, tmp_path):
    StorageContext.from_defaults().persist(str(tmp_path))
    (tmp_path / "multi_embed_store.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(StoreError, match=r"pickle.*CVE-2024-14021.*Fix"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)


def test_no_index_in_the_folder(embed_model, tmp_path):
    with pytest.raises(StoreError, match=r"no index, bgem3_index\.npz is not there"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 broken"])
def test_a_damaged_file(index, embed_model, tmp_path, content):
    index.persist(str(tmp_path))
    (tmp_path / "bgem3_index.npz").write_bytes(content)
    with pytest.raises(StoreCorruptError, match="damaged"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)


def test_a_truncated_file(index, embed_model, tmp_path):
    index.persist(str(tmp_path))
    path = tmp_path / "bgem3_index.npz"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(StoreCorruptError, match="damaged"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)


def test_nodes_that_are_not_in_the_docstore(index, embed_model, tmp_path):
    index.persist(str(tmp_path))
    (tmp_path / "docstore.json").write_text("{}")
    with pytest.raises(StoreCorruptError, match="3 of 3 nodes are not in the docstore"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model)


def test_another_checkpoint(index, checkpoint_factory, tmp_path):
    index.persist(str(tmp_path))
    other = BGEM3Embedding(str(checkpoint_factory(seed=7)), backend="onnx")
    with pytest.raises(IndexMismatchError, match="fingerprint"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=other)


def test_a_folder_that_cannot_be_written(index, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreWriteError, match=r"cannot be written.*Fix"):
        index.persist(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pooling_method": "mean"}, "pooling_method: got 'mean', expected 'cls'.*Fix"),
        ({"normalize_embeddings": False}, "normalize_embeddings: got False"),
        ({"weights_for_different_modes": [1.0]}, "expected three.*Fix"),
        ({"weights_for_different_modes": [0, 0, 0]}, "weights: the sum must be > 0"),
        ({"weights_for_different_modes": [-1, 0, 0]}, "weights: dense must be"),
    ],
)
def test_bad_options(embed_model, options, match):
    with pytest.raises(InvalidInputError, match=match):
        BGEM3Index(nodes=[], embed_model=embed_model, **options)


def test_settings_of_other_embeddings_do_not_matter(embed_model):
    nodes = [TextNode(id_="a", text="a")]
    MockEmbedding(embed_dim=1)(nodes)
    assert ids_of(BGEM3Index(nodes=nodes, embed_model=embed_model).query("a")) == ["a"]


def test_what_was_read_in_short_windows_stays_so(checkpoint, tmp_path):
    made = BGEM3Embedding(model_name=str(checkpoint), max_length=16)
    BGEM3Index(nodes=[TextNode(id_="a", text="a cat sleeps")], embed_model=made).persist(str(tmp_path))
    again = BGEM3Index.load_from_disk(str(tmp_path), embed_model=BGEM3Embedding(model_name=str(checkpoint)))
    assert again.hybrid_index.settings.max_length == 16
    with pytest.raises(IndexMismatchError, match="max_length=16, now"):
        again.insert_nodes([TextNode(id_="b", text="a dog barks")])


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_that_is_missing_or_damaged(kept, index, embed_model, tmp_path):
    with pytest.raises(StoreError, match=r"no docstore\.json\. Fix: the folder given to persist"):
        BGEM3Index.load_from_disk(str(tmp_path / "nowhere"), embed_model=embed_model, store=MemoryStore())
    index.persist(str(tmp_path))
    (tmp_path / "docstore.json").write_text("{")
    with pytest.raises(StoreCorruptError, match="not the JSON that LlamaIndex writes"):
        BGEM3Index.load_from_disk(str(tmp_path), embed_model=embed_model, store=None if kept else MemoryStore())


@pytest.mark.parametrize("later", [True, False])
async def test_an_object_that_cannot_be_written_stays_in_memory(later, embed_model):
    index = BGEM3Index(nodes=[], embed_model=embed_model)
    node = IndexNode(id_="a", index_id="a", text="all about cats", obj=BGEM3Index(nodes=[], embed_model=embed_model))
    await index.ainsert_nodes([node]) if later else index.insert_nodes([node])
    assert isinstance(index._object_map["a"], BGEM3Index)
