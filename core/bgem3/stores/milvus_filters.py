"""Filters as Milvus takes them: a boolean expression of hashes and numbers. Pure: needs no client.

Strings are compared in an alphabet of 32 letters, two a byte, the first of a pair in lower case and
the second in upper case. It has no character that means something to `like` or in a literal, so a
user's text cannot change an expression, and a match cannot begin in the middle of a byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from bgem3.stores.facets import Compare, Contains, Every, Has, Some, Test, to_test
from bgem3.types import Where

# Field names in a Milvus collection of ours.
KEY, TOKENS, WORDS, TEXTS, FOLDS = "key", "tokens", "words", "texts", "folds"
_PAIRS = [f"{chr(ord('a') + byte // 16)}{chr(ord('A') + byte % 16)}" for byte in range(256)]


def to_milvus(where: Where) -> str:
    """Return a `where` as a Milvus boolean expression.

    Raises:
        InvalidFilterError: as `bgem3.stores.facets.to_test`.
    """
    return _expression(to_test(where))


def letters(text: str) -> str:
    """Return a text in the alphabet that `like` compares, two letters a UTF-8 byte."""
    return "".join(_PAIRS[byte] for byte in text.encode())


def keys_in(keys: Sequence[str]) -> str:
    """Return the expression that chunks of these keys fulfil; keys are hexadecimal."""
    return f"{KEY} in [{', '.join(_quoted(key) for key in keys)}]"


def both(first: str, second: str) -> str:
    """Return the expression that asks for two; an empty one asks for nothing."""
    return f"({first}) and ({second})" if first and second else first or second


def _expression(test: Test) -> str:
    match test:
        case Every(parts):
            return f"({' and '.join(_expression(part) for part in parts)})"
        case Some(parts):
            return f"({' or '.join(_expression(part) for part in parts)})"
        case Has(tokens, present):
            found = f"array_contains_any({TOKENS}, [{', '.join(_quoted(token) for token in tokens)}])"
            return found if present else f"(not {found})"
        case Contains(place, name, value, present):
            found = f'{place}["{name}"] like "%{letters(value)}%"'
            return found if present else f"(not ({found}))"
        case Compare(word, order, value):
            return f'{WORDS}["{word}"] {order} {value!r}'


def _quoted(hexadecimal: str) -> str:
    return f'"{hexadecimal}"'
