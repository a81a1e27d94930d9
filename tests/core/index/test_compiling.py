"""Loops are compiled with and without a place to keep them."""

from __future__ import annotations

import pytest
from numba import njit

from bgem3.index.compiling import compiled


def test_a_function_that_nothing_can_be_kept_of_is_compiled_all_the_same():
    # a function of no file stands for a file in a folder that cannot be written to, which stops no root
    known: dict = {}
    exec("def twice(number):\n    return 2 * number", known)
    with pytest.raises(RuntimeError, match="cannot cache function"):
        njit(cache=True)(known["twice"])
    assert compiled()(known["twice"])(21) == 42
    assert compiled(fastmath=True)(known["twice"])(21) == 42
