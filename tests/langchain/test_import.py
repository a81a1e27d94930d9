from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

import pytest

import langchain_bgem3

_HEAVY = ("torch", "transformers", "chromadb", "qdrant_client", "pymilvus", "FlagEmbedding", "onnxruntime")
_BASES = """
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.embeddings import Embeddings
from langchain_core.indexing.base import DocumentIndex
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
"""
_CODE = """
import json, sys, time
{before}
start = time.perf_counter()
{measured}
took = time.perf_counter() - start
print(json.dumps([took, [name for name in {heavy!r} if name in sys.modules]]))
"""
# Loads every class but the two that are for Qdrant and Milvus.
_CLASSES = """
from langchain_bgem3 import (
    BGEM3CrossEncoder, BGEM3DocumentIndex, BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore
)
"""


def run(before: str, measured: str) -> tuple[float, list[str]]:
    code = _CODE.format(before=before, measured=measured, heavy=_HEAVY)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    took, loaded = json.loads(done.stdout)
    return took, loaded


def test_importing_the_package_costs_next_to_nothing():
    runs = [run(_BASES, "import langchain_bgem3") for _ in range(3)]
    assert median(took for took, _ in runs) < 0.3
    assert runs[0][1] == []


def test_no_class_loads_an_engine_or_a_client():
    assert run("", _CLASSES)[1] == []


def test_the_names_of_the_package_are_there():
    assert sorted(langchain_bgem3.__all__) == langchain_bgem3.__all__
    assert set(langchain_bgem3.__all__) == set(langchain_bgem3._HOMES)
    for name in langchain_bgem3.__all__:
        assert getattr(langchain_bgem3, name).__name__ == name
        assert name in dir(langchain_bgem3)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'langchain_bgem3' has no attribute 'Nothing'"):
        _ = langchain_bgem3.Nothing
