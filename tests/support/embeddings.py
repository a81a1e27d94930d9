"""Random embeddings of the right kind, for tests that need no model."""

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.types import IndexSettings

DIM, MULTI_DIM, VOCABULARY = 12, 8, 30

SETTINGS = IndexSettings(fingerprint="f" * 64, dim=DIM, multi_dim=MULTI_DIM, vocab_size=VOCABULARY)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_embeddings(n: int, seed: int = 0, density: float = 0.15) -> M3Embeddings:
    """Return `n` texts of 1 to 6 token vectors and about `density` of the vocabulary."""
    random = np.random.default_rng(seed)
    sparse = random.random((n, VOCABULARY)) * (random.random((n, VOCABULARY)) < density)
    tokens = [unit(random.normal(size=(random.integers(1, 7), MULTI_DIM))) for _ in range(n)]
    return M3Embeddings(
        dense=unit(random.normal(size=(n, DIM))),
        sparse=csr_array(sparse.astype(np.float32)),
        multi_vector=MultiVectors.from_list(tokens, MULTI_DIM),
    )


def head_scores(query: M3Embeddings, passages: M3Embeddings) -> dict[str, np.ndarray]:
    """Score one query by every head, written out apart from the package's own formulas."""
    q = query.multi_vector[0]
    return {
        "dense": np.array([float(query.dense[0] @ row) for row in passages.dense]),
        "sparse": (passages.sparse.toarray() @ query.sparse.toarray()[0]),
        "multi_vector": np.array([np.mean([max(float(a @ b) for b in p) for a in q]) for p in passages.multi_vector]),
    }
