"""Long texts: windows read all of a text, truncation forgets its end."""

import sys
import warnings
from pathlib import Path

from bgem3 import HybridIndex, M3Encoder, MemoryStore

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")

filler = "The committee met in the town hall and spoke about roads, schools and the budget of the year. "
minutes = filler * 12 + "At the end it was decided to plant forty lime trees along the river. " + filler
other = filler * 13 + "At the end the mayor thanked everybody for coming. " + filler
query = "How many trees will be planted?"

for overflow in ("window", "truncate"):
    # bge-m3 reads 8,192 tokens at once; 64 shows with a short text what happens beyond.
    encoder = M3Encoder.from_pretrained(model, max_length=64, overflow=overflow, window_overlap=16)
    index = HybridIndex(encoder, MemoryStore())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index.add([minutes, other], ids=["minutes", "other"])
        hits = index.search(query, mode="multi_vector")
    print(f"{overflow}:", "  ".join(f"{hit.id} {hit.score:.2f}" for hit in hits))
    for warning in caught:
        print("  warned:", warning.message)
    index.close()

# Output:
# window: minutes 0.62  other 0.47
# truncate: minutes 0.46  other 0.46
#   warned: 2 of 2 texts were cut at max_length=64 tokens (overflow='truncate'); overflow='window' reads them whole
