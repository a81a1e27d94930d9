"""Slices of chunks on their way into a store: one is written while the next is encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from bgem3.embeddings import M3Embeddings
from bgem3.intake import check_new, checked_chunks, sized_slices
from bgem3.types import Chunk, Metadata

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Done = TypeVar("Done")

# What is encoded and written at a time, in texts and in characters, of which a token has one or more.
# Token vectors take 4 kB a token at width 1,024, so a slice holds at most 0.5 GB, as a rule 0.15.
SLICE_TEXTS, SLICE_CHARACTERS = 256, 131_072


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A slice ready to be written.

    Attributes:
        new: Chunks whose text must be stored.
        embeddings: All heads of them; None where there are none.
        known: Chunks whose text is stored already, perhaps with other metadata.
    """

    new: list[Chunk]
    embeddings: M3Embeddings | None
    known: list[Chunk]

    def __len__(self) -> int:
        return len(self.new) + len(self.known)


def text_slices(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Cut chunks into slices of bounded size; a text that is larger alone gets its own."""
    return sized_slices(chunks, lambda chunk: len(chunk.text), SLICE_CHARACTERS, SLICE_TEXTS)


def checked_slices(
    texts: Iterable[str],
    ids: Iterable[str] | None,
    metadatas: Iterable[Metadata | None] | None,
    added: dict[str, None],
) -> Iterator[list[Chunk]]:
    """Yield slices of checked chunks, and note their ids in `added`; see `intake.checked_chunks`."""
    for part in text_slices(checked_chunks(texts, ids, metadatas)):
        check_new(part, added)
        yield part


def overlapped(
    items: Iterable[Item], prepare: Callable[[Item], Ready], write: Callable[[Ready], Done]
) -> Iterator[Done]:
    """Prepare each item while the one before is written in a thread; yield what was written, in order.

    At most two items are in memory, and one more is being read. An error in an item stops the rest;
    what came before it is written first, and an error in that is the one raised.
    """
    running: Future[Done] | None = None
    with ThreadPoolExecutor(1, "bgem3-write") as pool:
        try:
            for item in items:
                ready = prepare(item)
                if running is not None:
                    yield running.result()
                running = pool.submit(write, ready)
        except BaseException:
            if running is not None:
                running.result()
            raise
        if running is not None:
            yield running.result()


async def aoverlapped(
    items: Iterator[Item],
    prepare: Callable[[Item], Awaitable[Ready]],
    write: Callable[[Ready], Done],
    written: Callable[[Done], object],
) -> None:
    """Do what `overlapped` does, beside the event loop: items are read and written in threads.

    Args:
        items: None of them None.
        prepare: Runs while the item before is written.
        write: Runs in a thread.
        written: Told what `write` returned, in order.
    """
    running: asyncio.Task[Done] | None = None
    try:
        while (item := await asyncio.to_thread(next, items, None)) is not None:
            ready = await prepare(item)
            if running is not None:
                written(await running)
            running = asyncio.create_task(asyncio.to_thread(write, ready))
    finally:
        if running is not None:
            written(await running)
