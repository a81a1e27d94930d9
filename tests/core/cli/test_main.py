"""The command line as a shell meets it: names, exit codes, readable errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from bgem3.cli.main import COMMANDS, function_name, make_app


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


@pytest.mark.skipif(os.name == "nt", reason="a shell that closes streams")
@pytest.mark.parametrize(
    ("closed", "arguments", "status"),
    [
        (">&-", ["--version"], 0),
        (">&-", ["doctor"], 0),
        ("<&- >&- 2>&-", ["doctor", "--json"], 0),
        ("2>&-", ["copy", "nowhere", "nowhere"], 2),
        ("<&-", ["index", "--model", "nowhere"], 1),
    ],
)
def test_streams_may_be_closed(closed, arguments, status):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "bgem3", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # written at the end, or at once
def test_output_that_finds_no_room(unbuffered):
    command, environment = [sys.executable, "-m", "bgem3", "doctor"], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.endswith("error: cannot write the output: No space left on device. Fix: free disk space\n")


# Windows' code pages and old locales stand in the way of pipes alike
_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", [_ASCII, {}], ids=["ascii", "own"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "mark"])
def test_a_pipe_is_utf_8_in_every_locale(locale, mark, checkpoint):
    command = [sys.executable, "-m", "bgem3", "encode", "--json", "--head", "sparse", "--model", str(checkpoint)]
    done = subprocess.run(
        command, input=mark + "茶 grün\n".encode(), capture_output=True, env=os.environ | locale, check=True
    )
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "茶 grün"


@pytest.mark.parametrize("locale", [_ASCII, {}], ids=["ascii", "own"])
def test_what_is_no_utf_8_is_named(locale, checkpoint):
    command = [sys.executable, "-m", "bgem3", "encode", "--model", str(checkpoint)]
    done = subprocess.run(command, input=b"gr\xfcn\n", capture_output=True, env=os.environ | locale)
    assert done.returncode == 2
    assert b"InvalidTextError: texts[0]: not valid Unicode" in done.stderr


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("chromadb", "chroma", ["index", "note.txt", "--db", "db"]),
        ("pypdf", "pdf", ["index", ".", "--db", "db"]),
        ("chromadb", "chroma", ["ingest", "note.txt", "--to", "chroma:db"]),
        ("chromadb", "chroma", ["repair", "--db", "db"]),
        ("chromadb", "chroma", ["backfill", "--db", "db", "--collection", "news"]),
        ("chromadb", "chroma", ["backfill", "--store", "qdrant:http://127.0.0.1:1#news", "--into", "chroma:db"]),
        ("qdrant_client", "qdrant", ["backfill", "--store", "qdrant:q#news"]),
        ("qdrant_client", "qdrant", ["backfill", "--store", "qdrant:q#news", "--into", "chroma:db"]),
        ("pymilvus", "milvus", ["backfill", "--store", "milvus:m.db#news", "--into", "chroma:db"]),
    ],
)
def test_what_is_not_installed_is_said_before_a_model_is_loaded(package, extra, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("note.txt", "scan.PDF"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    error = CliRunner().invoke(make_app(), [*command, "--model", "no model"]).exception
    assert f'Fix: pip install "bgem3[{extra}]"' in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt", "scan.PDF"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["index", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["index", __file__], "unknown kind"),
        (["backfill", "-c", "news", "--into", "qdrant::memory:"], "filled in place. Fix: leave --into out"),
    ],
)
def test_what_cannot_be_read_is_said_before_a_model_is_loaded(command, said, tmp_path):
    error = CliRunner().invoke(make_app(), [*command, "--model", "no model", "--db", str(tmp_path / "db")]).exception
    assert said in str(error)
    assert list(tmp_path.iterdir()) == []
