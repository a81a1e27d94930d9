"""A training loop's steps: a bar, smoothed losses, and a state on disk to go on from; files that are whole or not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to; what was written takes the file's place at the end, so that a kill leaves no half of it."""
    beside = file.with_name(f"new-{file.name}")
    yield beside
    beside.replace(file)


class Progress:
    """Iterates over the steps still to do, and saves every part now and then and at the end.

    Args:
        name: Shown on the bar.
        file: Where the state is kept, and read from when it is there.
        steps: How many in all.
        parts: What has `state_dict` and `load_state_dict`.
        save_every: Seconds between two saves.
    """

    def __init__(self, name: str, file: Path, steps: int, *, save_every: float = 120.0, **parts: Any) -> None:
        self.name, self.file, self.steps, self.save_every, self.parts = name, file, steps, save_every, parts
        self.shown: dict[str, float] = {}
        self.start = 0
        if file.exists():
            state = torch.load(file, weights_only=True)
            self.start = state["step"]
            for key, part in parts.items():
                part.load_state_dict(state[key])

    def __iter__(self) -> Iterator[int]:
        with tqdm(total=self.steps, initial=self.start, desc=self.name, unit="step", mininterval=20) as bar:
            saved = time.monotonic()
            for step in range(self.start, self.steps):
                yield step
                bar.update()
                if step % 50 == 0:
                    bar.set_postfix({key: f"{value:.2f}" for key, value in self.shown.items()})
                if time.monotonic() - saved >= self.save_every or step + 1 == self.steps:
                    self._save(step + 1)
                    saved = time.monotonic()

    def show(self, kind: str, found: dict[str, Tensor]) -> None:
        """Take in the losses of one batch."""
        for name, value in found.items():
            key = f"{kind[:2]}.{name[:2]}"
            self.shown[key] = 0.9 * self.shown.get(key, value.item()) + 0.1 * value.item()

    def _save(self, step: int) -> None:
        state = {"step": step, **{key: part.state_dict() for key, part in self.parts.items()}}
        with whole(self.file) as file:
            torch.save(state, file)
