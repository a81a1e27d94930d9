"""The README's commands and code, in order, by someone who has only Python and make."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT

NO_INDEX = 3


@pytest.mark.integration
def test_the_readme_does_what_it_says():
    command = [sys.executable, "-m", "tools.newcomer"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == NO_INDEX:
        pytest.skip("no package index is reached from here, and a newcomer installs from one")
    assert done.returncode == 0, done.stdout
