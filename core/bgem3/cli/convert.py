"""`bgem3 convert`: smaller and faster forms of a checkpoint, ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bgem3.cli.options import JsonOption
from bgem3.cli.output import console, is_terminal, write_json
from bgem3.types import check_choice


def convert(
    model: Annotated[str, typer.Argument(help="A folder or a hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; from_pretrained takes it.")],
    *,
    backend: Annotated[str, typer.Option(help="onnx or openvino; both read the same files.")] = "onnx",
    precision: Annotated[str, typer.Option(help="float32, int8 or int4.")] = "int8",
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in one precision, with everything that encoding needs and nothing else."""
    from bgem3.checkpoint import load_checkpoint
    from bgem3.convert import convert_checkpoint, require_onnx

    check_choice("--backend", backend, ("onnx", "openvino"))
    require_onnx(model)
    checkpoint = load_checkpoint(model, forms=("torch", "onnx"), show_progress=is_terminal())
    form = convert_checkpoint(checkpoint, out, precision, show_progress=is_terminal())
    size = sum(file.stat().st_size for file in form.iterdir())
    if as_json:
        write_json({"folder": str(out), "precision": precision, "bytes": size})
    else:
        # the files do not say which of the two was meant
        reader = ", backend='openvino'" if backend == "openvino" else ""
        said = f"{out}: {precision}, {size / 2**20:,.0f} MB. Use: M3Encoder.from_pretrained({str(out)!r}{reader})"
        console().print(said, markup=False)
