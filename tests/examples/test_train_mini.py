"""What the recipe keeps in its work folder: a loop goes on where it was cut off, a file is whole or as it was."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

RECIPE = Path(__file__).parents[2] / "examples" / "train_mini"


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(RECIPE)
    yield importlib.import_module("progress")
    del sys.modules["progress"]


def descend(progress: ModuleType, file: Path, *, until: int, save_every: float = 0.0) -> tuple[list[int], float]:
    """Follow the gradient of `(x - 3)^2` for 20 steps, or break off in one; return the steps done and x."""
    point = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(point.weight)
    optimizer = torch.optim.Adam(point.parameters(), lr=0.3)
    done = []
    for step in progress.Progress("x", file, 20, save_every=save_every, point=point, optimizer=optimizer):
        if step == until:
            break
        (point.weight - 3).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        done.append(step)
    return done, point.weight.item()


def test_a_loop_that_was_cut_off_ends_where_an_uncut_one_does(progress, tmp_path):
    _, wanted = descend(progress, tmp_path / "uncut.pt", until=20)
    assert descend(progress, tmp_path / "cut.pt", until=7)[0] == [*range(7)]
    done, found = descend(progress, tmp_path / "cut.pt", until=20)
    assert done == [*range(7, 20)]
    assert found == wanted
    assert descend(progress, tmp_path / "cut.pt", until=20) == ([], wanted)


def test_it_saves_by_the_clock_and_at_its_end(progress, tmp_path):
    descend(progress, tmp_path / "slow.pt", until=7, save_every=3600)
    assert not [*tmp_path.iterdir()]
    descend(progress, tmp_path / "slow.pt", until=20, save_every=3600)
    assert [one.name for one in tmp_path.iterdir()] == ["slow.pt"]


def write(progress: ModuleType, file: Path, text: str, *, room: int) -> None:
    with progress.whole(file) as beside:
        beside.write_text(text[:room])
        if len(text) > room:
            raise OSError("the disk is full")


def test_what_was_not_written_to_its_end_leaves_the_file_as_it_was(progress, tmp_path):
    file = tmp_path / "kept.npy"
    write(progress, file, "before", room=6)
    with pytest.raises(OSError, match="full"):
        write(progress, file, "after", room=2)
    assert file.read_text() == "before"
    write(progress, file, "after", room=5)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("kept.npy", "after")]
