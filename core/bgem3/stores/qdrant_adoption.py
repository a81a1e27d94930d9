"""Qdrant collections of other programs, e.g. langchain-qdrant: the vectors they lack are added in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from bgem3.embeddings import M3Embeddings
from bgem3.errors import IndexMismatchError, StoreNotFoundError
from bgem3.index_settings import check_lengths
from bgem3.ingestion import text_slices
from bgem3.intake import sized_slices
from bgem3.stores.base import check_settings
from bgem3.stores.engine import key_of
from bgem3.stores.layouts import OWN, find_layout
from bgem3.stores.qdrant_collection import CollectionOptions, QdrantCollection, dense_params, vector_names
from bgem3.stores.qdrant_points import size_of, to_payload, to_vectors
from bgem3.types import Chunk, IndexSettings

if TYPE_CHECKING:
    from qdrant_client import models

# Named vectors can be added to a collection since then.
_OLDEST = (1, 18)
_PAGE = 256
_COPY = "bgem3 backfill --into a new collection"


def adopt(
    collection: QdrantCollection,
    settings: IndexSettings,
    encode: Callable[[Sequence[str]], M3Embeddings],
    options: CollectionOptions,
    *,
    batch_bytes: int,
    float_bytes: int,
    show_progress: bool = False,
) -> None:
    """Give every point that has no token vectors all three heads, and write down what they were made with.

    Raises:
        StoreNotFoundError: there is no such collection.
        IndexMismatchError: its vectors, ids or payload cannot be ours.
        StoreVersionError: the server cannot add vectors to a collection.
        StoreError: as it failed; what was written stays, and the next call goes on there.
    """
    if not collection.call(collection.client.collection_exists, collection.name):
        raise StoreNotFoundError(f"collection {collection.name!r} is not there. Fix: collection= of one that is")
    params, made_with = collection.read()
    if made_with is None:
        _find_names(collection, params, settings)
        _add_vectors(collection, params, settings, options)
    check_settings(made_with or settings, settings)
    check_lengths(made_with or settings, settings)
    collection.index_payload(options.range_keys)
    with tqdm(unit="chunk", desc="Indexing", disable=not show_progress) as bar:
        for chunks in text_slices(_lacking(collection)):
            embeddings = encode([chunk.text for chunk in chunks])
            size = partial(size_of, chunks, embeddings, float_bytes=float_bytes)
            for rows in sized_slices(range(len(chunks)), size, batch_bytes, _PAGE):
                collection.call(
                    collection.client.batch_update_points,
                    collection.name,
                    [one for i in rows for one in _operations(collection, chunks[i], embeddings, i)],
                    wait=True,
                )
            bar.update(len(chunks))
    # Last, so that a collection opens as ours only when all of it can be found.
    if made_with is None:
        collection.save_adoption(settings)


def _find_names(collection: QdrantCollection, params: models.CollectionParams, settings: IndexSettings) -> None:
    """Learn the dense vector's name and the payload's fields from what is there."""
    single = [name for name, one in dense_params(params).items() if one.multivector_config is None]
    wanted = collection.names["dense"]
    if single and wanted not in single:
        if len(single) > 1:
            raise IndexMismatchError(
                f"collection {collection.name!r} has the dense vectors {sorted(single)}. Fix: dense_name= one of them"
            )
        collection.names["dense"] = single[0]
    collection.check_found(params, settings)
    points = collection.call(collection.client.scroll, collection.name, limit=1)[0]
    payload = points[0].payload or {} if points else {}
    if points and collection.layout.text not in payload:
        layout = find_layout(payload)
        if layout is None:
            raise IndexMismatchError(
                f"collection {collection.name!r}: no text in the payload's field {collection.layout.text!r}, there are "
                f"{sorted(payload)}. Fix: layout=Layout(text=..., metadata=...)"
            )
        collection.layout = layout


def _add_vectors(
    collection: QdrantCollection, params: models.CollectionParams, settings: IndexSettings, options: CollectionOptions
) -> None:
    from qdrant_client import models

    names, client = collection.names, collection.client
    dot = models.Distance.DOT
    token_vectors = models.DenseVectorConfig(
        size=settings.multi_dim,
        distance=dot,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        datatype=models.VectorStorageDatatype(options.token_datatype),
    )
    wanted = {
        names["dense"]: models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=settings.dim, distance=dot)),
        names["multi_vector"]: models.DenseVectorNameConfig(dense=token_vectors),
        names["sparse"]: models.SparseVectorNameConfig(sparse=models.SparseVectorConfig()),
    }
    missing = {name: config for name, config in wanted.items() if name not in vector_names(params)}
    if missing:
        collection.check_version(_OLDEST, "new vectors in a collection that is there", f", or {_COPY}")
    for name, config in missing.items():
        collection.call(client.create_vector_name, collection.name, name, config)
    if names["multi_vector"] in missing:
        no_graph = models.VectorParamsDiff(hnsw_config=models.HnswConfigDiff(m=0), on_disk=True)
        collection.call(client.update_collection, collection.name, vectors_config={names["multi_vector"]: no_graph})
    collection.check_vectors(collection.read()[0], settings)


def _lacking(collection: QdrantCollection) -> Iterator[Chunk]:
    """Yield the chunks of points without token vectors, which are written last."""
    from qdrant_client import models

    has = models.HasVectorCondition(has_vector=collection.names["multi_vector"])
    offset: Any = None
    while True:
        options = {"scroll_filter": models.Filter(must_not=[has]), "limit": _PAGE, "offset": offset}
        records, offset = collection.call(collection.client.scroll, collection.name, **options)
        for record in records:
            if not isinstance(record.id, str):
                raise IndexMismatchError(
                    f"collection {collection.name!r}: the point {record.id} has a number for an id, and chunks have "
                    f"strings. Fix: {_COPY}"
                )
            _check_payload(collection, record)
            yield collection.layout.read(record.payload or {}, record.id)
        if offset is None:
            return


def _check_payload(collection: QdrantCollection, record: models.Record) -> None:
    layout, payload = collection.layout, record.payload or {}
    kinds = {layout.text: (str,), layout.metadata: (dict, type(None)), OWN: (dict, type(None))}
    for field, kind in kinds.items():
        if field is not None and not isinstance(payload.get(field), kind):
            raise IndexMismatchError(
                f"collection {collection.name!r}: the point {record.id} has {type(payload.get(field)).__name__} in the field "
                f"{field!r}, expected {kind[0].__name__}. Fix: layout=Layout(text=..., metadata=...), or mend the point"
            )


def _operations(collection: QdrantCollection, chunk: Chunk, embeddings: M3Embeddings, i: int) -> list[Any]:
    """Return what one point lacks: first our part of the payload, then its vectors."""
    from qdrant_client import models

    key = key_of(chunk.id)
    own = {OWN: to_payload(chunk, collection.layout)[OWN]}
    vectors = models.PointVectors(id=key, vector=to_vectors(embeddings, i, collection.names))
    return [
        models.SetPayloadOperation(set_payload=models.SetPayload(payload=own, points=[key])),
        models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=[vectors])),
    ]
