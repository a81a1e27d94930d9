"""An encoder and a store, joined: add texts, search them by all three representations."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Unpack, get_args

from tqdm.auto import tqdm

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError, SettingsWarning, StoreClosedError
from bgem3.index.threads import map_all
from bgem3.index_settings import LENGTHS, check_embeddings, check_lengths, differences, encode_passages, settings_of
from bgem3.ingestion import Prepared, aoverlapped, checked_slices, overlapped
from bgem3.intake import check_ids, check_parts, check_text, checked_chunks, too_long_by_id, too_long_query
from bgem3.matches import named
from bgem3.stores.base import Store
from bgem3.tuned import Tuned
from bgem3.types import (
    HEADS,
    Chunk,
    FloatArray,
    Head,
    Hits,
    IndexSettings,
    Lexical,
    Metadata,
    Mode,
    SearchOptions,
    SearchPlan,
    Strategy,
    Weights,
    Where,
    check_choice,
    make_plan,
)


class HybridIndex:
    """Chunks that are found by meaning, by words and by details.

    Args:
        encoder: Encodes texts and queries; the same checkpoint for the life of the index.
        store: Where chunks live, e.g. `MemoryStore()` or `ChromaStore("./db")`. `close` closes it.
        lexical: What the sparse head is: the model's learned weights (`m3`), or BM25 over the
            model's tokens (`bm25`), scaled to [0, 1).
        tuned: Strategy and weights of searches that name neither: a file of `bgem3 tune`, or its content.

    Raises:
        DatasetError: `tuned` is no file of `bgem3 tune`.
        IndexMismatchError: the store was filled, or `tuned` was found, with another checkpoint or another `lexical`.
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        encoder: M3Encoder,
        store: Store,
        *,
        lexical: Lexical = "m3",
        tuned: Tuned | str | Path | None = None,
    ) -> None:
        check_choice("lexical", lexical, get_args(Lexical))
        check_parts(encoder, store)
        self.encoder, self.store = encoder, store
        self._lexical: Lexical = lexical
        self._tuned = tuned if isinstance(tuned, Tuned) else Tuned.load(tuned) if tuned else Tuned()
        self._wanted = settings_of(encoder, lexical)
        self._tuned.check(self._wanted)
        self._settings = store.open(self._wanted)
        if hasattr(store, "use_encoder"):
            store.use_encoder(encoder)
        self._warned = self._closed = False
        # One writer at a time, so that two threads adding the same id cannot interleave.
        self._writing = Lock()

    @property
    def settings(self) -> IndexSettings:
        """What the index was made with."""
        return self._settings

    def add(
        self,
        texts: Iterable[str],
        *,
        ids: Iterable[str] | None = None,
        metadatas: Iterable[Metadata | None] | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """Encode and store texts; one with an existing id replaces that chunk whole.

        A text that its id already has is not encoded again, so a call that broke off can be made again;
        metadata is replaced either way. Ids, metadata and types are checked before anything is stored
        where all arguments are sequences. Texts go in slices of up to 256, one written while the
        next is encoded: when an iterator, a forward pass or the store fails, the slices before are
        stored and the others are not (an engine may have some chunks of the failing one); none is ever half stored.

        Args:
            texts: Any number; an iterator of any length needs memory for two slices, and for the ids.
            ids: One a text, unique within the call; None: new random ones.
            metadatas: One a text: str, int, float, bool, or lists of one of them; None: empty.
            show_progress: Show a bar over the texts.

        Returns:
            The ids, in the order of the texts.

        Raises:
            InvalidInputError: ids or metadatas of another length, a bad text, or bad metadata.
            DuplicateIdError: an id stands twice in the call.
            IndexMismatchError: texts would be read with other lengths than those already stored.
            StoreError: the store refused the write.
        """
        self._check_can_add()
        added: dict[str, None] = {}
        total = len(texts) if isinstance(texts, Sequence) else None
        parts = checked_slices(texts, ids, metadatas, added)
        with tqdm(total=total, unit="text", desc="Adding", disable=not show_progress) as bar:
            for written in overlapped(parts, self._prepare, self._write):
                bar.update(written)
        return list(added)

    def add_embedded(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """Store chunks that were already encoded, by this encoder and with all three heads.

        Raises:
            InvalidInputError, DuplicateIdError, IndexMismatchError, StoreError: as `add`.
        """
        self._check_can_add()
        parts = ([chunk.text for chunk in chunks], [chunk.id for chunk in chunks], [chunk.metadata for chunk in chunks])
        checked = list(checked_chunks(*parts))
        if len(checked) != len(embeddings):
            raise InvalidInputError(
                f"embeddings: got {len(embeddings)} for {len(checked)} chunks, expected one each. Fix: encode the chunks' texts"
            )
        ready = self._with_lexical(embeddings, parts[0])
        check_embeddings(self._settings, ready, HEADS)
        self._write(Prepared(checked, ready, []))

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        strategy: Strategy | None = None,
        fetch_k: int = 100,
        weights: Weights | None = None,
        rrf_k: int = 60,
        where: Where | None = None,
        exhaustive: bool = False,
        cascade: tuple[int, int] = (100, 20),
        explain: bool = False,
    ) -> Hits:
        """Find the chunks that answer a query.

        Args:
            query: A text in any language.
            k: Results returned, fewer only where fewer match.
            mode: `dense`, `sparse`, `multi_vector` or `hybrid`.
            strategy: How hybrid joins the heads. `union`: every candidate of dense and of sparse is
                scored by all heads, and their weighted mean decides. `cascade`: sparse pre-selection,
                dense re-ranking, all heads on the rest. `rrf`: the ranks are fused.
            fetch_k: Candidates taken from dense and from sparse, independent of k.
            weights: How much each head counts. None, as for strategy: the index's own (`tuned`), or
                `union` and `Weights.balanced`.
            rrf_k: Dampens the first ranks under `rrf`.
            where: A metadata filter, e.g. `{"lang": "zh"}` or `{"$and": [{"year": {"$gte": 2020}}, ...]}`.
            exhaustive: Score every chunk and not only candidates; not with `cascade`.
            cascade: Depth after the sparse and after the dense stage.
            explain: Tell in `hits.stages` what each step did (name, candidates, seconds), and in each
                `hit.matches` which tokens matched most.

        Returns:
            Hits, best first, each with the raw score of every head.

        Raises:
            InvalidInputError: an option is unknown or out of range, or the query is no string, or too long.
            InvalidFilterError: `where` does not follow the grammar.
            StoreClosedError: the index was closed.
        """
        return self.search_many(
            [check_text(query, "query")],
            k=k,
            mode=mode,
            strategy=strategy,
            fetch_k=fetch_k,
            weights=weights,
            rrf_k=rrf_k,
            where=where,
            exhaustive=exhaustive,
            cascade=cascade,
            explain=explain,
        )[0]

    def search_many(self, queries: Sequence[str], **options: Unpack[SearchOptions]) -> list[Hits]:
        """Search for several queries, encoded together, several at once; options and errors are those of `search`."""
        plan = self.plan(**options)
        self._check_can_search()
        heads = self._model_heads(plan)
        with too_long_query(queries):
            embeddings = self.encoder.encode_queries(queries, heads=heads) if heads else None
        return self._named(queries, self._run(self._with_lexical(embeddings, queries, plan), plan))

    def search_embedded(self, queries: M3Embeddings, **options: Unpack[SearchOptions]) -> list[Hits]:
        """Search for queries that this encoder encoded already, with the heads the plan needs.

        Under `lexical="bm25"` their sparse rows must be token counts. With `explain=True` the matches name
        tokens by id and position only, since the queries' texts are not known here.

        Raises:
            HeadNotEncodedError: they lack a head that the plan needs.
            InvalidInputError: a head has another width than the index's or what is no number, or as `search`.
            InvalidFilterError, StoreClosedError: as `search`.
        """
        plan = self.plan(**options)
        self._check_can_search()
        check_embeddings(self._settings, queries, queries.heads)
        return self._run(queries, plan)

    def plan(self, **options: Unpack[SearchOptions]) -> SearchPlan:
        """Return what a search with these options does: checked, and with what was tuned where they name neither.

        Raises:
            InvalidInputError: an option is unknown or out of range.
        """
        named = options.get("strategy") is not None or options.get("weights") is not None
        return make_plan(options if named else {**options, **self._tuned.options})

    async def asearch(self, query: str, **options: Unpack[SearchOptions]) -> Hits:
        """Do what `search` does, beside the event loop; concurrent callers share forward passes."""
        plan = self.plan(**options)
        self._check_can_search()
        heads = self._model_heads(plan)
        check_text(query, "query")
        with too_long_query([query]):
            embeddings = await self.encoder.aencode_queries([query], heads=heads) if heads else None
        ready = await asyncio.to_thread(self._with_lexical, embeddings, [query], plan)
        return (await asyncio.to_thread(lambda: self._named([query], self._run(ready, plan))))[0]

    async def aadd(
        self,
        texts: Iterable[str],
        *,
        ids: Iterable[str] | None = None,
        metadatas: Iterable[Metadata | None] | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """Do what `add` does, beside the event loop; iterators are read in threads, one after another."""
        self._check_can_add()
        added: dict[str, None] = {}
        total = len(texts) if isinstance(texts, Sequence) else None
        parts = checked_slices(texts, ids, metadatas, added)
        with tqdm(total=total, unit="text", desc="Adding", disable=not show_progress) as bar:
            await aoverlapped(parts, self._aprepare, self._write, bar.update)
        return list(added)

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks that exist, in the order asked."""
        self._check_closed()
        return self.store.get(check_ids(ids))

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Return the stored dense vector, `(dim,)` float32, of each chunk that exists, by id."""
        self._check_closed()
        return self.store.dense_vectors(check_ids(ids))

    def delete(self, *, ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete chunks by id or by filter, and return how many there were.

        Raises:
            InvalidInputError: not exactly one of `ids` and `where`.
            StoreError: the store refused the write.
        """
        self._check_closed()
        if (ids is None) == (where is None):
            raise InvalidInputError("delete: expected exactly one of ids and where. Fix: delete(ids=[...])")
        with self._writing:
            chosen = self.store.find(where) if where is not None else check_ids(ids or [])
            return self.store.delete(chosen) if chosen else 0

    async def aget(self, ids: Sequence[str]) -> list[Chunk]:
        """Do what `get` does, beside the event loop."""
        return await asyncio.to_thread(self.get, ids)

    async def adelete(self, *, ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Do what `delete` does, beside the event loop."""
        return await asyncio.to_thread(lambda: self.delete(ids=ids, where=where))

    def count(self) -> int:
        """Return the number of chunks."""
        self._check_closed()
        return self.store.count()

    def close(self) -> None:
        """Close the store. A second call does nothing; the encoder stays usable."""
        self._closed = True
        self.store.close()

    def __enter__(self) -> HybridIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, queries: M3Embeddings, plan: SearchPlan) -> list[Hits]:
        return map_all(lambda i: self.store.search(queries[[i]], plan), range(len(queries)))

    def _named(self, queries: Sequence[str], results: Sequence[Hits]) -> list[Hits]:
        """Put the tokens' texts into the matches, where they were asked for."""
        return [
            self._with_names(query, hits) if hits.stages else hits for query, hits in zip(queries, results, strict=True)
        ]

    def _with_names(self, query: str, hits: Hits) -> Hits:
        tokens, pieces = self.encoder.vector_tokens, self.encoder.tokenizer.tokens
        of_query = tokens(query)
        found = [
            replace(hit, matches=named(hit.matches, pieces, of_query, tokens(hit.text))) if hit.matches else hit
            for hit in hits
        ]
        return Hits(found, hits.stages)

    def _model_heads(self, plan: SearchPlan | None = None) -> tuple[Head, ...]:
        """Return the heads the model must compute; BM25 needs token counts instead of the sparse one."""
        heads = plan.heads if plan else HEADS
        return tuple(head for head in heads if head != "sparse" or self._lexical == "m3")

    def _with_lexical(
        self, embeddings: M3Embeddings | None, texts: Sequence[str], plan: SearchPlan | None = None
    ) -> M3Embeddings:
        """Put token counts in the sparse head's place under BM25."""
        if self._lexical == "m3" or (plan and "sparse" not in plan.heads):
            assert embeddings is not None  # some head but the lexical one is there
            return embeddings
        counts = self.encoder.token_counts(texts)
        if embeddings is None:
            return M3Embeddings(sparse=counts)
        return M3Embeddings(
            dense=embeddings.dense if "dense" in embeddings.heads else None,
            sparse=counts,
            multi_vector=embeddings.multi_vector if "multi_vector" in embeddings.heads else None,
        )

    def _split(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """Tell chunks whose text must be encoded from those that are stored with it."""
        known = self.store.unchanged(chunks)
        return [chunk for chunk in chunks if chunk.id not in known], [chunk for chunk in chunks if chunk.id in known]

    def _encode(self, chunks: Sequence[Chunk]) -> M3Embeddings:
        with too_long_by_id(chunks):
            return encode_passages(self.encoder, self._lexical, [chunk.text for chunk in chunks])

    def _prepare(self, chunks: Sequence[Chunk]) -> Prepared:
        new, known = self._split(chunks)
        return Prepared(new, self._encode(new) if new else None, known)

    async def _aprepare(self, chunks: Sequence[Chunk]) -> Prepared:
        new, known = await asyncio.to_thread(self._split, chunks)
        if not new:
            return Prepared(new, None, known)
        texts = [chunk.text for chunk in new]
        with too_long_by_id(new):
            encoded = await self.encoder.aencode_passages(texts, heads=self._model_heads())
        return Prepared(new, await asyncio.to_thread(self._with_lexical, encoded, texts), known)

    def _write(self, prepared: Prepared) -> int:
        """Write a slice and return how many chunks it has."""
        with self._writing:
            if prepared.embeddings is not None:
                self.store.upsert(prepared.new, prepared.embeddings)
            if prepared.known and (changed := self.store.replace_metadata(prepared.known)):
                # Another thread replaced or deleted these since they were looked up.
                self.store.upsert(changed, self._encode(changed))
        return len(prepared)

    def _check_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("HybridIndex: closed. Fix: make a new one over the same store folder")

    def _check_can_search(self) -> None:
        """Warn once where the encoder runs with other settings than the index was made with."""
        self._check_closed()
        if self._warned:
            return
        self._warned = True
        if differing := differences(self._settings, self._wanted, (*LENGTHS, "backend", "precision")):
            warnings.warn(f"the index was made with other settings: {differing}", SettingsWarning, stacklevel=4)

    def _check_can_add(self) -> None:
        self._check_closed()
        check_lengths(self._settings, self._wanted)
