"""The tree of errors: as its picture says, and whole on the other side of a process."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from bgem3 import errors
from bgem3.errors import BGEM3Error, DatasetError, MissingExtraError, PartialWriteError, TextTooLongError

MADE = {
    MissingExtraError: ("torch", "torch", "backend='torch'"),
    DatasetError: (Path("qrels"), 3, "not a number"),
    PartialWriteError: ("the disk is full", ["a", "b"]),
    TextTooLongError: (4, "9 tokens, max_length=8", "passage 'x'"),
}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BGEM3Error)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_passes_between_processes(kind):
    error = kind(*MADE.get(kind, ("what is wrong. Fix: this",)))
    again = ForkingPickler.loads(ForkingPickler.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
    assert str(error)
