"""Where a chunk's text and metadata stand in an engine's payload: ours, LangChain's, LlamaIndex's. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from bgem3.metadata import unrounded
from bgem3.types import Chunk, Metadata

LayoutName: TypeAlias = Literal["langchain", "llamaindex"]
# Our own part of a payload: the id as the user gave it, what LlamaIndex embeds, the facets, long floats in JSON.
OWN = "_bgem3"
NODE = "_node_content"


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of payload fields. LangChain's, which are ours too, nest metadata; LlamaIndex's do not.

    Attributes:
        text: The field of the text; None: a LlamaIndex node in JSON holds it.
        metadata: The field of the metadata; None: the payload is the metadata.
    """

    text: str | None = "page_content"
    metadata: str | None = "metadata"

    def write(self, chunk: Chunk) -> dict[str, Any]:
        """Return the payload of a chunk, without facets."""
        own: dict[str, Any] = {"id": chunk.id}
        if floats := {name: json.dumps(value) for name, value in chunk.metadata.items() if _has_long_floats(value)}:
            own["floats"] = floats
        metadata = dict(chunk.metadata)
        if self.text is None:
            return {**metadata, OWN: {**own, "text": chunk.text}}
        if self.metadata is None:
            return {**metadata, self.text: chunk.text, OWN: own}
        return {self.text: chunk.text, self.metadata: metadata, OWN: own}

    def read(self, payload: Mapping[str, Any], key: str) -> Chunk:
        """Return the chunk of a payload; one that we did not write has its key for an id."""
        own = payload.get(OWN) or {}
        metadata = payload.get(self.metadata) if self.metadata else payload
        ours = () if self.metadata else (OWN, self.text)
        kept = {name: value for name, value in (metadata or {}).items() if name not in ours}
        kept = unrounded(kept, {name: json.loads(value) for name, value in (own.get("floats") or {}).items()})
        text = own.get("text", node_text(payload)) if self.text is None else payload.get(self.text)
        return Chunk(str(own.get("id", key)), text or "", kept)


def _has_long_floats(value: object) -> bool:
    """Say whether there is a float that the engine may give back rounded: of more than 15 digits, or with an exponent."""
    if isinstance(value, list):
        return any(map(_has_long_floats, value))
    return isinstance(value, float) and ("e" in (digits := repr(value)) or len(digits) > 16)


LAYOUTS: dict[LayoutName, Layout] = {"langchain": Layout(), "llamaindex": Layout(text=None, metadata=None)}


def find_layout(payload: Mapping[str, Any]) -> Layout | None:
    """Return the layout that a payload has; None where it is neither ours, LangChain's nor LlamaIndex's."""
    if NODE in payload:
        return LAYOUTS["llamaindex"]
    return LAYOUTS["langchain"] if LAYOUTS["langchain"].text in payload else None


def passage_of(chunk: Chunk) -> str:
    """Return the text to encode of a chunk: its text; below its metadata where LlamaIndex took it out of a node."""
    try:
        node = json.loads(str(chunk.metadata[NODE]))
        if node.get("text") or (node.get("text_resource") or {}).get("text"):
            return chunk.text
        return _embedded(node, chunk.text)
    except (KeyError, TypeError, ValueError, AttributeError):
        return chunk.text


def node_text(payload: Mapping[str, Any]) -> str:
    """Return what LlamaIndex embeds of the node in a payload: its text below its metadata.

    Source: llama_index.core.schema, `TextNode.get_content` and `get_metadata_str` under
        `MetadataMode.EMBED`.
    """
    try:
        node = json.loads(payload[NODE])
        text = str(node.get("text", node.get("text_resource", {}).get("text")) or "")
        return _embedded(node, text)
    except (KeyError, TypeError, ValueError, AttributeError):
        return str(payload.get("text") or "")


def _embedded(node: Mapping[str, Any], text: str) -> str:
    hidden = set(node.get("excluded_embed_metadata_keys") or ())
    metadata: Metadata = node.get("metadata") or {}
    template = node.get("metadata_template") or "{key}: {value}"
    lines = [template.format(key=key, value=str(value)) for key, value in metadata.items() if key not in hidden]
    described = str(node.get("metadata_separator") or node.get("metadata_seperator") or "\n").join(lines)
    if not described:
        return text
    return (
        str(node.get("text_template") or "{metadata_str}\n\n{content}")
        .format(content=text, metadata_str=described)
        .strip()
    )
