"""Nodes -> chunks and back, and the filters that find them again. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from bgem3.errors import InvalidMetadataError
from bgem3.metadata import check_metadata
from bgem3.types import Chunk, Hit, Metadata, Where
from llamaindex_bgem3.filters import UNFILTERED, all_of, to_where

_NODE_ID = "_node_id"
_CONTENT = "_node_content"

EVERYTHING: Where = {"$or": [{_NODE_ID: {"$exists": True}}, {_NODE_ID: {"$exists": False}}]}


def to_chunk(node: BaseNode) -> Chunk:
    """Return a node as a chunk whose text is what LlamaIndex embeds (`MetadataMode.EMBED`).

    The whole node is kept as JSON under the keys other LlamaIndex stores use. What metadata can be
    filtered by stands beside it: str, int, float, bool and lists of one of them; other values
    are kept in the JSON only.

    Raises:
        InvalidMetadataError: the node is not valid Unicode.
    """
    stored = node_to_metadata_dict(node)
    own = {key: value for key, value in stored.items() if _filterable(key, value)}
    # Of the keys, those that could not be filtered by either are left out.
    others = [key for key in stored.keys() - own.keys() if stored[key] not in (None, []) and _filterable(key, "")]
    if others:
        own[UNFILTERED] = sorted(others)
    return Chunk(node.node_id, node.get_content(metadata_mode=MetadataMode.EMBED), {**own, _NODE_ID: node.node_id})


def to_node(chunk: Chunk | Hit) -> BaseNode:
    """Return the node of a chunk; one that did not come from LlamaIndex becomes a `TextNode`."""
    metadata: dict[str, Any] = dict(chunk.metadata)
    if _CONTENT in metadata:
        node = metadata_dict_to_node(metadata)
        # Other stores of LlamaIndex take the text out of the node.
        if _NODE_ID not in metadata and not node.get_content(MetadataMode.NONE):
            node.set_content(chunk.text)
        return node
    return TextNode(id_=chunk.id, text=chunk.text, metadata=metadata)


def node_filter(
    filters: MetadataFilters | None = None,
    *,
    doc_ids: Sequence[str] | None = None,
    node_ids: Sequence[str] | None = None,
) -> Where | None:
    """Return the filter for all that a LlamaIndex query restricts; None where it restricts nothing.

    Args:
        filters: Metadata filters.
        doc_ids: Source documents; an empty list restricts nothing, as in LlamaIndex.
        node_ids: Nodes; an empty list restricts nothing.

    Raises:
        InvalidFilterError: a filter has a value its operator cannot take.
    """
    parts: list[dict[str, Any]] = []
    if doc_ids:
        parts.append({"ref_doc_id": {"$in": list(doc_ids)}})
    if node_ids:
        parts.append({_NODE_ID: {"$in": list(node_ids)}})
    if (where := to_where(filters)) is not None:
        parts.append(where)
    return all_of(parts) if parts else None


def _filterable(key: str, value: object) -> bool:
    if key == _CONTENT:
        return True  # an error in it is an error of the node, and is raised when it is stored
    candidate: Metadata = {key: value}  # type: ignore[dict-item]  # this is what is being checked
    try:
        check_metadata(candidate, "metadata")
    except InvalidMetadataError:
        return False
    return True
