"""`bgem3 export` and `bgem3 import`: a collection as files, and back into any store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bgem3.cli.options import CodecOption, JsonOption, given
from bgem3.cli.output import console, is_terminal, write_json
from bgem3.stores.addresses import HELP


def export(
    source: Annotated[str, typer.Argument(help=HELP)],
    folder: Annotated[Path, typer.Argument(help="Made here; must not hold anything.")],
    *,
    codec: Annotated[
        str, typer.Option(help="How token vectors are written: float16, for any program, or binary, 16 times smaller.")
    ] = "float16",
    batch_size: Annotated[int, typer.Option(min=1, help="Chunks in memory, and in a file.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Write a collection with its vectors to files: JSON Lines, safetensors and a manifest with checksums.

    Keys of servers: QDRANT_API_KEY, MILVUS_TOKEN.
    """
    from tqdm.auto import tqdm

    from bgem3.portable import export_store
    from bgem3.stores.addresses import Address

    with (
        closing(Address.parse(source).make()) as store,
        tqdm(unit="chunk", desc="Exporting", disable=not is_terminal()) as bar,
    ):
        count = export_store(store, folder, codec=codec, batch_size=batch_size, on_batch=bar.update)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if as_json:
        write_json({"chunks": count, "bytes": size, "folder": str(folder)})
    else:
        console().print(f"{count} chunks, {size} bytes in {folder}", markup=False)


def import_(
    folder: Annotated[Path, typer.Argument(help="What bgem3 export wrote.")],
    target: Annotated[str, typer.Argument(help=HELP + "; made where it is not there.")],
    *,
    codec: CodecOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put an export into a store, without encoding; what is there already is skipped.

    Every file is checked before anything is written, and every chunk is read back.
    Keys of servers: QDRANT_API_KEY, MILVUS_TOKEN.
    """
    from tqdm.auto import tqdm

    from bgem3.portable import import_store
    from bgem3.stores.addresses import Address

    with (
        closing(Address.parse(target).make(**given(codec=codec))) as store,
        tqdm(unit="chunk", desc="Importing", disable=not is_terminal()) as bar,
    ):
        report = import_store(folder, store, on_batch=bar.update)
    if as_json:
        write_json({**asdict(report), "target": target})
    else:
        console().print(
            f"{report.copied} chunks imported, {report.skipped} were there, {report.count} in {target}; "
            f"checksum {report.checksum}",
            markup=False,
        )
