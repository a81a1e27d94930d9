"""The managed index of `llama-index-indices-managed-bge-m3`, with all that it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.storage.storage_context import StorageContext

from bgem3.encoder_fields import DEFAULT_MODEL
from bgem3.errors import InvalidInputError, StoreCorruptError, StoreError
from bgem3.types import Weights
from llamaindex_bgem3.embeddings import BGEM3Embedding
from llamaindex_bgem3.managed import read_storage
from llamaindex_bgem3.nodes import to_chunk
from llamaindex_bgem3.retrievers import BGEM3Retriever
from llamaindex_bgem3.settings import check_only

if TYPE_CHECKING:
    from bgem3.hybrid import HybridIndex
    from bgem3.stores.base import Store
    from bgem3.stores.memory import MemoryStore

_SNAPSHOT = "bgem3_index.npz"
_PEER_FILE = "multi_embed_store.pkl"
_RETRIEVER_OPTIONS = (
    "similarity_top_k", "mode", "strategy", "fetch_k", "rrf_k", "exhaustive", "cascade", "filters", "doc_ids",
    "node_ids", "callback_manager", "object_map", "verbose",
)  # fmt: skip


class BGEM3Index(BaseIndex[IndexDict]):
    """An index of all three heads with the constructor, `persist` and `load_from_disk` of the managed one.

    Beyond it: insert, update and delete, filters, async calls, texts embedded with their metadata
    as LlamaIndex asks, and no pickle.

    Args:
        nodes, objects, index_struct, storage_context, show_progress: See `BaseIndex`.
        model_name: A hub id or a folder.
        index_name: A name for the caller's use.
        pooling_method: Always `cls`.
        normalize_embeddings: Always true.
        use_fp16: `precision="float16"`; the torch backend has it.
        batch_size: Without effect: batches are made by tokens.
        doc_maxlen: Tokens of one forward pass; None: all the model reads. Longer texts are read in windows.
        query_maxlen: Without effect: this model reads a query as it reads a text.
        weights_for_different_modes: Weights of dense, sparse, multi-vector; None: equal ones, as in
            the managed index.
        embed_model: An embedding whose encoder is used, in place of `model_name` and the three above it.
        store: Where vectors live, e.g. `ChromaStore("./db")`; None: in memory, kept by `persist`.
        kwargs: Passed on to `BaseIndex`.

    Raises:
        CheckpointError, MissingExtraError, BackendError, InvalidInputError: the model cannot be loaded.
        IndexMismatchError, StoreError: the store cannot be opened.

    Examples:
        >>> index = BGEM3Index.from_documents(documents, weights_for_different_modes=[0.4, 0.2, 0.4])  # doctest: +SKIP
        >>> index.persist("./storage")  # doctest: +SKIP
        >>> BGEM3Index.load_from_disk("./storage").as_retriever(similarity_top_k=5)  # doctest: +SKIP
    """

    index_struct_cls = IndexDict

    def __init__(
        self,
        nodes: Sequence[BaseNode] | None = None,
        objects: Sequence[IndexNode] | None = None,
        index_struct: IndexDict | None = None,
        storage_context: StorageContext | None = None,
        model_name: str = DEFAULT_MODEL,
        index_name: str = "",
        show_progress: bool = False,
        pooling_method: str = "cls",
        normalize_embeddings: bool = True,
        use_fp16: bool = False,
        batch_size: int = 32,
        doc_maxlen: int | None = None,
        query_maxlen: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
        *,
        embed_model: BGEM3Embedding | None = None,
        store: Store | None = None,
        **kwargs: Any,
    ) -> None:
        from bgem3.hybrid import HybridIndex
        from bgem3.stores.memory import MemoryStore
        from llamaindex_bgem3.engine import Engine

        check_only("pooling_method", pooling_method, "cls", "the dense head was trained so")
        check_only("normalize_embeddings", normalize_embeddings, True, "the dense head is of norm 1")
        self.index_name = index_name
        self.weights = _weights(weights_for_different_modes)
        precision = "float16" if use_fp16 else "auto"
        self.embed_model = embed_model or BGEM3Embedding(
            model_name=model_name, precision=precision, max_length=doc_maxlen
        )
        self._engine = Engine(HybridIndex(self.embed_model.shared.encoder, store or MemoryStore()))
        super().__init__(
            nodes=nodes,
            objects=objects,
            index_struct=index_struct,
            storage_context=storage_context,
            show_progress=show_progress,
            **kwargs,
        )

    @property
    def hybrid_index(self) -> HybridIndex:
        """The index underneath."""
        return self._engine.index

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """The source documents and their nodes."""
        return self.docstore.get_all_ref_doc_info() or {}

    def query(self, query_str: str, top_k: int = 10) -> list[NodeWithScore]:
        """Return at most `top_k` nodes, best first; the score is the weighted mean of the heads."""
        return self.as_retriever(similarity_top_k=top_k).retrieve(query_str)

    def as_retriever(self, **kwargs: Any) -> BaseRetriever:
        """Return a retriever over this index.

        Args:
            kwargs: Options of `BGEM3Retriever`. `as_query_engine` passes its own through here; others
                are left alone.
        """
        options = {name: kwargs[name] for name in _RETRIEVER_OPTIONS if name in kwargs}
        options.setdefault("object_map", self._object_map)
        weights = kwargs.get("weights") or self.weights
        return BGEM3Retriever(self.hybrid_index, weights=weights, **options)

    def persist(self, persist_dir: str) -> None:
        """Write nodes, and vectors that are in memory, to a folder; what else is there stays.

        Raises:
            StoreWriteError: the disk refused the write.
        """
        from bgem3.stores.memory import MemoryStore
        from llamaindex_bgem3.snapshot import Snapshot, write_snapshot

        store = self.hybrid_index.store
        if isinstance(store, MemoryStore):
            chunks, embeddings = store.export()
            ids = [chunk.id for chunk in chunks]
            write_snapshot(Path(persist_dir) / _SNAPSHOT, Snapshot(ids, embeddings, self.hybrid_index.settings))
        self._storage_context.persist(persist_dir=persist_dir)

    @classmethod
    def load_from_disk(
        cls,
        persist_dir: str,
        model_name: str = DEFAULT_MODEL,
        index_name: str = "",
        weights_for_different_modes: Sequence[float] | None = None,
        *,
        embed_model: BGEM3Embedding | None = None,
        store: Store | None = None,
        **kwargs: Any,
    ) -> BGEM3Index:
        """Open what `persist` wrote; nothing is encoded again.

        Args:
            persist_dir: The folder.
            model_name: As the constructor.
            index_name: As the constructor.
            weights_for_different_modes: As the constructor.
            embed_model: As the constructor.
            store: The store it was made with; None: vectors come from the folder.
            kwargs: Passed on to the constructor.

        Raises:
            StoreError: the folder holds no index, or one of the managed index, which is a pickle.
            StoreCorruptError: a file is damaged, or lacks a node.
            IndexMismatchError: it was made with another checkpoint.
        """
        folder = Path(persist_dir)
        if store is None:
            _check_folder(folder)
        storage, struct = read_storage(folder, "Fix: the folder given to persist, or build the index again")
        return cls(
            index_struct=struct,
            storage_context=storage,
            model_name=model_name,
            index_name=index_name,
            weights_for_different_modes=weights_for_different_modes,
            embed_model=embed_model,
            store=store or _restored(folder / _SNAPSHOT, storage),
            **kwargs,
        )

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes beside the event loop."""
        for node in nodes:
            if isinstance(node, IndexNode):  # as `insert_nodes`: what cannot be written stays in memory
                try:
                    node.model_dump()
                except ValueError:
                    self._object_map[node.index_id], node.obj = node.obj, None
        with self._callback_manager.as_trace("ainsert_nodes"):
            await self.docstore.async_add_documents(nodes, allow_update=True)
            await self._engine.aadd(nodes)
            self._note(self._index_struct, nodes)
            await self._storage_context.index_store.async_add_index_struct(self._index_struct)

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete nodes beside the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, delete_from_docstore, **delete_kwargs)

    def _build_index_from_nodes(self, nodes: Sequence[BaseNode], **build_kwargs: Any) -> IndexDict:
        struct = IndexDict()
        self._engine.add(nodes)
        self._note(struct, nodes)
        return struct

    def _insert(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        self._engine.add(nodes)
        self._note(self._index_struct, nodes)

    def _delete_node(self, node_id: str, **delete_kwargs: Any) -> None:
        self.hybrid_index.delete(ids=[node_id])
        self._index_struct.delete(node_id)

    def _note(self, struct: IndexDict, nodes: Sequence[BaseNode]) -> None:
        for node in nodes:
            struct.add_node(node, text_id=node.node_id)


def _restored(path: Path, storage: StorageContext) -> MemoryStore:
    """Return a store of what `persist` wrote, with the settings it was made with."""
    from bgem3.stores.memory import MemoryStore
    from llamaindex_bgem3.snapshot import read_snapshot

    snapshot = read_snapshot(path)
    nodes = {node.node_id: node for node in storage.docstore.get_nodes(list(snapshot.ids), raise_error=False)}
    missing = [one for one in snapshot.ids if one not in nodes]
    if missing:
        raise StoreCorruptError(
            f"{path}: {len(missing)} of {len(snapshot.ids)} nodes are not in the docstore, e.g. {missing[0]!r}. "
            f"Fix: build the index again from its nodes"
        )
    store = MemoryStore()
    store.open(snapshot.settings)
    store.upsert([to_chunk(nodes[one]) for one in snapshot.ids], snapshot.embeddings)
    return store


def _weights(values: Sequence[float] | None) -> Weights:
    if values is None:
        return Weights(dense=1, sparse=1, multi_vector=1)
    if len(values) != 3:
        raise InvalidInputError(
            f"weights_for_different_modes: expected three (dense, sparse, multi-vector), got {list(values)!r}. "
            f"Fix: weights_for_different_modes=[0.4, 0.2, 0.4]"
        )
    return Weights(*values)


def _check_folder(folder: Path) -> None:
    if (folder / _SNAPSHOT).exists():
        return
    if (folder / _PEER_FILE).exists():
        raise StoreError(
            f"{folder}: written by llama-index-indices-managed-bge-m3 as a pickle, which can run any code when it is "
            f"read (CVE-2024-14021); it was not opened. Fix: llamaindex_bgem3.managed.convert_managed_index(persist_dir) "
            f"reads its nodes and encodes them again"
        )
    raise StoreError(f"{folder}: no index, {_SNAPSHOT} is not there. Fix: the folder given to persist, or store=...")
