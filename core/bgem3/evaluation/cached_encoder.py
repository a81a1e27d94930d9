"""An encoder for measurements: what it has encoded once is read from disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from bgem3.cache import EmbeddingCache, identity_of
from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.fingerprint import cache_root
from bgem3.intake import sized_slices
from bgem3.types import HEADS, Head

# A block is encoded and written at a time: bounds memory, and what an interrupted run loses.
_BLOCK_TEXTS = 256
_BLOCK_CHARACTERS = 400_000


class CachedEncoder:
    """All three heads of each text, kept without a bound in an `EmbeddingCache`.

    Args:
        encoder: Encodes what is not there yet.
        folder: Where the file is; None: `embeddings` in the project's cache folder (`BGEM3_CACHE`).
    """

    def __init__(self, encoder: M3Encoder, folder: str | Path | None = None) -> None:
        self.encoder = encoder
        self.cache = EmbeddingCache(folder or cache_root() / "embeddings", max_bytes=None)
        self._identity = identity_of(encoder.fingerprint, encoder.backend, encoder.precision, encoder.lengths)

    def encode(self, texts: Sequence[str], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Return the heads of some texts, in order, read from disk or encoded and written.

        All three are encoded and kept, since one forward pass gives them; `heads` are what is read.

        Raises:
            StoreWriteError: the folder cannot be written to.
        """
        widths = self.encoder.vocab_size, self.encoder.multi_dim
        return self.cache.complete(texts, heads, self._identity, widths, self.encoder.encode)


def blocks(passages: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Cut an iterator of (id, text) into blocks of ids and texts, at most 256 and 400,000 characters each.

    A longer text is a block by itself.
    """
    for part in sized_slices(passages, lambda passage: len(passage[1]), _BLOCK_CHARACTERS, _BLOCK_TEXTS):
        yield [id_ for id_, _ in part], [text for _, text in part]
