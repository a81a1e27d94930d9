"""What a server serves, and the backend that speaks its language."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from bgem3.backends.base import Backend, Model
from bgem3.backends.choice import DEFAULT_MODEL
from bgem3.backends.http import Server
from bgem3.backends.remote import CONNECTIONS, BGEM3Exchange, RemoteBackend, VLLMExchange
from bgem3.checkpoint import load_checkpoint
from bgem3.errors import BackendError, CheckpointError
from bgem3.fingerprint import cache_root

_KEY_VARIABLE = "BGEM3_API_KEY"
_MODELS = "/v1/models"
_TOKENIZER = "/v1/tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A model that a `bgem3` server holds: what it says of it, and its tokenizer, kept here."""

    name: str
    tokenizer_path: Path
    fingerprint: str
    vocab_size: int
    positions: int


def connect(
    base_url: str,
    model: str | Path | None,
    *,
    api_key: str | None = None,
    timeout: float = 60.0,
    precision: str = "auto",
    **files: Any,
) -> tuple[Model, Backend]:
    """Return the model of a server, and the backend over it.

    Args:
        base_url: Address of `bgem3 serve`, which tells everything itself, or of vLLM, whose model's small
            files (tokenizer, heads) come from `model`.
        model: A folder or a hub id; None: whatever a `bgem3` server has, BAAI/bge-m3 for vLLM.
        api_key: None: the variable BGEM3_API_KEY.
        timeout: Seconds that an answer may take.
        precision: `auto`, or what the server must say it computes in.
        files: `revision`, `cache_dir`, `local_files_only`, `show_progress` of `load_checkpoint`.

    Raises:
        InvalidInputError: the address is not one.
        RemoteConnectionError, RemoteAccessError: no server there, or it refuses the key.
        BackendError: it serves another model, or is neither of the two.
        CheckpointError: as `load_checkpoint`; or the tokenizer cannot be kept.
    """
    key = api_key or os.environ.get(_KEY_VARIABLE) or None
    server = Server(base_url, api_key=key, timeout=timeout, connections=CONNECTIONS)
    served = server.json("GET", _MODELS).get("data")
    if not isinstance(served, list) or not all(isinstance(one, dict) and "id" in one for one in served) or not served:
        raise server.malformed(_MODELS, "no list of models")
    if "fingerprint" in served[0]:
        return _bgem3(server, served[0], model, precision)
    if served[0].get("owned_by") == "vllm":
        return _vllm(server, served, model or DEFAULT_MODEL, precision, files)
    raise BackendError(
        f"{server.url}: serves {_ids(served)}, but neither as bgem3 serve nor as vLLM, and no other server gives all "
        f"heads. Fix: base_url= of one of the two"
    )


def _bgem3(
    server: Server, served: Mapping[str, Any], model: str | Path | None, precision: str
) -> tuple[Model, Backend]:
    if model is not None and Path(model).name != served["id"]:
        raise BackendError(f"model: {server.url} serves {served['id']}, got {str(model)!r}. Fix: leave model out")
    try:
        dim, multi_dim, vocab_size, positions = (
            int(served[name]) for name in ("dim", "multi_dim", "vocab_size", "max_length")
        )
        fingerprint, has, tokenizer = (str(served[name]) for name in ("fingerprint", "precision", "tokenizer_sha256"))
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise server.malformed(_MODELS, f"a model without {error}") from error
    _check_precision(server, precision, has)
    remote = RemoteModel(
        name=str(served["id"]),
        tokenizer_path=_tokenizer(server, tokenizer),
        fingerprint=fingerprint,
        vocab_size=vocab_size,
        positions=positions,
    )
    exchange = BGEM3Exchange(dim, multi_dim, fingerprint)
    return remote, RemoteBackend(server, exchange, precision=has, dim=dim, multi_dim=multi_dim)


def _vllm(
    server: Server, served: list[dict[str, Any]], model: str | Path, precision: str, files: Mapping[str, Any]
) -> tuple[Model, Backend]:
    names = [str(one["id"]) for one in served]
    name = str(model) if str(model) in names else names[0]
    if len(names) > 1 and name != str(model):
        raise BackendError(f"model: {server.url} serves {_ids(served)}, got {str(model)!r}. Fix: one of these")
    _check_precision(server, precision, "unknown")
    checkpoint = load_checkpoint(model, forms=(), **files)
    dim, multi_dim = checkpoint.config.hidden_size, len(checkpoint.multi_vector_head.weight)
    limit = served[names.index(name)].get("max_model_len")
    remote = RemoteModel(
        name=checkpoint.name,
        tokenizer_path=checkpoint.tokenizer_path,
        fingerprint=checkpoint.fingerprint,
        vocab_size=checkpoint.vocab_size,
        positions=min(checkpoint.positions, limit) if isinstance(limit, int) else checkpoint.positions,
    )
    exchange = VLLMExchange(dim, multi_dim, name)
    return remote, RemoteBackend(server, exchange, precision="unknown", dim=dim, multi_dim=multi_dim)


def _check_precision(server: Server, wanted: str, has: str) -> None:
    if wanted not in ("auto", has):
        raise BackendError(f"precision: {server.url} computes in {has}, got {wanted!r}. Fix: precision='auto'")


def _tokenizer(server: Server, digest: str) -> Path:
    """Return the server's tokenizer from the cache, where it is kept under its hash, or from the server."""
    if len(digest) != sha256().digest_size * 2 or not digest.isalnum():
        raise server.malformed(_MODELS, "tokenizer_sha256 is no hash")
    path = cache_root() / "tokenizers" / f"{digest}.json"
    if path.is_file() and sha256(path.read_bytes()).hexdigest() == digest:
        return path
    content = server.request("GET", _TOKENIZER).content
    if sha256(content).hexdigest() != digest:
        raise server.malformed(_TOKENIZER, "another file than its hash says")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: the server's tokenizer could not be kept ({error}). Fix: free space, or set BGEM3_CACHE"
        ) from error
    return path


def _ids(served: list[dict[str, Any]]) -> str:
    return ", ".join(str(one["id"]) for one in served)
