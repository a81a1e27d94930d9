"""`bgem3 backfill` on collections of Chroma, LangChain and LlamaIndex."""

from __future__ import annotations

import json

import chromadb
import pytest
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore
from llama_index.core.schema import TextNode
from llama_index.vector_stores.milvus import MilvusVectorStore
from pymilvus import DataType, MilvusClient
from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct
from typer.testing import CliRunner

from bgem3 import ChromaStore, HybridIndex, M3Encoder
from bgem3.cli.main import make_app
from bgem3.errors import IndexMismatchError, InvalidInputError
from bgem3.stores.addresses import Address
from langchain_bgem3 import BGEM3Embeddings
from llamaindex_bgem3.nodes import to_node

TEXTS = ["Brake pads wear out.", "Part KX-220B fits the small pump.", "茶叶含有茶氨酸，能让人放松。"]
IDS = ["brakes", "pump", "tea"]
# without it qdrant-client asks SQLite through a database that it leaves open
ANY_THREAD = {"force_disable_check_same_thread": True}


def run(command, *arguments):
    done = CliRunner().invoke(make_app(), [command, *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def searched(address, checkpoint, text="KX-220B"):
    encoder = M3Encoder.from_pretrained(checkpoint)
    with HybridIndex(encoder, Address.parse(address).make()) as index:
        return index.search(text, k=1, mode="sparse")[0]


def test_chroma(tmp_path, checkpoint):
    client = chromadb.PersistentClient(str(tmp_path / "other"))
    dense = M3Encoder.from_pretrained(checkpoint).encode(TEXTS, heads=("dense",)).dense
    client.create_collection("notes").add(ids=IDS, documents=TEXTS, embeddings=dense)
    client.close()
    done = run("backfill", "--db", tmp_path / "other", "-c", "notes", "--model", checkpoint, "--json")
    assert json.loads(done.stdout) == {"chunks": 3}
    assert searched(f"chroma:{tmp_path / 'other'}#notes", checkpoint).id == "pump"


@pytest.mark.parametrize("options", [{}, {"content_payload_key": "body", "metadata_payload_key": "about"}], ids=str)
def test_qdrant_in_place(tmp_path, checkpoint, options):
    embeddings = BGEM3Embeddings(model_name=str(checkpoint))
    documents = [Document(text, metadata={"n": n}) for n, text in enumerate(TEXTS)]
    local = {"path": str(tmp_path / "q"), **ANY_THREAD}
    theirs = QdrantVectorStore.from_documents(documents, embeddings, collection_name="notes", **local, **options)
    theirs.client.close()
    address = f"qdrant:{tmp_path / 'q'}#notes"
    fields = ["--text-field", "body", "--metadata-field", "about"] if options else []
    assert "3 chunks" in run("backfill", "--store", address, "--model", checkpoint, *fields).stdout
    assert (searched(address, checkpoint).text, searched(address, checkpoint).metadata) == (TEXTS[1], {"n": 1})
    client = QdrantClient(**local)
    theirs = QdrantVectorStore(client, "notes", embeddings, **options)
    found = theirs.similarity_search(TEXTS[1], k=1)[0]
    assert (found.page_content, found.metadata["n"]) == (TEXTS[1], 1)
    client.close()


def test_qdrant_into_a_new_collection_twice(tmp_path, checkpoint):
    embeddings = BGEM3Embeddings(model_name=str(checkpoint))
    metadatas = [{"n": 1, "none": None, "deep": {"a": [1]}}, {}, {"tags": ["x"]}]
    theirs = QdrantVectorStore.from_texts(
        TEXTS, embeddings, metadatas, path=str(tmp_path / "q"), collection_name="notes", **ANY_THREAD
    )
    theirs.client.close()
    new = f"qdrant:{tmp_path / 'new'}#ours"
    for _ in range(2):
        done = run(
            "backfill", "--store", f"qdrant:{tmp_path / 'q'}#notes", "--into", new, "--model", checkpoint, "--json"
        )
        assert json.loads(done.stdout) == {"chunks": 3}
    assert searched(new, checkpoint).text == TEXTS[1]
    assert searched(new, checkpoint, TEXTS[0]).metadata == {"n": 1, "deep": '{"a": [1]}'}


def langchain_milvus(uri, dynamic):
    """Make a collection as langchain-milvus 0.3 does: each metadata key a field, or all of them dynamic."""
    client = MilvusClient(uri)
    schema = client.create_schema(auto_id=dynamic, enable_dynamic_field=dynamic)
    schema.add_field("text", DataType.VARCHAR, max_length=65_535)
    if dynamic:
        schema.add_field("pk", DataType.INT64, is_primary=True, auto_id=True)
    else:
        schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=65_535)
        schema.add_field("n", DataType.INT64)
        schema.add_field("lang", DataType.VARCHAR, max_length=65_535)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    client.create_collection("notes", schema=schema, index_params=index)
    rows = [{"text": text, "n": n, "lang": "en", "vector": [0.5] * 4} for n, text in enumerate(TEXTS)]
    client.insert("notes", rows if dynamic else [{**row, "pk": id_} for row, id_ in zip(rows, IDS, strict=True)])
    client.close()


@pytest.mark.parametrize("dynamic", [False, True])
def test_milvus_of_langchain(tmp_path, checkpoint, dynamic):
    langchain_milvus(str(tmp_path / "m.db"), dynamic)
    source, new = f"milvus:{tmp_path / 'm.db'}#notes", f"milvus:{tmp_path / 'm.db'}#ours"
    with pytest.raises(InvalidInputError, match="Milvus adds no vectors .*Fix: --into"):
        run("backfill", "--store", source, "--model", checkpoint)
    done = run("backfill", "--store", source, "--into", new, "--model", checkpoint, "--json")
    assert json.loads(done.stdout) == {"chunks": 3}
    hit = searched(new, checkpoint)
    assert (hit.text, hit.metadata) == (TEXTS[1], {"n": 1, "lang": "en"})
    assert hit.id.isdigit() if dynamic else hit.id == "pump"


def test_milvus_of_llamaindex(tmp_path, checkpoint):
    theirs = MilvusVectorStore(uri=str(tmp_path / "m.db"), collection_name="notes", dim=4, similarity_metric="IP")
    nodes = [
        TextNode(id_=id_, text=text, metadata={"n": n}, embedding=[0.5] * 4)
        for n, (id_, text) in enumerate(zip(IDS, TEXTS, strict=True))
    ]
    theirs.add(nodes)
    theirs.client.close()
    new = f"qdrant:{tmp_path / 'q'}"
    run("backfill", "--store", f"milvus:{tmp_path / 'm.db'}#notes", "--into", new, "--model", checkpoint)
    hit = searched(new, checkpoint)
    assert hit.text == nodes[1].get_content("embed")
    assert to_node(hit) == nodes[1].model_copy(update={"embedding": None})


def test_what_cannot_be_filled(tmp_path, checkpoint):
    with pytest.raises(InvalidInputError, match="exactly one of --collection and --store"):
        run("backfill", "--model", checkpoint)
    chroma = f"chroma:{tmp_path / 'c'}"
    with pytest.raises(InvalidInputError, match="filled in place. Fix: leave --into out"):
        run("backfill", "--store", chroma, "--into", f"qdrant:{tmp_path / 'q'}", "--model", checkpoint)
    client = QdrantClient(path=str(tmp_path / "theirs"), **ANY_THREAD)
    client.create_collection("notes", vectors_config={})
    client.upsert("notes", [PointStruct(id=1, vector={}, payload={"body": "x"})])
    client.close()
    with pytest.raises(IndexMismatchError, match=r"no text in the field 'page_content', there are \['body'\]"):
        run(
            "backfill",
            "--store",
            f"qdrant:{tmp_path / 'theirs'}#notes",
            "--into",
            f"qdrant:{tmp_path / 'n'}",
            "--model",
            checkpoint,
        )


@pytest.mark.filterwarnings("ignore:.*were cut at max_length=16")
def test_a_second_time_texts_are_read_with_the_lengths_of_the_first(tmp_path, checkpoint):
    text = "alpha " * 60 + "zebra"
    client = chromadb.PersistentClient(str(tmp_path))
    notes = client.create_collection("notes")
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=16, overflow="truncate")
    vector = encoder.encode([text], heads=("dense",)).dense
    notes.add(ids=["1"], documents=[text], embeddings=vector)
    ChromaStore.adopt(client=client, sidecar=tmp_path, encoder=encoder, collection="notes").close()
    notes.add(ids=["2"], documents=[text], embeddings=vector)
    client.close()
    with pytest.raises(IndexMismatchError, match="made with other lengths: max_length=16"):
        ChromaStore.adopt(tmp_path, encoder=M3Encoder.from_pretrained(checkpoint), collection="notes")
    run("backfill", "--db", tmp_path, "-c", "notes", "--model", checkpoint, "--json")
    with HybridIndex(encoder, ChromaStore(tmp_path, collection="notes")) as index:
        first, second = index.search("zebra alpha")
        assert first.scores == pytest.approx(second.scores, abs=1e-3)
        assert index.search("zebra", mode="sparse") == []
