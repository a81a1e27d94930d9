#!/usr/bin/env python3
"""Read facts about clarity from Python source: lengths, nesting, docstrings, types, imports.

Usage: python tools/measure.py PACKAGE_DIR ...     prints one row of figures a package, tabs between them

Nothing is imported or run. `budget.py` holds the same facts against limits.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef, ast.Lambda)


@dataclass(frozen=True)
class FunctionFacts:
    """One function: where it is, how long without its docstring, how deep."""

    path: str
    name: str
    line: int
    length: int
    nesting: int
    public: bool
    documented: bool
    typed: bool


@dataclass
class ModuleFacts:
    """One module: its size, its functions and classes, and which modules of the package it imports at load."""

    name: str
    path: Path
    lines: int
    functions: list[FunctionFacts]
    classes: list[bool]  # for each public class, whether it is documented
    has_code: bool  # holds more than a docstring
    imports: set[str] = field(default_factory=set)


class Figures(NamedTuple):
    """A package in the columns of the style guide's table."""

    files: int
    median_file: int
    longest_file: int
    functions: int
    median: float
    percentile_90: int
    longest: int
    typed: int
    documented: int
    cycles: int


def load(root: Path) -> list[ModuleFacts]:
    """Read every module below a package folder."""
    trees = {
        _module_name(path, root): (path, ast.parse(path.read_text("utf-8"))) for path in sorted(root.rglob("*.py"))
    }
    modules = []
    for name, (path, tree) in trees.items():
        lines = len(path.read_text("utf-8").splitlines())
        has_code = len(tree.body) > (ast.get_docstring(tree) is not None)
        module = ModuleFacts(name, path, lines, list(_functions(tree, str(path))), list(_classes(tree)), has_code)
        module.imports = {found for node in _load_time_imports(tree.body) for found in _targets(node, trees)} - {name}
        modules.append(module)
    return modules


def cycles(modules: list[ModuleFacts]) -> list[list[str]]:
    """Return the first group of modules that import one another, if there is one."""
    try:
        TopologicalSorter({m.name: m.imports for m in modules}).prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _functions(node: ast.AST, path: str, public: bool = True) -> Iterator[FunctionFacts]:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (*FUNCTIONS, ast.ClassDef))
        shown = public and not (named and child.name.startswith("_"))
        if isinstance(child, FUNCTIONS):
            yield _function(child, path, shown)
        yield from _functions(child, path, shown and not isinstance(child, FUNCTIONS))


def _classes(node: ast.AST) -> Iterator[bool]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield ast.get_docstring(child) is not None
        if not isinstance(child, FUNCTIONS) and not (isinstance(child, ast.ClassDef) and child.name.startswith("_")):
            yield from _classes(child)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, path: str, public: bool) -> FunctionFacts:
    documented = ast.get_docstring(node) is not None
    docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    typed = node.returns is not None and all(a.annotation for a in arguments if a.arg not in ("self", "cls"))
    length = node.end_lineno - node.lineno + 1 - docstring
    return FunctionFacts(path, node.name, node.lineno, length, _nesting(node), public, documented, typed)


def _nesting(node: ast.AST, depth: int = 0) -> int:
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SCOPES):
            continue
        # an elif is an If inside orelse, at the same visual depth
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and [child] == node.orelse
        deepest = max(deepest, _nesting(child, depth + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def _load_time_imports(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.If, ast.Try, ast.With)) and "TYPE_CHECKING" not in ast.dump(
            getattr(node, "test", node)
        ):
            yield from _load_time_imports(node.body)


def _targets(node: ast.Import | ast.ImportFrom, known: dict[str, object]) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names if alias.name in known}
    base = node.module or ""
    inner = {f"{base}.{alias.name}" for alias in node.names}
    return {name if name in known else base for name in inner} & set(known)


def figures(root: Path) -> Figures:
    """Measure a package; lengths without docstrings, shares in whole percent of what is public."""
    modules = load(root)
    functions = [f for m in modules for f in m.functions]
    public = [f for f in functions if f.public]
    described = [f.documented for f in public] + [documented for m in modules for documented in m.classes]
    lengths = sorted(f.length for f in functions)
    sizes = [m.lines for m in modules if m.has_code]
    return Figures(
        len(modules),
        int(statistics.median(sizes)),
        max(sizes),
        len(functions),
        statistics.median(lengths),
        lengths[int(len(lengths) * 0.9)],
        lengths[-1],
        round(100 * statistics.mean(f.typed for f in public)),
        round(100 * statistics.mean(described)),
        len(cycles(modules)),
    )


if __name__ == "__main__":
    print("package", *(name.replace("_", " ") for name in Figures._fields), sep="\t")
    for place in map(Path, sys.argv[1:]):
        print(place.name, *(f"{figure:g}" for figure in figures(place)), sep="\t")
