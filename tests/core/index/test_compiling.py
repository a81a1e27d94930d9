"""Loops are compiled with and without a place to keep them."""

from __future__ import annotations

import os
import subprocess
import sys

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


_TWICE = """
import sys
from contextlib import nullcontext
from bgem3.index.compiling import compiled
from tests.support.full_disk import file_size_limit


@compiled()
def twice(number):
    return 2 * number


with file_size_limit(int(sys.argv[1])) if len(sys.argv) > 1 else nullcontext():
    print(twice(21), sum(twice.stats.cache_hits.values()))
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "program.py").write_text(_TWICE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*arguments):
        command = [sys.executable, str(tmp_path / "program.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return run


@pytest.mark.parametrize("size", [0, 1000])
def test_on_a_full_disk_a_function_is_compiled_and_not_kept(run, size):
    assert run(str(size)) == ["42", "0"]
    assert run() == ["42", "0"]
    assert run() == ["42", "1"]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_what_was_kept_and_is_damaged_is_made_again(run, tmp_path, ending):
    run()
    (kept,) = (tmp_path / "kept").rglob(f"*.{ending}")
    kept.write_bytes(kept.read_bytes()[:5])
    assert run() == ["42", "0"]
    assert run() == ["42", "1"]
