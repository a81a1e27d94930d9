"""From one store to another without encoding anything again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import numpy as np

from bgem3.embeddings import M3Embeddings
from bgem3.errors import StoreCorruptError
from bgem3.metadata import storable
from bgem3.stores.base import Store
from bgem3.types import Chunk, FloatArray, IndexSettings

# Between a float32 and the float16 that some stores keep: 2 ** -11 of a number below 1, with room.
_DENSE_TOLERANCE = 2e-3


class Source(Protocol):
    """What can be copied: a store, or an export."""

    def open(self) -> IndexSettings:
        """See `Store.open`."""

    def scan(self, batch_size: int) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """See `Store.scan`."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did.

    Attributes:
        copied: Chunks written.
        skipped: Chunks that were there already, text and metadata alike.
        count: Chunks in the target afterwards.
        checksum: Over ids, texts and metadata of what was copied or skipped, in any order: the same for both stores.
    """

    copied: int
    skipped: int
    count: int
    checksum: str


def copy_store(
    source: Source, target: Store, *, batch_size: int = 256, on_batch: Callable[[int], object] = lambda _: None
) -> CopyReport:
    """Copy every chunk with its vectors, a batch at a time, and read each back.

    Begun again after a break it skips what the target has. Neither store is closed.

    Args:
        source: Opened by this function as it was made.
        target: Made with the source's settings where it is new, refused where it has others.
        batch_size: Chunks in memory.
        on_batch: Told the number of chunks of each batch.

    Raises:
        StoreNotFoundError: there is no source.
        IndexMismatchError: the target was made with another checkpoint.
        StoreCorruptError: what was read back is not what was written.
        StoreError: as the stores.
    """
    target.open(source.open())
    copied = skipped = written = read = 0
    for scanned, embeddings in source.scan(batch_size):
        chunks = [storable_chunk(chunk) for chunk in scanned]
        there = {chunk.id: chunk for chunk in target.get([chunk.id for chunk in chunks])}
        missing = [i for i, chunk in enumerate(chunks) if not _same(there.get(chunk.id), chunk)]
        if missing:
            new, vectors = [chunks[i] for i in missing], embeddings[missing]
            target.upsert(new, vectors)
            _check_dense(target, new, vectors.dense)
            there |= {chunk.id: chunk for chunk in target.get([chunk.id for chunk in new])}
        written += checksum(chunks)
        read += checksum(there.values())
        copied, skipped = copied + len(missing), skipped + len(chunks) - len(missing)
        on_batch(len(chunks))
    if (written - read) % 2**64:
        raise StoreCorruptError(
            "copy: the target's texts or metadata are not the source's. Fix: copy again while nobody writes to either"
        )
    return CopyReport(copied, skipped, target.count(), f"{written % 2**64:016x}")


def checksum(chunks: Iterable[Chunk]) -> int:
    """Return the sum of 64-bit hashes of chunks: the same in any order."""
    return sum(map(_hash, chunks))


def storable_chunk(chunk: Chunk) -> Chunk:
    """Return a chunk as every store can keep it: collections that were adopted have metadata of other programs."""
    return Chunk(chunk.id, chunk.text, storable(chunk.metadata))


def _same(one: Chunk | None, other: Chunk) -> bool:
    return one is not None and _hash(one) == _hash(other)


def _hash(chunk: Chunk) -> int:
    # 1, 1.0 and true differ here; 0.0 and -0.0, which SQLite keeps as one, do not
    metadata = {key: value + 0.0 if isinstance(value, float) else value for key, value in chunk.metadata.items()}
    record = json.dumps([chunk.id, chunk.text, metadata], sort_keys=True)
    return int.from_bytes(blake2b(record.encode(), digest_size=8).digest())


def _check_dense(target: Store, chunks: Sequence[Chunk], dense: FloatArray) -> None:
    found = target.dense_vectors([chunk.id for chunk in chunks])
    for chunk, expected in zip(chunks, dense, strict=True):
        if chunk.id not in found or not np.abs(found[chunk.id] - expected).max() <= _DENSE_TOLERANCE:
            raise StoreCorruptError(f"copy: the dense vector of {chunk.id!r} is not what was written. Fix: copy again")
