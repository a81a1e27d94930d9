"""What an ONNX graph needs beside it, read without the onnx package; and a place ONNX Runtime accepts.

The Hugging Face cache is made of symbolic links. ONNX Runtime 1.24 refuses external data behind one;
later versions refuse it unless it lies beside the real graph, which a blob store shared between
repositories does not promise (https://github.com/microsoft/onnxruntime/issues/27353). Hard links to
the same files cost no disk, and every version reads them.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath

from bgem3.errors import CheckpointFileError, CheckpointNotFoundError

# Message types and the fields that lead to tensors. Source: onnx/onnx.proto3
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13
_LONGEST = 200
_FETCH_AGAIN = "Fix: download the file again"


def external_data(path: Path) -> dict[str, int]:
    """Return the external data files of an ONNX graph and the bytes that each must have at least.

    Names are relative to the folder of `path`; empty when the graph holds its own weights.

    Raises:
        CheckpointFileError: the file is truncated, is no ONNX graph, or points outside its folder.
    """
    needed: dict[str, int] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not any(field == 7 for field, _, _ in _fields(content, 0, len(content))):
                raise ValueError("it holds no graph")
            for entries in _external_tensors(content, 0, len(content), "model"):
                location = entries.get("location", "")
                end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
                needed[location] = max(end, needed.get(location, 0))
    except (ValueError, RecursionError) as error:
        raise CheckpointFileError(f"{path}: not a whole ONNX file ({error}). {_FETCH_AGAIN}") from error
    for location in needed:
        parts = PurePosixPath(location).parts
        if (
            not parts
            or len(location) > _LONGEST
            or location.startswith("/")
            or ".." in parts
            or set(location) & set("\\:\0")
        ):
            raise CheckpointFileError(
                f"{path}: its external data lies at {location!r}, expected a file beside the graph. "
                "Fix: export the graph again with its data in the same folder"
            )
    return needed


def check_external_data(path: Path, needed: dict[str, int]) -> None:
    """Check that the external data of an ONNX graph is there and long enough.

    Raises:
        CheckpointNotFoundError: a file is missing.
        CheckpointFileError: a file is truncated.
    """
    for location, size in needed.items():
        file = path.parent / location
        if not file.is_file():
            raise CheckpointNotFoundError(f"{file}: missing, and {path.name} keeps its weights there. {_FETCH_AGAIN}")
        if file.stat().st_size < size:
            raise CheckpointFileError(
                f"{file}: truncated, got {file.stat().st_size:,} bytes, expected at least {size:,}. {_FETCH_AGAIN}"
            )


def real_path(path: Path, needed: dict[str, int], places: Sequence[Path]) -> Path:
    """Return an ONNX graph whose data ONNX Runtime can read: `path`, or hard links to its files.

    Args:
        path: The graph.
        needed: Its external data, as `external_data` returns it.
        places: Folders to make the links in, the first that can be written to; copies are made
            where a link is not possible.

    Raises:
        CheckpointFileError: links are needed and no place can be written to.
    """
    files = {path.name: path, **{location: path.parent / location for location in needed}}
    if not needed or all(_is_real(path.parent, name) for name in files):
        return path
    key = sha256(repr([(name, _identity(file)) for name, file in sorted(files.items())]).encode()).hexdigest()[:16]
    failures: list[str] = []
    for place in places:
        try:
            for name, file in files.items():
                _link(file.resolve(), place / key / name)
        except OSError as error:
            failures.append(str(error))
        else:
            return place / key / path.name
    raise CheckpointFileError(
        f"{path}: ONNX Runtime cannot read external data through symbolic links, and no folder for real files could be "
        f"written ({'; '.join(failures)}). Fix: set BGEM3_CACHE to a folder that can be written to"
    )


def _is_real(folder: Path, name: str) -> bool:
    return (folder / name).resolve() == folder.resolve() / name


def _identity(file: Path) -> tuple[str, int, int]:
    real = file.resolve()
    return str(real), real.stat().st_size, real.stat().st_mtime_ns


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it; safe when processes race."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        try:
            os.link(source, made)
        except OSError:
            shutil.copyfile(source, made)
        os.replace(made, target)


def _external_tensors(content: mmap.mmap, start: int, end: int, kind: str) -> Iterator[dict[str, str]]:
    if kind == "tensor":
        entries = [_entry(content, a, b) for field, a, b in _fields(content, start, end) if field == _EXTERNAL_DATA]
        if entries:
            yield dict(entries)
        return
    children = _FIELDS[kind]
    for field, a, b in _fields(content, start, end):
        if field in children:
            yield from _external_tensors(content, a, b, children[field])


def _entry(content: mmap.mmap, start: int, end: int) -> tuple[str, str]:
    parts = {field: content[a:b].decode() for field, a, b in _fields(content, start, end)}
    return parts.get(1, ""), parts.get(2, "")


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each length-delimited field of a protobuf message."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        kind = tag & 7
        if kind == 2:
            length, at = _varint(content, at, end)
            if at + length > end:
                raise ValueError("it ends early")
            yield tag >> 3, at, at + length
            at += length
        elif kind == 0:
            _, at = _varint(content, at, end)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
    if at != end:
        raise ValueError("it ends early")


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise ValueError("it ends early")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number too long at byte {at}")
