"""JSON objects from lines and options."""

from __future__ import annotations

import pytest

from bgem3.errors import InvalidInputError
from bgem3.json_object import parse_object


def test_an_object():
    assert parse_object('{"lang": "zh"}', "a line") == {"lang": "zh"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.jsonl:3: not JSON \(.*\)\. Fix: one object a line"),
        ("[" * 100_000, r"a\.jsonl:3: not JSON"),
        ("[1]", r"a\.jsonl:3: expected an object, got list\. Fix: one object a line"),
    ],
)
def test_anything_else_is_refused_by_its_place(text, message):
    with pytest.raises(InvalidInputError, match=message):
        parse_object(text, "a.jsonl:3")
