"""LlamaIndex: a retriever that uses all three heads."""

import sys
from pathlib import Path

from llama_index.core.schema import TextNode

from llamaindex_bgem3 import BGEM3Embedding, BGEM3Retriever

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")

nodes = [
    TextNode(id_="bees", text="Honey bees dance to show where flowers are."),
    TextNode(id_="cactus", text="Los cactus guardan agua en el tallo."),
    TextNode(id_="quake", text="地震の前に携帯電話へ警報が届きます。"),
]
# store=ChromaStore("./db") keeps the index on disk.
retriever = BGEM3Retriever.from_nodes(nodes, BGEM3Embedding(model=str(model)), similarity_top_k=2)

for found in retriever.retrieve("Which plants store water?"):
    print(f"{found.score:.2f}  {found.node_id}  {found.text}")

# Output:
# 0.42  cactus  Los cactus guardan agua en el tallo.
# 0.27  quake  地震の前に携帯電話へ警報が届きます。
