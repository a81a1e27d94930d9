"""`bgem3 ingest` and `bgem3 copy`: many records into a store, and one store into another."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgem3.cli.options import (
    BackendOption,
    CodecOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    given,
    index_of,
    load_encoder,
)
from bgem3.cli.output import console, is_terminal, write_json
from bgem3.errors import InvalidInputError
from bgem3.stores.addresses import HELP
from bgem3.types import check_choice

if TYPE_CHECKING:
    from bgem3.hybrid import HybridIndex
    from bgem3.types import Chunk

# Chunks added in one call.
_SLICE = 1024


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="JSON Lines or Parquet files, or folders of them.")],
    *,
    to: Annotated[str, typer.Option(help=HELP)],
    text_field: Annotated[str, typer.Option(help="The field that holds the text.")] = "text",
    id_field: Annotated[str | None, typer.Option(help="The field that holds the id; default: a hash.")] = None,
    engine: Annotated[str, typer.Option(help="local: this process; ray: Ray Data.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="With ray: models loaded at once.")] = 2,
    gpus: Annotated[float, typer.Option(min=0, help="With ray: GPUs a worker takes.")] = 0,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Encode the records of files and write them to a store; fields beside those of text and id become metadata.

    Without --id-field a field that is called id is metadata like any other, and the id is a hash of the whole record.

    Begun again it adds nothing twice. Keys of servers: QDRANT_API_KEY, MILVUS_TOKEN.
    """
    from bgem3.stores.addresses import Address

    Address.parse(to)
    check_choice("--engine", engine, ("local", "ray"))
    files = _files(paths)
    start = time.perf_counter()
    if engine == "ray":
        from bgem3.ray_ingest import IngestJob, ingest_on_ray

        place = str(Path(model).absolute()) if Path(model).is_dir() else model
        job = IngestJob(to, place, {"backend": backend, "precision": precision}, text_field, id_field)
        count = ingest_on_ray(files, job, workers=workers, gpus=gpus)
    else:
        count = _ingest_here(files, to, text_field, id_field, (model, backend, precision))
    seconds = time.perf_counter() - start
    if as_json:
        write_json({"texts": count, "seconds": seconds, "texts_per_second": count / seconds, "to": to})
    else:
        console().print(f"{count} texts in {seconds:.1f} s, {count / seconds:.1f} a second, to {to}", markup=False)


def copy(
    source: Annotated[str, typer.Argument(help=HELP)],
    target: Annotated[str, typer.Argument(help="Likewise; made where it is not there.")],
    *,
    codec: CodecOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Chunks in memory.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Copy a collection with its vectors to another store, without encoding; what is there already is skipped.

    Every chunk is read back. Keys of servers: QDRANT_API_KEY, MILVUS_TOKEN.
    """
    from tqdm.auto import tqdm

    from bgem3.moving import copy_store
    from bgem3.stores.addresses import Address

    with (
        closing(Address.parse(source).make()) as old,
        closing(Address.parse(target).make(**given(codec=codec))) as new,
        tqdm(unit="chunk", desc="Copying", disable=not is_terminal()) as bar,
    ):
        report = copy_store(old, new, batch_size=batch_size, on_batch=bar.update)
    if as_json:
        write_json({**asdict(report), "source": source, "target": target})
    else:
        console().print(
            f"{report.copied} chunks copied, {report.skipped} were there, {report.count} in {target}; "
            f"texts and metadata alike, checksum {report.checksum}",
            markup=False,
        )


def _ingest_here(
    files: list[Path], to: str, text_field: str, id_field: str | None, encoder: tuple[str, str, str]
) -> int:
    from bgem3.records import read_records, to_chunk
    from bgem3.stores.addresses import Address

    chunks = (to_chunk(record, text_field, id_field, place) for place, record in read_records(files))
    store = Address.parse(to).make()  # first: it says what is not installed, which takes no model
    with index_of(load_encoder(*encoder), store) as index:
        return add_chunks(index, chunks)


def add_chunks(index: HybridIndex, chunks: Iterable[Chunk]) -> int:
    """Add chunks in slices, with a bar on a terminal, and return how many; of one id in a slice the last one counts."""
    from tqdm.auto import tqdm

    from bgem3.intake import slices

    count = 0
    with tqdm(unit="chunk", desc="Adding", disable=not is_terminal()) as bar:
        for part in slices(chunks, _SLICE):
            rows = list({chunk.id: chunk for chunk in part}.values())
            index.add([c.text for c in rows], ids=[c.id for c in rows], metadatas=[c.metadata for c in rows])
            count += len(rows)
            bar.update(len(part))
    return count


def _files(paths: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.jsonl")) + sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not found or not found[0].exists():
            raise InvalidInputError(
                f"{path}: no such file, or a folder without .jsonl and .parquet. Fix: check the path"
            )
        files += found
    return files
