"""Chunks and vectors as points of a Qdrant collection, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import StoreError
from bgem3.stores.engine import pool_tokens, sparse_rows
from bgem3.stores.facets import to_facets
from bgem3.stores.layouts import OWN, Layout
from bgem3.types import Chunk, Head, IndexSettings

if TYPE_CHECKING:
    from qdrant_client import models

# The server refuses a multi-vector of this many numbers or more; the local mode does not.
# Source: qdrant lib/common/common/src/validation.rs, `validate_multi_vector_by_length`.
MAX_FLOATS = 1024 * 1024
_INT64 = 2.0**63


def to_vectors(embeddings: M3Embeddings, i: int, names: Mapping[Head, str]) -> dict[str, Any]:
    """Return one chunk's vectors by name; an empty sparse row is left out, and a long text's token vectors are pooled."""
    from qdrant_client import models

    row = embeddings.sparse[[i]]
    tokens = pool_tokens(embeddings.multi_vector[i], (MAX_FLOATS - 1) // embeddings.multi_vector.dim)
    vectors: dict[str, Any] = {names["dense"]: embeddings.dense[i].tolist(), names["multi_vector"]: tokens.tolist()}
    if row.nnz:
        vectors[names["sparse"]] = models.SparseVector(indices=row.indices.tolist(), values=row.data.tolist())
    return vectors


def to_payload(chunk: Chunk, layout: Layout) -> dict[str, Any]:
    """Return a chunk's text and metadata as the layout names them, and what it is filtered by."""
    payload = layout.write(chunk)
    facets = asdict(to_facets(chunk.metadata))
    # The engine keeps JSON, and reads integers back as they were, of which floats are the large ones.
    facets["words"] = {
        name: int(word) if abs(word) < _INT64 and word.is_integer() else word for name, word in facets["words"].items()
    }
    payload[OWN]["facets"] = facets
    return payload


def size_of(chunks: Sequence[Chunk], embeddings: M3Embeddings, i: int, *, float_bytes: int) -> int:
    """Return about how many bytes the point of one chunk has in a request, at `float_bytes` a number."""
    chunk = chunks[i]
    floats = embeddings.dense.shape[1] + embeddings.multi_vector[i].size + 2 * embeddings.sparse[[i]].nnz
    return int(floats * float_bytes + 8 * len(chunk.text) + 64 * len(str(chunk.metadata)) + 256)


def to_embeddings(records: Sequence[models.Record], names: Mapping[Head, str], settings: IndexSettings) -> M3Embeddings:
    """Return the vectors of points.

    Raises:
        StoreError: another program added a point, which has not all vectors.
    """
    vectors = [named(record.vector) for record in records]
    for record, vector in zip(records, vectors, strict=True):
        if not {names["dense"], names["multi_vector"]} <= set(vector):
            raise StoreError(f"point {record.id}: it lacks vectors, so another program added it. Fix: bgem3 backfill")
    rows = [vector.get(names["sparse"]) for vector in vectors]
    weights = [dict(zip(row.indices, row.values, strict=True)) if row else {} for row in rows]
    tokens = [np.array(vector[names["multi_vector"]], dtype=np.float32) for vector in vectors]
    dense = np.array([vector[names["dense"]] for vector in vectors], dtype=np.float32)
    return M3Embeddings(
        dense=dense.reshape(len(records), settings.dim),
        sparse=sparse_rows(weights, settings.vocab_size),
        multi_vector=MultiVectors.from_list(tokens, settings.multi_dim),
    )


def named(vector: Any) -> dict[str, Any]:
    """Return a point's vectors by name; an unnamed one has the empty name."""
    return vector if isinstance(vector, dict) else {} if vector is None else {"": vector}
