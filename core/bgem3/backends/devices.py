"""Several devices side by side: one process each, so that neither Python nor a launch of kernels holds another up.

Processes are started as `multiprocessing` does with `spawn`: a script that asks for several devices needs
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import SimpleQueue
from weakref import finalize

from bgem3.backends.base import Backend, HeadOutputs
from bgem3.errors import BackendError
from bgem3.types import Head, IntArray

Load = Callable[..., Backend]
_loaded: list[Backend] = []  # in a worker: its backend


class DevicesBackend:
    """Gives each batch to a device that is idle.

    Args:
        devices: Names, such as `cuda:0` and `cuda:1`.
        load: Makes the backend of one `device=`; called in its process, so it must be picklable.

    Raises:
        BackendError: a process ended while it loaded; or what `load` raises.
    """

    def __init__(self, devices: Sequence[str], load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        pools = [ProcessPoolExecutor(1, mp_context=context) for _ in devices]
        finalize(self, _stop, pools)
        self.device = ",".join(devices)
        self.concurrency = len(devices)
        self._idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        loading = [pool.submit(_start, load, device) for pool, device in zip(pools, devices, strict=True)]
        try:
            for pool, future in zip(pools, loading, strict=True):
                self.name, self.precision, self.dim, self.multi_dim, self.batch_tokens = future.result()
                self._idle.put(pool)
        except BrokenProcessPool as error:
            raise _ended(self.device) from error

    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences on an idle device; see `Backend.forward`.

        Raises:
            BackendError: its process ended; or as the backend's own.
        """
        pool = self._idle.get()
        try:
            return pool.submit(_forward, sequences, tuple(heads)).result()
        except BrokenProcessPool as error:
            raise _ended(self.device) from error
        finally:
            self._idle.put(pool)


def _start(load: Load, device: str) -> tuple[str, str, int, int, int]:
    backend = load(device=device)
    _loaded.append(backend)
    return backend.name, backend.precision, backend.dim, backend.multi_dim, backend.batch_tokens


def _forward(sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
    return _loaded[0].forward(sequences, heads)


def _stop(pools: Sequence[ProcessPoolExecutor]) -> None:
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)


def _ended(devices: str) -> BackendError:
    return BackendError(
        f"device: a process of {devices} ended. Fix: run a script under `if __name__ == '__main__':`, look whether "
        f"memory ran out, and load the encoder again"
    )
