#!/usr/bin/env python3
"""Read facts about clarity from Python source: lengths, nesting, docstrings, types, imports.

Usage: python tools/measure.py PACKAGE_DIR ...     prints one row of figures a package

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
    """One module: its size, its functions, and which modules of the package it imports at load."""

    name: str
    path: Path
    lines: int
    functions: list[FunctionFacts]
    imports: set[str] = field(default_factory=set)


def load(root: Path) -> list[ModuleFacts]:
    """Read every module below a package folder."""
    trees = {
        _module_name(path, root): (path, ast.parse(path.read_text("utf-8"))) for path in sorted(root.rglob("*.py"))
    }
    modules = []
    for name, (path, tree) in trees.items():
        lines = len(path.read_text("utf-8").splitlines())
        module = ModuleFacts(name, path, lines, list(_functions(tree, str(path))))
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


def row(root: Path) -> str:
    """Return one line of figures for a package."""
    modules = load(root)
    functions = [f for m in modules for f in m.functions]
    public = [f for f in functions if f.public]
    lengths = sorted(f.length for f in functions)
    sizes = [m.lines for m in modules if m.functions]
    return (
        f"{root.name:20} {len(modules):5} {statistics.median(sizes):8.0f} {max(sizes):8} {len(functions):5} "
        f"{statistics.median(lengths):6.1f} {lengths[int(len(lengths) * 0.9)]:6} {lengths[-1]:6} "
        f"{100 * sum(f.typed for f in public) / len(public):5.0f}% {100 * sum(f.documented for f in public) / len(public):5.0f}%"
    )


if __name__ == "__main__":
    print(f"{'package':20} files  med file max file    fn med fn p90 fn max fn  typed  docs")
    for place in sys.argv[1:]:
        print(row(Path(place)))
