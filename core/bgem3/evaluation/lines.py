"""Text files line by line, plain or compressed, with errors that name file and line."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from bgem3.errors import DatasetError

_ENDINGS = ("", ".gz", ".xz")


def find(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first of several files that is there, plain, `.gz` or `.xz`.

    Raises:
        DatasetError: none is there.
    """
    for name in names:
        for ending in _ENDINGS:
            if (path := folder / f"{name}{ending}").is_file():
                return path
    raise DatasetError(folder, 0, f"expected {' or '.join(names)}, plain, .gz or .xz. Fix: pass a BEIR-style folder")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line that is not blank, without its end.

    Raises:
        DatasetError: the file is not valid UTF-8, or its compression is damaged.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DatasetError(path, number, f"not UTF-8: {error}. Fix: save it as UTF-8") from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(path, number + 1, f"cannot be read: {error}. Fix: copy it again") from error


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path))
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and JSON object of each line.

    Raises:
        DatasetError: a line is no JSON object.
    """
    for number, line in read_lines(path):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(path, number, f"not JSON: {error}. Fix: one JSON object a line") from error
        if not isinstance(entry, dict):
            raise DatasetError(path, number, f"expected a JSON object, got {type(entry).__name__}")
        yield number, entry
