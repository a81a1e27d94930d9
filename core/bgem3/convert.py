"""Smaller and faster forms of a checkpoint's encoder, made once and kept.

A form is a folder with `model.onnx`, `masked.onnx`, `model.onnx_data` and `form.json`, which says what it was made from. It stands
in `converted/<precision>` of a checkpoint's folder, or in the cache under the checkpoint's fingerprint.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from bgem3.calibration import calibration_texts, observe
from bgem3.checkpoint import Checkpoint
from bgem3.errors import BackendError, CheckpointError, CheckpointFileError, MissingExtraError
from bgem3.fingerprint import cache_root, read_json, write_json
from bgem3.forms import CONVERTED, FORM_FILE, FORM_FILES, PRECISIONS, VERSION, converted_form, converted_precisions
from bgem3.hub import COMMON_FILES
from bgem3.tokenizer import M3Tokenizer
from bgem3.types import check_choice
from bgem3.weights import read_weights

# No conversion takes so long; the largest takes minutes.
_ABANDONED_S = 6 * 3600.0


def find_or_convert(checkpoint: Checkpoint, precision: str, *, show_progress: bool = True) -> Path:
    """Return the folder of a form: the checkpoint's own, the cache's, or a new one in the cache.

    Raises:
        CheckpointFileError: the form was made from another checkpoint or by another version, or is not whole.
        BackendError: the folder holds converted forms only, and none in this precision.
        CheckpointError: the disk refused it.
        MissingExtraError: the package onnx is not installed.
    """
    own = converted_form(checkpoint.folder, precision)
    if own is not None:
        check_form(own, checkpoint)
        return own
    if checkpoint.form == "converted":
        raise BackendError(
            f"precision: {checkpoint.name} holds {', '.join(converted_precisions(checkpoint.folder))}, got "
            f"{precision!r}, and no weights to convert. Fix: one of these, or bgem3 convert the original checkpoint"
        )
    kept = cache_root() / CONVERTED / f"{checkpoint.fingerprint[:32]}-v{VERSION}" / precision
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # several processes may start at once, and one conversion is enough
        with FileLock(kept.with_name(f"{precision}.lock")):
            if not (kept / FORM_FILE).is_file():
                write_form(checkpoint, kept, precision, show_progress=show_progress)
    except OSError as error:
        raise _refused(kept, error) from error
    return kept


def convert_checkpoint(checkpoint: Checkpoint, folder: Path, precision: str, *, show_progress: bool = True) -> Path:
    """Write a checkpoint that holds one form of its encoder and nothing else: `from_pretrained` takes its folder.

    Args:
        checkpoint: With its weights, in any form.
        folder: Made where it is missing.
        precision: float32, int8 or int4.
        show_progress: Draw a bar over the layers.

    Raises:
        InvalidInputError: an unknown precision.
        CheckpointError: the disk refused it, or the folder holds another checkpoint.
        MissingExtraError: the package onnx is not installed.
    """
    check_choice("precision", precision, PRECISIONS)
    require_onnx(checkpoint.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_own(folder, checkpoint)
        made = write_form(checkpoint, folder / CONVERTED / precision, precision, show_progress=show_progress)
        for name in COMMON_FILES:
            if folder.resolve() != checkpoint.folder.resolve():
                shutil.copyfile(checkpoint.folder / name, folder / name)
        return made
    except OSError as error:
        raise _refused(folder, error) from error


def require_onnx(name: str) -> None:
    """Raise MissingExtraError where a checkpoint of this name cannot be converted; asked before anything is read or written."""
    if find_spec("onnx") is None:
        raise MissingExtraError("onnx", "convert", f"converting {name}")


def _check_own(folder: Path, checkpoint: Checkpoint) -> None:
    for name in COMMON_FILES:
        if (folder / name).exists() and (folder / name).read_bytes() != (checkpoint.folder / name).read_bytes():
            raise CheckpointError(f"{folder}: holds another checkpoint's {name}. Fix: a folder that is empty or new")


def write_form(checkpoint: Checkpoint, target: Path, precision: str, *, show_progress: bool = True) -> Path:
    """Write a form beside its place and move it there whole; an older one is replaced."""
    require_onnx(checkpoint.name)
    from bgem3.packed_graph import save_packed_graph

    weights, config = read_weights(checkpoint), checkpoint.config
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{precision}-*"):  # of a process that was killed
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{precision}-") as folder:
        made = Path(folder) / precision
        made.mkdir()
        steps = config.num_hidden_layers * (1 if precision == "float32" else 2)
        with tqdm(total=steps, desc=f"Converting to {precision}", unit="layer", disable=not show_progress) as bar:
            seen = None
            if precision != "float32":
                texts = M3Tokenizer(checkpoint.tokenizer_path, checkpoint.vocab_size).encode(calibration_texts())
                seen = observe(weights, config, [ids[: checkpoint.positions] for ids in texts], bar.update)
            save_packed_graph(weights, made / "model.onnx", config, precision, seen, bar.update)
        record = {"fingerprint": checkpoint.fingerprint, "weights": checkpoint.weights_sha256, "precision": precision}
        if not write_json(made / FORM_FILE, record | {"version": str(VERSION)}):
            raise OSError(f"{made / FORM_FILE} could not be written")
        if target.exists():
            shutil.rmtree(target)
        os.replace(made, target)
    return target


def check_form(folder: Path, checkpoint: Checkpoint) -> None:
    """Check that a form was made from this checkpoint, by this version, and that its files are there.

    Raises:
        CheckpointFileError: it was not, or they are not.
    """
    record = read_json(folder / FORM_FILE)
    missing = [name for name in FORM_FILES if not (folder / name).is_file()]
    if missing or record.get("version", "") != str(VERSION):
        wrong = f"{', '.join(missing)} not there" if missing else "made by another version of bgem3"
        raise CheckpointFileError(f"{folder}: {wrong}. Fix: bgem3 convert the original checkpoint again")
    if record.get("fingerprint") != checkpoint.fingerprint:
        raise CheckpointFileError(
            f"{folder}: made from the checkpoint {record.get('fingerprint', 'unknown')[:16]}, expected "
            f"{checkpoint.fingerprint[:16]}, that of {checkpoint.name}. Fix: bgem3 convert the checkpoint again"
        )


def _refused(place: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{place}: the converted form could not be written ({error}). Fix: free space, or set BGEM3_CACHE to another folder"
    )
