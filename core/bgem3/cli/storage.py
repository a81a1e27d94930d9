"""`bgem3 info`, `verify`, `repair` and `compact`: look after the collections of an embedded Chroma."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.filesize import decimal
from rich.markup import escape

from bgem3.cli.options import (
    BackendOption,
    CollectionOption,
    DbOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    load_encoder,
)
from bgem3.cli.output import console, is_terminal, table, write_json

if TYPE_CHECKING:
    from bgem3.stores.chroma_upkeep import Problem

# Problems named one by one; --json names all.
_SHOWN = 50


def info(*, db: DbOption = "./db", collection: CollectionOption = "bgem3", as_json: JsonOption = False) -> None:
    """Tell what a collection was made with, how many chunks it has and how large each part is."""
    from bgem3.stores.chroma import ChromaStore

    with closing(ChromaStore(db, collection=collection)) as store:
        settings = asdict(store.open())
        with store.reading(graph=False) as parts:
            settings["codec"] = parts.sidecar.codec
        count = store.count()
    sizes = _sizes(Path(db), collection)
    if as_json:
        write_json({"chunks": count, "bytes": sizes, "settings": settings})
        return
    shown = table("", "", text=["", ""])
    shown.add_row("chunks", str(count))
    for part, size in sizes.items():
        shown.add_row(part, decimal(size))
    for name, value in settings.items():
        shown.add_row(name, str(value))
    console().print(shown)


def verify(*, db: DbOption = "./db", collection: CollectionOption = "bgem3", as_json: JsonOption = False) -> None:
    """Compare every chunk in Chroma with what is kept beside it; exits with 1 where something is wrong."""
    from bgem3.stores.chroma import ChromaStore
    from bgem3.stores.chroma_upkeep import verify as compare

    with closing(ChromaStore(db, collection=collection)) as store:
        store.open()
        report = compare(store, show_progress=is_terminal())
    if as_json:
        write_json({"ok": report.ok, **asdict(report)})
    else:
        _show(report.problems)
        if report.file:
            console().print(f"the file itself: {report.file}", markup=False)
        fix = f"Fix: bgem3 repair --db {db} --collection {collection}, with --model where it is another one"
        said = "every one whole" if report.ok else f"{len(report.problems)} wrong. {fix}"
        console().print(f"{report.chunks} chunks, {said}", markup=False)
    raise typer.Exit(0 if report.ok else 1)


def repair(
    *,
    db: DbOption = "./db",
    collection: CollectionOption = "bgem3",
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make what is kept beside Chroma right again from Chroma's texts; encodes only what is missing or damaged.

    A file that is damaged as a whole, or of an older format, is put aside first; what of it can be read is kept. One that is
    lost is made again.
    """
    from bgem3.index.files import CollectionFiles
    from bgem3.index_settings import encode_passages, settings_of
    from bgem3.stores.chroma import ChromaStore
    from bgem3.stores.chroma_rescue import needs_rescue, rescue
    from bgem3.stores.chroma_upkeep import backfill as mend

    store = ChromaStore(db, collection=collection)  # first: it says what is not installed, which takes no model
    encoder = load_encoder(model, backend, precision)
    files, rescued = CollectionFiles(Path(db), collection), None
    lost = not files.sidecar.exists()
    if needs_rescue(files.sidecar):
        rescued = rescue(Path(db), collection, settings_of(encoder, "m3"))
    with closing(store):
        made_with = store.open()
    encoder = encoder.reading_as(made_with)
    with closing(ChromaStore(db, collection=collection)) as store:
        store.open(settings_of(encoder, made_with.lexical))
        mended = mend(store, partial(encode_passages, encoder, made_with.lexical), show_progress=is_terminal())
        count = store.count()
        with store.reading(graph=False) as parts:
            codec = parts.sidecar.codec
    if as_json:
        write_json({"chunks": count, "mended": mended} | ({} if rescued is None else {"rescued": rescued}))
        return
    if rescued is not None:
        was = "was not there" if lost else f"was put aside as {files.damaged.name}"
        made = f"codec {codec}, lexical {made_with.lexical}"
        console().print(f"the file {was}; {rescued} rows of it are kept; {made}", markup=False)
    _show(mended)
    console().print(f"{count} chunks, {len(mended)} mended")


def compact(*, db: DbOption = "./db", collection: CollectionOption = "bgem3", as_json: JsonOption = False) -> None:
    """Give back the space that deleted and replaced chunks left, and tell how much it is.

    Needs about the size of the largest part in free space while it runs.
    """
    from bgem3.stores.chroma import ChromaStore
    from bgem3.stores.chroma_upkeep import compact as squeeze

    with closing(ChromaStore(db, collection=collection)) as store:
        store.open()
        before = _sizes(Path(db), collection)
        squeeze(store)
    after = _sizes(Path(db), collection)
    freed = sum(before.values()) - sum(after.values())
    if as_json:
        write_json({"before": before, "after": after, "freed": freed})
        return
    shown = table("", "before", "after", text=[""])
    for part, size in before.items():
        shown.add_row(part, decimal(size), decimal(after[part]))
    console().print(shown)
    console().print(f"{decimal(max(freed, 0))} given back")


def _show(problems: Mapping[str, Problem]) -> None:
    if not problems:
        return
    shown = table("id", "problem", text=["id"])
    for id_, problem in islice(problems.items(), _SHOWN):
        shown.add_row(escape(id_), problem)
    console().print(shown)
    if len(problems) > _SHOWN:
        console().print(f"and {len(problems) - _SHOWN} more")


def _sizes(db: Path, collection: str) -> dict[str, int]:
    """Bytes of each part on disk; Chroma's files hold every collection of the folder."""
    from bgem3.index.files import CollectionFiles

    files = CollectionFiles(db, collection)
    chroma = (path for path in db.rglob("*") if not CollectionFiles.is_ours(path.relative_to(db).parts[0]))
    parts = {
        "sidecar": files.databases,
        "lexical snapshot": files.lexical.rglob("*"),
        "chroma, all collections": chroma,
    }
    return {name: sum(path.stat().st_size for path in paths if path.is_file()) for name, paths in parts.items()}
