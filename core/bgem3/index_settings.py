"""What an index is made with, read from an encoder and compared; and passages encoded that way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from bgem3.embeddings import M3Embeddings
from bgem3.errors import IndexMismatchError, InvalidInputError
from bgem3.types import HEADS, Head, IndexSettings, Lexical

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder

# How texts are read: chunks of one index must agree on these.
LENGTHS = ("max_length", "overflow", "window", "window_overlap")


def settings_of(encoder: M3Encoder, lexical: Lexical) -> IndexSettings:
    """Return what an index is made with that this encoder fills."""
    lengths = encoder.lengths
    return IndexSettings(
        fingerprint=encoder.fingerprint,
        dim=encoder.dim,
        multi_dim=encoder.multi_dim,
        vocab_size=encoder.vocab_size,
        lexical=lexical,
        max_length=lengths.max_length,
        overflow=lengths.overflow,
        window=lengths.window,
        window_overlap=lengths.window_overlap,
        backend=encoder.backend,
        precision=encoder.precision,
    )


def differences(made_with: IndexSettings, wanted: IndexSettings, names: Sequence[str]) -> str:
    """Return the settings of those names that differ, for an error message; empty where none does."""
    pairs = [(name, getattr(made_with, name), getattr(wanted, name)) for name in names]
    return ", ".join(f"{name}={old!r}, now {new!r}" for name, old, new in pairs if old != new)


def check_lengths(made_with: IndexSettings, wanted: IndexSettings) -> None:
    """Refuse to add texts that would be read otherwise than those already stored.

    Raises:
        IndexMismatchError: names the lengths that differ.
    """
    if differing := differences(made_with, wanted, LENGTHS):
        raise IndexMismatchError(
            f"the index was made with other lengths: {differing}. Fix: pass those to M3Encoder.from_pretrained, or "
            f"encoder.reading_as(index.settings)"
        )


def check_embeddings(settings: IndexSettings, embeddings: M3Embeddings, heads: Collection[Head]) -> None:
    """Refuse embeddings that an index cannot hold or compare: one of them would hide others.

    Raises:
        HeadNotEncodedError: one of the heads is not there.
        InvalidInputError: names the head and both widths, or what is no number, negative or missing in it.
    """
    fix = "Fix: encode with the index's own encoder"
    for head in heads if len(embeddings) else ():
        found = embeddings.multi_vector.dim if head == "multi_vector" else getattr(embeddings, head).shape[1]
        wanted = {"dense": settings.dim, "sparse": settings.vocab_size, "multi_vector": settings.multi_dim}[head]
        if found != wanted:
            raise InvalidInputError(f"embeddings: {head} is {found} wide, the index holds {wanted}. {fix}")
        values = {"dense": "dense", "sparse": "sparse.data", "multi_vector": "multi_vector.vectors"}[head]
        numbers = attrgetter(values)(embeddings)
        if not np.isfinite(numbers).all() or (head == "sparse" and (numbers < 0).any()):
            expected = "finite numbers >= 0" if head == "sparse" else "finite numbers"
            raise InvalidInputError(f"embeddings: {values} has others than {expected}. {fix}")
        if head == "multi_vector" and len(without := np.flatnonzero(embeddings.multi_vector.lengths == 0)):
            raise InvalidInputError(
                f"embeddings: multi_vector[{without[0]}] is empty, expected a vector a token. {fix}"
            )


def encode_passages(encoder: M3Encoder, lexical: Lexical, texts: Sequence[str]) -> M3Embeddings:
    """Return all three heads of passages as a store keeps them: under BM25 the sparse one is token counts."""
    if lexical == "m3":
        return encoder.encode_passages(texts, heads=HEADS)
    encoded = encoder.encode_passages(texts, heads=("dense", "multi_vector"))
    return M3Embeddings(dense=encoded.dense, sparse=encoder.token_counts(texts), multi_vector=encoded.multi_vector)
