"""Compiled loops, kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(*, fastmath: bool = False) -> Callable[[Loop], Loop]:
    """Return a decorator that compiles a function to machine code which lets other threads run, once a machine.

    Once a process where neither the package's folder nor the user's cache folder nor `NUMBA_CACHE_DIR` can be
    written to, as in a read-only container: numba refuses to keep anything there, with an error.
    """

    def decorate(function: Loop) -> Loop:
        try:
            made: Any = njit(nogil=True, cache=True, fastmath=fastmath)(function)
        except RuntimeError:
            made = njit(nogil=True, fastmath=fastmath)(function)
        return cast(Loop, made)

    return decorate
