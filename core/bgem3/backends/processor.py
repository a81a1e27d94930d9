"""What the processor can compute in."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
_VNNI = {"avx512_vnni", "avx_vnni", "asimddp"}


AMD = "AuthenticAMD"


@cache
def flags() -> frozenset[str]:
    """Return the processor's features as Linux names them; empty where they cannot be read."""
    return frozenset(_told("flags", "features").split())


@cache
def vendor() -> str:
    """Return who made an x86 processor as it says itself, e.g. `AMD`; empty where that cannot be read."""
    return _told("vendor_id")


def _told(*names: str) -> str:
    """Return what Linux tells of the first core under one of these names."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((told.strip() for name, _, told in pairs if name.strip().lower() in names), "")


def has_bfloat16() -> bool:
    """Tell whether bfloat16 products have instructions of their own."""
    return bool(flags() & _BFLOAT16)


def has_vnni() -> bool:
    """Tell whether 8-bit products have instructions of their own."""
    return bool(flags() & _VNNI)


def has_avx512() -> bool:
    """Tell whether vectors have 512 bits."""
    return "avx512f" in flags()


def processor_name() -> str:
    """Return the architecture and what matters for speed: `x86_64 (avx2, no vnni, no bfloat16)`."""
    wide = next((name for name in ("avx512f", "avx2", "asimd") if name in flags()), "no vector instructions known")
    vnni, half = ("" if has_vnni() else "no ") + "vnni", ("" if has_bfloat16() else "no ") + "bfloat16"
    return f"{platform.machine()} ({wide}, {vnni}, {half})"
