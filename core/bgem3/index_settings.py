"""What an index is made with, read from an encoder and compared."""

from __future__ import annotations

from collections.abc import Sequence

from bgem3.encoder import M3Encoder
from bgem3.types import IndexSettings, Lexical

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
