"""Chunks of Qdrant and Milvus collections that other programs made, read to be encoded into a collection of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from bgem3.errors import IndexMismatchError, InvalidInputError
from bgem3.metadata import storable
from bgem3.stores.addresses import Address
from bgem3.stores.layouts import NODE, Layout, find_layout, node_text
from bgem3.types import HEADS, Chunk, Head

_PAGE = 256


def read_foreign(address: Address, text_field: str | None = None) -> Iterator[Chunk]:
    """Yield every chunk of a collection as langchain-qdrant, langchain-milvus or LlamaIndex wrote it.

    Ids are as they are, numbers as text. Of metadata, null is left out, and what no store can keep,
    e.g. a nested object, becomes its JSON.

    Args:
        address: Qdrant or Milvus.
        text_field: The field of the text; None: the library's own.

    Raises:
        InvalidInputError: another kind of store.
        IndexMismatchError: there is no text in the field.
        StoreError: it cannot be read.
    """
    if address.engine == "qdrant":
        return _from_qdrant(address, text_field)
    if address.engine == "milvus":
        return _from_milvus(address, text_field)
    raise InvalidInputError(
        f"backfill: got a collection in {address.engine}, which is filled in place. Fix: leave --into out"
    )


def _from_qdrant(address: Address, text_field: str | None) -> Iterator[Chunk]:
    from bgem3.stores.qdrant_collection import QdrantCollection, connect

    url = address.place if address.is_server else None
    path = None if address.is_server else address.place
    with closing(connect(path, url, os.environ.get("QDRANT_API_KEY"), True, 6334, 60)) as client:
        names: dict[Head, str] = dict.fromkeys(HEADS, "")
        collection = QdrantCollection(client, address.collection, names, Layout())
        offset: Any = None
        while True:
            options = {"limit": _PAGE, "offset": offset}
            records, offset = collection.call(client.scroll, address.collection, **options)
            for record in records:
                payload = record.payload or {}
                layout = Layout(text=text_field) if text_field else find_layout(payload)
                if layout is None or (layout.text is not None and layout.text not in payload):
                    raise _no_text(address, text_field or "page_content", payload)
                chunk = layout.read(payload, str(record.id))
                yield Chunk(chunk.id, chunk.text, storable(chunk.metadata))
            if offset is None:
                return


def _from_milvus(address: Address, text_field: str | None) -> Iterator[Chunk]:
    from bgem3.stores.milvus_collection import MilvusCollection, connect

    with closing(connect(address.place, os.environ.get("MILVUS_TOKEN", ""), 60)) as client:
        collection = MilvusCollection(client, address.collection, "stored", timeout=60)
        fields = collection.call(client.describe_collection)["fields"]
        key = next(field["name"] for field in fields if field.get("is_primary"))
        vectors = {field["name"] for field in fields if "VECTOR" in field["type"].name}
        collection.call(client.load_collection)
        for page in collection.pages("", ["*"], _PAGE):
            for row in page:
                payload = {name: value for name, value in row.items() if name not in {key, *vectors}}
                yield _milvus_chunk(address, str(row[key]), payload, text_field or "text")


def _milvus_chunk(address: Address, id_: str, payload: dict[str, Any], text_field: str) -> Chunk:
    if text_field not in payload:
        raise _no_text(address, text_field, payload)
    text = payload.pop(text_field)
    if NODE in payload:
        # LlamaIndex takes the text out of the node, and would put it back.
        payload[NODE] = json.dumps({**json.loads(payload[NODE]), "text": text})
        text = node_text(payload)
    return Chunk(id_, text, storable(payload))


def _no_text(address: Address, field: str, payload: Mapping[str, Any]) -> IndexMismatchError:
    return IndexMismatchError(
        f"collection {address.collection!r}: no text in the field {field!r}, there are {sorted(payload)}. Fix: --text-field"
    )
