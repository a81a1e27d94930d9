"""What docs/serving.md says is so, and the container's files are what linters and the server expect."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "serving.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_openai_example_runs(base_url, encoder):
    block, *_ = PYTHON
    code = block.replace("http://127.0.0.1:8080", base_url).replace('"bge-m3"', '"bge-m3-mini"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0].split()
    assert first[0] == str(encoder.dim)
    assert first[-1] == f"{encoder.multi_dim}]"


@pytest.mark.parametrize("block", PYTHON[1:], ids=["encoder", "frameworks"])
def test_the_clients_run(base_url, block):
    code = block.replace("http://127.0.0.1:8080", base_url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "remote" in done.stdout


def test_every_call_of_the_guide_exists(client):
    paths = set(client.get("/openapi.json").json()["paths"]) | {"/openapi.json"}
    named = re.findall(r"`(?:GET|POST|GET`, `DELETE)?,? ?(/v1/[^`? ]+|/metrics|/openapi.json)", GUIDE)
    assert len(named) > 8
    assert set(named) - {"/v1/collections/{name}"} <= paths


def test_every_option_of_the_guide_exists():
    shown = subprocess.run([sys.executable, "-m", "bgem3", "serve", "--help"], capture_output=True, text=True).stdout
    for option in set(re.findall(r"`(--[a-z-]+)", GUIDE)):
        assert option in shown


@pytest.mark.parametrize("command", [["hadolint", "Dockerfile"], ["yamllint", "--strict", "compose.yaml", ".github"]])
def test_linters_find_nothing(command):
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_files_the_image_copies_are_there_and_not_ignored():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()}
    names = {name for line in copied for name in line.split()}
    assert names <= allowed
    assert all((ROOT / name).exists() for name in names)
