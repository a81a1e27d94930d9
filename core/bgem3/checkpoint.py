"""A hub id or a folder -> files that are there, whole, safe and of the right shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bgem3.errors import CheckpointFileError, CheckpointNotFoundError
from bgem3.fingerprint import cache_root, file_sha256, read_json
from bgem3.forms import CONVERTED, FORM_FILE, converted_precisions
from bgem3.hub import (
    COMMON_FILES,
    ONNX_FILE,
    TORCH_FILES,
    Form,
    fetch,
    main_file,
    no_form,
    recorded_weights,
    side_folder,
)
from bgem3.onnx_file import check_external_data, external_data, real_path
from bgem3.torch_file import check_torch_file, read_torch_file
from bgem3.types import FloatArray

_FETCH_AGAIN = "Fix: download the file again"
# XLM-R counts positions from padding_idx + 1 = 2, so two rows of the position table are never a token's
_UNUSED_POSITIONS = 2
# Above any model, and token ids fit the 32 bits of a sparse row
_MAX_SIZE = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the forward pass needs to know, from `config.json`; defaults as in transformers.

    Raises:
        CheckpointFileError: a size is not a whole number from 1 to 2**31 - 1, `hidden_size` is not a
            multiple of `num_attention_heads`, or a constant is not what this model has.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 1
    hidden_act: str = "gelu"

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < _MAX_SIZE:
                raise CheckpointFileError(f"config.json: {name} is {value!r}, expected a whole number >= 1 of 31 bits")
        if self.hidden_size % self.num_attention_heads:
            raise CheckpointFileError(
                f"config.json: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if type(self.pad_token_id) is not int or not 0 <= self.pad_token_id < self.vocab_size:
            raise CheckpointFileError(
                f"config.json: pad_token_id is {self.pad_token_id!r}, expected one of the vocabulary"
            )
        if not isinstance(self.layer_norm_eps, int | float) or not 0 < self.layer_norm_eps < 1:
            raise CheckpointFileError(
                f"config.json: layer_norm_eps is {self.layer_norm_eps!r}, expected above 0, below 1"
            )
        if self.hidden_act != "gelu":
            raise CheckpointFileError(f"config.json: hidden_act is {self.hidden_act!r}, expected 'gelu'")
        if self.max_position_embeddings <= _UNUSED_POSITIONS:
            raise CheckpointFileError(
                f"config.json: max_position_embeddings is {self.max_position_embeddings}, expected at least 3"
            )


_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """A linear layer on hidden states: `states @ weight.T + bias`.

    Attributes:
        weight: `(out, in)` float32.
        bias: `(out,)` float32.
    """

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Checkpoint:
    """The verified files of one model.

    Attributes:
        folder: Where the files lie.
        name: What the user asked for.
        form: The form of the weights that was taken: "torch" or "onnx"; "converted" where the folder holds only
            forms made by `bgem3 convert`; "none" where none was asked for.
        config: Sizes and constants of the encoder.
        sparse_head: `(1, hidden_size)`: one weight per token.
        multi_vector_head: `(multi_dim, hidden_size)`: one vector per token.
        tokenizer_path: `tokenizer.json`.
        weights_path: `model.safetensors` or `pytorch_model.bin`; None unless `form` is "torch".
        onnx_path: The ONNX graph, its external data beside it as real files; None unless `form` is "onnx".
        weights_sha256: Hash of the weights file that the checkpoint is known by.
        fingerprint: 64 hex digits; the same for every form of one checkpoint.
    """

    folder: Path
    name: str
    form: Form | Literal["converted", "none"]
    config: Config
    sparse_head: LinearHead
    multi_vector_head: LinearHead
    tokenizer_path: Path
    weights_path: Path | None
    onnx_path: Path | None
    weights_sha256: str
    fingerprint: str

    @property
    def vocab_size(self) -> int:
        """Width of a sparse row."""
        return self.config.vocab_size

    @property
    def positions(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.config.max_position_embeddings - _UNUSED_POSITIONS


def load_checkpoint(
    model: str | Path,
    *,
    forms: Sequence[Form] = ("torch",),
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    show_progress: bool = True,
) -> Checkpoint:
    """Find a checkpoint, download what is missing, and check every file that will be read.

    A folder that exists is taken as it is; anything else is a hub id. `HF_ENDPOINT`, `HF_TOKEN`,
    `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.

    Args:
        model: A folder, or a hub id such as "BAAI/bge-m3".
        forms: The forms of the weights that will do, best first. Only the first one that the
            checkpoint has is downloaded; `Checkpoint.form` tells which. Empty: weights are not needed.
        revision: Branch, tag or commit on the hub.
        cache_dir: The Hugging Face cache to use.
        local_files_only: Download nothing.
        show_progress: Draw progress bars of downloads.

    Raises:
        CheckpointNotFoundError: no such folder or repository, no access to it, no connection, or
            a file that is missing.
        CheckpointFileError: a file is truncated, of a wrong shape, or unsafe.
        CheckpointError: the download failed.
    """
    try:
        folder = Path(model).expanduser()
        is_there = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a user who is not there, a NUL
        raise CheckpointNotFoundError(f"model: no path and no hub id ({error}). Fix: check the path") from error
    if not is_there:
        if isinstance(model, Path) or _looks_like_path(model):
            raise CheckpointNotFoundError(
                f"{model}: no such folder. Fix: check the path, or give a hub id like BAAI/bge-m3"
            )
        folder = fetch(
            model,
            forms,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            show_progress=show_progress,
        )
        try:
            return _open(folder, model, forms)
        except CheckpointFileError as error:
            kept = folder.parent.parent
            raise CheckpointFileError(
                f"{error}. It is from the hub: delete {kept} to have it downloaded anew"
            ) from error
    return _open(folder, str(model), forms)


def _looks_like_path(model: str) -> bool:
    return model.startswith((".", "~", "/")) or "\\" in model or model.count("/") > 1


def _open(folder: Path, name: str, forms: Sequence[Form]) -> Checkpoint:
    for file in COMMON_FILES:
        if not (folder / file).is_file():
            raise CheckpointNotFoundError(
                f"{name}: {file} is missing in {folder}. Fix: download the whole checkpoint; it has {', '.join(COMMON_FILES)}"
            )
    present = {file for file in (*TORCH_FILES, ONNX_FILE) if (folder / file).is_file()}
    form = next((form for form in forms if main_file(present, form)), None)
    made = converted_precisions(folder)
    if forms and form is None and not made:
        raise no_form(name, forms)
    config = _read_config(folder / "config.json")
    sparse = _read_head(folder / "sparse_linear.pt", config.hidden_size, outputs=1)
    multi_vector = _read_head(folder / "colbert_linear.pt", config.hidden_size)
    main = folder / str(form and main_file(present, form))
    weights = recorded_weights(folder) or _weights_sha256(folder, present, made)
    return Checkpoint(
        folder=folder,
        name=name,
        form=form or ("converted" if forms else "none"),
        config=config,
        sparse_head=sparse,
        multi_vector_head=multi_vector,
        tokenizer_path=folder / "tokenizer.json",
        weights_path=_checked_weights(main) if form == "torch" else None,
        onnx_path=_checked_graph(folder, main) if form == "onnx" else None,
        weights_sha256=weights,
        fingerprint=_fingerprint(folder, config, (sparse, multi_vector), weights),
    )


def _read_config(path: Path) -> Config:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointFileError(f"{path}: not valid JSON ({error}). {_FETCH_AGAIN}") from error
    if not isinstance(values, dict):
        raise CheckpointFileError(f"{path}: expected a JSON object, got {type(values).__name__}. {_FETCH_AGAIN}")
    if values.get("model_type") != "xlm-roberta":
        raise CheckpointFileError(
            f"{path}: model_type is {values.get('model_type')!r}, expected 'xlm-roberta'. Fix: a BGE-M3 checkpoint"
        )
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointFileError(f"{path}: position_embedding_type must be 'absolute'. Fix: a BGE-M3 checkpoint")
    missing = [name for name in _SIZES if name not in values]
    if missing:
        raise CheckpointFileError(f"{path}: {', '.join(missing)} is missing. {_FETCH_AGAIN}")
    fields = (*_SIZES, "layer_norm_eps", "pad_token_id", "hidden_act")
    try:
        return Config(**{name: values[name] for name in fields if name in values})
    except CheckpointFileError as error:
        raise CheckpointFileError(
            f"{path.parent / str(error)}. Fix: the config.json that belongs to the weights"
        ) from error


def _read_head(path: Path, hidden_size: int, outputs: int | None = None) -> LinearHead:
    tensors = read_torch_file(path)
    if set(tensors) != {"weight", "bias"}:
        raise CheckpointFileError(
            f"{path}: expected the tensors weight and bias, got {', '.join(sorted(tensors)) or 'none'}. {_FETCH_AGAIN}"
        )
    weight, bias = (np.array(tensors[name], dtype=np.float32, order="C") for name in ("weight", "bias"))
    rows = weight.shape[0] if outputs is None and weight.ndim == 2 and weight.size else outputs
    if weight.shape != (rows, hidden_size) or bias.shape != (rows,):
        raise CheckpointFileError(
            f"{path}: weight is {weight.shape} and bias {bias.shape}, expected ({rows or 'n'}, {hidden_size}) and "
            f"({rows or 'n'},) for hidden_size={hidden_size} in config.json. Fix: take both files from the same checkpoint"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CheckpointFileError(f"{path}: holds numbers that are not finite. {_FETCH_AGAIN}")
    return LinearHead(weight, bias)


def _checked_weights(path: Path) -> Path:
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    else:
        check_torch_file(path)
    return path


def _check_safetensors(path: Path) -> None:
    """Compare a safetensors file's header with its size. Source: the format's description in its README."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, size)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointFileError(f"{path}: not a whole safetensors file ({error}). {_FETCH_AGAIN}") from error
    if size != expected:
        raise CheckpointFileError(
            f"{path}: truncated or damaged, got {size:,} bytes, expected {expected:,}. {_FETCH_AGAIN}"
        )


def _checked_graph(folder: Path, path: Path) -> Path:
    needed = external_data(path)
    check_external_data(path, needed)
    side = side_folder(folder)
    return real_path(path, needed, [*([side / "onnx"] if side else []), cache_root() / "onnx"])


def _fingerprint(folder: Path, config: Config, heads: Sequence[LinearHead], weights: str) -> str:
    digest = sha256(repr(astuple(config)).encode())
    digest.update((folder / "tokenizer.json").read_bytes())
    for head in heads:
        digest.update(repr(head.weight.shape).encode() + head.weight.tobytes() + head.bias.tobytes())
    digest.update(weights.encode())
    return digest.hexdigest()


def _weights_sha256(folder: Path, present: set[str], converted: Sequence[str]) -> str:
    """Hash the weights a checkpoint is known by: its torch file, else its ONNX graph with the data beside it."""
    if weights := main_file(present, "torch"):
        return file_sha256(folder / weights)
    if converted:
        return read_json(folder / CONVERTED / converted[0] / FORM_FILE).get("weights", "")
    graph = folder / ONNX_FILE
    if ONNX_FILE not in present:
        return ""
    data = sorted(external_data(graph))
    return sha256("".join(file_sha256(graph.parent / name) for name in (graph.name, *data)).encode()).hexdigest()
