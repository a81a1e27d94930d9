"""Put the results of another search in a better order."""

import sys
from pathlib import Path

from bgem3 import M3Encoder, Reranker, Weights

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")
reranker = Reranker(M3Encoder.from_pretrained(model), weights=Weights.balanced)

found_elsewhere = [
    "The museum shop sells postcards and books.",
    "La biblioteca abre los sábados de diez a dos.",
    "Books can be returned at any time through the hatch beside the door.",
    "Der Zug fährt samstags um zehn Uhr.",
]
for ranked in reranker.rerank("When is the library open on Saturday?", found_elsewhere, top_n=2):
    heads = "  ".join(f"{head} {value:.2f}" for head, value in ranked.scores.items())
    print(f"{ranked.score:.2f}  (was {ranked.index + 1})  {ranked.text}\n      {heads}")

# Output:
# 0.61  (was 2)  La biblioteca abre los sábados de diez a dos.
#       dense 0.67  sparse 0.00  multi_vector 0.72
# 0.43  (was 3)  Books can be returned at any time through the hatch beside the door.
#       dense 0.37  sparse 0.00  multi_vector 0.62
