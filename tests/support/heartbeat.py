"""Whether the event loop goes on beside a call, told without a clock that a busy machine could stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def heartbeat() -> AsyncIterator[None]:
    """Fail where the loop stood still, or where its own thread did most of the work.

    The work is told by processor time: that does not pass while another process has the processor.
    """
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.002)
            beats += 1

    task = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    before, mine, whole = beats, time.thread_time(), time.process_time()
    yield
    mine, whole = time.thread_time() - mine, time.process_time() - whole
    task.cancel()
    assert beats - before >= 5, "the loop stood still"
    assert mine < 0.5 * whole + 0.02, f"the loop's thread worked {mine:.3f} s of {whole:.3f} s"
