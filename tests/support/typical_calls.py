"""Calls as a user writes them, for a type checker: it accepts every line but those marked `refused`. Never run."""

import asyncio

import chromadb
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bgem3 import (
    ChromaStore,
    HybridIndex,
    M3Embeddings,
    M3Encoder,
    MemoryStore,
    MilvusStore,
    QdrantStore,
    Reranker,
    Weights,
    score,
)
from langchain_bgem3 import BGEM3Embeddings, BGEM3Reranker
from llamaindex_bgem3 import BGEM3Embedding, BGEM3Rerank

encoder: M3Encoder = M3Encoder.from_pretrained(
    "BAAI/bge-m3",
    backend="auto",
    precision="auto",
    device=None,
    max_length=None,
    overflow="window",
    window=None,
    window_overlap=None,
    revision=None,
    cache_dir=None,
    local_files_only=False,
    num_threads=None,
)
texts = ["a", "b"]
out: M3Embeddings = encoder.encode(texts)
some: M3Embeddings = encoder.encode(texts, heads=("dense", "sparse"))
dense: NDArray[np.float32] = out.dense
sparse: csr_array = out.sparse
tokens: NDArray[np.float32] = out.multi_vector[0]
flag: dict[str, object] = out.to_flag()
queries: M3Embeddings = encoder.encode_queries(texts)
passages: M3Embeddings = encoder.encode_passages(texts)
later: M3Embeddings = asyncio.run(encoder.aencode(texts))
fingerprint: str = encoder.fingerprint
scores = score(queries, passages)
if scores.dense is not None:
    mean: NDArray[np.float32] = scores.combine(Weights())
for store in (
    ChromaStore("./db", collection="bgem3"),
    ChromaStore(client=chromadb.PersistentClient("./db"), sidecar="./side"),
    MemoryStore(),
    QdrantStore(url="http://qdrant:6333"),
    MilvusStore("milvus.db"),
):
    with HybridIndex(encoder, store) as index:
        ids: list[str] = index.add(texts, ids=None, metadatas=None, show_progress=False)
        index.add(texts, metadatas=[{"lang": "zh", "year": 2020, "tags": ["a"]}, None])
        hits = index.search(
            "question",
            k=10,
            mode="hybrid",
            strategy="union",
            fetch_k=100,
            weights=None,
            rrf_k=60,
            where={"lang": "zh"},
            explain=False,
        )
        found: tuple[str, str, float, float] = hits[0].id, hits[0].text, hits[0].score, hits[0].scores["dense"]
        index.get(ids)
        gone: int = index.delete(ids=ids) + index.delete(where={"lang": "zh"}) + index.count()
best: str = Reranker(encoder).rerank("query", texts, top_n=5)[0].text
index.search("question", K=3)  # refused
index.search("question", mode="colbert")  # refused
M3Encoder.from_pretrained(max_len=512)  # refused

names: list[str] = [
    BGEM3Embeddings(model="a").model,
    BGEM3Embeddings(model_name="a").model_name,
    BGEM3Reranker(model="a", top_n=1).model,
    BGEM3Embedding(model="a").model,
    BGEM3Embedding(model_name="a").model_name,
    BGEM3Rerank(model="a", top_n=1).model,
]
BGEM3Embeddings(modell="a")  # refused
