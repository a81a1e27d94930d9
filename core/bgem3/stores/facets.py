"""Metadata in a form that any engine can filter by exactly, and filters over that form.

Engines disagree about whether 1 equals 1.0 or true, whether a condition looks into lists, what a
missing key does under a negation, how a string is quoted and whether strings have an order. So a
chunk's metadata is stored a second time as facets, in which those questions do not arise:

    tokens   hashes of "the key is there", "the key holds a number", "the key holds this value", ...
    words    numbers that compare as the value does, under a name made of the key's hash
    texts    strings, and folds, where a string differs from its case-folded form

A filter becomes a tree of three kinds of tests (`Has`, `Compare`, `Contains`), with every negation
pushed down to the tests and guarded by a token, so that no engine's idea of null matters. Only
hashes, numbers and the text of `Contains` reach an engine.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, TypeAlias

from bgem3.errors import InvalidFilterError
from bgem3.filters import All, Any, Condition, Filter, Not, Scalar, kind_of, parse_filter
from bgem3.types import Metadata, Where

Order: TypeAlias = Literal[">", ">=", "<", "<=", "==", "!="]
_ORDERS: dict[str, Order] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPPOSITE: dict[Order, Order] = {">": "<=", "<=": ">", ">=": "<", "<": ">=", "==": "!=", "!=": "=="}

# Six bytes a word, each byte one digit of base 257 with 0 for the end, fit a float64 exactly.
_WORD_BYTES, _BASE, _MAX_WORDS = 6, 257, 5
_MAX_ORDERED = _WORD_BYTES * _MAX_WORDS - 1
_EXACT = 2**53
# From here floats are whole numbers, which every engine keeps; from there none is an integer of ours.
_WHOLE, _INT64 = 2**52, 2**63
# The engines' floats are off by two steps at most; a step down from a power of two is half as long.
_NEAR = 4


@dataclass(frozen=True, slots=True)
class Facets:
    """What an engine stores of a chunk's metadata, to filter by."""

    tokens: list[str] = field(default_factory=list)
    words: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Has:
    """One of the tokens is there; with `present` False none is."""

    tokens: tuple[str, ...]
    present: bool = True


@dataclass(frozen=True, slots=True)
class Compare:
    """A word stands in this relation to a number."""

    word: str
    order: Order
    value: float


@dataclass(frozen=True, slots=True)
class Contains:
    """A text (or a fold) has this substring; with `present` False it has not."""

    place: Literal["texts", "folds"]
    name: str
    value: str
    present: bool = True


@dataclass(frozen=True, slots=True)
class Every:
    """All parts hold; there is at least one."""

    parts: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """One part holds; there is at least one."""

    parts: tuple[Test, ...]


Test: TypeAlias = Has | Compare | Contains | Every | Some
# A token that no chunk has.
_NEVER = Has(("-",))


def to_facets(metadata: Metadata) -> Facets:
    """Return the facets of metadata; values of other types than ours leave nothing but their key."""
    facets = Facets()
    for key, value in metadata.items():
        facets.tokens.append(_token(key))
        if isinstance(value, list):
            facets.tokens.extend(dict.fromkeys(_token(key, "item", item) for item in value if kind_of(item)))
        elif kind := kind_of(value):
            facets.tokens.extend([_token(key, kind), _token(key, "value", value)])
            facets.words.update(zip(_word_names(key, kind), _words(value), strict=False))
            if isinstance(value, str):
                _add_text(facets, key, value)
    return facets


def _add_text(facets: Facets, key: str, text: str) -> None:
    facets.texts[_name(key)] = text
    if (folded := text.casefold()) != text:
        facets.folds[_name(key)] = folded
        facets.tokens.append(_token(key, "fold"))


def to_test(where: Where) -> Test:
    """Return the test that chunks must pass.

    Raises:
        InvalidFilterError: `where` does not follow the grammar, or orders strings by one that is
            longer than 29 bytes.
    """
    return _test(parse_filter(where))


def word_name(key: str) -> str:
    """Return the name of the word that numbers under a key are compared by, for an engine's index."""
    return next(_word_names(key, "number"))


def _test(condition: Filter) -> Test:
    match condition:
        case All(parts):
            return _join(Every, [_test(part) for part in parts], _negate(_NEVER))
        case Any(parts):
            return _join(Some, [_test(part) for part in parts], _NEVER)
        case Not(part):
            return _negate(_test(part))
        case Condition(key, operator, operand):
            return _leaf(key, operator, operand)


def _join(kind: type[Every] | type[Some], parts: Sequence[Test], empty: Test) -> Test:
    if len(parts) < 2:
        return parts[0] if parts else empty
    return kind(tuple(parts))


def _negate(test: Test) -> Test:
    match test:
        case Has(tokens, present):
            return Has(tokens, not present)
        case Compare(word, order, value):
            return Compare(word, _OPPOSITE[order], value)
        case Contains(place, name, value, present):
            return Contains(place, name, value, not present)
        case Every(parts):
            return Some(tuple(_negate(part) for part in parts))
        case Some(parts):
            return Every(tuple(_negate(part) for part in parts))


def _leaf(key: str, operator: str, operand: Scalar | tuple[Scalar, ...]) -> Test:
    if isinstance(operand, tuple):
        return Has(tuple(dict.fromkeys(_token(key, "value", item) for item in operand))) if operand else _NEVER
    if operator == "$exists":
        return Has((_token(key),), bool(operand))
    if operator == "$eq":
        return Has((_token(key, "value", operand),))
    if operator == "$contains":
        return Has((_token(key, "item", operand),))
    if operator in _ORDERS:
        return _ordered(key, _ORDERS[operator], operand)
    return _containing(key, str(operand), folded=operator == "$text_match_insensitive")


def _containing(key: str, text: str, *, folded: bool) -> Test:
    name, is_text = _name(key), Has((_token(key, "text"),))
    if not folded:
        return Every((is_text, Contains("texts", name, text)))
    text = text.casefold()
    has_fold = Every((Has((_token(key, "fold"),)), Contains("folds", name, text)))
    # A text that has the folded operand has it when folded too, so the first part is never wrong.
    return Every((is_text, Some((Contains("texts", name, text), has_fold))))


def _ordered(key: str, order: Order, operand: Scalar) -> Test:
    if isinstance(operand, str) and len(operand.encode()) > _MAX_ORDERED:
        raise InvalidFilterError(
            f"where[{key!r}]: this engine orders strings by a value of at most {_MAX_ORDERED} bytes, got "
            f"{len(operand.encode())}. Fix: compare with a shorter prefix"
        )
    kind = kind_of(operand)
    names = list(_word_names(key, kind))
    if isinstance(operand, str) or _WHOLE <= abs(operand) <= 2 * _INT64:
        test = _lexicographic(names, list(_words(operand)), order)
    else:
        test = _beyond(key, names[0], order, float(operand))
    return Every((Has((_token(key, kind),)), test))


def _beyond(key: str, word: str, order: Order, operand: float) -> Test:
    """Compare a word that may be wrong in its last place: Qdrant rounds floats. The few next to the operand have their tokens."""
    strict: Order = ">" if order in (">", ">=") else "<"
    near = [operand]
    for _ in range(2 * _NEAR):
        near.append(math.nextafter(near[-1], math.inf if strict == ">" else -math.inf))
    among = near if order in (">=", "<=") else near[1:]
    limit = max(-sys.float_info.max, min(near[_NEAR], sys.float_info.max))
    return Some((Compare(word, strict, limit), Has(tuple(_token(key, "value", one) for one in among))))


def _lexicographic(names: Sequence[str], values: Sequence[float], order: Order) -> Test:
    """Compare the first words; only where they are equal, the next ones."""
    if len(values) == 1:
        return Compare(names[0], order, values[0])
    strict: Order = ">" if order in (">", ">=") else "<"
    rest = _lexicographic(names[1:], values[1:], order)
    return Some((Compare(names[0], strict, values[0]), Every((Compare(names[0], "==", values[0]), rest))))


def _words(value: object) -> Iterator[float]:
    """Yield numbers that compare, one after the other, as the value does."""
    if isinstance(value, str):
        data = value.encode()[: _WORD_BYTES * _MAX_WORDS]
        for start in range(0, min(len(data) + 1, _WORD_BYTES * _MAX_WORDS), _WORD_BYTES):
            part = [byte + 1 for byte in data[start : start + _WORD_BYTES]]
            digits = part + [0] * (_WORD_BYTES - len(part))
            yield float(sum(digit * _BASE**place for place, digit in enumerate(reversed(digits))))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)
        if abs(value) >= _EXACT:
            # what a float64 cannot hold of a large integer
            yield float(value - int(float(value))) if isinstance(value, int) else 0.0


def _word_names(key: str, kind: str) -> Iterator[str]:
    return (f"{_name(key)}_{kind[0]}{place}" for place in range(_MAX_WORDS))


def _name(key: str) -> str:
    return "k" + _token("name", key)[:16]


def _token(key: str, role: str = "", value: object = None) -> str:
    """Return 32 hexadecimal digits; 1 and 1.0 have the same ones, 1 and true have not."""
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        value = int(value)
    return blake2b(json.dumps([key, role, value]).encode(), digest_size=16).hexdigest()
