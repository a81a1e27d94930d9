"""The README's Python blocks, run as they stand: BAAI/bge-m3 comes from a hub on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
EXPECTED = ["Part KX-220B", "Part KX-220B", "茶叶含有茶氨酸"]


@pytest.mark.integration
@pytest.mark.parametrize(("block", "expected"), list(zip(BLOCKS, EXPECTED, strict=True)))
def test_block_runs_and_finds_the_answer(block, expected, hub, tmp_path):
    hub.add("BAAI/bge-m3", ROOT / "examples" / "bge-m3-mini")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", block], capture_output=True, text=True, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_every_make_target_the_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text("utf-8"))) - {"so"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_extra_the_readme_names_exists():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra in set(re.findall(r"bgem3\[([a-z]+)\]", (ROOT / "README.md").read_text("utf-8"))):
        assert extra in extras
