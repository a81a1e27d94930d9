"""Every code block of README and documentation: Python is run, output compared, commands held against what exists."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import pytest

from tests.docs.blocks import COMMANDS, ELSEWHERE, NUMBER, OTHERS, PAGES, ROOT, blocks, runnable, shell_lines

LANGUAGES = {"python", "text", "sh", "bash", "console", "json", "yaml", "toml", "dockerfile"}
# Third parties' own; a reader of the page sees them too.
THIRD_PARTY = ("Payload indexes have no effect", "ORM-style PyMilvus API", "Local mode is not recommended")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def own_chroma():
    """Let go of Chroma's clients, which it keeps by path, relative ones too: each page is a process of its own to a reader."""
    from chromadb.api.shared_system_client import SharedSystemClient

    yield
    SharedSystemClient.clear_system_cache()


@pytest.mark.integration
@pytest.mark.usefixtures("own_chroma")
@pytest.mark.parametrize(
    "path", [path for path in PAGES if runnable(path) and name_of(path) not in ELSEWHERE], ids=name_of
)
def test_python_blocks_run_in_order_and_print_what_the_page_says(path, hub, tmp_path, monkeypatch):
    hub.add("BAAI/bge-m3", ROOT / "examples" / "bge-m3-mini")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block, expected in runnable(path):
        code = "\n" * block.line + block.text
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            for message in THIRD_PARTY:
                warnings.filterwarnings("ignore", message=f".*{message}")
            exec(compile(code, str(path), "exec"), names)
        if expected is not None:
            assert NUMBER.sub("#", printed.getvalue()) == NUMBER.sub("#", expected)
            pairs = zip(NUMBER.findall(printed.getvalue()), NUMBER.findall(expected), strict=True)
            assert all(abs(float(left) - float(right)) <= 0.02 for left, right in pairs), printed.getvalue()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_exist_with_their_options(path):
    for words in shell_lines(path):
        assert words[0] in COMMANDS or words[0] in OTHERS, f"nobody checks {words[0]!r}"
        if words[0] in COMMANDS:
            COMMANDS[words[0]](words[1:])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_names_its_language(path):
    assert {block.language for block in blocks(path)} <= LANGUAGES


def test_blocks_that_need_a_server_are_run_elsewhere():
    for page, test in ELSEWHERE.items():
        guide = Path(page).name
        assert f'"{guide}"' in (ROOT / test).read_text("utf-8")
