"""`bgem3 backfill`: collections of other programs get the vectors that they lack."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from bgem3.cli.ingest import add_chunks
from bgem3.cli.options import BackendOption, DbOption, JsonOption, ModelOption, PrecisionOption, index_of, load_encoder
from bgem3.cli.output import console, is_terminal, write_json
from bgem3.errors import InvalidInputError, StoreError
from bgem3.stores.addresses import HELP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bgem3.encoder import M3Encoder
    from bgem3.stores.addresses import Address
    from bgem3.stores.base import Store
    from bgem3.types import Chunk


def backfill(
    *,
    db: DbOption = "./db",
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="As the program that made it calls it; with --db.")
    ] = None,
    store: Annotated[str | None, typer.Option(help=f"Instead of --db and --collection: {HELP}.")] = None,
    into: Annotated[str | None, typer.Option(help="Encode the texts into this new collection instead.")] = None,
    text_field: Annotated[str | None, typer.Option(help="Qdrant, Milvus: the field of the text.")] = None,
    metadata_field: Annotated[str, typer.Option(help="Qdrant: the field of the metadata.")] = "metadata",
    codec: Annotated[
        str, typer.Option(help="Chroma: how token vectors are kept: float32, float16, int8, int4, int2, binary, none.")
    ] = "binary",
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add the vectors that a collection of LangChain, LlamaIndex or another program lacks, in place.

    That program reads it as before. Dense vectors of another model are replaced. Begun again it goes on where it
    was. Milvus, and Qdrant before 1.18, add no vectors to a collection: there --into makes a new one. Keys of
    servers: QDRANT_API_KEY, MILVUS_TOKEN.
    """
    from bgem3.stores.addresses import Address
    from bgem3.stores.foreign import read_foreign

    if (collection is None) == (store is None):
        raise InvalidInputError("backfill: expected exactly one of --collection and --store. Fix: --collection NAME")
    source = Address.parse(store) if store else Address("chroma", db, str(collection))
    if source.engine == "milvus" and into is None:
        raise InvalidInputError(
            "backfill: Milvus adds no vectors to a collection that is there. Fix: --into milvus:PLACE#NEW"
        )
    target = Address.parse(into) if into else None
    # first: a store says what is not installed, which takes no model
    source.make().close()
    new = (target.make(), read_foreign(source, text_field)) if target else None
    encoder = load_encoder(model, backend, precision)
    if new is not None:
        count = _copy_texts(*new, encoder)
    else:
        opened = _adopt(source, encoder, codec, {"text": text_field, "metadata": metadata_field})
        count = opened.count()
        opened.close()
    if as_json:
        write_json({"chunks": count})
    else:
        console().print(f"{count} chunks are found by all three heads")


def _adopt(source: Address, encoder: M3Encoder, codec: str, fields: dict[str, str | None]) -> Store:
    if source.engine == "chroma":
        from bgem3.stores.chroma import ChromaStore

        return ChromaStore.adopt(
            source.place,
            encoder=_reading_as_before(source, encoder),
            collection=source.collection,
            codec=codec,
            show_progress=is_terminal(),
        )
    from bgem3.stores.layouts import Layout
    from bgem3.stores.qdrant import QdrantStore

    reading = _reading_as_before(source, encoder)
    store = source.make(layout=Layout(**fields) if fields["text"] else None)
    assert isinstance(store, QdrantStore)  # Milvus was refused before
    try:
        return store.adopt(reading, show_progress=is_terminal())
    except BaseException:
        store.close()
        raise


def _copy_texts(target: Store, chunks: Iterable[Chunk], encoder: M3Encoder) -> int:
    with index_of(encoder, target) as index:
        add_chunks(index, chunks)
        return index.count()


def _reading_as_before(source: Address, encoder: M3Encoder) -> M3Encoder:
    """Return an encoder with the lengths of a collection that was adopted before."""
    try:
        with closing(source.make()) as store:
            return encoder.reading_as(store.open())
    except StoreError:  # it was not, or the adoption that follows says what is wrong
        return encoder
