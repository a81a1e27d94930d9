"""Hashes of large files, remembered, and the folder they are remembered in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path


def cache_root() -> Path:
    """Return the project's cache folder: `BGEM3_CACHE`, or `bgem3` in the platform's cache folder.

    A user without a home, as a container may have, gets one that can never be made.
    """
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    base = os.environ.get(variable)
    try:
        if chosen := os.environ.get("BGEM3_CACHE"):
            return Path(chosen).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "bgem3"
    except RuntimeError:
        return Path(os.devnull, "bgem3")


def read_json(path: Path) -> dict[str, str]:
    """Return a JSON record of strings; empty where the file is missing or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in record.items()} if isinstance(record, dict) else {}


def write_json(path: Path, record: Mapping[str, str]) -> bool:
    """Replace a JSON record whole; False where the folder cannot be written to."""
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            made = Path(file.name)
            json.dump(dict(record), file, indent=1)
        os.replace(made, path)
    except OSError:
        if made is not None:
            made.unlink(missing_ok=True)
        return False
    return True


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex, remembered by its path, size and time of change."""
    real = path.resolve()
    stat = real.stat()
    key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}"
    store = cache_root() / "hashes.json"
    known = read_json(store)
    if key in known:
        return known[key]
    with real.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    write_json(store, {**read_json(store), key: digest})
    return digest
