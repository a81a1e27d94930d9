"""What a user of `HuggingFaceEmbeddings` passes in dictionaries, as fields of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgem3.errors import InvalidInputError

# Keys of `model_kwargs` that are fields here.
_MODEL_FIELDS = ("device", "revision", "backend", "local_files_only")
# Keys that can have these values only, and why.
_FIXED: dict[str, tuple[tuple[object, ...], str]] = {
    "trust_remote_code": ((True, False), "no code is ever taken from a checkpoint"),
    "normalize_embeddings": ((True,), "the model's dense vectors have norm 1"),
    "convert_to_numpy": ((True,), "lists of floats are returned in any case"),
    "convert_to_tensor": ((False,), "lists of floats are returned in any case"),
    "output_value": (("sentence_embedding",), "BGEM3SparseEmbeddings and BGEM3Retriever use the other heads"),
    "precision": (("float32",), "vectors are returned as floats"),
    "prompt": ((None, ""), "this model takes no instruction"),
    "prompt_name": ((None,), "this model takes no instruction"),
}
_MODEL_FIXED = ("trust_remote_code",)
_ENCODE_FIXED = tuple(name for name in _FIXED if name not in _MODEL_FIXED)
# Where else a user may have looked for something.
_HINTS = {
    "token": "set the environment variable HF_TOKEN",
    "use_auth_token": "set the environment variable HF_TOKEN",
    "cache_folder": "cache_folder is a field: BGEM3Embeddings(cache_folder=...)",
    "cache_dir": "cache_folder is a field: BGEM3Embeddings(cache_folder=...)",
    "max_length": "max_length is a field: BGEM3Embeddings(max_length=...)",
    "max_seq_length": "max_length is a field: BGEM3Embeddings(max_length=...)",
    "torch_dtype": "precision is a field: BGEM3Embeddings(precision='float16')",
    "dtype": "precision is a field: BGEM3Embeddings(precision='float16')",
    "model_kwargs": "precision is a field: BGEM3Embeddings(precision='float16')",
    "use_fp16": "precision is a field: BGEM3Embeddings(precision='float16')",
}


def to_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the settings of `model_kwargs` and `encode_kwargs` put in their places.

    Args:
        fields: What a caller passed to the constructor.

    Raises:
        InvalidInputError: a key without a meaning here, a value that cannot be had, or a setting
            that is given twice with different values.
    """
    own = dict(fields)
    model_kwargs = _mapping(own, "model_kwargs")
    for name in model_kwargs:
        if name in _MODEL_FIELDS:
            _put(own, name, model_kwargs[name], "model_kwargs")
        else:
            _check_fixed("model_kwargs", name, model_kwargs[name], _MODEL_FIXED, _MODEL_FIELDS)
    for group in ("encode_kwargs", "query_encode_kwargs"):
        _take_encode_kwargs(own, group)
    if own.get("multi_process"):
        raise InvalidInputError("multi_process: got True, expected False: one process uses every core. Fix: leave out")
    return own


def _take_encode_kwargs(own: dict[str, Any], group: str) -> None:
    for name, value in _mapping(own, group).items():
        if name == "show_progress_bar":
            own["show_progress"] = bool(value) or own.get("show_progress", False)
        elif name == "device":
            _put(own, "device", value, group)
        elif name == "batch_size":
            _check_batch_size(group, value)
        else:
            _check_fixed(group, name, value, _ENCODE_FIXED, ("batch_size", "device", "show_progress_bar"))


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name}: expected a dictionary, got {type(value).__name__}. Fix: {name}={{}}")
    return value


def _put(own: dict[str, Any], name: str, value: object, group: str) -> None:
    if name in own and own[name] != value:
        raise InvalidInputError(
            f"{group}[{name!r}]: got {value!r}, and {name}={own[name]!r} beside it. Fix: give {name} once"
        )
    own[name] = value


def _check_batch_size(group: str, value: object) -> None:
    """Accept a count of texts: batches are made by tokens, so that it cannot exhaust memory."""
    if not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{group}['batch_size']: got {value!r}, expected a whole number >= 1. Fix: leave out")


def _check_fixed(group: str, name: str, value: object, fixed: tuple[str, ...], others: tuple[str, ...]) -> None:
    if name not in fixed:
        hint = _HINTS.get(name, f"leave it out, or use one of {', '.join(sorted({*fixed, *others}))}")
        raise InvalidInputError(f"{group}[{name!r}]: has no meaning here. Fix: {hint}")
    allowed, why = _FIXED[name]
    if value not in allowed:
        expected = " or ".join(repr(one) for one in allowed)
        raise InvalidInputError(f"{group}[{name!r}]: got {value!r}, expected {expected}: {why}. Fix: leave it out")
