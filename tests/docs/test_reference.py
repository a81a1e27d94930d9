"""The reference has a place for every name that the guides use, and shows examples as code."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.blocks import PAGES, ROOT, runnable
from tools.site import PACKAGES, REFERENCES, reference_page

SHOWN = set(re.findall(r"^::: .+\.(\w+)$", "\n".join(reference_page(*one) for one in REFERENCES.items()), re.MULTILINE))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def imported(path):
    for block, _ in runnable(path):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in REFERENCES:
                yield from (name.name for name in node.names if node.module != "bgem3.errors")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_names_of_the_guides_are_in_the_reference(path):
    assert set(imported(path)) <= SHOWN


def docstrings():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, DOCUMENTED) and ">>> " in (text := ast.get_docstring(node) or ""):
                    yield pytest.param(text, id=f"{path.stem}.{getattr(node, 'name', '')}")


@pytest.mark.parametrize("text", list(docstrings()))
def test_examples_stand_under_the_one_heading_that_the_site_shows_as_code(text):
    sections = re.split(r"^([A-Z].*):$", text, flags=re.MULTILINE)
    for title, body in zip(["", *sections[1::2]], sections[::2], strict=True):
        assert ">>> " not in body or title == "Examples", title
