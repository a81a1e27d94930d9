"""`POST /v1/embeddings`: OpenAI's request and answer, with the further heads in the same call."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bgem3.embeddings import M3Embeddings
from bgem3.types import HEADS, FloatArray, Head, IntArray
from bgem3_server.engine import Encoded, Engine
from bgem3_server.json_body import JSON, StrictRoute
from bgem3_server.parts import ERRORS, Parts, check_model
from bgem3_server.problems import ApiError
from bgem3_server.schemas import TEXTS, Usage

router = APIRouter(route_class=StrictRoute, responses=ERRORS)
# Rows that are written faster than a thread is called.
_FEW = 64
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Base64 = Annotated[str, Field(description="Base64 of little-endian float32.")]


class EmbeddingsBody(BaseModel):
    """OpenAI's request, `heads` and `fingerprint`. Fields of OpenAI's that mean nothing here are accepted."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={"examples": [{"input": TEXTS, "heads": ["dense", "sparse", "multi_vector"]}]},
    )

    input: str | list[str] | list[list[TokenId]] = Field(
        description="One text or several; or, with `fingerprint`, the token ids of several, `<s> ... </s>`."
    )
    fingerprint: str | None = Field(
        None, description="That of `/v1/models`: says that this model's tokenizer made the token ids."
    )
    model: str | None = Field(None, description="The model's name; left out: the one that is served.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="The width of a dense vector; nothing else is offered.")
    heads: list[Head] = Field(["dense"], min_length=1, max_length=3, description="Which representations to return.")
    user: str | None = None


class SparseRow(BaseModel):
    """Lexical weights: token ids and their weights, in the same order."""

    indices: list[int]
    values: list[float]


class EmbeddingItem(BaseModel):
    """The representations of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | Base64 | None = Field(None, description="The dense vector, of norm 1.")
    sparse: SparseRow | None = None
    multi_vector: list[list[float]] | Base64 | None = Field(None, description="One row a token, of norm 1.")
    multi_vector_shape: list[int] | None = Field(None, description="[tokens, width]")


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer, with the further heads in each item."""

    model_config = ConfigDict(protected_namespaces=())

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer, response_model_exclude_none=True)
async def embeddings(body: EmbeddingsBody, parts: Parts) -> JSON:
    """Encode texts: the dense vectors, and in the same pass the other heads that `heads` names."""
    model = check_model(body.model, parts.engine)
    texts = _texts(body, parts.engine)
    dim = parts.engine.encoder.dim
    if body.dimensions not in (None, dim):
        raise ApiError(422, f"dimensions: got {body.dimensions}, this model has {dim}. Fix: leave it out")
    write, times = (_base64, 8) if body.encoding_format == "base64" else (_numbers, 1)
    most = parts.settings.limits.max_numbers * times
    heads = [head for head in HEADS if head in body.heads]
    async with parts.engine.encode(texts, heads, max_numbers=most) as encoded:
        rows = encoded.tokens if "multi_vector" in heads else len(texts)
        if rows <= _FEW:
            return _answer(encoded, model, write)
        return await asyncio.to_thread(_answer, encoded, model, write)


def _answer(encoded: Encoded, model: str, write: Callable[[FloatArray], object]) -> JSON:
    data = [_item(encoded.embeddings, row, write) for row in range(len(encoded.embeddings))]
    return JSON({"object": "list", "data": data, "model": model, "usage": encoded.usage})


def _texts(body: EmbeddingsBody, engine: Engine) -> list[str] | list[IntArray]:
    """Return the texts of a request, or their token ids if they are of this model's tokenizer."""
    if isinstance(body.input, str):
        return [body.input]
    own = engine.encoder.fingerprint
    if body.fingerprint not in (None, own):
        message = f"fingerprint: this server's model is {own[:16]}, got {body.fingerprint[:16]!r}. Fix: send texts"
        raise ApiError(409, message, param="body.fingerprint")
    texts = [one for one in body.input if isinstance(one, str)]
    if len(texts) == len(body.input):
        return texts
    if body.fingerprint is None:
        message = "input: token ids need the fingerprint of their tokenizer's model beside them. Fix: send texts"
        raise ApiError(422, message, param="body.input")
    return [np.array(ids, np.int64) for ids in body.input]


def _item(embeddings: M3Embeddings, row: int, write: Callable[[FloatArray], object]) -> dict[str, Any]:
    item: dict[str, Any] = {"object": "embedding", "index": row}
    if "dense" in embeddings.heads:
        item["embedding"] = write(embeddings.dense[row])
    if "sparse" in embeddings.heads:
        sparse = embeddings.sparse
        part = slice(int(sparse.indptr[row]), int(sparse.indptr[row + 1]))
        item["sparse"] = {"indices": sparse.indices[part], "values": sparse.data[part]}
    if "multi_vector" in embeddings.heads:
        vectors = embeddings.multi_vector[row]
        item |= {"multi_vector": write(vectors), "multi_vector_shape": list(vectors.shape)}
    return item


def _base64(array: FloatArray) -> orjson.Fragment:
    return orjson.Fragment(b'"%b"' % base64.b64encode(array.astype("<f4", copy=False).tobytes()))


def _numbers(array: FloatArray) -> FloatArray | list[object]:
    """Return what JSON makes numbers of; row by row, since no other thread runs while orjson writes."""
    if array.ndim == 1:
        return np.ascontiguousarray(array)
    return [
        orjson.Fragment(orjson.dumps(np.ascontiguousarray(row), option=orjson.OPT_SERIALIZE_NUMPY)) for row in array
    ]
