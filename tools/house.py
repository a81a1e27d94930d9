#!/usr/bin/env python3
"""Check what no linter knows: who may import whom, and that version numbers agree.

Usage: python tools/house.py      from the repository's root; exit status 1 where a rule is broken
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

FRAMEWORKS = {
    "langchain_core",
    "langchain_qdrant",
    "langchain_milvus",
    "llama_index",
    "langchain_bgem3",
    "llamaindex_bgem3",
}
CLIENTS = {"chromadb", "qdrant_client", "pymilvus"}
HEAVY = {"torch", "transformers", "FlagEmbedding"}

# Package -> what it may never import; the core's store clients and torch are imported inside functions only.
FORBIDDEN = {
    "core/bgem3": FRAMEWORKS,
    "core/bgem3_server": FRAMEWORKS,
    "langchain_bgem3": {"llama_index"},
    "llamaindex_bgem3": {"langchain_core"},
}
LAZY = {
    "core/bgem3": CLIENTS | HEAVY,
    "core/bgem3_server": CLIENTS | HEAVY,
    "langchain_bgem3": CLIENTS | HEAVY,
    "llamaindex_bgem3": CLIENTS | HEAVY,
}
# Folder -> our package that stands above it; see docs/project/architecture.md.
ABOVE = {"core/bgem3/index": "bgem3.stores"}
# Modules that exist to wrap one of them, and that nothing imports at load time.
MAY_LOAD = {
    "core/bgem3/backends/attention.py",
    "core/bgem3/backends/graphs.py",
    "core/bgem3/backends/linear.py",
    "core/bgem3/backends/norm.py",
    "core/bgem3/backends/norm_kernel.py",
    "core/bgem3/backends/torch.py",
    "core/bgem3/backends/flag.py",
    "core/bgem3/chroma_function.py",
}


def imports(nodes: list[ast.stmt] | Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield line and top-level name of each import among nodes."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").split(".")[0]


def import_problems(package: str) -> Iterator[str]:
    """Yield each import that a package may not have, or not at load time."""
    for path in sorted(Path(package).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for line, name in imports(ast.walk(tree)):
            if name in FORBIDDEN[package]:
                yield f"{path}:{line} imports {name}, which {package} must not know"
        if path.as_posix() not in MAY_LOAD:
            for line, name in imports(tree.body):
                if name in LAZY[package]:
                    yield f"{path}:{line} imports {name} at load time; import it where it is used"


def layer_problems() -> Iterator[str]:
    """Yield each import of a package that stands above the one that imports it."""
    for folder, above in ABOVE.items():
        for path in sorted(Path(folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{above}."):
                    yield f"{path}:{node.lineno} imports {node.module}, which stands above {folder}"


def version_problems() -> Iterator[str]:
    """Yield a disagreement between pyproject.toml and CHANGELOG.md."""
    version = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["version"]
    headings = re.findall(r"^## \[?([^\]\s]+)", Path("CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    if headings[:1] != ["Unreleased"]:
        yield "CHANGELOG.md: the first section must be [Unreleased]"
    released = headings[1] if len(headings) > 1 else version
    if released != version:
        yield f"CHANGELOG.md: newest release is {released}, pyproject.toml says {version}"


def main() -> int:
    """Print every broken rule."""
    problems = [problem for package in FORBIDDEN for problem in import_problems(package)]
    problems += [*layer_problems(), *version_problems()]
    print("\n".join(problems) or "house in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
