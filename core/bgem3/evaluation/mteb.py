"""The model as MTEB's harness asks for it: all modes for retrieval, dense vectors for the other tasks (extra: mteb)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from bgem3.encoder import M3Encoder
from bgem3.errors import BGEM3Error, InvalidInputError, MissingExtraError
from bgem3.hybrid import HybridIndex
from bgem3.stores.memory import MemoryStore
from bgem3.types import FloatArray, Head, Hits, Lexical, SearchOptions, make_plan

if TYPE_CHECKING:
    from mteb.models import ModelMeta

# Questions encoded together.
_BATCH = 256
# A passage's id in its metadata, so that candidates can be told by a filter.
_ID = "id"


class MTEBModel:
    """Pass it to `mteb.evaluate`, which writes its results under the name and the settings given here.

    Args:
        encoder: Encodes both sides.
        name: As `organisation/model`.
        lexical: Weighting of the sparse head.
        codec: Codec of the token vectors.
        options: Of `HybridIndex.search`, for retrieval: `mode`, `strategy`, `weights`, ...

    Raises:
        InvalidInputError: an option is unknown or out of range.
        MissingExtraError: mteb is not installed.
    """

    def __init__(
        self,
        encoder: M3Encoder,
        *,
        name: str = "BAAI/bge-m3",
        lexical: Lexical = "m3",
        codec: str = "float32",
        **options: Unpack[SearchOptions],
    ) -> None:
        self.encoder = encoder
        self._lexical: Lexical = lexical
        self._codec = codec
        self._options = options
        self._plan = make_plan(options)
        self._name = name
        self._index: HybridIndex | None = None
        self._meta = self._make_meta()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What results are filed under: the name, the fingerprint as revision, and the settings of search and encoder."""
        return self._meta

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Encode a corpus and keep it for `search`; rows have `id`, `text` and perhaps `title`."""
        self._index = HybridIndex(self.encoder, MemoryStore(codec=self._codec), lexical=self._lexical)
        ids, texts = [], []
        for row in corpus:
            ids.append(row["id"])
            texts.append(f"{row.get('title') or ''} {row['text']}".strip())
        self._index.add(texts, ids=ids, metadatas=[{_ID: id_} for id_ in ids])

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Return the scores of the `top_k` best passages of each question, by query id and passage id.

        MTEB asks for 1,000, so `fetch_k` is no less. A cascade leaves no more than its second depth: with 1,000 it
        would be none. Where MTEB names candidates (`top_ranked`), those are searched alone, all of them.

        Raises:
            BGEM3Error: no corpus was indexed before.
        """
        if self._index is None:
            raise BGEM3Error("MTEBModel: search before index. Fix: call index(corpus) first")
        rows = list(queries)
        if top_ranked is not None:
            return {row["id"]: self._rerank(row["text"], top_ranked.get(row["id"], ()), top_k) for row in rows}
        plan = self._plan
        if plan.mode == "hybrid" and plan.strategy == "cascade":
            top_k = min(top_k, max(plan.k, plan.cascade[1]))
        options: SearchOptions = {**self._options, "k": top_k}
        found: dict[str, dict[str, float]] = {}
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            hits = self._index.search_many([row["text"] for row in part], **options)
            found |= {row["id"]: _scores(one) for row, one in zip(part, hits, strict=True)}
        return found

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> FloatArray:
        """Return the dense vectors of batches of texts, `(n, dim)` float32, for tasks other than retrieval."""
        dense: tuple[Head, ...] = ("dense",)
        parts = [self.encoder.encode(batch["text"], heads=dense).dense for batch in inputs]
        return np.concatenate([np.empty((0, self.encoder.dim), dtype=np.float32), *parts])

    def similarity(self, embeddings1: FloatArray, embeddings2: FloatArray) -> FloatArray:
        """Return dot products, `(n, m)`: the cosine, since rows have norm 1."""
        product: FloatArray = np.atleast_2d(embeddings1) @ np.atleast_2d(embeddings2).T
        return product

    def similarity_pairwise(self, embeddings1: FloatArray, embeddings2: FloatArray) -> FloatArray:
        """Return the dot product of each pair, `(n,)`."""
        product: FloatArray = np.einsum("ij,ij->i", np.atleast_2d(embeddings1), np.atleast_2d(embeddings2))
        return product

    def _rerank(self, query: str, candidates: Sequence[str], top_k: int) -> dict[str, float]:
        assert self._index is not None  # search has checked it
        if not candidates:
            return {}
        options: SearchOptions = {
            **self._options,
            "k": top_k,
            "fetch_k": max(self._plan.fetch_k, len(candidates)),
            "where": {_ID: {"$in": list(candidates)}},
        }
        return _scores(self._index.search(query, **options))

    def _make_meta(self) -> ModelMeta:
        try:
            from mteb.models import ModelMeta
        except ModuleNotFoundError as error:
            raise MissingExtraError("mteb", "mteb", "MTEBModel") from error
        if self._plan.where is not None:
            raise InvalidInputError("where: a benchmark is searched whole. Fix: leave it out")
        # all that figures depend on: the harness takes results that it has under the same settings for these
        runs = {"backend": self.encoder.backend, "precision": self.encoder.precision, **asdict(self.encoder.lengths)}
        settings = {**self._options, "lexical": self._lexical, "codec": self._codec, **runs}
        return ModelMeta.create_empty(
            overwrites={
                "name": self._name,
                "revision": self.encoder.fingerprint,
                "embed_dim": self.encoder.dim,
                "max_tokens": self.encoder.lengths.max_length,
                "experiment_kwargs": {key: str(value) for key, value in settings.items()},
            }
        )


def _scores(hits: Hits) -> dict[str, float]:
    """Return the scores by id, equal ones a hair apart: the harness sorts again, with its own order among equals."""
    found: dict[str, float] = {}
    last = np.float32(np.inf)
    for hit in hits:
        last = min(np.float32(hit.score), np.nextafter(last, np.float32(-np.inf)))
        found[hit.id] = float(last)
    return found
