"""CUDA graphs for one short text: the launches of a forward pass are recorded once and replayed as one.

A graph is of one length. A shorter text is filled up with padding tokens, which are a sequence of their own, so that the
text's tokens see nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from bgem3.types import IntArray

LENGTHS = (16, 32, 64, 128)
Heads: TypeAlias = dict[str, Tensor]
# ids, positions, where the sequences end, int32, and the longest length -> the heads of all tokens
Forward: TypeAlias = Callable[[Tensor, Tensor, Tensor, int], Heads]


class Graphs:
    """Replays the forward pass of one text, recording it when a length is first needed.

    Args:
        forward: Computes all heads of two sequences, the text and its padding, without waiting for the device.
        device: Of the weights.
        pad: The padding token's id, which is its position too.
    """

    def __init__(self, forward: Forward, device: torch.device, pad: int) -> None:
        self._forward, self._device, self._pad = forward, device, pad
        self._graphs: dict[int, _Graph | None] = {}
        self._lock = Lock()

    def __call__(self, ids: IntArray, positions: IntArray, wanted: frozenset[str]) -> Heads | None:
        """Return the wanted heads of one text on the host, every token's row; None where there is no graph for it."""
        length = next((length for length in LENGTHS if len(ids) <= length), None)
        if length is None:
            return None
        with self._lock:
            if length not in self._graphs:
                self._graphs[length] = self._record(length)
            graph = self._graphs[length]
            return None if graph is None else graph(ids, positions, wanted)

    def _record(self, length: int) -> _Graph | None:
        try:
            return _Graph(self._forward, length, self._device, self._pad)
        except RuntimeError:  # a kernel that cannot be recorded, or no memory: the text is computed as any other
            return None


class _Graph:
    def __init__(self, forward: Forward, length: int, device: torch.device, pad: int) -> None:
        self._length, self._pad = length, pad
        # ids, positions, ends
        self._given = torch.full((2 * length + 3,), pad, dtype=torch.int64).pin_memory()
        self._given[2 * length :] = torch.tensor([0, length, length])
        self._input = self._given.to(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types here
        self._graph = torch.cuda.CUDAGraph()

        def run() -> Heads:
            ids, positions, ends = self._input[:length], self._input[length : 2 * length], self._input[2 * length :]
            return forward(ids, positions, ends.to(torch.int32), length)

        with torch.cuda.stream(self._stream):
            for _ in range(2):  # whatever is set up at a first call must not be recorded
                run()
        self._stream.synchronize()
        # other threads may go on using the device
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._found = run()

    def __call__(self, ids: IntArray, positions: IntArray, wanted: frozenset[str]) -> Heads:
        count, length = len(ids), self._length
        given = self._given.numpy()
        given[: 2 * length] = self._pad
        given[:count], given[length : length + count] = ids, positions
        given[2 * length :] = np.array([0, count, length])
        with torch.cuda.stream(self._stream):
            self._input.copy_(self._given, non_blocking=True)
            self._graph.replay()
            here = {
                name: values[:count].to("cpu", non_blocking=True)
                for name, values in self._found.items()
                if name in wanted
            }
        self._stream.synchronize()
        return here
