"""A `MemoryStore` as one file: arrays and plain text, no code."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import StoreCorruptError, StoreWriteError
from bgem3.types import IndexSettings

_SPARSE = ("data", "indices", "indptr", "shape")


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Chunk ids, their heads in the same order, and the settings they were made with."""

    ids: Sequence[str]
    embeddings: M3Embeddings
    settings: IndexSettings


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot; what was there before stays until the new one is whole.

    Raises:
        StoreWriteError: the disk refused the write.
    """
    embeddings = snapshot.embeddings
    head = json.dumps({"version": 1, "ids": list(snapshot.ids), "settings": asdict(snapshot.settings)})
    arrays: dict[str, Any] = {
        "head": np.frombuffer(head.encode(), dtype=np.uint8),
        "dense": embeddings.dense,
        "token_vectors": embeddings.multi_vector.vectors,
        "token_offsets": embeddings.multi_vector.offsets,
        **{f"sparse_{name}": np.asarray(getattr(embeddings.sparse, name)) for name in _SPARSE},
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StoreWriteError(
            f"{path}: cannot be written: {error}. Fix: free space or choose another folder"
        ) from error


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        StoreCorruptError: the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            data, indices, indptr, shape = (arrays[f"sparse_{name}"] for name in _SPARSE)
            embeddings = M3Embeddings(
                dense=arrays["dense"],
                sparse=csr_array((data, indices, indptr), shape=(int(shape[0]), int(shape[1]))),
                multi_vector=MultiVectors(arrays["token_vectors"], arrays["token_offsets"]),
            )
        return Snapshot(head["ids"], embeddings, IndexSettings(**head["settings"]))
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise StoreCorruptError(f"{path}: damaged: {error}. Fix: build the index again from its nodes") from error
