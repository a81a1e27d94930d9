"""Options that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bgem3.cli.output import is_terminal
from bgem3.errors import InvalidInputError
from bgem3.types import Weights

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder
    from bgem3.hybrid import HybridIndex
    from bgem3.lengths import Overflow
    from bgem3.stores.base import Store
    from bgem3.tuned import Tuned

ModelOption: TypeAlias = Annotated[str, typer.Option("--model", envvar="BGEM3_MODEL", help="A folder or a hub id.")]
BackendOption: TypeAlias = Annotated[str, typer.Option("--backend", help="What runs the model: auto, onnx, torch, ...")]
PrecisionOption: TypeAlias = Annotated[str, typer.Option("--precision", help="auto, float32, bfloat16, ...")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON for scripts.")]
DbOption: TypeAlias = Annotated[str, typer.Option("--db", envvar="BGEM3_DB", help="Folder of the collections.")]
CodecOption: TypeAlias = Annotated[
    str | None, typer.Option(help="How a new collection of Chroma or Milvus keeps token vectors; default: binary.")
]
CollectionOption: TypeAlias = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]

_PRESETS = ("balanced", "long_document", "lexical")


def given(**options: object) -> dict[str, object]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def load_encoder(
    model: str,
    backend: str = "auto",
    precision: str = "auto",
    *,
    max_length: int | None = None,
    overflow: Overflow = "window",
) -> M3Encoder:
    """Load the model that the options name, with a progress bar on a terminal.

    Raises:
        CheckpointError, MissingExtraError, BackendError, InvalidInputError: as `M3Encoder.from_pretrained`.
    """
    from bgem3.encoder import M3Encoder

    return M3Encoder.from_pretrained(
        model,
        backend=backend,
        precision=precision,
        max_length=max_length,
        overflow=overflow,
        show_progress=is_terminal(),
    )


def open_index(db: str, collection: str, model: str, backend: str, precision: str, *, create: bool) -> HybridIndex:
    """Open a collection of a database.

    Raises:
        InvalidInputError: it is not there, and `create` is false.
        StoreError: it cannot be opened, or was made with another model.
    """
    from bgem3.stores.opening import collection_names, open_store

    if not create and collection not in (names := collection_names(db)):
        there = f"there are {', '.join(names)}" if names else "there is none"
        fix = "--collection NAME" if names else f"bgem3 index FILES --db {db}"
        raise InvalidInputError(f"{db}: no collection {collection!r}, {there}. Fix: {fix}")
    store = open_store(db, collection)  # first: it says what is not installed, which takes no model
    return index_of(load_encoder(model, backend, precision), store)


def index_of(encoder: M3Encoder, store: Store) -> HybridIndex:
    """Return the index of a store; texts are read with the lengths that it was made with.

    Raises:
        StoreError: it cannot be opened, or was made with another model.
    """
    from bgem3.hybrid import HybridIndex

    index = HybridIndex(encoder, store)
    reading = encoder.reading_as(index.settings)
    return index if reading is encoder else HybridIndex(reading, store)


def load_tuned(text: str | None) -> Tuned | None:
    """Return what a file of `bgem3 tune` holds; None: the option names no file.

    Raises:
        DatasetError: the file holds something else.
    """
    from bgem3.tuned import Tuned

    return Tuned.load(text) if text and text not in _PRESETS and Path(text).is_file() else None


def parse_weights(text: str) -> Weights:
    """Return the weights of a preset's name, of `dense/sparse/multi-vector` numbers (or with commas), or of a file of `bgem3 tune`.

    Raises:
        InvalidInputError: it is none of them.
    """
    if text in _PRESETS:
        preset: Weights = getattr(Weights, text)
        return preset
    if tuned := load_tuned(text):
        return tuned.weights
    try:
        dense, sparse, multi_vector = map(float, re.split("[/,]", text))
    except ValueError as error:
        raise InvalidInputError(
            f"weights: got {text!r}, expected balanced, long_document, lexical, three numbers as 1/0.3/1, or a file. "
            f"Fix: --weights 1/0.3/1"
        ) from error
    return Weights(dense, sparse, multi_vector)
