"""Which backend runs: by name, or the best that is installed."""

from __future__ import annotations

from importlib.util import find_spec

from bgem3.backends.base import Backend
from bgem3.checkpoint import Checkpoint
from bgem3.errors import BackendError, InvalidInputError, MissingExtraError
from bgem3.hub import Form

BACKENDS = ("auto", "torch", "onnx", "flag")


def choose_forms(backend: str, device: str | None) -> tuple[str, str | None, tuple[Form, ...]]:
    """Return backend, device and the forms of weights to look for, the best first.

    `auto` stays where the files decide between onnx and torch.

    Raises:
        InvalidInputError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise InvalidInputError(f"backend: got {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend, device = _choose_backend(device)
    if backend == "auto":
        return backend, device, ("onnx", "torch") if _has_torch() else ("onnx",)
    return backend, device, ("onnx",) if backend == "onnx" else ("torch",)


def make_backend(
    name: str, checkpoint: Checkpoint, *, precision: str, device: str | None, num_threads: int | None
) -> Backend:
    """Load the weights into a backend; `auto` takes the one that reads the checkpoint's form.

    Raises:
        MissingExtraError: the backend is not installed.
        BackendError: it has no such precision or device.
    """
    name = checkpoint.form if name == "auto" else name
    if precision == "auto":
        precision = "bfloat16" if device is not None and device.startswith("cuda") else "float32"
    if name == "onnx":
        if precision != "float32" or device not in (None, "cpu"):
            raise BackendError(
                f"backend='onnx' runs float32 on the CPU, got precision={precision!r}, device={device!r}. "
                f"Fix: backend='torch'"
            )
        from bgem3.backends.onnx import OnnxBackend

        return OnnxBackend(checkpoint, num_threads=num_threads)
    if not _has_torch():
        raise MissingExtraError("torch", "torch", f"backend={name!r}")
    if name == "flag":
        if find_spec("FlagEmbedding") is None:
            raise MissingExtraError("FlagEmbedding", "flag", "backend='flag'")
        from bgem3.backends.flag import FlagBackend

        return FlagBackend(checkpoint, precision=precision, device=device)
    from bgem3.backends.torch import TorchBackend

    return TorchBackend(checkpoint, precision=precision, device=device, num_threads=num_threads)


def _has_torch() -> bool:
    return find_spec("torch") is not None


def _choose_backend(device: str | None) -> tuple[str, str | None]:
    """Prefer torch where a GPU was asked for or is at hand; else leave the choice to the files."""
    if device not in (None, "cpu"):
        return "torch", device
    if device is None and _has_torch():
        import torch

        if torch.cuda.is_available():
            return "torch", "cuda"
    return "auto", device
