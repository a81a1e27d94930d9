"""Code blocks of Markdown files, and what each kind of block must do."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")})
# Pages whose Python needs a server running; those tests run it there.
ELSEWHERE = {"docs/serving.md": "tests/server/test_documents.py"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line it starts on."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    tokens = MarkdownIt().parse(path.read_text("utf-8"))
    return [Block(one.info.strip(), one.content, one.map[0] + 1) for one in tokens if one.type == "fence" and one.map]


def runnable(path: Path) -> list[tuple[Block, str | None]]:
    """Return each Python block with the text block that follows it at once, its output."""
    found = blocks(path)
    after: list[Block | None] = [*found[1:], None]
    return [
        (block, next_one.text if next_one and next_one.language == "text" else None)
        for block, next_one in zip(found, after, strict=False)
        if block.language == "python"
    ]


def shell_lines(path: Path) -> Iterator[list[str]]:
    """Yield the words of each shell command, continued lines joined, without settings before it."""
    for block in blocks(path):
        if block.language in ("sh", "bash", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                    words = words[1:]
                if words:
                    yield words


def check_make(words: list[str]) -> None:
    for target in (word for word in words if "=" not in word):
        assert target in TARGETS, f"make {target}: no such target"


def check_pip(words: list[str]) -> None:
    for extra in re.findall(r"bgem3\[([a-z,-]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(EXTRAS), f"bgem3[{extra}]: no such extra"


def check_bgem3(words: list[str]) -> None:
    """Hold a command and its options against the command line."""
    from typer.main import get_command

    from bgem3.cli.main import make_app

    commands = get_command(make_app()).commands
    if words[:1] == ["--version"]:
        return
    assert words[0] in commands, f"bgem3 {words[0]}: no such command"
    known = {name for option in commands[words[0]].params for name in (*option.opts, *option.secondary_opts)}
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in {*known, "--help"}, f"bgem3 {words[0]} {option}: no such option"


def check_script(words: list[str]) -> None:
    script = next((word for word in words if word.endswith(".py")), None)
    assert script is None or (ROOT / script).is_file(), f"{script}: no such file"


# What a documented command is held against; tools/newcomer.py runs those of the README.
COMMANDS = {
    "make": check_make,
    "pip": check_pip,
    "bgem3": check_bgem3,
    "python": check_script,
}
OTHERS = {"docker", "curl", "git", "export", "cd", "ollama", "helm", "kubectl"}
