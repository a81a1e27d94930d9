"""The filter language over metadata: checked once, then answered in Python or in SQL, alike.

The grammar is Chroma's, and a little more:

    {"lang": "zh"}                          equals
    {"year": {"$gte": 2020, "$lt": 2024}}   several conditions on one key: all must hold
    {"lang": "zh", "year": 2020}            several keys: all must hold
    $eq $ne $gt $gte $lt $lte               scalars; order within numbers or within strings
    $in $nin                                one of a list
    $contains $not_contains                 a list value has, or has not, an item
    $exists                                 true or false
    $text_match $text_match_insensitive     a string value has a substring
    $and $or                                lists of filters
    $not                                    a filter

As in Chroma a missing key fails every condition but the negative ones ($ne, $nin, $not_contains),
1 equals 1.0, and True is no number.
"""

from __future__ import annotations

import math
import operator as comparison
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bgem3.errors import InvalidFilterError
from bgem3.types import Metadata, Where

Scalar: TypeAlias = str | int | float | bool
_MAX_DEPTH = 32
# SQLite binds at most 32,766 values to one statement of at most a million characters.
_MAX_CONDITIONS = 2_000
_MAX_VALUES = 30_000

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMPARE = {"$gt": comparison.gt, "$gte": comparison.ge, "$lt": comparison.lt, "$lte": comparison.le}
_TEXT = ("$text_match", "$text_match_insensitive")
# A negative operator is the opposite of another one, missing keys included.
_NEGATIVE = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}
OPERATORS = ("$eq", *_NEGATIVE, *_ORDER, "$in", "$contains", "$exists", *_TEXT)

# The kind of a value: it equals, and compares with, values of its own kind only.
_KINDS = {str: "text", bool: "bool", int: "number", float: "number"}
FIELDS_SCHEMA = """
CREATE TABLE fields (
    key TEXT, row INTEGER, place INTEGER, kind TEXT NOT NULL, value NOT NULL, PRIMARY KEY (key, row, place)
) WITHOUT ROWID;
CREATE INDEX fields_by_row ON fields (row);
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one key. `operator` is never a negative one; `operand` is a tuple for `$in`."""

    key: str
    operator: str
    operand: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class All:
    """Every part must hold; none holds always."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """One part must hold; none never holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part must not hold."""

    part: Filter


Filter: TypeAlias = Condition | All | Any | Not


def parse_filter(where: Where) -> Filter:
    """Check a filter and return it in a form that `matches` and `to_sql` understand.

    Raises:
        InvalidFilterError: an unknown operator, an operand of a wrong type, nesting over 32 levels,
            over 2,000 conditions or over 30,000 values.
    """
    parsed = _parse(where, 0)
    sizes = list(_sizes(parsed))
    for name, limit, got in (("conditions", _MAX_CONDITIONS, len(sizes)), ("values", _MAX_VALUES, sum(sizes))):
        if got > limit:
            raise InvalidFilterError(f"where: expected at most {limit} {name}, got {got}. Fix: ask in several calls")
    return parsed


def _sizes(condition: Filter) -> Iterator[int]:
    """Yield the number of values of each condition."""
    match condition:
        case All(parts) | Any(parts):
            for part in parts:
                yield from _sizes(part)
        case Not(part):
            yield from _sizes(part)
        case Condition(_, _, operand):
            yield len(operand) if isinstance(operand, tuple) else 1


def _parse(where: object, depth: int) -> Filter:
    if not isinstance(where, Mapping) or not where:
        raise InvalidFilterError(f"where: expected a mapping, not empty, got {where!r}. Fix: where={{'lang': 'zh'}}")
    if depth > _MAX_DEPTH:
        raise InvalidFilterError(f"where: nested more than {_MAX_DEPTH} deep. Fix: flatten $and and $or")
    parts = tuple(_parse_entry(key, value, depth) for key, value in where.items())
    return parts[0] if len(parts) == 1 else All(parts)


def _parse_entry(key: object, value: object, depth: int) -> Filter:
    if key == "$not":
        return Not(_parse(value, depth + 1))
    if key in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise InvalidFilterError(
                f"where: {key} expects a list of filters, not empty, got {value!r}. Fix: {{{key!r}: [{{'lang': 'zh'}}]}}"
            )
        parts = tuple(_parse(part, depth + 1) for part in value)
        return All(parts) if key == "$and" else Any(parts)
    if not isinstance(key, str) or key.startswith("$") or not _is_unicode(key):
        raise InvalidFilterError(
            f"where: expected a metadata key or one of $and, $or, $not, got {key!r}. Fix: where={{'lang': 'zh'}}"
        )
    if not isinstance(value, Mapping):
        return _condition(key, "$eq", value)
    if not value:
        raise InvalidFilterError(f"where[{key!r}]: expected an operator and a value, got {{}}. Fix: {{'$eq': ...}}")
    conditions = tuple(_condition(key, operator, operand) for operator, operand in value.items())
    return conditions[0] if len(conditions) == 1 else All(conditions)


def _condition(key: str, operator: object, operand: object) -> Filter:
    if operator not in OPERATORS:
        raise InvalidFilterError(
            f"where[{key!r}]: unknown operator {operator!r}, expected one of {', '.join(OPERATORS)}. "
            f"Fix: where={{{key!r}: {{'$eq': ...}}}}"
        )
    if operator in _NEGATIVE:
        return Not(_condition(key, _NEGATIVE[str(operator)], operand))
    return Condition(key, str(operator), _operand(key, str(operator), operand))


def _operand(key: str, operator: str, operand: object) -> Scalar | tuple[Scalar, ...]:
    if operator == "$in":
        if not isinstance(operand, (list, tuple, set, frozenset)):
            raise _wrong_operand(key, operator, "a list", operand, "['zh', 'en']")
        return tuple(_scalar(key, operator, item) for item in operand)
    scalar = _scalar(key, operator, operand)
    if operator == "$exists" and not isinstance(scalar, bool):
        raise _wrong_operand(key, operator, "true or false", operand, "True")
    if operator in _ORDER and isinstance(scalar, bool):
        raise _wrong_operand(key, operator, "a number or a string", operand, "2020")
    if operator in _TEXT and not isinstance(scalar, str):
        raise _wrong_operand(key, operator, "a string", operand, "'tea'")
    return scalar


def _scalar(key: str, operator: str, value: object) -> Scalar:
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, str) and _is_unicode(value)):
        return value
    raise _wrong_operand(key, operator, "a valid str, a 64-bit int, a finite float or a bool", value, "'zh'")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_operand(key: str, operator: str, expected: str, got: object, example: str) -> InvalidFilterError:
    return InvalidFilterError(
        f"where[{key!r}]: {operator} expects {expected}, got {got!r}. Fix: where={{{key!r}: {{{operator!r}: {example}}}}}"
    )


def matches(condition: Filter, metadata: Metadata) -> bool:
    """Say whether metadata fulfils a parsed filter."""
    match condition:
        case All(parts):
            return all(matches(part, metadata) for part in parts)
        case Any(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
        case Condition(key, operator, operand):
            return _holds(operator, metadata.get(key), operand)


def _holds(operator: str, value: object, operand: Scalar | tuple[Scalar, ...]) -> bool:
    if operator == "$exists":
        return (value is not None) == operand
    if operator == "$contains":
        return isinstance(value, list) and any(_equal(item, operand) for item in value)
    if operator == "$in":
        assert isinstance(operand, tuple)  # made by _operand
        return any(_equal(value, item) for item in operand)
    if operator == "$eq":
        return _equal(value, operand)
    if operator in _TEXT:
        return isinstance(value, str) and isinstance(operand, str) and _has_text(operator, value, operand)
    return _ordered(operator, value, operand)


def _equal(value: object, operand: object) -> bool:
    return kind_of(value) == kind_of(operand) and value == operand


def kind_of(value: object) -> str:
    """Return `text`, `bool` or `number`: what a scalar is equal to and compares with; empty for anything else."""
    return next((_KINDS[base] for base in type(value).__mro__ if base in _KINDS), "")


def _has_text(operator: str, value: str, operand: str) -> bool:
    if operator == "$text_match":
        return operand in value
    return operand.casefold() in value.casefold()


def _ordered(operator: str, value: object, operand: object) -> bool:
    if kind_of(value) != kind_of(operand):
        return False
    compare = _COMPARE[operator]
    if isinstance(value, str) and isinstance(operand, str):
        return bool(compare(value, operand))
    return isinstance(value, (int, float)) and isinstance(operand, (int, float)) and bool(compare(value, operand))


def to_fields(metadata: Metadata) -> Iterator[tuple[str, int, str, Scalar]]:
    """Yield metadata as `(key, place, kind, value)`, the form in which SQL reads it (`FIELDS_SCHEMA`).

    A list gives one for each item, of a kind of its own. SQLite's JSON functions would do without
    a second table, but cut strings at NUL and round floats.
    """
    for key, value in metadata.items():
        if isinstance(value, list):
            items: Sequence[Scalar] = value
            for place, item in enumerate(items):
                yield key, place, f"{kind_of(item)} item", item
        else:
            yield key, 0, kind_of(value), value


def to_sql(condition: Filter, row: str = "row") -> tuple[str, list[object]]:
    """Return a filter as an SQLite expression, and its parameters.

    The expression reads the table of `FIELDS_SCHEMA`, filled by `to_fields`, and needs the function
    `casefold(text)`, which the connection must define. Keys and operands are bound as parameters,
    never written into the text.

    Args:
        condition: A parsed filter.
        row: The SQL name of the row asked about.
    """
    match condition:
        case All(parts) | Any(parts):
            word, empty = ("AND", "1") if isinstance(condition, All) else ("OR", "0")
            pieces = [to_sql(part, row) for part in parts]
            return _join(word, [sql for sql, _ in pieces]) or empty, [v for _, values in pieces for v in values]
        case Not(part):
            sql, values = to_sql(part, row)
            return f"NOT ({sql})", values
        case Condition(key, operator, operand):
            sql, values = _value_sql(operator, operand)
            negation = "NOT " if operator == "$exists" and operand is False else ""
            return f"{row} {negation}IN (SELECT row FROM fields WHERE key = ? AND {sql})", [key, *values]


def _join(word: str, pieces: Sequence[str]) -> str:
    """Join by halves: SQLite allows a depth of 1,000, and reads a flat chain as one that deep."""
    if len(pieces) < 2:
        return "".join(pieces)
    middle = len(pieces) // 2
    return f"({_join(word, pieces[:middle])}) {word} ({_join(word, pieces[middle:])})"


def _value_sql(operator: str, operand: Scalar | tuple[Scalar, ...]) -> tuple[str, list[object]]:
    if operator == "$exists":
        return "1", []
    if isinstance(operand, tuple):
        by_kind = {kind: [item for item in operand if kind_of(item) == kind] for kind in ("text", "bool", "number")}
        tests = [f"(kind = '{kind}' AND value IN ({', '.join('?' * len(v))}))" for kind, v in by_kind.items() if v]
        return f"({' OR '.join(tests) or '0'})", [item for items in by_kind.values() for item in items]
    if operator == "$contains":
        return f"kind = '{kind_of(operand)} item' AND value = ?", [operand]
    if operator == "$text_match":
        return "kind = 'text' AND instr(value, ?) > 0", [operand]
    if operator == "$text_match_insensitive":
        return "kind = 'text' AND instr(casefold(value), ?) > 0", [str(operand).casefold()]
    return f"kind = '{kind_of(operand)}' AND value {_ORDER.get(operator, '=')} ?", [operand]
