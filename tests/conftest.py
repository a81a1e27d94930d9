"""A checkpoint, a hub on loopback, and an environment in which nothing of the user's own is read or changed."""

import os
import shutil
import tempfile
from atexit import register
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub

# huggingface_hub reads its environment once, when it is imported
_HOME = Path(tempfile.mkdtemp(prefix="bgem3-tests-"))
register(shutil.rmtree, _HOME, ignore_errors=True)
_HUB = Hub()
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_", "BGEM3_CACHE"))]:
    del os.environ[name]
os.environ |= {
    "BGEM3_CACHE": str(_HOME / "bgem3"),
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": str(_HOME / "huggingface"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # models of this size lose more time to threads waiting for each other than they gain
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

CheckpointFactory = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint_factory(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFactory:
    """Return a function that makes a small checkpoint; see `make_checkpoint` for its arguments."""
    from tests.support.checkpoints import make_checkpoint

    def make(**options: object) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def checkpoint(checkpoint_factory: CheckpointFactory) -> Path:
    """Return the folder of a checkpoint that tests share and leave as it is."""
    return checkpoint_factory()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return the hub that HF_ENDPOINT names, empty."""
    _HUB.reset()
    yield _HUB
    _HUB.reset()
