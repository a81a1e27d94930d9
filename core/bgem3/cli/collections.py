"""`bgem3 index` and `bgem3 search`: files into a collection, hits out of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bgem3.cli.options import (
    BackendOption,
    CollectionOption,
    DbOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    load_tuned,
    open_index,
    parse_weights,
)
from bgem3.cli.output import HEAD_NAMES, console, is_terminal, shortened, table, write_json
from bgem3.errors import InvalidInputError
from bgem3.intake import slices
from bgem3.json_object import parse_object
from bgem3.types import HEADS, MODES, STRATEGIES, Chunk, Hits

if TYPE_CHECKING:
    from bgem3.hybrid import HybridIndex

# Passages added in one call.
_SLICE = 1024
# Numbers that are looked for at a time after a file's last passage.
_LOOKED = 64


def index(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders; - is JSON Lines on standard input.")
    ] = None,
    *,
    db: DbOption = "./db",
    collection: CollectionOption = "bgem3",
    size: Annotated[int, typer.Option(min=100, help="Characters of a passage, about.")] = 1200,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add txt, md, pdf, csv and jsonl files to a collection, in passages.

    A file that is added again replaces its passages; records with an id of their own stay until they are replaced or
    deleted. A csv needs a column, jsonl a field named text (or content, page_content, document, passage, body); the other
    fields become metadata.
    """
    lengths: Counter[str] = Counter()
    files = list(_files(paths or [Path("-")]))  # first: what cannot be read is said before a model is loaded
    passages = _passages(files, size, lengths)
    added = 0
    with open_index(db, collection, model, backend, precision, create=True) as opened:
        for part in slices(passages, _SLICE):
            opened.add(
                [one.text for one in part],
                ids=[one.id for one in part],
                metadatas=[one.metadata for one in part],
                show_progress=is_terminal(),
            )
            added += len(part)
        _delete_rest(opened, lengths)
        count = opened.count()
    if as_json:
        write_json({"added": added, "count": count, "db": db, "collection": collection})
    else:
        console().print(f"{added} passages added, {count} in collection {collection!r} of {db}", markup=False)


def search(
    query: Annotated[str, typer.Argument(help="A question or a few words; - reads it from standard input.")],
    *,
    db: DbOption = "./db",
    collection: CollectionOption = "bgem3",
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 5,
    mode: Annotated[str, typer.Option(help=", ".join(MODES))] = "hybrid",
    strategy: Annotated[
        str | None, typer.Option(help=f"{', '.join(STRATEGIES)}; default: the file's, or union.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="As of eval: a preset, 1/0.3/1, or a file of tune, which has a strategy too.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="""Metadata filter as JSON, e.g. '{"lang": "zh"}'.""")] = None,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Search a collection by meaning, words and details."""
    tuned = load_tuned(weights)
    options: dict[str, Any] = {
        "k": k,
        "mode": mode,
        "strategy": strategy or (tuned and tuned.strategy),
        "weights": parse_weights(weights) if weights else None,
    }
    if where is not None:
        options["where"] = parse_object(where, "--where", fix="""--where '{"lang": "zh"}'""")
    query = sys.stdin.read().strip() if query == "-" else query
    with open_index(db, collection, model, backend, precision, create=False) as opened:
        if tuned:
            tuned.check(opened.settings)
        hits = opened.search(query, **options)
    if as_json:
        write_json({"query": query, "hits": [hit.to_dict() for hit in hits]})
    else:
        show_hits(hits)


def show_hits(hits: Hits) -> None:
    """Print a table of hits with the score of each head."""
    shown = table("", "text", "score", *HEAD_NAMES.values(), text=["text"])
    for rank, hit in enumerate(hits, start=1):
        scores = [f"{hit.scores[head]:.2f}" if head in hit.scores else "" for head in HEADS]
        shown.add_row(str(rank), escape(f"{shortened(hit.text, 160)}\n{hit.id}"), f"{hit.score:.3f}", *scores)
    console().print(shown if hits else "nothing found")


def _passages(files: Iterable[tuple[Path, str]], size: int, lengths: Counter[str]) -> Iterator[Chunk]:
    """Yield the passages of files, and count those of each."""
    from bgem3.reading import read_passages

    for path, name in files:
        content = sys.stdin.buffer.read() if path == Path("-") else _content(path)
        lengths[name] = 0
        for passage in read_passages(name, content, size=size):
            lengths[name] += 1
            yield passage


def _delete_rest(index: HybridIndex, lengths: Mapping[str, int]) -> None:
    """Delete what files had after their last passage when they were added before."""
    later, found = range(1, _LOOKED + 1), 1
    while found:
        found = index.delete(ids=[f"{name}#{last + n}" for name, last in lengths.items() for n in later])
        later = range(later.stop, later.stop + _LOOKED)


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each file with the name its passages carry: relative to the folder that was given.

    Raises:
        InvalidInputError: a path that is not there, a kind that is unknown, a folder without files.
        MissingExtraError: a PDF, and pypdf is not installed.
    """
    from bgem3.reading import READERS, check_kind

    for path in paths:
        if path == Path("-"):
            yield path, "stdin.jsonl"
            continue
        with _reading(path):
            path.stat()
        if path.is_dir():
            found = [one for one in sorted(path.rglob("*")) if one.is_file() and one.suffix.lower()[1:] in READERS]
            if not found:
                raise InvalidInputError(f"{path}: no {', '.join(sorted(READERS))} file in it. Fix: another folder")
            files = [(one, one.relative_to(path).as_posix()) for one in found]
        else:
            files = [(path, path.name)]
        for one, name in files:
            check_kind(name)
            yield one, name


def _content(path: Path) -> bytes:
    with _reading(path):
        return path.read_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInputError(
            f"{path}: cannot be read ({error.strerror}). Fix: the path of a file or folder"
        ) from error
