"""Looking after a Chroma collection and its sidecar: compare them, and make the sidecar what Chroma's chunks say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from bgem3.embeddings import M3Embeddings
from bgem3.errors import IndexMismatchError, StoreCorruptError, StoreError
from bgem3.index import upkeep
from bgem3.index.lexical import LexicalIndex
from bgem3.index.sidecar import StoredRow, hash_text
from bgem3.ingestion import text_slices
from bgem3.intake import slices
from bgem3.stores.chroma_client import says_graph
from bgem3.stores.chroma_graph import sweep, vacuum
from bgem3.stores.chroma_search import ChromaSearcher
from bgem3.stores.layouts import passage_of
from bgem3.types import Chunk, FloatArray

if TYPE_CHECKING:
    from bgem3.stores.chroma import ChromaStore

# missing: Chroma has the chunk, the sidecar no row. damaged: its row is not what was written, or Chroma has no vector.
# changed: another program changed text, metadata or vector in Chroma. gone: Chroma lost the chunk.
Problem: TypeAlias = Literal["missing", "damaged", "changed", "gone"]
Encode: TypeAlias = Callable[[Sequence[str]], M3Embeddings]

_SLICE = 256
# Dense vectors further apart than this, in any dimension, are of another model: float16 and other kernels differ by less.
_SAME_DENSE = 0.01
_SAME_STORED = 0.002
# Vectors for which Chroma's files are not made smaller.
_FEW = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found.

    Attributes:
        chunks: Chunks that Chroma has.
        problems: What is wrong with a chunk, by id.
        orphans: Sidecar rows that belong to no chunk: space, nothing else.
        pending: Chunks whose writing was begun and not settled.
        file: What is wrong with the sidecar file itself, those of the lexical index or Chroma's database, or None.
    """

    chunks: int
    problems: Mapping[str, Problem] = field(default_factory=dict)
    orphans: int = 0
    pending: int = 0
    file: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every chunk is found and whole."""
        return not self.problems and self.file is None


def verify(store: ChromaStore, *, show_progress: bool = False) -> Report:
    """Compare every chunk in Chroma with its row; reads everything, changes nothing.

    Raises:
        StoreError: Chroma or the sidecar cannot be read at all.
    """
    with store.reading() as parts:
        ids = parts.collection.ids()
        problems: dict[str, Problem] = dict.fromkeys(_gone(parts, ids), "gone")
    with tqdm(total=len(ids), unit="chunk", desc="Verifying", disable=not show_progress) as bar:
        for part in slices(ids, _SLICE):
            with store.reading() as parts:
                problems |= examine(parts, part)
            bar.update(len(part))
    with store.reading() as parts:
        sidecar = parts.sidecar
        wrong = filter(None, [upkeep.damage(sidecar), *store.snapshot.verify(), parts.collection.damage()])
        return Report(
            len(ids), problems, upkeep.count_orphans(sidecar), len(sidecar.pending()), "; ".join(wrong) or None
        )


def backfill(
    store: ChromaStore,
    encode: Encode,
    *,
    passage: Callable[[Chunk], str] = passage_of,
    show_progress: bool = False,
) -> dict[str, Problem]:
    """Make the sidecar hold every chunk that Chroma has, and no other; encode only what it lacks.

    A lexical index or a graph that cannot be read is made again first. Texts and metadata in Chroma stay as they are. Chunks that another program made keep no trace
    but, where its model differs, the new dense vector. What was done stays done when it breaks off.

    Args:
        store: Open, with a collection of its own or an adopted one.
        encode: Texts -> all three heads, as `index_settings.encode_passages`.
        passage: The text to encode of a chunk.
        show_progress: Show a bar over the chunks.

    Returns:
        What was wrong, by id, and is right now.

    Raises:
        IndexMismatchError: the dense vectors are of another width.
        StoreCorruptError: Chroma's database is damaged: the texts are in there alone.
        StoreError, BGEM3Error: a write or a forward pass failed.
    """
    _mend_files(store)
    with store.writing() as parts:
        ids = parts.collection.ids()
        _check_width(store, parts, ids)
        gone = _gone(parts, ids)
        parts.sidecar.settle(parts.sidecar.begin_delete(gone), {})
        upkeep.drop_orphans(parts.sidecar)
    mended: dict[str, Problem] = dict.fromkeys(gone, "gone")
    with tqdm(total=len(ids), unit="chunk", desc="Indexing", disable=not show_progress) as bar:
        for part in slices(ids, _SLICE):
            with store.writing() as parts:
                problems = examine(parts, part)
                found = parts.collection.get(list(problems))
                for chunks in text_slices(found[id_][0] for id_ in problems if id_ in found):
                    embeddings = encode([passage(chunk) for chunk in chunks])
                    _index(store, parts, chunks, embeddings, {id_: pointer for id_, (_, pointer) in found.items()})
            mended |= problems
            bar.update(len(part))
    store.reload()
    return mended


def _mend_files(store: ChromaStore) -> None:
    """Make the lexical index and Chroma's graph again where they cannot be read: the sidecar has all that is in them."""
    with store.writing() as parts:
        if wrong := parts.collection.damage():
            raise StoreCorruptError(
                f"{wrong}. The texts are in there alone, and nothing was changed. Fix: restore a backup of the folder, or "
                f"bgem3 export what can be read"
            )
        if store.snapshot.verify():
            store.snapshot.delete()
            parts.lexical = LexicalIndex(parts.lexical.weighting)
            store.reload()
        if not _has_vectors(parts) and parts.collection.give_up():
            with store.released(mends=True):
                pass


def _has_vectors(parts: ChromaSearcher) -> bool:
    """Whether Chroma can read its graph, and at least half of it: what its log has alone may be the last few."""
    try:
        ids = parts.collection.ids()
        return 2 * sum(len(parts.collection.dense(part)) for part in slices(ids, _SLICE)) >= len(ids)
    except StoreError as error:
        if not says_graph(error):
            raise
        return False


def compact(store: ChromaStore) -> None:
    """Give back the space that deleted and replaced chunks left, in the sidecar, the lexical index and Chroma's files.

    Chroma's graph keeps the vectors of deleted chunks; where they are most of it, it is made again from the sidecar.
    Graphs of collections that are gone are deleted.

    Raises:
        StoreLockedError: another process writes, or reads at this moment.
        StoreWriteError: the disk is full; what was not compacted is as it was.
    """
    with store.writing() as parts:
        upkeep.drop_orphans(parts.sidecar)
        upkeep.compact(parts.sidecar)
        parts.lexical.compact()
        store.snapshot.save(parts.lexical.segments())
        if parts.collection.vectors_kept() > max(_FEW, 2 * parts.sidecar.count()):
            parts.collection.give_up()
        with store.released(mends=True) as folder:
            if folder is not None:
                sweep(folder)
                vacuum(folder)


def examine(parts: ChromaSearcher, ids: Sequence[str]) -> dict[str, Problem]:
    """Return what is wrong with chunks that Chroma has, by id."""
    try:
        return _examine(parts, ids)
    except StoreCorruptError:
        if len(ids) == 1:
            return {ids[0]: "damaged"}
        return {id_: problem for one in ids for id_, problem in examine(parts, [one]).items()}


def _examine(parts: ChromaSearcher, ids: Sequence[str]) -> dict[str, Problem]:
    rows = np.array(list(parts.sidecar.rows_of(ids).values()), dtype=np.int64)
    stored = {one.id: one for one in parts.sidecar.stored(rows)}
    found, dense = parts.get(ids, list(stored.values())), parts.collection.dense(ids)
    whole = set(parts.sidecar.whole(rows)) - upkeep.rows_with_wrong_fields(parts.sidecar, rows)
    problems: dict[str, Problem] = {}
    for id_, (chunk, pointer) in found.items():
        row = stored.get(id_)
        if row is None:
            problems[id_] = "missing"
        elif row.row not in whole or id_ not in dense:
            problems[id_] = "damaged"
        elif pointer not in (row.row, None) or not _agree(parts, chunk, row, dense[id_]):
            problems[id_] = "changed"
    return problems


def _agree(parts: ChromaSearcher, chunk: Chunk, row: StoredRow, dense: FloatArray) -> bool:
    if hash_text(chunk.text) != row.text_hash or chunk.metadata != row.metadata:
        return False
    kept = parts.sidecar.dense(np.array([row.row], dtype=np.int64))[0]
    return len(kept) == len(dense) and bool(np.abs(kept - dense).max() <= _SAME_STORED)


def _index(
    store: ChromaStore,
    parts: ChromaSearcher,
    chunks: Sequence[Chunk],
    embeddings: M3Embeddings,
    pointers: Mapping[str, int | None],
) -> None:
    """Put chunks in the sidecar: those of ours as any other write, adopted ones without a change in Chroma."""
    own = [i for i, chunk in enumerate(chunks) if pointers[chunk.id] is not None]
    adopted = [i for i, chunk in enumerate(chunks) if pointers[chunk.id] is None]
    if own:
        store.upsert([chunks[i] for i in own], embeddings[own])
    if adopted:
        _adopt(parts, [chunks[i] for i in adopted], embeddings[adopted])


def _adopt(parts: ChromaSearcher, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
    dense = parts.collection.dense([chunk.id for chunk in chunks])
    other = [i for i, chunk in enumerate(chunks) if _far(dense.get(chunk.id), embeddings.dense[i])]
    if other:
        parts.collection.put_dense([chunks[i].id for i in other], embeddings.dense[other])
    # The row keeps the vector that Chroma has now.
    now = np.array([embeddings.dense[i] if i in other else dense[chunk.id] for i, chunk in enumerate(chunks)])
    kept = M3Embeddings(dense=now, sparse=embeddings.sparse, multi_vector=embeddings.multi_vector)
    pending = parts.sidecar.begin_upsert(chunks, kept, parts.codec.encode(embeddings.multi_vector))
    parts.sidecar.settle(pending, {one.id: one.new_row for one in pending if one.new_row is not None})


def _far(vector: FloatArray | None, expected: FloatArray) -> bool:
    return vector is None or bool(np.abs(vector - expected).max() > _SAME_DENSE)


def _gone(parts: ChromaSearcher, ids: Sequence[str]) -> list[str]:
    """Return the ids of live rows whose chunk Chroma does not have."""
    there = set(ids)
    return [id_ for id_ in parts.sidecar.ids() if id_ not in there]


def _check_width(store: ChromaStore, parts: ChromaSearcher, ids: Sequence[str]) -> None:
    width = next((len(vector) for vector in parts.collection.dense(ids[:_SLICE]).values()), store.settings.dim)
    if width != store.settings.dim:
        raise IndexMismatchError(
            f"collection {parts.collection.name!r}: its vectors have {width} dimensions, this encoder gives "
            f"{store.settings.dim}, and Chroma cannot change that in place. Fix: add its texts to a new collection"
        )
