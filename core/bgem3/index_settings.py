"""What an index is made with, read from an encoder and compared; and passages encoded that way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    """Refuse embeddings of another width than an index holds, and numbers that are none: searches would miss hits.

    Raises:
        HeadNotEncodedError: one of the heads is not there.
        InvalidInputError: names the head, and both widths.
    """
    for head in heads if len(embeddings) else ():
        array = embeddings.multi_vector.vectors if head == "multi_vector" else getattr(embeddings, head)
        found = array.shape[1]
        wanted = {"dense": settings.dim, "sparse": settings.vocab_size, "multi_vector": settings.multi_dim}[head]
        if found != wanted:
            raise InvalidInputError(
                f"embeddings: {head} is {found} wide, the index holds {wanted}. Fix: encode with the index's own encoder"
            )
        if not np.isfinite(array.data if head == "sparse" else array).all():
            raise InvalidInputError(f"embeddings: {head} has a number that is not finite. Fix: encode the texts again")


def encode_passages(encoder: M3Encoder, lexical: Lexical, texts: Sequence[str]) -> M3Embeddings:
    """Return all three heads of passages as a store keeps them: under BM25 the sparse one is token counts."""
    if lexical == "m3":
        return encoder.encode_passages(texts, heads=HEADS)
    encoded = encoder.encode_passages(texts, heads=("dense", "multi_vector"))
    return M3Embeddings(dense=encoded.dense, sparse=encoder.token_counts(texts), multi_vector=encoded.multi_vector)
