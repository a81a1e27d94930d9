"""A JSON object from a line or an option."""

from __future__ import annotations

import json
from typing import Any

from bgem3.errors import InvalidInputError


def parse_object(text: str, place: str, *, fix: str = "one object a line") -> dict[str, Any]:
    """Return the object that a text is.

    Args:
        text: JSON.
        place: What errors call it: a file and line, or an option.
        fix: What errors tell to do.

    Raises:
        InvalidInputError: it is not JSON, too deep, or no object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{place}: not JSON ({error}). Fix: {fix}") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{place}: expected an object, got {type(found).__name__}. Fix: {fix}")
    return found
