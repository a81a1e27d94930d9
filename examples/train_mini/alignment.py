"""Where the bag of tokens starts: latent semantic indexing over sentences merged with their translations.

A sentence and all its translations are one document. Tokens that occur in the same documents,
whatever their language, get similar vectors from a truncated singular value decomposition, in two
minutes and without a step of training. What still tells languages apart is measured on the
translations and taken out. Source: Dumais et al. 1997, "Automatic Cross-Language Retrieval Using
Latent Semantic Indexing".
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import scipy.sparse as sp
from batches import DEFINITIONS, Material
from space import NEUTRAL, SPECIALS

_LANGUAGE_AXES = 40
_SAMPLE = 1500
_RARE = 2
# Of two tokens taken for translations: in how many sentences together, and how faithfully.
_TOGETHER, _FAITHFUL = 3, 0.05
# Of two forms of a word: letters they share and letters that differ, and how alike they must be where both are known.
_STEM, _ENDING = 4, 2
_KNOWN, _KIN = 5, 0.3
# After training: rounds of drawing words together, and axes of languages taken out.
_ROUNDS, _LEFT_AXES = 2, 12


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


def word_pairs(material: Material, vocab: int) -> np.ndarray:
    """Return ids `(n, 2)` of tokens that translate each other, English first.

    Translations of one token into one, and tokens that are each other's most faithful companion in the sentences of a
    language: the score is the squared cosine of the sentences they occur in.
    """
    texts, found = material.texts, []
    for places in material.by_language.values():
        sides = [_occurrences(texts, side[places], vocab) for side in (material.english, material.other)]
        counts = [np.asarray(side.sum(axis=0)).ravel() for side in sides]
        both = (sides[0].T @ sides[1]).tocoo()
        kept = both.data >= _TOGETHER
        rows, columns, data = both.row[kept], both.col[kept], both.data[kept]
        score = data**2 / (counts[0][rows] * counts[1][columns])
        best = [np.zeros(vocab), np.zeros(vocab)]
        for most, ids in zip(best, (rows, columns), strict=True):
            np.maximum.at(most, ids, score)
        mutual = (score == best[0][rows]) & (score == best[1][columns]) & (score > _FAITHFUL)
        found.append(np.stack([rows[mutual], columns[mutual]], axis=1))
    lengths = np.diff(texts.offsets)
    single = (lengths[material.english] == 1) & (lengths[material.other] == 1)
    found.append(texts.flat[texts.offsets[np.stack([material.english, material.other], axis=1)[single]]].astype(int))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs >= SPECIALS).all(axis=1)]


def inflections(pieces: list[str], counts: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Return ids `(n, 2)` of words and their commonest relative: same beginning, other ending, and no other meaning.

    Args:
        pieces: The vocabulary.
        counts: How many texts each is in.
        content: Vectors of `token_vectors`; tokens too rare to have any take their relative's, in place.
    """
    families: dict[str, list[int]] = defaultdict(list)
    for token, piece in enumerate(pieces):
        word = piece.removeprefix("▁")
        if piece != word and word.isalpha() and len(word) >= _STEM and not "\u0e00" < word[0] < "\u0e7f":
            for stem in {word[: max(_STEM, len(word) - cut)] for cut in range(_ENDING + 1)}:
                families[stem].append(token)
    relative: dict[int, int] = {}
    for stem, members in families.items():
        close = [token for token in members if len(pieces[token]) - 1 - len(stem) <= _ENDING]
        commonest = max(close, key=lambda token: counts[token])
        for token in close:
            if counts[token] < counts[commonest] and (
                counts[token] < _KNOWN or content[token] @ content[commonest] > _KIN
            ):
                relative[token] = max(commonest, relative.get(token, commonest), key=lambda one: counts[one])
    for token, kin in relative.items():
        if not content[token].any():
            content[token] = content[kin]
    return np.array([(kin, token) for token, kin in relative.items()])


def retrofit(vectors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Draw vectors of unit variance `(vocab, c)` towards those of the words that mean the same, by how near they are already.

    Source: Faruqui et al. 2015, "Retrofitting Word Vectors to Semantic Lexicons".
    """
    nearness = (vectors[words[:, 0]] * vectors[words[:, 1]]).mean(axis=1)
    words, nearness = words[nearness > _KIN], nearness[nearness > _KIN]
    size = (len(vectors), len(vectors))
    graph = sp.coo_matrix((nearness, words.T), shape=size)
    graph = (graph + graph.T).tocsr()
    total = np.asarray(graph.sum(axis=1))
    drawn = vectors
    for _ in range(_ROUNDS):
        drawn = _unit_variance(vectors + (graph @ drawn) / np.maximum(total, 1e-6))
    return drawn


def without_languages(vectors: np.ndarray, material: Material, seed: int) -> np.ndarray:
    """Return vectors of unit variance `(vocab, c)` without the axes along which most translations still differ."""
    content, random = vectors.copy(), np.random.default_rng(seed)
    content[:, : len(NEUTRAL)] = 0
    differences = []
    for places in material.by_language.values():
        sides = _some(content, material, places, random)
        english, other = (_unit(np.stack([text.sum(0) for text in side])) for side in sides)
        differences.append((other - english).mean(axis=0))
    axes = np.linalg.svd(np.stack(differences), full_matrices=False)[2][:_LEFT_AXES]
    return _unit_variance(vectors - vectors @ axes.T @ axes)


def _unit_variance(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True))


def _occurrences(texts: Any, rows: np.ndarray, vocab: int) -> Any:
    """Sparse `(n, vocab)`: one where a token occurs in a text."""
    chosen = [np.unique(texts[row]) for row in rows]
    ids = np.concatenate(chosen).astype(np.int64)
    starts = np.cumsum([0, *(len(one) for one in chosen)])
    return sp.csr_matrix((np.ones(len(ids), np.float32), ids, starts), shape=(len(rows), vocab))


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
    weight[:SPECIALS] = 0
    weighted = matrix @ sp.diags(weight)
    length = np.sqrt(weighted.multiply(weighted).sum(axis=1)).A1
    return (sp.diags(1 / np.maximum(length, 1e-6)) @ weighted).tocsr().astype(np.float32)


def _without_language(vectors: np.ndarray, material: Material, random: np.random.Generator) -> np.ndarray:
    """Express vectors without the axes along which translations differ on average."""
    axes = []
    for places in material.by_language.values():
        sides = _some(vectors, material, places, random)
        english, other = (_unit(np.stack([text.sum(0) for text in side])) for side in sides)
        axes += [(other - english).mean(0), np.concatenate(sides[1]).mean(0)]
    kept = np.linalg.svd(np.stack(axes) - np.mean(axes, axis=0))[2][_LANGUAGE_AXES:]
    return vectors @ kept.T


def _some(
    vectors: np.ndarray, material: Material, places: np.ndarray, random: np.random.Generator
) -> list[list[np.ndarray]]:
    """Return the token vectors of some translations, `(n, c)` a text: English sides, then the others."""
    chosen = random.choice(places, _SAMPLE)
    return [[vectors[material.texts[row]] for row in side[chosen]] for side in (material.english, material.other)]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
