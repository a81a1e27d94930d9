"""Records of JSON Lines and Parquet files as chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from bgem3.errors import InvalidInputError, MissingExtraError
from bgem3.intake import check_id, check_text
from bgem3.json_object import parse_object
from bgem3.metadata import check_metadata
from bgem3.types import Chunk

_NAMESPACE = uuid5(NAMESPACE_URL, "bgem3/records")


def to_chunk(record: Mapping[str, Any], text_field: str, id_field: str | None, place: str = "") -> Chunk:
    """Return the chunk of a record; fields that are null or empty lists are left out of its metadata.

    Without `id_field` the id is a hash of the whole record, so that the same record is the same
    chunk in every run and on every machine.

    Args:
        record: Its fields.
        text_field: The one that holds the text.
        id_field: The one that holds the id.
        place: Where it stands, as errors call it; "" where that is not known.

    Raises:
        InvalidInputError: there is no text or no valid one, no id, or a field that no store can keep.
    """
    name = place or "record"
    if not isinstance(record.get(text_field), str):
        raise InvalidInputError(
            f"{name}: no text in field {text_field!r}, there are {sorted(record)}. Fix: --text-field"
        )
    check_text(record[text_field], f"{name}, field {text_field!r}")
    others = {key: value for key, value in record.items() if key not in (text_field, id_field)}
    rest = {key: value for key, value in others.items() if value not in (None, [])}
    if id_field is None:
        id_ = str(uuid5(_NAMESPACE, json.dumps([record[text_field], rest], sort_keys=True, default=str)))
    else:
        value = record.get(id_field)
        if value is None or value == "":
            raise InvalidInputError(f"{name}: no id in field {id_field!r}, there are {sorted(record)}. Fix: --id-field")
        id_ = check_id(str(value))
    return Chunk(id_, record[text_field], check_metadata(rest, place or f"record {id_!r}"))


def read_records(paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each record, `file:number` from 1, and the record, of `.jsonl`, `.json` (one a line) and `.parquet` files.

    Raises:
        InvalidInputError: another kind of file, or a line that is no JSON object.
    """
    for path in paths:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix in (".jsonl", ".json", ".ndjson"):
            yield from _json_lines(path)
        else:
            raise InvalidInputError(f"{path}: expected .jsonl or .parquet. Fix: bgem3 index reads other files")


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield (place := f"{path}:{number}"), parse_object(line, place)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error}). Fix: give a UTF-8 file that is there") from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "ray", "Reading Parquet") from error
    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=1024)
        for number, record in enumerate((one for batch in batches for one in batch.to_pylist()), start=1):
            yield f"{path}:{number}", record
    except (OSError, ValueError, NotImplementedError, OverflowError) as error:
        raise InvalidInputError(f"{path}: cannot be read as Parquet ({error}). Fix: write it again") from error
