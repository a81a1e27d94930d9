"""Compiled loops, kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(*, fastmath: bool = False) -> Callable[[Loop], Loop]:
    """Return a decorator that compiles a function to machine code which lets other threads run, once a machine.

    Once a process where neither the package's folder nor the user's cache folder nor `NUMBA_CACHE_DIR` can be
    written to, as in a read-only container or on a full disk.
    """

    def decorate(function: Loop) -> Loop:
        made: Any = njit(nogil=True, fastmath=fastmath)(function)
        with suppress(RuntimeError):  # numba finds no place
            made._cache = _patient(cast(Any, FunctionCache)(function))  # `cache=True` takes numba's as it is
        return cast(Loop, made)

    return decorate


def _patient(cache: Any) -> Any:
    """Return numba's cache of a function, so that a disk which is full or gives something else back costs time alone."""
    load, save = cache.load_overload, cache.save_overload

    def load_or_forget(*signature: object) -> object:
        try:
            return load(*signature)
        except Exception:  # of pickle or LLVM, with no common base
            with suppress(OSError):
                cache.flush()
            return None

    def save_or_not(*made: object) -> None:
        with suppress(OSError):
            save(*made)

    cache.load_overload, cache.save_overload = load_or_forget, save_or_not
    return cache
