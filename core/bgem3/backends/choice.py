"""Which backend runs in which precision: by name, or the best that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bgem3.backends.accelerator import has_cuda
from bgem3.backends.base import Backend
from bgem3.backends.processor import has_avx512, has_bfloat16, has_vnni
from bgem3.checkpoint import Checkpoint, load_checkpoint
from bgem3.errors import BackendError, InvalidInputError, MissingExtraError
from bgem3.forms import converted_form, converted_precisions
from bgem3.hub import Form
from bgem3.quantize import ACTIVATION_MAX_VNNI, activation_constants
from bgem3.types import check_choice

DEFAULT_MODEL = "BAAI/bge-m3"
BACKENDS = ("auto", "torch", "onnx", "openvino", "flag", "remote")
# What each backend computes in; of these, torch and flag run float16 on a GPU only.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "torch": ("float32", "bfloat16", "float16"),
    "onnx": ("float32", "int8", "int4"),
    "openvino": ("float32", "bfloat16", "int8", "int4"),
    "flag": ("float32", "float16"),
}
_PACKAGES = {"torch": "torch", "openvino": "openvino", "flag": "FlagEmbedding"}


def is_remote(backend: str, base_url: str | None, device: str | None, num_threads: int | None) -> bool:
    """Tell whether a server encodes, and refuse options that only one side of it has.

    Raises:
        InvalidInputError: base_url is missing, or stands beside another backend, a device or threads.
    """
    if base_url is None:
        if backend == "remote":
            raise InvalidInputError("base_url: backend='remote' needs one. Fix: base_url='http://host:8080'")
        return False
    if backend not in ("auto", "remote"):
        raise InvalidInputError(f"base_url: got {base_url!r} beside backend={backend!r}. Fix: backend='remote'")
    if device is not None or num_threads is not None:
        given = "device" if device is not None else "num_threads"
        raise InvalidInputError(f"{given}: the server at base_url decides it. Fix: leave {given} out")
    return True


def load_backend(
    model: str | Path, backend: str, precision: str, device: str | None, num_threads: int | None, **files: Any
) -> tuple[Checkpoint, Backend]:
    """Load a checkpoint in the form that a backend reads, and the backend; `files` are options of `load_checkpoint`.

    Raises:
        InvalidInputError, CheckpointError, MissingExtraError, BackendError: as `M3Encoder.from_pretrained`.
    """
    if num_threads is not None and num_threads < 1:
        raise InvalidInputError(f"num_threads: got {num_threads}, expected at least 1. Fix: leave it out")
    devices = _split(device)
    backend, device, forms = choose_forms(backend, devices[0], precision)
    checkpoint = load_checkpoint(model, forms=forms, **files)
    make = partial(
        make_backend,
        backend,
        checkpoint,
        precision=precision,
        num_threads=num_threads,
        show_progress=files["show_progress"],
    )
    if len(devices) == 1:
        return checkpoint, make(device=device)
    from bgem3.backends.devices import DevicesBackend

    return checkpoint, DevicesBackend([str(name) for name in devices], make)


def _split(device: str | None) -> list[str | None]:
    """Return the devices named with commas between them, which must be of one kind: all compute in one precision."""
    names = [name.strip() for name in (device or "cpu").split(",")]
    if "" in names or len({name.split(":")[0] for name in names}) > 1:
        raise InvalidInputError(f"device: got {device!r}, expected one or several of one kind. Fix: 'cuda:0,cuda:1'")
    return [*names] if device else [None]


def choose_forms(backend: str, device: str | None, precision: str = "auto") -> tuple[str, str | None, tuple[Form, ...]]:
    """Return backend, device and the forms of weights to look for, the best first.

    `auto` stays where the files decide between onnx and torch.

    Raises:
        InvalidInputError: an unknown backend or precision.
    """
    check_choice("backend", backend, BACKENDS)
    known = ("auto", *dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    check_choice("precision", precision, known)
    if backend == "auto":
        backend, device = _choose_backend(device, precision)
    as_published = precision in ("auto", "float32")
    torch_first = as_published and _has("torch") and (has_bfloat16() or has_avx512())  # it is the fastest there
    forms: dict[str, tuple[Form, ...]] = {
        "auto": ("torch", "onnx") if torch_first else ("onnx", "torch"),
        # to be converted, the torch file is better: its tensors have names
        "onnx": ("onnx", "torch") if as_published else ("torch", "onnx"),
        "openvino": ("torch", "onnx"),
    }
    return backend, device, forms.get(backend, ("torch",))


def backend_for(name: str, form: str, precision: str = "auto") -> str:
    """Return the backend's name; `auto` is what reads the form that a checkpoint was found in."""
    if name != "auto":
        return name
    return "torch" if form == "torch" and _has("torch") and precision in ("auto", "float32") else "onnx"


def make_backend(
    name: str,
    checkpoint: Checkpoint,
    *,
    precision: str,
    device: str | None,
    num_threads: int | None,
    show_progress: bool = True,
) -> Backend:
    """Load the weights into a backend; `auto` takes the one that reads the checkpoint's form.

    Raises:
        MissingExtraError: the backend is not installed.
        BackendError: it has no such precision or device.
    """
    name = backend_for(name, checkpoint.form, precision)
    if name in _PACKAGES and not _has(_PACKAGES[name]):
        raise MissingExtraError(_PACKAGES[name], name, f"backend={name!r}")
    if name == "flag" and not _has("torch"):
        raise MissingExtraError("torch", "torch", "backend='flag'")
    precision = _choose_precision(name, checkpoint, device) if precision == "auto" else precision
    _check_precision(name, precision, device)
    if name == "torch":
        from bgem3.backends.torch import TorchBackend

        return TorchBackend(checkpoint, precision=precision, device=device, num_threads=num_threads)
    if name == "flag":
        from bgem3.backends.flag import FlagBackend

        return FlagBackend(checkpoint, precision=precision, device=device)
    return _packed_backend(name, checkpoint, precision, device, num_threads, show_progress)


def _packed_backend(
    name: str, checkpoint: Checkpoint, precision: str, device: str | None, num_threads: int | None, show_progress: bool
) -> Backend:
    """Load a converted form, which is made now where it is missing, or the official graph as it is."""
    published = checkpoint.onnx_path is not None and converted_form(checkpoint.folder, precision) is None
    if published and name == "onnx" and precision == "float32" and device in (None, "cpu"):
        from bgem3.backends.onnx import OnnxBackend

        return OnnxBackend(checkpoint, num_threads=num_threads)
    from bgem3.backends.packed import PackedBackend, onnx_run, openvino_run
    from bgem3.convert import find_or_convert

    form = "float32" if precision == "bfloat16" else precision
    folder = find_or_convert(checkpoint, form, show_progress=show_progress)
    if name == "onnx":
        finer = activation_constants(ACTIVATION_MAX_VNNI) if form == "int8" and has_vnni() else None
        run = onnx_run(folder, num_threads, onnx_providers(device), finer)
    else:
        run = openvino_run(folder, num_threads, bfloat16=precision == "bfloat16")
    return PackedBackend(checkpoint, run, name=name, precision=precision, device=device or "cpu")


def onnx_providers(device: str | None) -> Sequence[str]:
    """Return onnxruntime's execution providers for a device, the CPU always last.

    Raises:
        BackendError: the installed onnxruntime lacks it.
    """
    import onnxruntime

    cpu = "CPUExecutionProvider"
    if device in (None, "cpu"):
        return [cpu]
    wanted = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}.get(str(device).split(":")[0])
    available = onnxruntime.get_available_providers()
    if wanted is None or wanted not in available:
        raise BackendError(
            f"device: onnxruntime has {', '.join(available)}, got {device!r}. Fix: device='cpu', or install "
            f"onnxruntime-gpu for 'cuda' and 'tensorrt'"
        )
    return [wanted, cpu]


def _has(package: str) -> bool:
    return find_spec(package) is not None


def _choose_precision(name: str, checkpoint: Checkpoint, device: str | None) -> str:
    """Take the fastest that is exact enough, dense cosine 0.999, and what is there in a converted folder."""
    if device is not None and device.startswith("cuda"):
        return "bfloat16" if name == "torch" else PRECISIONS[name][0]
    if checkpoint.form == "converted":
        return converted_precisions(checkpoint.folder)[0]
    return "bfloat16" if name in ("torch", "openvino") and has_bfloat16() else "float32"


def _check_precision(name: str, precision: str, device: str | None) -> None:
    if precision not in PRECISIONS[name]:
        others = [backend for backend, names in PRECISIONS.items() if precision in names]
        raise BackendError(
            f"precision: {name} has {', '.join(PRECISIONS[name])}, got {precision!r}. Fix: backend={others[0]!r}"
        )
    if name == "openvino" and device not in (None, "cpu"):
        raise BackendError(f"device: backend='openvino' runs on the CPU, got {device!r}. Fix: backend='torch'")
    on_cpu = device in (None, "cpu")
    if precision == "bfloat16" and on_cpu and not has_bfloat16():
        raise BackendError(
            "precision: this processor has no bfloat16 (AVX512-BF16 or AMX), which would run slower than float32. "
            "Fix: precision='int8' with backend='onnx', or 'float32'"
        )
    if precision == "float16" and on_cpu and name == "torch":
        raise BackendError("precision: float16 is for GPUs. Fix: device='cuda', or precision='float32'")


def _choose_backend(device: str | None, precision: str) -> tuple[str, str | None]:
    """Prefer torch where a GPU was asked for or is at hand; else leave the choice to the files."""
    if precision in ("int8", "int4"):
        return "onnx", device
    if device not in (None, "cpu"):
        return "torch", device
    if not _has("torch"):
        return "openvino" if _has("openvino") and precision == "bfloat16" else "auto", device
    if precision in ("bfloat16", "float16"):
        return "torch", device
    if device is None and has_cuda():
        return "torch", "cuda"
    return "auto", device
