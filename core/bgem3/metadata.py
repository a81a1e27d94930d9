"""What metadata may hold: the types that every store can keep and filter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bgem3.errors import InvalidMetadataError
from bgem3.types import Metadata, MetadataValue

# Keys with this prefix are the stores' own; those with one of the others Chroma refuses, and an index may move there.
RESERVED_PREFIX = "_bgem3"
_REFUSED_PREFIXES = ("#", "$", "chroma:")
_SCALARS = (str, int, float, bool)
_INT64 = 2**63


def check_metadata(metadata: object, name: str, *, stored: bool = False) -> dict[str, MetadataValue]:
    """Return a copy of metadata that every store can keep; None gives an empty one.

    Args:
        metadata: Keys are strings; values str, int (64 bit), float (finite), bool, or a list, not
            empty, of one of them.
        name: What errors call it, e.g. `metadatas[3]`.
        stored: It comes from a store, which may have keys that Chroma alone refuses.

    Raises:
        InvalidMetadataError: a key or a value is of another kind; names both.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError(f"{name}: expected a mapping, got {type(metadata).__name__}. Fix: {{'lang': 'zh'}}")
    for key, value in metadata.items():
        _check_key(key, name)
        if not stored and key.startswith(_REFUSED_PREFIXES):
            raise InvalidMetadataError(
                f"{name}: keys beginning {', '.join(_REFUSED_PREFIXES)} are refused, since Chroma does, got {key!r}. "
                f"Fix: rename it"
            )
        _check_value(value, f"{name}[{key!r}]")
    return copied(metadata)


def copied(metadata: Metadata) -> dict[str, MetadataValue]:
    """Return a copy of metadata that shares no list with it."""
    return {key: value.copy() if isinstance(value, list) else value for key, value in metadata.items()}


def storable(metadata: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """Return metadata of another program as a store can keep it: null is left out, what is nested becomes its JSON."""
    kept: dict[str, MetadataValue] = {}
    for name, value in metadata.items():
        if value is None:
            continue
        plain = value if isinstance(value, str | int | float | bool | dict) else list(value)
        try:
            kept |= check_metadata({name: plain}, "metadata", stored=True)
        except InvalidMetadataError:
            kept[name] = json.dumps(plain, default=str, ensure_ascii=False)
    return kept


def unrounded(found: Metadata, written: Metadata) -> dict[str, MetadataValue]:
    """Return metadata that an engine gave back, with each value as it was written that differs by rounding alone.

    Chroma and Qdrant keep floats as JSON, and read one in ten back wrong by 1 or 2 in the last place.
    """
    return {
        key: written[key] if key in written and _nearly(value, written[key]) else value for key, value in found.items()
    }


def _nearly(found: object, written: object) -> bool:
    if isinstance(found, list) and isinstance(written, list):
        return len(found) == len(written) and all(map(_nearly, found, written))
    if isinstance(found, float) and isinstance(written, float):
        return abs(found - written) <= 2 * math.ulp(written)
    return type(found) is type(written) and found == written


def _check_key(key: object, name: str) -> None:
    if not isinstance(key, str) or not key:
        raise InvalidMetadataError(f"{name}: expected keys that are strings, not empty, got {key!r}. Fix: str(key)")
    if key.startswith(RESERVED_PREFIX):
        raise InvalidMetadataError(
            f"{name}: keys beginning {RESERVED_PREFIX!r} are reserved, got {key!r}. Fix: rename it"
        )
    _check_unicode(key, f"{name} key")


def _check_value(value: object, name: str) -> None:
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if len(kinds) != 1:
            raise InvalidMetadataError(
                f"{name}: expected a list, not empty, of one type, got {sorted(kind.__name__ for kind in kinds) or '[]'}. "
                f"Fix: leave the key out, or make every item a str"
            )
        for item in value:
            _check_scalar(item, name)
    else:
        _check_scalar(value, name)


def _check_scalar(value: object, name: str) -> None:
    if type(value) not in _SCALARS:
        raise InvalidMetadataError(
            f"{name}: expected str, int, float, bool or a list of one of them, got {type(value).__name__}. "
            f"Fix: leave the key out, or store str(value)"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidMetadataError(f"{name}: expected a finite number, got {value!r}. Fix: leave the key out")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidMetadataError(f"{name}: expected an integer of 64 bits, got {value!r}. Fix: store str(value)")
    if isinstance(value, str):
        _check_unicode(value, name)


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMetadataError(
            f"{name}: not valid Unicode at character {error.start}. Fix: leave lone surrogates out"
        ) from error
