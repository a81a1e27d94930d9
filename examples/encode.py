"""Encode texts: one forward pass gives a dense vector, word weights and token vectors."""

import sys
from pathlib import Path

from bgem3 import M3Encoder, score

# The small model of this folder; "BAAI/bge-m3" is the real one.
model = sys.argv[1] if sys.argv[1:] else Path(__file__).with_name("bge-m3-mini")
encoder = M3Encoder.from_pretrained(model)

texts = ["The museum opens at nine.", "El museo abre a las nueve.", "Bread needs flour and water."]
out = encoder.encode(texts)

print("dense", out.dense.shape)
print("sparse", out.sparse.shape)
print("token vectors of the first text", out.multi_vector[0].shape)

weights = sorted(out.lexical_weights(0).items(), key=lambda item: -item[1])[:3]
print("heaviest words:", encoder.tokenizer.tokens([token for token, _ in weights]))

scores = score(out[:1], out)
for text, dense, sparse, multi in zip(texts, scores.dense[0], scores.sparse[0], scores.multi_vector[0], strict=True):
    print(f"dense {dense:.2f}  sparse {sparse:.2f}  multi-vector {multi:.2f}  {text}")

# Output:
# dense (3, 192)
# sparse (3, 84000)
# token vectors of the first text (8, 192)
# heaviest words: ['▁nine', '▁museum', '▁open']
# dense 1.00  sparse 0.57  multi-vector 1.00  The museum opens at nine.
# dense 0.92  sparse 0.00  multi-vector 0.87  El museo abre a las nueve.
# dense 0.10  sparse 0.00  multi-vector 0.55  Bread needs flour and water.
