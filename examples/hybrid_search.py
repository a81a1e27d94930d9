"""Search by meaning, by words, by details, and by all three together."""

import sys
from pathlib import Path

from bgem3 import HybridIndex, M3Encoder, MemoryStore

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")

# ChromaStore("./db") instead of MemoryStore() keeps the index on disk.
index = HybridIndex(M3Encoder.from_pretrained(model), MemoryStore())
index.add(
    [
        "Error E-0812: the paper tray is empty. Add paper and press OK.",
        "Error E-0821: the toner is used up. Put in a new cartridge.",
        "Bei Papierstau das hintere Fach öffnen und das Blatt langsam herausziehen.",
        "打印机无法连接无线网络时，请先重新启动路由器。",
        "Le musée est fermé le lundi et les jours fériés.",
    ],
    ids=["tray", "toner", "jam", "wifi", "museum"],
)

for query in ("How do I fix E-0821?", "printer without wireless network"):
    print(query)
    for mode in ("dense", "sparse", "multi_vector", "hybrid"):
        hits = index.search(query, k=2, mode=mode)
        print(f"  {mode:<13}", "  ".join(f"{hit.id} {hit.score:.2f}" for hit in hits) or "no word in common")
index.close()

# Output:
# How do I fix E-0821?
#   dense         toner 0.36  tray 0.31
#   sparse        toner 0.44  tray 0.29
#   multi_vector  toner 0.74  tray 0.69
#   hybrid        toner 0.54  tray 0.47
# printer without wireless network
#   dense         wifi 0.70  tray 0.18
#   sparse        no word in common
#   multi_vector  wifi 0.82  toner 0.49
#   hybrid        wifi 0.66  tray 0.29
