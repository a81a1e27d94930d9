"""The command line as a shell meets it: names, exit codes, readable errors."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

from bgem3.cli.main import COMMANDS, function_name


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bgem3", *arguments], capture_output=True, text=True, timeout=60)


def test_the_version():
    assert run("--version").stdout == f"bgem3 {version('bgem3')}\n"


def test_every_command_has_a_function_with_a_docstring():
    for name, module in COMMANDS.items():
        assert getattr(import_module(module), function_name(name)).__doc__


def test_an_unknown_command_exits_with_2():
    done = run("nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
