"""The candidates of every question, scored by all heads once; any search is then arithmetic on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from bgem3.embeddings import M3Embeddings
from bgem3.evaluation.cached_encoder import CachedEncoder, blocks
from bgem3.evaluation.dataset import Dataset
from bgem3.index.lexical import LexicalIndex
from bgem3.index.multi_vector import Codec, get_codec
from bgem3.scoring import dense_row_scores
from bgem3.types import Chunk, FloatArray, Head, IntArray, Lexical, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One question's candidates, in the form of a store's `Primitives`: searches run as they do in an index.

    Attributes:
        passage_ids: Id of each row of the corpus.
        rows: Candidates, `(n,)`, ascending.
        dense_best, sparse_best: Rows of the two first stages, best first.
        heads: Scores of the candidates by each head, `(n,)` float32.
    """

    passage_ids: Sequence[str]
    rows: IntArray
    dense_best: IntArray
    sparse_best: IntArray
    heads: Mapping[Head, FloatArray]

    def allowed(self, where: Where | None) -> None:
        """Admit every row: measurements do not filter."""

    def all_rows(self, allowed: IntArray | None) -> IntArray:
        """Return the candidates."""
        return self.rows

    def dense_top(self, vector: FloatArray, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows of the dense head and their scores."""
        return self.dense_best[:n], self._of("dense", self.dense_best[:n])

    def sparse_top(self, query: csr_array, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows of the sparse head and their scores."""
        return self.sparse_best[:n], self._of("sparse", self.sparse_best[:n])

    def scores(self, head: Head, query: M3Embeddings, rows: IntArray) -> FloatArray:
        """Return one head's scores of candidates."""
        return self._of(head, rows)

    def sparse_parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return no parts: a measurement explains nothing."""
        return [{} for _ in rows]

    def token_vectors(self, rows: IntArray) -> list[FloatArray]:
        """Return no vectors: a measurement explains nothing."""
        return [np.empty((0, 0), dtype=np.float32) for _ in rows]

    def ids(self, rows: IntArray) -> list[str]:
        """Return the passage ids of rows."""
        return [self.passage_ids[row] for row in rows.tolist()]

    def chunks(self, rows: IntArray) -> list[Chunk]:
        """Return chunks that have an id and no text."""
        return [Chunk(id_, "") for id_ in self.ids(rows)]

    def _of(self, head: Head, rows: IntArray) -> FloatArray:
        return self.heads[head][np.searchsorted(self.rows, rows)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The candidates of every question of a data set, one after the other.

    Attributes:
        passage_ids: Id of each row of the corpus.
        rows: `(n,)` candidates, ascending within a question.
        offsets: Where each question's candidates begin and the last one's end.
        dense_best: Rows of the dense head, `(n_queries, depth)`, best first.
        sparse_best: Rows of the sparse head by weighting, one array a question, best first.
        dense: `(n,)` scores.
        sparse: `(n,)` scores by weighting.
        multi_vector: `(n,)` scores by codec.
    """

    passage_ids: Sequence[str]
    rows: IntArray
    offsets: IntArray
    dense_best: IntArray
    sparse_best: Mapping[Lexical, Sequence[IntArray]]
    dense: FloatArray
    sparse: Mapping[Lexical, FloatArray]
    multi_vector: Mapping[str, FloatArray]

    def pools(self, lexical: Lexical, codec: str) -> Iterator[Pool]:
        """Yield each question's candidates under one weighting of the sparse head and one codec."""
        scores: dict[Head, FloatArray] = {"dense": self.dense, "sparse": self.sparse[lexical]}
        if codec in self.multi_vector:
            scores["multi_vector"] = self.multi_vector[codec]
        for i in range(len(self.offsets) - 1):
            part = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            yield Pool(
                passage_ids=self.passage_ids,
                rows=self.rows[part],
                dense_best=self.dense_best[i],
                sparse_best=self.sparse_best[lexical][i],
                heads={head: values[part] for head, values in scores.items()},
            )


def find_candidates(
    dataset: Dataset,
    cache: CachedEncoder,
    *,
    depth: int,
    lexicals: Sequence[Lexical],
    codecs: Sequence[str],
    show_progress: bool = False,
) -> Candidates:
    """Find the best `depth` passages of each question by each first stage, and score all by every head.

    The corpus is read twice, a block at a time; dense vectors and token vectors are held for one
    block, the inverted index for all of it.

    Args:
        dataset: Passages and questions.
        cache: Encodes, or reads what was encoded.
        depth: Candidates a question and first stage.
        lexicals: Weightings of the sparse head.
        codecs: Codecs of the token vectors; none: the multi-vector head is left out.
        show_progress: Show bars over the passages.
    """
    # names are checked before anything is encoded
    engines = {codec: get_codec(codec, cache.encoder.multi_dim) for codec in codecs}
    queries = [*dataset.queries.values()]
    encoded = M3Embeddings.concatenate([cache.encode(texts) for _, texts in blocks((text, text) for text in queries)])
    indexes = {lexical: LexicalIndex(lexical) for lexical in lexicals}
    passage_ids, dense_best = _first_stages(dataset, cache, encoded.dense, depth, indexes, show_progress)
    sparse_queries = {one: cache.encoder.token_counts(queries) if one == "bm25" else encoded.sparse for one in lexicals}
    sparse_best = {
        lexical: [index.top(sparse_queries[lexical][[i]], depth)[0] for i in range(len(queries))]
        for lexical, index in indexes.items()
    }
    parts = [
        np.unique(np.concatenate([dense_best[i], *(best[i] for best in sparse_best.values())]))
        for i in range(len(queries))
    ]
    rows, offsets = np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    dense, multi_vector = _second_stage(dataset, cache, encoded, rows, offsets, engines, show_progress)
    return Candidates(
        passage_ids=passage_ids,
        rows=rows,
        offsets=offsets,
        dense_best=dense_best,
        sparse_best=sparse_best,
        dense=dense,
        sparse={
            lexical: np.concatenate([index.scores(sparse_queries[lexical][[i]], part) for i, part in enumerate(parts)])
            for lexical, index in indexes.items()
        },
        multi_vector=multi_vector,
    )


def _first_stages(
    dataset: Dataset,
    cache: CachedEncoder,
    queries: FloatArray,
    depth: int,
    indexes: Mapping[Lexical, LexicalIndex],
    show_progress: bool,
) -> tuple[list[str], IntArray]:
    """Fill the inverted indexes and return passage ids and the rows of the dense head."""
    passage_ids: list[str] = []
    rows = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for first, ids, texts in _numbered(dataset, "Encoding", show_progress):
        embeddings = cache.encode(texts, heads=("dense", "sparse"))
        numbers = np.arange(first, first + len(ids))
        for lexical, index in indexes.items():
            index.add(numbers, cache.encoder.token_counts(texts) if lexical == "bm25" else embeddings.sparse)
        more = np.stack([dense_row_scores(query, embeddings.dense) for query in queries])
        scores = np.concatenate([scores, more], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(numbers, more.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        passage_ids += ids
    return passage_ids, rows


def _second_stage(
    dataset: Dataset,
    cache: CachedEncoder,
    queries: M3Embeddings,
    rows: IntArray,
    offsets: IntArray,
    engines: Mapping[str, Codec],
    show_progress: bool,
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Score the candidates by the dense head, and by the multi-vector head under each codec."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    dense = np.empty(len(rows), dtype=np.float32)
    multi_vector = {codec: np.empty(len(rows), dtype=np.float32) for codec in engines}
    heads: tuple[Head, ...] = ("dense", "multi_vector") if engines else ("dense",)
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    for first, ids, texts in _numbered(dataset, "Scoring", show_progress):
        here = order[slice(*np.searchsorted(ascending, [first, first + len(ids)]))]
        here = here[np.argsort(owners[here], kind="stable")]
        if not len(here):
            continue
        passages = cache.encode(texts, heads=heads)
        blobs = {name: engine.encode(passages.multi_vector) for name, engine in engines.items()}
        for members in np.split(here, np.flatnonzero(np.diff(owners[here])) + 1):
            query, local = int(owners[members[0]]), rows[members] - first
            dense[members] = dense_row_scores(queries.dense[query], passages.dense[local])
            for name, engine in engines.items():
                chosen = [blobs[name][i] for i in local.tolist()]
                multi_vector[name][members] = engine.scores(queries.multi_vector[query], chosen)
    return dense, multi_vector


def _numbered(dataset: Dataset, label: str, show_progress: bool) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield number of the first passage, ids and texts of each block."""
    first = 0
    with tqdm(total=dataset.n_passages, unit="passage", desc=label, disable=not show_progress) as bar:
        for ids, texts in blocks(dataset.passages()):
            yield first, ids, texts
            first += len(ids)
            bar.update(len(ids))
