"""LangChain: a retriever that uses all three heads."""

import sys
from pathlib import Path

from langchain_core.documents import Document

from bgem3 import HybridIndex, M3Encoder, MemoryStore
from langchain_bgem3 import BGEM3Retriever, BGEM3VectorStore

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")

# ChromaStore("./db") instead of MemoryStore() keeps the index on disk.
index = HybridIndex(M3Encoder.from_pretrained(model), MemoryStore())
BGEM3VectorStore(index=index).add_documents(
    [
        Document("Honey bees dance to show where flowers are.", id="bees", metadata={"lang": "en"}),
        Document("Los cactus guardan agua en el tallo.", id="cactus", metadata={"lang": "es"}),
        Document("地震の前に携帯電話へ警報が届きます。", id="quake", metadata={"lang": "ja"}),
    ]
)

retriever = BGEM3Retriever(index=index, k=2)
for document in retriever.invoke("Which plants store water?"):
    print(f"{document.metadata['relevance_score']:.2f}  {document.id}  {document.page_content}")
index.close()

# Output:
# 0.42  cactus  Los cactus guardan agua en el tallo.
# 0.27  quake  地震の前に携帯電話へ警報が届きます。
