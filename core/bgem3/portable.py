"""A collection as files that any store imports: texts as JSON Lines, vectors as safetensors.

A folder holds `chunks.jsonl`, a line `{"id", "text", "metadata"}` a chunk; `vectors-00000.safetensors` and so on, each
with the vectors of the next chunks; and, written last, `manifest.json`: `format`, `settings` (fingerprint, widths,
lengths), `codec`, `chunks`, `checksum` (see `bgem3.moving`) and for each file its bytes, BLAKE2b-256 and chunks.

Tensors of a vectors file, for its n chunks: `dense` `(n, dim)` float32; `sparse_offsets` `(n + 1,)` int64, `sparse_tokens`
uint32 and `sparse_weights` float32; `token_offsets` `(n + 1,)` int64 and `token_vectors`, `(tokens, multi_dim)` float16,
or `(tokens, bytes)` uint8 under another codec than float16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from hashlib import blake2b, file_digest
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import (
    BGEM3Error,
    IndexMismatchError,
    InvalidInputError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreWriteError,
)
from bgem3.index.multi_vector import Codec, get_codec
from bgem3.metadata import check_metadata
from bgem3.moving import CopyReport, checksum, copy_store, storable_chunk
from bgem3.stores.base import Store
from bgem3.types import Chunk, IndexSettings

FORMAT = 1
_MANIFEST, _CHUNKS = "manifest.json", "chunks.jsonl"


def export_store(
    source: Store,
    folder: str | Path,
    *,
    codec: str = "float16",
    batch_size: int = 256,
    on_batch: Callable[[int], object] = lambda _: None,
) -> int:
    """Write every chunk with its vectors to a new folder, a batch at a time.

    Args:
        source: Opened by this function as it was made; not closed.
        folder: Made here; must not hold anything.
        codec: How token vectors are written: float16, which other programs read, or as `get_codec`, e.g. `binary`,
            16 times smaller and without loss where the store keeps no more.
        batch_size: Chunks in memory, and in a file.
        on_batch: Told the number of chunks of each batch.

    Returns:
        The number of chunks.

    Raises:
        InvalidInputError: the folder holds something, or an unknown codec.
        StoreNotFoundError: there is no source.
        StoreWriteError: the disk refused a write.
        StoreError: as the source.
    """
    place = Path(folder)
    if get_codec(codec, 1).pools:
        raise InvalidInputError(
            f"codec: got {codec!r}, which pools again what is pooled. Fix: {codec.partition('+')[0]}"
        )
    settings = source.open()
    try:
        if place.exists() and any(place.iterdir()):
            raise InvalidInputError(f"{place}: is not empty. Fix: another folder, or delete it")
        place.mkdir(parents=True, exist_ok=True)
        manifest = _write(source, place, get_codec(codec, settings.multi_dim), batch_size, on_batch)
        manifest |= {"format": FORMAT, "settings": asdict(settings), "codec": codec}
        (place / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        if isinstance(error, BGEM3Error):
            raise
        raise StoreWriteError(f"{place}: {error}. Fix: delete it and choose a place with more room") from error
    return int(manifest["chunks"])


def import_store(
    folder: str | Path, target: Store, *, on_batch: Callable[[int], object] = lambda _: None
) -> CopyReport:
    """Put an export into a store, without encoding; begun again it skips what is there.

    Every file is checked before anything is written, and every chunk is read back.

    Args:
        folder: What `export_store` wrote.
        target: Made with the export's settings where it is new; not closed.
        on_batch: Told the number of chunks of each batch.

    Raises:
        StoreNotFoundError: there is no whole export.
        StoreCorruptError: a file is cut off or not what was written, or was not read back so.
        IndexMismatchError: the store has another fingerprint or width, or another version made the export.
        StoreError: as the target.
    """
    export = Export(Path(folder))
    export.check()
    report = copy_store(export, target, on_batch=on_batch)
    if report.checksum != export.checksum:
        raise export.damaged(_CHUNKS, f"its chunks have checksum {report.checksum}, expected {export.checksum}")
    return report


class Export:
    """A folder that `export_store` wrote, read as a store is.

    Args:
        folder: The folder.

    Raises:
        StoreNotFoundError: no manifest: no export, or one that was broken off.
        StoreCorruptError: the manifest is not what was written.
        IndexMismatchError: made by another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            if manifest["format"] != FORMAT:
                raise IndexMismatchError(
                    f"{folder}: format {manifest['format']!r}, expected {FORMAT}. Fix: import it with the version that made it"
                )
            self._settings = IndexSettings(**manifest["settings"])
            widths = (self._settings.dim, self._settings.multi_dim, self._settings.vocab_size)
            self.checksum, self.chunks = str(manifest["checksum"]), int(manifest["chunks"])
            self._files: Mapping[str, Mapping[str, Any]] = manifest["files"]
            counts = [about["chunks"] for name, about in self._files.items() if name != _CHUNKS]
            whole = all({"bytes", "blake2b"} <= set(about) for about in self._files.values()) and _CHUNKS in self._files
            sizes = (*widths, *counts)
            numbers = {type(one) for one in sizes} == {int} and 0 <= min(sizes) <= max(sizes) < 2**31
            if not whole or sum(counts) != self.chunks or not numbers:
                raise ValueError("its files, chunks and widths do not fit together")
            self._codec = get_codec(manifest["codec"], self._settings.multi_dim)
        except OSError as error:
            raise StoreNotFoundError(
                f"{folder}: no {_MANIFEST}, so no export or one that was broken off ({error}). Fix: bgem3 export again"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise self.damaged(_MANIFEST, repr(error)) from error

    def check(self) -> None:
        """Read every file and compare it with the manifest.

        Raises:
            StoreCorruptError: names the file and what is wrong with it.
        """
        for name, about in self._files.items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != about["bytes"]:
                raise self.damaged(name, f"has {size} bytes, expected {about['bytes']}")
            if _digest(path) != about["blake2b"]:
                raise self.damaged(name, "is not what was written")

    def open(self, settings: IndexSettings | None = None) -> IndexSettings:
        """Return what the exported index was made with."""
        return self._settings

    def scan(self, batch_size: int = 0) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """Yield every chunk with its vectors, a file at a time.

        Raises:
            StoreCorruptError: a file is not what was written.
        """
        with (self.folder / _CHUNKS).open(encoding="utf-8") as lines:
            for name, about in self._files.items():
                if name == _CHUNKS:
                    continue
                try:
                    chunks = [_to_chunk(line) for line in islice(lines, about["chunks"])]
                    embeddings = self._embeddings((self.folder / name).read_bytes())
                except (
                    BGEM3Error,
                    OSError,
                    ValueError,
                    LookupError,
                    TypeError,
                    RecursionError,
                    SafetensorError,
                ) as error:
                    raise self.damaged(name, repr(error)) from error
                if len(chunks) != len(embeddings):
                    raise self.damaged(name, f"has {len(embeddings)} chunks, {_CHUNKS} {len(chunks)}")
                yield chunks, embeddings
            if next(lines, None) is not None:
                raise self.damaged(_CHUNKS, "has more lines than chunks")

    def _embeddings(self, content: bytes) -> M3Embeddings:
        tensors, about = load(content), self._settings
        vectors, kind = tensors["token_vectors"], np.float16 if self._codec.name == "float16" else np.uint8
        size = self._codec.bytes_per_vector
        _expect(vectors.dtype == kind and vectors.shape[1:] == (size // vectors.itemsize,))
        offsets = _offsets(tensors["token_offsets"], len(vectors), least=1)
        blobs = vectors.tobytes()
        parts = [self._codec.decode(blobs[start * size : stop * size]) for start, stop in pairwise(offsets.tolist())]
        dense, weights, tokens = tensors["dense"], tensors["sparse_weights"], tensors["sparse_tokens"].astype(np.int64)
        pointers = _offsets(tensors["sparse_offsets"], len(tokens), least=0)
        _expect(
            dense.dtype == np.float32 and dense.shape == (len(pointers) - 1, about.dim) and np.isfinite(dense).all()
        )
        _expect(weights.dtype == np.float32 and weights.shape == tokens.shape)
        _expect(np.isfinite(weights).all() and (weights >= 0).all())
        _expect(not len(tokens) or (tokens.min() >= 0 and tokens.max() < about.vocab_size))
        multi_vector = MultiVectors.from_list(parts, about.multi_dim)
        _expect(np.isfinite(multi_vector.vectors).all())
        sparse = csr_array((weights, tokens.astype(np.int32), pointers), shape=(len(dense), about.vocab_size))
        return M3Embeddings(dense=dense, sparse=sparse, multi_vector=multi_vector)

    def damaged(self, name: str, problem: str) -> StoreCorruptError:
        """Return the error for a file that is not what was written."""
        return StoreCorruptError(f"{self.folder / name}: damaged: {problem}. Fix: bgem3 export again, or copy it again")


def _expect(holds: object) -> None:
    """Refuse tensors of another program before they are used as places in memory."""
    if not holds:
        raise ValueError("its vectors are not those of the manifest: another width, type or range")


def _offsets(found: NDArray[Any], end: int, least: int) -> NDArray[np.int64]:
    """Return offsets that begin at 0, grow by at least so much, and end where the values do."""
    _expect(found.dtype == np.int64 and found.ndim == 1 and len(found) and found[0] == 0 and found[-1] == end)
    _expect((np.diff(found) >= least).all())
    return found


def _write(
    source: Store, place: Path, codec: Codec, batch_size: int, on_batch: Callable[[int], object]
) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = {_CHUNKS: {}}
    count = total = 0
    with (place / _CHUNKS).open("x", encoding="utf-8") as lines:
        for number, (scanned, embeddings) in enumerate(source.scan(batch_size)):
            chunks = [storable_chunk(chunk) for chunk in scanned]
            _write_lines(lines, chunks)
            name = f"vectors-{number:05}.safetensors"
            save_file(_tensors(embeddings, codec), place / name)
            files[name] = {"chunks": len(chunks)}
            count, total = count + len(chunks), total + checksum(chunks)
            on_batch(len(chunks))
    for name, about in files.items():
        about |= {"bytes": (place / name).stat().st_size, "blake2b": _digest(place / name)}
    return {"chunks": count, "checksum": f"{total % 2**64:016x}", "files": files}


def _write_lines(lines: TextIO, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        record = {"id": chunk.id, "text": chunk.text, "metadata": dict(chunk.metadata)}
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def _tensors(embeddings: M3Embeddings, codec: Codec) -> dict[str, Any]:
    blobs = b"".join(codec.encode(embeddings.multi_vector))
    kind, size = (np.float16, 2) if codec.name == "float16" else (np.uint8, 1)
    return {
        "dense": np.ascontiguousarray(embeddings.dense, dtype=np.float32),
        "sparse_offsets": embeddings.sparse.indptr.astype(np.int64),
        "sparse_tokens": embeddings.sparse.indices.astype(np.uint32),
        "sparse_weights": embeddings.sparse.data.astype(np.float32),
        "token_offsets": embeddings.multi_vector.offsets.astype(np.int64),
        "token_vectors": np.frombuffer(blobs, dtype=kind).reshape(-1, codec.bytes_per_vector // size),
    }


def _to_chunk(line: str) -> Chunk:
    record = json.loads(line)
    return Chunk(str(record["id"]), str(record["text"]), check_metadata(record["metadata"], "metadata", stored=True))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=32)).hexdigest()
