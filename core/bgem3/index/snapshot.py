"""The inverted index on disk: one file a segment, never changed once written, and a manifest that names them.

A snapshot only saves work: everything in it follows from the sidecar, and rows it lacks, or has too many,
are put right when it is opened. Any file of it may be deleted at any time.

A segment file holds, in this order: 8 bytes `BGEM3SEG`; the length of the header and its CRC-32, both
little-endian uint32; the header as JSON: `format`, and for each array its `count`, its `offset` from the start
of the file and its `crc32`; from byte 4,096 the arrays, each at a multiple of 64 bytes. A manifest is JSON: `format`,
`owner` (the sidecar's uuid), `weighting` and `segments`, the files' names.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from bgem3.errors import IndexMismatchError, StoreCorruptError, StoreWriteError
from bgem3.index.segment import SEGMENT_ROWS, Segment
from bgem3.types import Lexical

FORMAT = 1
_MAGIC = b"BGEM3SEG"
_HEAD = struct.Struct("<8sII")
_DTYPES = {
    "rows": "<i8", "lengths": "<f4", "tokens": "<u4", "starts": "<i8", "highest": "<f4", "docs": "<u2",
    "weights": "<f4",
}  # fmt: skip
_FIRST_ARRAY, _ALIGNMENT = 4096, 64
# The postings themselves are most of a file: `verify` reads them, opening does not.
_POSTINGS = ("docs", "weights")


class Snapshot:
    """The snapshot of one collection, in a folder of its own.

    Args:
        folder: Made when something is saved.
        owner: The uuid of the sidecar that it follows from.
        weighting: `m3` or `bm25`.
    """

    def __init__(self, folder: Path, *, owner: str, weighting: Lexical) -> None:
        self.folder = folder
        self._manifest = folder / "manifest.json"
        self._about = {"format": FORMAT, "owner": owner, "weighting": weighting}
        self._names: dict[int, str] = {}
        self._segments: list[Segment] = []
        self._usable = True

    def load(self) -> list[Segment]:
        """Map the segments into memory, or return none where there is no snapshot.

        Everything but the postings is checked.

        Raises:
            StoreCorruptError: a file is damaged or missing.
            IndexMismatchError: made by another version, for another collection or with another weighting.
        """
        names = self._read_manifest()
        segments = [read_segment(self.folder / name) for name in names]
        self._remember(segments, names)
        return segments

    def restore(self, highest: int) -> list[Segment]:
        """Return what `load` does, or none where what is there cannot be used: all rows are in the sidecar.

        Args:
            highest: The highest number that a row ever had. A snapshot with higher ones was left when an older sidecar was
                put back in its place; its numbers will be those of other rows.
        """
        try:
            segments = self.load()
            self._usable = all(int(segment.rows.max(initial=0)) <= highest for segment in segments)
        except (StoreCorruptError, IndexMismatchError):
            self._usable = False
        if not self._usable:
            self._remember([], [])
        return self._segments

    def keep_up(self, segments: Sequence[Segment], least: int) -> None:
        """Save where at least so many rows are not saved yet, delete what cannot be used; a disk that refuses loses nothing."""
        if not self._usable:
            with suppress(OSError):
                self.delete()
        if sum(len(segment) for segment in segments if id(segment) not in self._names) >= least:
            with suppress(StoreWriteError):
                self.save(segments)

    def save(self, segments: Sequence[Segment]) -> None:
        """Write the segments that are not there yet, name them all in the manifest, delete the other files.

        What is there stays usable until the manifest is replaced, in one step.

        Raises:
            StoreWriteError: the folder is read-only or the disk is full.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            names = [self._names.get(id(segment)) or self._write(segment) for segment in segments]
            _replace(self._manifest, json.dumps({**self._about, "segments": names}).encode())
        except OSError as error:
            raise StoreWriteError(
                f"{self.folder}: {error}. Nothing was changed. Fix: make the folder writable, or free disk space"
            ) from error
        self._remember(segments, names)
        self._usable = True
        for path in self.folder.iterdir():
            if path.name not in {*names, self._manifest.name}:
                # Another process may still have it open, which Windows does not let go.
                with suppress(OSError):
                    path.unlink()

    def verify(self) -> list[str]:
        """Read every byte and return what is wrong, a line a file; nothing where there is no snapshot."""
        try:
            names = self._read_manifest()
        except (StoreCorruptError, IndexMismatchError) as error:
            return [str(error)]
        return [problem for name in names if (problem := _problem(self.folder / name))]

    def size(self) -> int:
        """Return the bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.glob("*")) if self.folder.is_dir() else 0

    def delete(self) -> None:
        """Delete the snapshot; the next one is written from all rows."""
        self._remember([], [])
        self._usable = True
        for path in (self._manifest, *self.folder.glob("*")):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            self.folder.rmdir()

    def _write(self, segment: Segment) -> str:
        name = f"{uuid4().hex}.segment"
        write_segment(self.folder / name, segment)
        return name

    def _remember(self, segments: Sequence[Segment], names: Sequence[str]) -> None:
        self._segments = [*segments]  # kept, so that no other object gets their identity
        self._names = {id(segment): name for segment, name in zip(segments, names, strict=True)}

    def _read_manifest(self) -> list[str]:
        try:
            found = json.loads(self._manifest.read_bytes())
            about = {key: found[key] for key in self._about}
            names = [str(name) for name in found["segments"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _corrupt(self._manifest, f"not a manifest: {error!r}") from error
        if about != self._about:
            raise IndexMismatchError(
                f"{self._manifest}: made for {about}, expected {self._about}. Fix: delete the folder; it is made again"
            )
        return names


def write_segment(path: Path, segment: Segment) -> None:
    """Write a segment file in one step, with checksums."""
    contents = {name: np.ascontiguousarray(getattr(segment, name), dtype).tobytes() for name, dtype in _DTYPES.items()}
    described: dict[str, dict[str, int]] = {}
    offset = _FIRST_ARRAY
    for name, content in contents.items():
        described[name] = {"offset": offset, "count": len(content) // np.dtype(_DTYPES[name]).itemsize}
        described[name]["crc32"] = zlib.crc32(content)
        offset += len(content) + -len(content) % _ALIGNMENT
    header = json.dumps({"format": FORMAT, "arrays": described}).encode()
    head = (_HEAD.pack(_MAGIC, len(header), zlib.crc32(header)) + header).ljust(_FIRST_ARRAY, b"\0")
    padded = (content + bytes(-len(content) % _ALIGNMENT) for content in contents.values())
    _replace(path, b"".join([head, *padded]))


def read_segment(path: Path, *, postings: bool = False) -> Segment:
    """Map a segment file into memory and check it.

    Args:
        path: The file.
        postings: Check the postings too, which reads the whole file.

    Raises:
        StoreCorruptError: damaged, truncated or missing.
        IndexMismatchError: made by another version.
    """
    try:
        content: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        magic, length, checksum = _HEAD.unpack(content[: _HEAD.size].tobytes())
        header = content[_HEAD.size : _HEAD.size + length].tobytes()
    except (OSError, ValueError, struct.error) as error:
        raise _corrupt(path, error) from error
    if magic != _MAGIC or zlib.crc32(header) != checksum:
        raise _corrupt(path, "its header is not what was written")
    described = json.loads(header)
    if described["format"] != FORMAT:
        raise IndexMismatchError(f"{path}: format {described['format']}, expected {FORMAT}. Fix: delete the folder")
    arrays = {name: _array(path, content, name, about) for name, about in described["arrays"].items()}
    for name, array in arrays.items():
        if (postings or name not in _POSTINGS) and zlib.crc32(array.data) != described["arrays"][name]["crc32"]:
            raise _corrupt(path, f"{name} is not what was written")
    segment = Segment(**{field.name: arrays[field.name] for field in fields(Segment)})
    if len(segment) > SEGMENT_ROWS or segment.starts[-1] != len(segment.docs):
        raise _corrupt(path, "its arrays do not fit together")
    return segment


def _array(path: Path, content: NDArray[np.uint8], name: str, about: dict[str, Any]) -> NDArray[Any]:
    size = about["count"] * np.dtype(_DTYPES[name]).itemsize
    part = content[about["offset"] : about["offset"] + size]
    if len(part) != size:
        raise _corrupt(path, f"cut off within {name}")
    # A plain array over the mapped file: slices of a memmap are slow to make.
    return np.asarray(part).view(_DTYPES[name])


def _problem(path: Path) -> str:
    try:
        read_segment(path, postings=True)
    except (StoreCorruptError, IndexMismatchError) as error:
        return str(error)
    return ""


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _corrupt(path: Path, reason: object) -> StoreCorruptError:
    return StoreCorruptError(f"{path}: damaged ({reason}). Fix: delete its folder; it is made again from the sidecar")
