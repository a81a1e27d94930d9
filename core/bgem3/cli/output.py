"""How commands write: tables for people, JSON for scripts, errors and progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

HEAD_NAMES = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}


def fill_streams() -> None:
    """Let standard streams that were closed be empty ones: Python has None there, and the next file takes their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # until the end


def drop_output() -> None:
    """Let what standard output cannot write go nowhere: Python tries again at the end, and its status is 120 then."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def use_utf8() -> None:
    """Let pipes and files be UTF-8, whatever the locale or Windows' code page is; terminals stay as they are.

    What is no UTF-8 is read as surrogates, which encoding refuses; what a terminal cannot show becomes `?`.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            if stream.isatty() or "PYTHONIOENCODING" in os.environ:
                stream.reconfigure(errors="replace" if stream is sys.stdout else "surrogateescape")
            else:  # sig: a mark at the beginning, as PowerShell puts it, is no text
                stream.reconfigure(encoding="utf-8-sig" if stream is sys.stdin else "utf-8", errors="surrogateescape")


def console() -> Console:
    """Return a console on standard output; plain text where that is no terminal."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def table(*columns: str, text: Sequence[str] = ()) -> Table:
    """Return a table without lines; columns in `text` are left-aligned and may wrap."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        wraps = name in text
        made.add_column(name, justify="left" if wraps else "right", no_wrap=not wraps, ratio=1 if wraps else None)
    return made


def write_json(value: Any) -> None:
    """Write one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_json_line(value: Any) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def is_terminal() -> bool:
    """Whether a person watches: progress bars are drawn only there."""
    return sys.stderr.isatty()


def shortened(text: str, length: int = 60) -> str:
    """Return a text on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def read_texts(texts: Sequence[str] | None) -> list[str]:
    """Return the texts of the command line, or the lines of standard input where there are none."""
    if texts and list(texts) != ["-"]:
        return list(texts)
    return [line.rstrip("\n") for line in sys.stdin]
