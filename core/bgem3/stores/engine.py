"""What every store over an engine does alike: keys for ids, writes in batches, retries, the last step of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from scipy.sparse import csr_array
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from bgem3.embeddings import M3Embeddings
from bgem3.errors import InvalidInputError, PartialWriteError, StoreError
from bgem3.stores.local import run_plan
from bgem3.types import Chunk, FloatArray, Head, Hits, IndexSettings, IntArray, SearchPlan, Stage, Where

Result = TypeVar("Result")
Item = TypeVar("Item")

_NAMESPACE = uuid5(NAMESPACE_URL, "bgem3")
_ATTEMPTS = 5


def key_of(id_: str) -> str:
    """Return the UUID under which an engine keeps a chunk: the id itself where it is one, else its hash."""
    try:
        if str(UUID(id_)) == id_:
            return id_
    except ValueError:
        pass
    return str(uuid5(_NAMESPACE, id_))


def check_lexical(settings: IndexSettings, store: str) -> None:
    """Refuse BM25, whose weights change with every chunk that comes or goes.

    Raises:
        InvalidInputError: `lexical` is not the model's own.
    """
    if settings.lexical != "m3":
        raise InvalidInputError(
            f"lexical: {store} keeps the model's learned weights, got {settings.lexical!r}. "
            f"Fix: lexical='m3', or MemoryStore or ChromaStore for bm25"
        )


def write_batches(
    batches: Iterable[list[Item]], write: Callable[[list[Item]], object], id_of: Callable[[Item], str]
) -> None:
    """Write batch after batch; an error after the first batch says which ids were written before it.

    Raises:
        PartialWriteError: a later batch failed.
        StoreError: the first one did.
    """
    written: list[str] = []
    for batch in batches:
        try:
            write(batch)
        except StoreError as error:
            if not written:
                raise
            raise PartialWriteError(
                f"{error} Written before that: {len(written)} ids, up to {written[-1]!r} (see error.written). "
                f"Adding all again is safe",
                written,
            ) from error
        written += map(id_of, batch)


def with_retries(call: Callable[[], Result], is_passing: Callable[[BaseException], bool], wait: float = 0.5) -> Result:
    """Call up to five times, waiting about 0.5, 1, 2 and 4 seconds, as long as errors may pass by themselves.

    Args:
        call: What to do; doing it twice must be as good as once.
        is_passing: Says of an error whether it may pass.
        wait: Seconds before the second attempt.
    """
    retrying = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=wait) + wait_random(0, wait / 2),
        retry=retry_if_exception(is_passing),
        reraise=True,
    )
    return retrying(call)


def pool_tokens(vectors: FloatArray, most: int) -> FloatArray:
    """Return at most `most` token vectors: where there are more, means of neighbours, scaled to norm 1.

    Groups of `ceil(n / most)` consecutive vectors become one each, so that nothing of a text is left out.

    Args:
        vectors: `(n, dim)` float32, rows of norm 1.
        most: >= 1.

    Source: Clavie et al. 2024, "Reducing the Footprint of Multi-Vector Retrieval with Minimal
        Performance Impact via Token Pooling" (arXiv 2409.14683), with sequential groups.
    """
    if len(vectors) <= most:
        return vectors
    size = -(-len(vectors) // most)
    means = np.add.reduceat(vectors, np.arange(0, len(vectors), size), axis=0)
    pooled: FloatArray = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return pooled


class Candidates:
    """The chunks that an engine found, as the parts of a search that `run_plan` asks for.

    Args:
        chunks: Each once; rows are positions here.
        scores: Raw scores of the heads that are known for all of them, `(n,)` float32 each.
        vectors: Fetches sparse rows and token vectors by id, for explanations: the ids that are still there, and theirs.
        late: Computes the scores of other heads, for the rows that the plan comes to ask for.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        scores: Mapping[Head, FloatArray],
        vectors: Callable[[list[str]], tuple[list[str], M3Embeddings]],
        late: Callable[[Head, IntArray], FloatArray] | None = None,
    ) -> None:
        self._chunks = chunks
        self._scores = scores
        self._vectors = vectors
        self._late = late

    def allowed(self, where: Where | None) -> None:
        """Return None: the engine has filtered."""

    def all_rows(self, allowed: IntArray | None) -> IntArray:
        """Return every row."""
        return np.arange(len(self._chunks), dtype=np.int64)

    def dense_top(self, vector: FloatArray, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows and their scores, best first."""
        return self._top("dense", n)

    def sparse_top(self, query: csr_array, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows that share a token with the query, and their scores, best first."""
        rows, scores = self._top("sparse", n)
        return rows[scores > 0], scores[scores > 0]

    def scores(self, head: Head, query: M3Embeddings, rows: IntArray) -> FloatArray:
        """Return one head's score of each row, `(n,)` float32."""
        if head in self._scores:
            return self._scores[head][rows]
        assert self._late is not None  # who knows not all heads can compute the others
        return self._late(head, rows)

    def sparse_parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the sparse score of rows; nothing to one that was deleted meanwhile."""
        ids = self.ids(rows)
        there, embeddings = self._vectors(ids)
        products = csr_array(embeddings.sparse.multiply(query[[0]]))
        parts = {id_: sparse_row(products, i) for i, id_ in enumerate(there)}
        return [parts.get(id_, {}) for id_ in ids]

    def token_vectors(self, rows: IntArray) -> list[FloatArray]:
        """Return the token vectors of rows, as they are kept; none of one that was deleted meanwhile."""
        ids = self.ids(rows)
        there, embeddings = self._vectors(ids)
        found = dict(zip(there, embeddings.multi_vector, strict=True))
        return [found.get(id_, embeddings.multi_vector.vectors[:0]) for id_ in ids]

    def ids(self, rows: IntArray) -> list[str]:
        """Return the chunk ids of rows, in order."""
        return [self._chunks[row].id for row in rows.tolist()]

    def chunks(self, rows: IntArray) -> list[Chunk]:
        """Return the chunks of rows, in order."""
        return [self._chunks[row] for row in rows.tolist()]

    def _top(self, head: Head, n: int) -> tuple[IntArray, FloatArray]:
        scores = self._scores[head]
        rows = np.argsort(-scores, kind="stable")[:n].astype(np.int64)
        return rows, scores[rows]


def run_over(candidates: Candidates, query: M3Embeddings, plan: SearchPlan, before: Sequence[Stage] = ()) -> Hits:
    """Run the rest of a plan over candidates that an engine has found and filtered.

    Args:
        candidates: The best by dense and by sparse among them, as many as the plan asks for.
        query: One encoded query.
        plan: Its filter was the engine's work.
        before: What the engine did.
    """
    heads = {head: getattr(query, head) for head in query.heads if head in plan.heads}
    # Of one head all candidates count, whichever way they were found.
    rest = replace(plan, where=None, exhaustive=plan.exhaustive or plan.mode != "hybrid")
    hits = run_plan(candidates, M3Embeddings(**heads), rest)
    return Hits(hits, (*before, *hits.stages) if plan.explain else ())


def settings_from(record: Any) -> IndexSettings | None:
    """Return the settings that a collection carries; None where it carries none that can be read."""
    try:
        return IndexSettings(**record)
    except TypeError:
        return None


def sparse_row(sparse: csr_array, i: int) -> dict[int, float]:
    """Return one sparse row as `{token id: weight}`, plain Python numbers."""
    part = slice(int(sparse.indptr[i]), int(sparse.indptr[i + 1]))
    return dict(zip(sparse.indices[part].tolist(), sparse.data[part].tolist(), strict=True))


def sparse_rows(rows: Sequence[Mapping[int, float]], vocab_size: int) -> csr_array:
    """Return `(n, vocab_size)` of rows `{token id: weight}`; ids outside the vocabulary are left out."""
    kept = [sorted((int(token), weight) for token, weight in row.items() if int(token) < vocab_size) for row in rows]
    pointers = np.cumsum([0, *map(len, kept)])
    columns = np.array([token for row in kept for token, _ in row], dtype=np.int32)
    values = np.array([weight for row in kept for _, weight in row], dtype=np.float32)
    return csr_array((values, columns, pointers), shape=(len(rows), vocab_size))
