"""A checkpoint's files from the Hugging Face hub: only those of one form, never both."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from bgem3.errors import CheckpointError, CheckpointFileError, CheckpointNotFoundError
from bgem3.fingerprint import cache_root, file_sha256, read_json, write_json
from bgem3.onnx_file import external_data

Form: TypeAlias = Literal["torch", "onnx"]

COMMON_FILES = ("config.json", "tokenizer.json", "sparse_linear.pt", "colbert_linear.pt")
TORCH_FILES = ("model.safetensors", "pytorch_model.bin")
ONNX_FILE = "onnx/model.onnx"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 10.0
# What comes of a login page in the hub's place, or of a token that no header can carry.
_NO_ANSWER = (ValueError, KeyError, TypeError, AssertionError)
# HfHubHTTPError derives from the base error of whichever HTTP client this huggingface_hub uses
_FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, HFValidationError, *_NO_ANSWER)


def main_file(names: Sequence[str] | set[str], form: Form) -> str | None:
    """Return the file that holds (or, for ONNX, leads to) the weights of a form, None where there is none."""
    candidates = TORCH_FILES if form == "torch" else (ONNX_FILE,)
    return next((name for name in candidates if name in names), None)


def fetch(
    model: str,
    forms: Sequence[Form],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    show_progress: bool = True,
) -> Path:
    """Return the folder of a hub repository's files in the Hugging Face cache, downloading what is missing.

    The first of `forms` that the repository has is downloaded, the others are not; with no forms none is.
    Without a connection the files downloaded before are used.

    Raises:
        CheckpointNotFoundError: no such repository or revision, no access to it, a file that is
            missing there, or no connection and nothing downloaded before.
        CheckpointError: the download failed.
    """
    cached = _cached(model, revision, cache_dir)
    complete = cached is not None and _is_complete(cached, forms)
    if cached is not None and complete and (local_files_only or revision == cached.name):
        return cached
    if local_files_only:
        raise CheckpointNotFoundError(
            f"{model}: the files for {' or '.join(forms)} are not all in the cache, and local_files_only=True allows no "
            "download. Fix: local_files_only=False once, or cache_dir= the folder they were downloaded to"
        )
    try:
        return _download(model, forms, revision, cache_dir, show_progress)
    except CheckpointError:
        raise
    except _FAILURES as error:
        if cached is not None and complete and not isinstance(error, RevisionNotFoundError):
            return cached
        raise _translated(model, revision, error) from error


def side_folder(snapshot: Path) -> Path | None:
    """Return where our records of a snapshot lie: in its repository's cache folder, so that they move and go with it."""
    is_snapshot = snapshot.parent.name == "snapshots" and _COMMIT.fullmatch(snapshot.name)
    return snapshot.parent.parent / "bgem3" if is_snapshot else None


def recorded_weights(snapshot: Path) -> str | None:
    """Return the SHA-256 of the repository's weights that was noted when it was downloaded, if it was."""
    side = side_folder(snapshot)
    if side is None:
        return None
    records = (side / f"{snapshot.name}.json", _fallback_record(snapshot))
    return next((record["sha256"] for record in map(read_json, records) if "sha256" in record), None)


def _download(
    model: str, forms: Sequence[Form], revision: str | None, cache_dir: str | Path | None, show_progress: bool
) -> Path:
    info = HfApi(library_name="bgem3").model_info(model, revision=revision, timeout=_TIMEOUT, files_metadata=True)
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or ()}
    form, weights = _choose(model, hashes, forms)
    options: dict[str, Any] = {"cache_dir": cache_dir, "tqdm_class": tqdm if show_progress else _Silent}
    small = [*COMMON_FILES, weights] if forms and form == "onnx" else list(COMMON_FILES)
    folder = Path(_snapshot(model, small, revision=revision, **options))
    if folder.name != info.sha:
        raise CheckpointError(f"{model}: the repository changed during the download. Fix: try again")
    if forms:
        large = _external_files(model, folder / weights, hashes) if form == "onnx" else [weights]
        if large:
            _snapshot(model, large, revision=info.sha, **options)
        for name in {weights, *large}:
            _verify(folder / name, hashes[name])
    _record(folder, hashes)
    return folder


def _choose(model: str, names: dict[str, str | None], forms: Sequence[Form]) -> tuple[Form, str]:
    for name in COMMON_FILES:
        if name not in names:
            raise CheckpointNotFoundError(
                f"{model}: the repository has no {name}, so it is no BGE-M3 checkpoint. Fix: a repository with "
                f"{', '.join(COMMON_FILES)}, such as BAAI/bge-m3"
            )
    for form in forms or ("torch", "onnx"):
        if weights := main_file(set(names), form):
            return form, weights
    raise no_form(model, forms)


def no_form(model: str, forms: Sequence[Form]) -> CheckpointNotFoundError:
    """Return the error that says which weights are missing and which backend to use instead."""
    if "torch" not in forms:
        return CheckpointNotFoundError(
            f'{model}: no {ONNX_FILE} there, which this backend reads. Fix: backend="torch" (pip install "bgem3[torch]")'
        )
    expected = " or ".join((*TORCH_FILES, ONNX_FILE) if "onnx" in forms else TORCH_FILES)
    fix = "a checkpoint with its weights" if "onnx" in forms else 'backend="onnx" if it has an ONNX graph'
    return CheckpointNotFoundError(f"{model}: no weights there, expected {expected}. Fix: {fix}")


def _external_files(model: str, graph: Path, names: dict[str, str | None]) -> list[str]:
    files = [f"{ONNX_FILE.rpartition('/')[0]}/{location}" for location in external_data(graph)]
    for name in files:
        if name not in names:
            raise CheckpointNotFoundError(
                f"{model}: the repository has no {name}, where {ONNX_FILE} keeps its weights. "
                'Fix: backend="torch" (pip install "bgem3[torch]")'
            )
    return files


def _verify(file: Path, expected: str | None) -> None:
    """Compare a large file with what the hub says of it; its hash is remembered, so that this is done once."""
    if expected is not None and file_sha256(file) != expected:
        raise CheckpointFileError(
            f"{file.resolve()}: other content than the hub names. Fix: delete it, then load again"
        )


def _snapshot(model: str, names: Sequence[str], **options: Any) -> str:
    patterns = [glob.escape(name) for name in names]
    return str(snapshot_download(model, allow_patterns=patterns, library_name="bgem3", **options))


def _record(folder: Path, hashes: dict[str, str | None]) -> None:
    """Note the hash of the weights the repository is known by, whichever form was downloaded."""
    weights = main_file(set(hashes), "torch")
    side = side_folder(folder)
    if weights is None or side is None or hashes[weights] is None:
        return
    record = {"weights": weights, "sha256": str(hashes[weights])}
    path = side / f"{folder.name}.json"
    if read_json(path) != record and not write_json(path, record):
        write_json(_fallback_record(folder), record)


def _fallback_record(folder: Path) -> Path:
    return cache_root() / "snapshots" / f"{folder.name}.json"


def _cached(model: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    try:
        found = try_to_load_from_cache(model, "config.json", cache_dir=cache_dir, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _is_complete(folder: Path, forms: Sequence[Form]) -> bool:
    names = {name for name in (*COMMON_FILES, *TORCH_FILES, ONNX_FILE) if (folder / name).is_file()}
    form = next((form for form in forms if main_file(names, form)), None)
    if not names.issuperset(COMMON_FILES) or (forms and form is None):
        return False
    try:
        needed = external_data(folder / ONNX_FILE) if form == "onnx" else {}
    except CheckpointFileError:
        return False
    return all(((folder / ONNX_FILE).parent / location).is_file() for location in needed)


def _translated(model: str, revision: str | None, error: Exception) -> CheckpointError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return CheckpointNotFoundError(
            f"{model!r} is neither a folder that exists nor a hub id. Fix: an existing folder, or an id like BAAI/bge-m3"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointNotFoundError(f"{model}: no revision {revision!r}. Fix: revision=None for the newest one")
    if isinstance(error, GatedRepoError) or status == 403:
        return CheckpointNotFoundError(
            f"{model}: access is restricted. Fix: ask for access on its hub page, then `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return CheckpointNotFoundError(
            f"{model}: no such folder here and no such repository on the hub (or a private one). "
            "Fix: check the spelling; for a private repository `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, HfHubHTTPError):
        return CheckpointError(f"{model}: the hub answered {status}. Fix: try again later ({_first_line(error)})")
    if isinstance(error, _NO_ANSWER) and not isinstance(error, LocalEntryNotFoundError):
        return CheckpointError(
            f"{model}: the hub's answer cannot be read ({_first_line(error)}). Fix: look what answers at HF_ENDPOINT, a proxy's "
            "login page say, and that HF_TOKEN is a token"
        )
    if isinstance(error, OSError) and not isinstance(error, (ConnectionError, LocalEntryNotFoundError)):
        return CheckpointError(
            f"{model}: the download failed ({_first_line(error)}). Fix: make room on the disk and check that cache_dir= "
            "can be written to, then try again"
        )
    return CheckpointNotFoundError(
        f"{model}: not downloaded yet, and the hub cannot be reached ({_first_line(error)}). Fix: connect once and try "
        "again, unset HF_HUB_OFFLINE, or pass a folder that holds the checkpoint"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Silent(tqdm):
    """A progress bar that is not drawn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]  # tqdm has no types
