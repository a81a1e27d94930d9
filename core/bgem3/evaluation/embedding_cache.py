"""Embeddings kept on disk, so that a text is encoded once for any number of measurements."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.encoder import M3Encoder
from bgem3.errors import StoreWriteError
from bgem3.fingerprint import cache_root
from bgem3.types import HEADS, Head

# A block is encoded and written at a time: bounds memory, and what an interrupted run loses.
_BLOCK_TEXTS = 256
_BLOCK_CHARACTERS = 400_000


class EmbeddingCache:
    """Blocks of texts with all three heads, in files named by what they depend on.

    A file holds float32: a 200-token passage takes 819 kB at 1,024 dimensions, 256 kB at 320.

    Args:
        encoder: Encodes what is not there yet.
        folder: Where the files are; None: `embeddings` in the project's cache folder (`BGEM3_CACHE`).
    """

    def __init__(self, encoder: M3Encoder, folder: str | Path | None = None) -> None:
        self.encoder = encoder
        settings = {
            "fingerprint": encoder.fingerprint,
            "backend": encoder.backend,
            "precision": encoder.precision,
            **asdict(encoder.lengths),
        }
        self._identity = json.dumps(settings, sort_keys=True)
        root = Path(folder) if folder else cache_root() / "embeddings"
        self.folder = root / sha256(self._identity.encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Return the heads of some texts, in order, read from disk or encoded and written.

        All three are encoded and kept, since one forward pass gives them; `heads` are what is read.

        Raises:
            StoreWriteError: the folder cannot be written to.
        """
        path = self._path(texts)
        if (known := _load(path, heads)) is not None:
            return known
        embeddings = self.encoder.encode(texts)
        _save(path, embeddings)
        return embeddings

    def _path(self, texts: Sequence[str]) -> Path:
        return self.folder / f"{sha256(json.dumps(list(texts)).encode()).hexdigest()}.npz"


def blocks(passages: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Cut an iterator of (id, text) into blocks of ids and texts, at most 256 and about 400,000 characters each."""
    ids: list[str] = []
    texts: list[str] = []
    held = 0
    for id_, text in passages:
        if texts and (len(texts) == _BLOCK_TEXTS or held + len(text) > _BLOCK_CHARACTERS):
            yield ids, texts
            ids, texts, held = [], [], 0
        ids.append(id_)
        texts.append(text)
        held += len(text)
    if texts:
        yield ids, texts


def _save(path: Path, embeddings: M3Embeddings) -> None:
    """Write a file whole or not at all."""
    sparse, tokens = embeddings.sparse, embeddings.multi_vector
    arrays: dict[str, Any] = {
        "dense": embeddings.dense,
        "data": sparse.data,
        "indices": sparse.indices,
        "indptr": sparse.indptr,
        "shape": np.array(sparse.shape),
        "vectors": tokens.vectors,
        "offsets": tokens.offsets,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the folder goes with the file where the disk is full
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:
            np.savez(Path(draft) / path.name, **arrays)
            os.replace(Path(draft) / path.name, path)
    except OSError as error:
        raise StoreWriteError(f"{path.parent}: {error}. Fix: cache=a folder that can be written to") from error


def _load(path: Path, heads: Collection[Head]) -> M3Embeddings | None:
    """Read some heads of a file; None where it is missing or damaged."""
    try:
        # numpy leaves a damaged file open that it opened itself
        with path.open("rb") as file, np.load(file) as part:
            return M3Embeddings(
                dense=part["dense"] if "dense" in heads else None,
                sparse=csr_array((part["data"], part["indices"], part["indptr"]), shape=tuple(part["shape"]))
                if "sparse" in heads
                else None,
                multi_vector=MultiVectors(part["vectors"], part["offsets"]) if "multi_vector" in heads else None,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
