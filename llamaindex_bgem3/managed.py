"""Move a folder that `llama-index-indices-managed-bge-m3` persisted, without opening its pickle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.schema import BaseNode
from llama_index.core.storage.storage_context import StorageContext

from bgem3.errors import StoreCorruptError, StoreError

if TYPE_CHECKING:
    from llamaindex_bgem3.index import BGEM3Index


def convert_managed_index(persist_dir: str | Path, **options: Any) -> BGEM3Index:
    """Build a `BGEM3Index` from the nodes of a managed index's folder.

    The managed index keeps nodes as JSON and vectors as a pickle, which can run any code when it is
    read (CVE-2024-14021). The nodes are read, the pickle is never opened, and each node is
    encoded once more, with its metadata, as LlamaIndex asks. The folder stays as it is.

    Args:
        persist_dir: The folder given to the managed index's `persist`.
        options: The constructor's, e.g. `model_name`, `weights_for_different_modes`,
            `store=ChromaStore("./db")`, `show_progress`. A `doc_maxlen` below the model's limit is
            read in windows and not cut.

    Returns:
        The index; `persist` it to another folder, or give it a `store` on disk.

    Raises:
        StoreError: the folder does not hold an index.
        StoreCorruptError: one of its JSON files is damaged, or lacks a node.
        CheckpointError, MissingExtraError, BackendError: the model cannot be loaded.

    Examples:
        >>> convert_managed_index("./old").persist("./new")  # doctest: +SKIP
    """
    from llamaindex_bgem3.index import BGEM3Index

    return BGEM3Index(nodes=managed_nodes(persist_dir), **options)


def managed_nodes(persist_dir: str | Path) -> list[BaseNode]:
    """Return the nodes of a managed index's folder, in the order they were indexed.

    Raises:
        StoreError: the folder does not hold an index.
        StoreCorruptError: one of its JSON files is damaged, or lacks a node.
    """
    again = "Fix: the folder given to the managed index's persist, or build the index from the documents"
    storage, struct = read_storage(Path(persist_dir), again)
    with _reading(persist_dir, again):
        places = struct.nodes_dict
        return storage.docstore.get_nodes([places[place] for place in sorted(places, key=int)])


def read_storage(folder: Path, fix: str) -> tuple[StorageContext, IndexDict]:
    """Return what LlamaIndex persisted in a folder, and its one index.

    Args:
        folder: The one given to `persist`.
        fix: Ends the errors.

    Raises:
        StoreError: the folder does not hold an index.
        StoreCorruptError: one of its JSON files is damaged.
    """
    for name in ("docstore.json", "index_store.json"):
        if not (folder / name).is_file():
            raise StoreError(f"{folder}: no {name}. {fix}")
    with _reading(folder, fix):
        storage = StorageContext.from_defaults(persist_dir=str(folder))
        return storage, cast(IndexDict, storage.index_store.index_structs()[0])


@contextmanager
def _reading(folder: str | Path, fix: str) -> Iterator[None]:
    try:
        yield
    except (JSONDecodeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise StoreCorruptError(
            f"{folder}: not the JSON that LlamaIndex writes ({type(error).__name__}: {error}). {fix}"
        ) from error
