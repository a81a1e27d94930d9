"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

ModelOption: TypeAlias = Annotated[str, typer.Option("--model", envvar="BGEM3_MODEL", help="A folder or a hub id.")]
BackendOption: TypeAlias = Annotated[str, typer.Option("--backend", help="What runs the model: auto, onnx, torch, ...")]
PrecisionOption: TypeAlias = Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16, ...")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON for scripts.")]
DbOption: TypeAlias = Annotated[str, typer.Option("--db", envvar="BGEM3_DB", help="Folder of the collections.")]
CollectionOption: TypeAlias = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
