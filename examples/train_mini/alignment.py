"""Where the bag of tokens starts: latent semantic indexing over sentences merged with their translations.

A sentence and all its translations are one document. Tokens that occur in the same documents,
whatever their language, get similar vectors from a truncated singular value decomposition, in two
minutes and without a step of training. What still tells languages apart is measured on the
translations and taken out. Source: Dumais et al. 1997, "Automatic Cross-Language Retrieval Using
Latent Semantic Indexing".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from batches import DEFINITIONS, Material

_SPECIALS = 4
_LANGUAGE_AXES = 40
_SAMPLE = 1500
_RARE = 2


def rarity(material: Material, vocab: int) -> np.ndarray:
    """Return for each token the logarithm of how rare it is in the language where it is most common."""
    counts = []
    for places in material.by_language.values():
        for side in (material.english, material.other):
            rows = side[places]
            seen = np.concatenate([np.unique(material.texts[row]) for row in rows])
            counts.append(np.bincount(seen, minlength=vocab) / len(rows))
    common = np.max(counts, axis=0)
    return np.log(1 / np.maximum(common, 1e-6)).astype(np.float32)


def token_vectors(material: Material, vocab: int, dims: int, seed: int) -> np.ndarray:
    """Return unit vectors `(vocab, dims)` that are similar for tokens of one meaning; rare ones are zero."""
    documents, wanted = _documents(material, vocab), dims + _LANGUAGE_AXES
    random = np.random.default_rng(seed)
    basis = random.standard_normal((vocab, wanted + 16)).astype(np.float32)
    transposed = documents.T.tocsr()
    for _ in range(4):  # subspace iteration
        basis = transposed @ (documents @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    seen = documents @ basis
    values, axes = np.linalg.eigh((seen.T @ seen).astype(np.float64))
    vectors = _unit((basis @ axes[:, np.argsort(-values)[:wanted]]).astype(np.float32))
    return _unit(_without_language(vectors, material, random))


def _documents(material: Material, vocab: int) -> Any:
    """Sparse tf-idf rows of unit length: an English sentence with its translations, or words with what they mean."""
    texts, sentences = material.texts, int(material.english.max()) + 1
    words, meanings = material.questions[DEFINITIONS]
    parts = [*range(sentences), *material.other, *words, *meanings]
    of_text = [*range(sentences), *material.english, *range(sentences, sentences + len(words))]
    of_text += of_text[-len(words) :]
    lengths = np.diff(texts.offsets)[parts]
    rows = np.repeat(of_text, lengths)
    tokens = np.concatenate([texts[part] for part in parts]).astype(np.int64)
    sentences += len(words)
    matrix = sp.csr_matrix((np.ones(len(tokens), np.float32), (rows, tokens)), shape=(sentences, vocab))
    matrix.data[:] = 1
    found = np.bincount(matrix.indices, minlength=vocab)
    weight = np.log(sentences / np.maximum(found, 1)) * (found >= _RARE)
    weight[:_SPECIALS] = 0
    weighted = matrix @ sp.diags(weight)
    length = np.sqrt(weighted.multiply(weighted).sum(axis=1)).A1
    return (sp.diags(1 / np.maximum(length, 1e-6)) @ weighted).tocsr().astype(np.float32)


def _without_language(vectors: np.ndarray, material: Material, random: np.random.Generator) -> np.ndarray:
    """Express vectors without the axes along which translations differ on average."""
    axes = []
    for places in material.by_language.values():
        chosen = random.choice(places, _SAMPLE)
        sides = [[vectors[material.texts[row]] for row in side[chosen]] for side in (material.english, material.other)]
        english, other = (_unit(np.stack([text.sum(0) for text in side])) for side in sides)
        axes += [(other - english).mean(0), np.concatenate(sides[1]).mean(0)]
    kept = np.linalg.svd(np.stack(axes) - np.mean(axes, axis=0))[2][_LANGUAGE_AXES:]
    return vectors @ kept.T


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
