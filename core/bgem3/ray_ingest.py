"""Bulk encoding on Ray Data: one model a worker, records in, chunks in a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import InvalidInputError, MissingExtraError
from bgem3.index_settings import check_lengths, settings_of
from bgem3.intake import checked_chunks
from bgem3.records import to_chunk
from bgem3.stores.addresses import Address
from bgem3.stores.engine import sparse_row, sparse_rows
from bgem3.types import Chunk, IndexSettings

Batch = dict[str, Any]
_WORKER_CPUS, _BLOCKS = 0.5, 4


@dataclass(frozen=True, slots=True)
class IngestJob:
    """What every worker must know; small, and sent to each.

    Attributes:
        store: Where chunks go, e.g. `qdrant:http://localhost:6333#news`.
        model: A folder or a hub id that every worker can read.
        encoder: Further arguments of `M3Encoder.from_pretrained`.
        text_field, id_field: Fields of a record; see `bgem3.records.to_chunk`.
    """

    store: str
    model: str
    encoder: Mapping[str, Any] = field(default_factory=dict)
    text_field: str = "text"
    id_field: str | None = None


def ingest_on_ray(
    paths: Sequence[Path], job: IngestJob, *, workers: int = 2, gpus: float = 0, batch_size: int = 256
) -> int:
    """Read, encode and write; return how many chunks were written.

    Workers write to a server themselves; a store in a folder is written by one of them. Begun again,
    a chunk is replaced by itself; on a server an unchanged text is not encoded again.

    Args:
        paths: `.jsonl` or `.parquet` files that every worker can read, all of one kind.
        job: What to do with a record.
        workers: Models loaded at once.
        gpus: GPUs a worker takes; 0: it runs on the CPU.
        batch_size: Records that a worker takes at a time.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidInputError: files of several or other kinds.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "Ingesting with --engine ray") from error
    kinds = {path.suffix for path in paths}
    if len(kinds) != 1 or not kinds <= {".jsonl", ".parquet"}:
        raise InvalidInputError(
            f"paths: expected files ending .jsonl, or all .parquet, got {sorted(kinds)}. Fix: ingest each kind on its own"
        )
    places = [str(path.absolute()) for path in paths]
    records = ray.data.read_parquet(places) if kinds == {".parquet"} else ray.data.read_json(places)
    # fewer blocks than workers would leave some without work
    records = records.repartition(workers * _BLOCKS)
    encoded = records.map_batches(
        EncodeBatch,
        fn_constructor_args=(job,),
        batch_size=batch_size,
        batch_format="pyarrow",
        concurrency=workers,
        # Less than one, so that reading is never starved of a CPU by waiting workers.
        num_cpus=_WORKER_CPUS,
        num_gpus=gpus,
    )
    written = encoded.map_batches(
        WriteBatch,
        fn_constructor_args=(job,),
        batch_size=batch_size,
        concurrency=workers if Address.parse(job.store).is_server else 1,
        num_cpus=0,
    )
    return sum(int(batch["written"].sum()) for batch in written.iter_batches())


class EncodeBatch:
    """Encodes records; the model is loaded once a worker."""

    def __init__(self, job: IngestJob) -> None:
        from bgem3.encoder import M3Encoder

        self._job = job
        self._encoder = M3Encoder.from_pretrained(job.model, **job.encoder)
        address = Address.parse(job.store)
        self._index = _open(self._encoder, address) if address.is_server else None

    def __call__(self, batch: Any) -> Batch:
        """Return chunks and vectors as columns; texts that the server has unchanged are left out."""
        chunks = [to_chunk(record, self._job.text_field, self._job.id_field) for record in batch.to_pylist()]
        if self._index is not None:
            done = self._index.store.unchanged(chunks)
            chunks = [chunk for chunk in chunks if chunk.id not in done]
        embeddings = self._encoder.encode_passages([chunk.text for chunk in chunks])
        settings = json.dumps(asdict(settings_of(self._encoder, "m3")))
        return {**pack(chunks, embeddings), "settings": np.array([settings] * len(chunks), dtype=object)}


class WriteBatch:
    """Writes encoded chunks to the store. It loads no model: the chunks say what they were made with."""

    def __init__(self, job: IngestJob) -> None:
        self._store = Address.parse(job.store).make()
        self._made_with: IndexSettings | None = None

    def __call__(self, batch: Batch) -> Batch:
        """Return how many chunks were written; of an id that comes twice in a batch the last counts."""
        if not len(batch["chunk"]):
            return {"written": np.array([0])}
        if self._made_with is None:
            self._made_with = IndexSettings(**json.loads(batch["settings"][0]))
            check_lengths(self._store.open(self._made_with), self._made_with)
        chunks, embeddings = unpack(batch, self._made_with.vocab_size, self._made_with.multi_dim)
        last = list({chunk.id: i for i, chunk in enumerate(chunks)}.values())
        columns = zip(*((chunks[i].text, chunks[i].id, chunks[i].metadata) for i in last), strict=True)
        self._store.upsert(list(checked_chunks(*columns)), embeddings[last])
        return {"written": np.array([len(last)])}


def pack(chunks: Sequence[Chunk], embeddings: M3Embeddings) -> Batch:
    """Return chunks and vectors as columns of strings and bytes; token vectors as float16."""
    sparse = [sparse_row(embeddings.sparse, i) for i in range(len(chunks))]
    return {
        "chunk": np.array([json.dumps(asdict(chunk)) for chunk in chunks], dtype=object),
        "dense": _bytes([row.tobytes() for row in embeddings.dense]),
        "tokens": _bytes([np.array(list(row), dtype=np.int64).tobytes() for row in sparse]),
        "weights": _bytes([np.array(list(row.values()), dtype=np.float32).tobytes() for row in sparse]),
        "token_vectors": _bytes([rows.astype(np.float16).tobytes() for rows in embeddings.multi_vector]),
    }


def unpack(batch: Batch, vocab_size: int, multi_dim: int) -> tuple[list[Chunk], M3Embeddings]:
    """Return the chunks and vectors of columns that `pack` made."""
    chunks = [Chunk(**json.loads(text)) for text in batch["chunk"]]
    tokens = [np.frombuffer(row, dtype=np.int64).tolist() for row in batch["tokens"]]
    weights = [np.frombuffer(row, dtype=np.float32).tolist() for row in batch["weights"]]
    vectors = [np.frombuffer(row, dtype=np.float16).reshape(-1, multi_dim) for row in batch["token_vectors"]]
    dense = [np.frombuffer(row, dtype=np.float32) for row in batch["dense"]]
    return chunks, M3Embeddings(
        dense=np.stack(dense) if dense else np.empty((0, 0), dtype=np.float32),
        sparse=sparse_rows([dict(zip(*pair, strict=True)) for pair in zip(tokens, weights, strict=True)], vocab_size),
        multi_vector=MultiVectors.from_list([rows.astype(np.float32) for rows in vectors], multi_dim),
    )


def _open(encoder: Any, address: Address) -> Any:
    from bgem3.hybrid import HybridIndex

    return HybridIndex(encoder, address.make())


def _bytes(rows: Sequence[bytes]) -> Any:
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    return column
