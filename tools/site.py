"""Pages of the documentation that are made when it is built, as a MkDocs hook: nothing generated is committed.

The import graphs and figures come from the source text, reference pages from each package's `__all__`,
benchmark pages from `benchmarks/`, the decisions' table from their first lines.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from import_graph import draw  # noqa: E402  # MkDocs runs a hook without its folder on the path
from measure import Figures, figures, load  # noqa: E402

PACKAGES = ("core/bgem3", "core/bgem3_server", "langchain_bgem3", "llamaindex_bgem3")

# Measured the same way at model2vec c901407, vicinity 99c71b8, httpx ae1b9f6, haystack 50a84e9, ranx 2cae52f.
ANCHORS = {
    "vicinity": Figures(15, 115, 393, 130, 3.5, 23, 67, 100, 82, 1),
    "model2vec": Figures(27, 55, 561, 121, 10, 40, 106, 100, 85, 0),
    "httpx": Figures(23, 248, 2019, 446, 6, 31, 133, 100, 55, 0),
    "haystack fastembed": Figures(10, 152, 253, 37, 15, 30, 50, 100, 100, 0),
    "ranx": Figures(93, 71, 411, 335, 8, 23, 77, 39, 48, 0),
}
# What each column is called, and which of two figures is the better one; a count has no better.
COLUMNS: dict[str, tuple[str, Callable[[Iterable[float]], float] | None]] = {
    "files": ("files", None),
    "median_file": ("median file", min),
    "longest_file": ("longest file", min),
    "functions": ("functions", None),
    "median": ("median function", min),
    "percentile_90": ("90th percentile", min),
    "longest": ("longest function", min),
    "typed": ("typed %", max),
    "documented": ("documented %", max),
    "cycles": ("import cycles", min),
}

# Page -> (module, classes and functions to show; None: what its `__all__` lists).
REFERENCES = {
    "bgem3": [
        ("bgem3.embeddings", ("MultiVectors",)),
        ("bgem3.types", ("Chunk", "Hit", "Hits", "Matches", "Stage", "Ranked", "IndexSettings")),
        ("bgem3.lengths", ("Lengths",)),
        ("bgem3.scoring", ("Scores",)),
        ("bgem3.stores.base", ("Store",)),
        ("bgem3.stores.opening", ("collection_names", "drop_collection")),
        ("bgem3.stores.layouts", ("Layout",)),
        ("bgem3.tuned", ("Tuned",)),
        ("bgem3.cache", ("EmbeddingCache",)),
        ("bgem3.chroma_function", ("BGEM3EmbeddingFunction",)),
        ("bgem3.torch_file", ("read_torch_file",)),
        ("bgem3.evaluation.mteb", ("MTEBModel",)),
    ],
    "langchain_bgem3": [
        ("bgem3.encoder_fields", ("EncoderFields",)),
        ("langchain_bgem3.rescoring", ("BGEM3RescoringRetriever",)),
        ("langchain_bgem3.milvus", ("BGEM3MilvusSparseEmbeddings",)),
    ],
    "llamaindex_bgem3": [
        ("bgem3.encoder_fields", ("EncoderFields",)),
        ("llamaindex_bgem3.managed", ("convert_managed_index",)),
    ],
}
# Packages with classes that load a model of their own, by these fields.
WITH_FIELDS = ("langchain_bgem3", "llamaindex_bgem3")
INTRODUCTIONS = {
    "bgem3": "Names of `bgem3` load on first use: `from bgem3 import M3Encoder`.",
    "langchain_bgem3": '`pip install "bgem3[langchain]"`',
    "llamaindex_bgem3": '`pip install "bgem3[llamaindex]"`',
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in pages():
        files.append(File.generated(config, path, content=content))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Yield path and content of each generated page."""
    for package in PACKAGES:
        yield f"images/imports-{Path(package).name}.svg", draw(load(ROOT / package))
    yield "project/figures.md", figures_page()
    yield "project/benchmarks.md", benchmarks_page()
    yield "project/changelog.md", (ROOT / "CHANGELOG.md").read_text("utf-8")
    yield "decisions/index.md", decisions_page(sorted((ROOT / "docs" / "decisions").glob("*.md")))
    yield "reference/errors.md", errors_page()
    yield "reference/command-line.md", command_line_page()
    for package, others in REFERENCES.items():
        yield f"reference/{package}.md", reference_page(package, others)


def figures_page() -> str:
    """Return the style guide's figures, ours beside the anchors', and each one in which we are behind the best."""
    ours = {Path(package).name: figures(ROOT / package) for package in PACKAGES}
    rows = [(f"**{name}**", *values) for name, values in ours.items()] + [(n, *v) for n, v in ANCHORS.items()]
    short = behind(ours, ANCHORS)
    return (
        "# Figures of the code\n\nRead from the source text when this page was built. Lengths are in lines, a function's "
        "without its docstring; shares are of what is public. The projects below ours are those whose style was taken as "
        "the measure, at the commits read.\n\n"
        + table(
            ("package", *(title for title, _ in COLUMNS.values())), [[_number(cell) for cell in row] for row in rows]
        )
        + "\n\n## Behind the best of them\n\n"
        + (table(("column", "the best", "behind it"), short) if short else "In no column.")
        + "\n\nIn the other columns each of our packages is as good as the best or better. No project is the best in all "
        "of them: the shortest median file comes with a file of 561 lines, the shortest median function with an import "
        "cycle. What is behind stays so where mending it would mean cutting one idea into two files.\n\n"
        "Limits that `make check` enforces: a file 400 lines, a function 50, nesting 4, no import cycle, "
        "everything public typed and documented.\n"
    )


def behind(ours: dict[str, Figures], anchors: dict[str, Figures]) -> list[list[str]]:
    """Name for each column the best anchor, and our packages that are worse with their figures."""
    rows = []
    for column, (title, better) in COLUMNS.items():
        if better is None:
            continue
        found = {name: getattr(values, column) for name, values in anchors.items()}
        best = better(found.values())
        worse = {name: getattr(values, column) for name, values in ours.items()}
        worse = {name: value for name, value in worse.items() if better((value, best)) != value}
        if worse:
            who = ", ".join(name for name, value in found.items() if value == best)
            rows.append([title, f"{_number(best)} ({who})", ", ".join(f"{n} {_number(v)}" for n, v in worse.items())])
    return rows


def benchmarks_page() -> str:
    """Return every kept result, newest first, under the question its script asks."""
    parts = [
        "# Benchmarks\n\nEach result stands as its script wrote it, with machine, versions and command. "
        "Times hold within one run on one machine; read the ratios.\n"
    ]
    kept = sorted((ROOT / "benchmarks" / "results").iterdir(), reverse=True)
    for script in sorted((ROOT / "benchmarks").glob("[!_]*.py")):
        own = [path for path in kept if re.sub(r"^\d{4}-\d\d-\d\d-", "", path.stem).startswith(script.stem)]
        question = (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or script.stem).split("\n")[0]
        parts.append(f"## {script.stem.capitalize()}\n\n{question} Script: `benchmarks/{script.name}`\n")
        parts += [shown(path) for path in own] or ["No result is kept.\n"]
        kept = [path for path in kept if path not in own]
    if kept:
        parts += ["## Other results\n", *map(shown, kept)]
    return "\n".join(parts)


def shown(path: Path) -> str:
    """Return a kept result as Markdown: tables as they are, text as it was printed."""
    content = path.read_text("utf-8").strip()
    body = re.sub(r"^(#+) ", r"###\1 ", content, flags=re.M) if path.suffix == ".md" else f"```text\n{content}\n```"
    return f"### {path.stem}\n\n{body}\n"


def decisions_page(paths: Iterable[Path]) -> str:
    """Return the decisions as a table of title and choice."""
    rows = []
    for path in paths:
        text = path.read_text("utf-8")
        title = text.split("\n", 1)[0].removeprefix("# ")
        choice = re.search(r"\*\*Choice\.?\*\*\s*(.*?)(?:\n\n|\Z)", text, re.S)
        rows.append([f"[{title}]({path.name})", " ".join((choice[1] if choice else "").split())])
    return (
        "# Decisions\n\nChoices that someone may want to undo: context, choice, evidence, consequence.\n\n"
        + table(("decision", "choice"), rows)
        + "\n"
    )


def errors_page() -> str:
    """Return the tree of errors and each of its classes."""
    tree = ast.parse((ROOT / "core/bgem3/errors.py").read_text("utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return (
        f"# Errors\n\n```text\n{ast.get_docstring(tree)}\n```\n\n"
        "What to do about a message: [Troubleshooting](../troubleshooting.md).\n\n" + _members("bgem3.errors", names)
    )


def command_line_page() -> str:
    """Return what `bgem3 COMMAND --help` says of each command."""
    from typer.main import get_command

    from bgem3.cli.main import make_app

    group = get_command(make_app())
    parts = ["# Command line\n\n`bgem3 COMMAND --help` says the same. Exit status: 2 for bad input, 1 for failure.\n"]
    for name, command in sorted(group.commands.items()):
        rows = [
            [
                ", ".join(f"`{one}`" for one in (*option.opts, *option.secondary_opts)),
                " ".join((getattr(option, "help", "") or "").split()),
                "" if option.default is None or callable(option.default) else f"`{option.default}`",
            ]
            for option in command.params
            if "--help" not in option.opts
        ]
        parts.append(f"## bgem3 {name}\n\n{_paragraphs(command.help or '')}\n\n")
        parts.append(table(("option", "meaning", "default"), rows) + "\n")
    return "\n".join(parts)


def reference_page(package: str, others: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Return a page with every name of a package's `__all__`, and the types those return."""
    module = ast.parse(_source(package).read_text("utf-8"))
    homes = next(
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOMES"
    )
    parts = [f"# {package}\n\n{INTRODUCTIONS[package]}\n"]
    parts += [_members(home, [name]) for name, home in homes.items()]
    if package in WITH_FIELDS:
        parts.append(_fields(package))
    parts += ["## What they return and take\n", *(_members(home, names) for home, names in others)]
    return "\n".join(parts)


def _fields(package: str) -> str:
    """Return the fields that every class of a package with a model of its own has, beside those it names itself."""
    fields = import_module(f"{package}.settings").EncoderSettings.model_fields
    rows = [[f"`{name}`", field.description, f"`{field.default!r}`"] for name, field in fields.items()]
    return (
        "## Fields of every class with a model\n\nOptions of `M3Encoder.from_pretrained`, checked when an object is made. "
        "Objects with equal ones share one model.\n\n" + table(("field", "meaning", "default"), rows) + "\n"
    )


def _source(package: str) -> Path:
    found = (ROOT / root / package / "__init__.py" for root in ("core", "."))
    return next(path for path in found if path.exists())


def _members(module: str, names: Iterable[str]) -> str:
    return "\n".join(f"::: {module}.{name}\n" for name in names)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(cell: float | str) -> str:
    return cell if isinstance(cell, str) else f"{cell:,g}" if cell % 1 else f"{cell:,.0f}"


def _paragraphs(text: str) -> str:
    return re.sub(r"\n(?!\n)(?<!\n\n)", " ", text).strip()
