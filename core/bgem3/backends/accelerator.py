"""Whether torch finds a GPU, asked so that a machine without one does not wait for torch to load."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


@cache
def has_cuda() -> bool:
    """Tell whether torch is installed and finds a GPU (CUDA or ROCm)."""
    if not _worth_asking():
        return False
    import torch

    return torch.cuda.is_available()


def _worth_asking() -> bool:
    """Leave out builds of torch without GPU code, and machines without the driver that CUDA needs.

    Importing torch takes seconds; its version file says what it was built for.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    named = spec_from_file_location("_torch_version", Path(spec.origin).with_name("version.py"))
    if named is None or named.loader is None:
        return True
    built = module_from_spec(named)
    try:
        named.loader.exec_module(built)
    except OSError:
        return True
    if getattr(built, "hip", None):
        return True
    return bool(getattr(built, "cuda", None)) and _has_driver()


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
