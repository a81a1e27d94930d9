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
        hits = index.search(query, k=3, mode=mode)
        print(f"  {mode:<13}", "  ".join(f"{hit.id} {hit.score:.2f}" for hit in hits) or "no word in common")
index.close()

# Output:
# How do I fix E-0821?
#   dense         toner 0.45  tray 0.27  museum 0.16
#   sparse        toner 0.50  tray 0.30
#   multi_vector  toner 0.70  tray 0.63  wifi 0.50
#   hybrid        toner 0.57  tray 0.43  museum 0.27
# printer without wireless network
#   dense         wifi 0.67  tray 0.19  jam 0.16
#   sparse        no word in common
#   multi_vector  wifi 0.74  toner 0.44  jam 0.44
#   hybrid        wifi 0.61  tray 0.27  jam 0.26
