"""Chunks and vectors as rows of a Milvus collection, and back. Pure: needs no client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings
from bgem3.errors import InvalidInputError, InvalidMetadataError
from bgem3.stores.engine import key_of, sparse_row, sparse_rows
from bgem3.stores.facets import to_facets
from bgem3.stores.milvus_collection import (
    BLOBS,
    DENSE,
    ID,
    MAX_BYTES,
    MAX_ITEMS,
    METADATA,
    SPARSE,
    STRUCT,
    TEXT,
    VECTOR,
)
from bgem3.stores.milvus_filters import FOLDS, KEY, TEXTS, TOKENS, WORDS, letters
from bgem3.types import Chunk, FloatArray

# Milvus Lite and servers before 2.4.12 refuse an empty sparse row, and a whole insert with it (pymilvus#2673). In collections
# of other programs this one stands for it: id 0 is `<s>`, which no text has a weight for; only two of them meet, with 1e-12.
EMPTY_ROW = {0: 1e-6}
# Longer strings are left out of what `$text_match` sees: in letters they are four times as large.
_MAX_SEARCHED = 4096
# In base64 they fill one string of the array.
_BLOB_PART = 49_149


def to_row(chunk: Chunk, embeddings: M3Embeddings, i: int, vocab_size: int) -> dict[str, Any]:
    """Return the row of a chunk, without token vectors.

    Milvus refuses a sparse row that is empty: such a chunk gets one weight at `vocab_size`, a token that no
    query has.

    Raises:
        InvalidInputError: id or text has more than 65,535 bytes.
        InvalidMetadataError: metadata is larger than Milvus can keep.
    """
    for name, value in (("id", chunk.id), ("text", chunk.text)):
        if (n_bytes := len(value.encode())) > MAX_BYTES:
            raise InvalidInputError(
                f"{name} of {chunk.id[:60]!r}: Milvus keeps at most {MAX_BYTES:,} bytes, got {n_bytes:,}. "
                f"Fix: split the text into chunks"
            )
    return {
        KEY: key_of(chunk.id),
        ID: chunk.id,
        TEXT: chunk.text,
        **metadata_fields(chunk),
        DENSE: embeddings.dense[i].tolist(),
        SPARSE: sparse_row(embeddings.sparse, i) or {vocab_size: 1.0},
    }


def metadata_fields(chunk: Chunk) -> dict[str, Any]:
    """Return the fields that hold a chunk's metadata, and what it is filtered by.

    Raises:
        InvalidMetadataError: it is larger than Milvus can keep.
    """
    facets = to_facets(chunk.metadata)
    fields: dict[str, Any] = {
        METADATA: dict(chunk.metadata),
        WORDS: facets.words,
        TEXTS: _searchable(facets.texts),
        FOLDS: _searchable(facets.folds),
    }
    if max(len(json.dumps(value).encode()) for value in fields.values()) > MAX_BYTES:
        raise InvalidMetadataError(
            f"metadata of {chunk.id[:60]!r}: larger than Milvus keeps ({MAX_BYTES:,} bytes). Fix: shorten it"
        )
    if len(facets.tokens) > MAX_ITEMS:
        raise InvalidMetadataError(
            f"metadata of {chunk.id[:60]!r}: at most {MAX_ITEMS:,} values and list items together, got more. "
            f"Fix: shorten its lists"
        )
    return {**fields, TOKENS: facets.tokens}


def to_chunk(row: Mapping[str, Any]) -> Chunk:
    """Return the chunk of a row."""
    return Chunk(row[ID], row[TEXT], dict(row[METADATA]))


def dense_and_sparse(rows: Sequence[Mapping[str, Any]], vocab_size: int, dim: int) -> tuple[FloatArray, csr_array]:
    """Return the dense vectors, `(n, dim)` float32, and sparse rows, `(n, vocab_size)`, of rows."""
    dense = np.array([row[DENSE] for row in rows], dtype=np.float32).reshape(len(rows), dim)
    return dense, sparse_rows([row[SPARSE] for row in rows], vocab_size)


def cut(blob: bytes) -> Iterator[bytes]:
    """Cut a blob into parts that fit a string of an array."""
    return (blob[start : start + _BLOB_PART] for start in range(0, len(blob), _BLOB_PART))


def size_of(row: Mapping[str, Any]) -> int:
    """Return about how many bytes a row has in a request."""
    blobs = sum(map(len, row.get(BLOBS, ())))
    structs = row.get(STRUCT, ())
    floats = len(row[DENSE]) + 2 * len(row[SPARSE]) + sum(len(struct[VECTOR]) for struct in structs)
    metadata = 6 * len(json.dumps(row[METADATA])) + 36 * len(row[TOKENS])
    return 4 * floats + blobs + 4 * (len(row[TEXT]) + len(row[ID])) + metadata + 256


def _searchable(texts: Mapping[str, str]) -> dict[str, str]:
    # of a longer text its beginning, so that what does not hold of it is found by the negation
    return {name: letters(text.encode()[:_MAX_SEARCHED].decode(errors="ignore")) for name, text in texts.items()}
