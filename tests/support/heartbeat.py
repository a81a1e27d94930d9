"""Whether the event loop goes on beside a call, told without a clock that a busy machine could stop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise


@asynccontextmanager
async def heartbeat() -> AsyncIterator[None]:
    """Fail where the loop stood still, or where its own thread did most of the work between two beats.

    The work is told by processor time: that does not pass while another process has the processor. It is told
    between beats, since on a busy machine the beats themselves add up to more than the work. Python's collector rests
    meanwhile: it works on any thread, for a tenth of a second after many tests.
    """
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(time.thread_time())
            await asyncio.sleep(0.002)

    task = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    gc.disable()
    beats.append(time.thread_time())
    before, whole = len(beats) - 1, time.process_time()
    try:
        yield
        during, whole = [*beats[before:], time.thread_time()], time.process_time() - whole
    finally:
        gc.enable()
        task.cancel()
    assert len(during) >= 6, "the loop stood still"
    longest = max(later - earlier for earlier, later in pairwise(during))
    assert longest < 0.5 * whole + 0.02, f"the loop's thread worked {longest:.3f} s of {whole:.3f} s without a beat"
