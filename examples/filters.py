"""Search only among chunks whose metadata fits, and delete by the same filters."""

import sys
from pathlib import Path

from bgem3 import HybridIndex, M3Encoder, MemoryStore

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")
index = HybridIndex(M3Encoder.from_pretrained(model), MemoryStore())
index.add(
    [
        "Das Museum ist montags geschlossen.",
        "The museum is closed on Mondays.",
        "The museum is closed for repairs.",
        "Le musée ferme à dix-huit heures.",
    ],
    ids=["de-24", "en-24", "en-19", "fr-25"],
    metadatas=[
        {"lang": "de", "year": 2024},
        {"lang": "en", "year": 2024},
        {"lang": "en", "year": 2019},
        {"lang": "fr", "year": 2025},
    ],
)

for where in (
    None,
    {"lang": "en"},
    {"year": {"$gte": 2020}},
    {"$and": [{"lang": {"$in": ["de", "fr"]}}, {"year": {"$lt": 2025}}]},
):
    hits = index.search("When is the museum closed?", where=where)
    print(where, "->", sorted(hit.id for hit in hits))

print("deleted:", index.delete(where={"year": {"$lt": 2020}}), "left:", index.count())
index.close()

# Output:
# None -> ['de-24', 'en-19', 'en-24', 'fr-25']
# {'lang': 'en'} -> ['en-19', 'en-24']
# {'year': {'$gte': 2020}} -> ['de-24', 'en-24', 'fr-25']
# {'$and': [{'lang': {'$in': ['de', 'fr']}}, {'year': {'$lt': 2025}}]} -> ['de-24']
# deleted: 1 left: 3
