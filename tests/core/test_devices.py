"""Several devices: the same embeddings as one, and an error that says so when a process ends."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from bgem3 import M3Encoder
from bgem3.backends.devices import DevicesBackend
from bgem3.errors import BackendError, InvalidInputError

TEXTS = [f"{'long ' * (number % 40)} text number {number}" for number in range(300)]


@pytest.fixture(scope="module", params=["onnx", "torch"])
def encoders(request, checkpoint):
    one = M3Encoder.from_pretrained(checkpoint, backend=request.param)
    return one, M3Encoder.from_pretrained(checkpoint, backend=request.param, device="cpu,cpu", num_threads=1)


def test_two_devices_give_what_one_gives(encoders):
    one, two = encoders
    assert (two.device, two.describe()["backend"]) == ("cpu,cpu", one.describe()["backend"])
    expected, got = one.encode(TEXTS), two.encode(TEXTS)
    np.testing.assert_allclose(got.dense, expected.dense, atol=1e-6)
    np.testing.assert_allclose(got.sparse.toarray(), expected.sparse.toarray(), atol=1e-6)
    np.testing.assert_allclose(got.multi_vector.vectors, expected.multi_vector.vectors, atol=1e-6)


@pytest.mark.parametrize("device", ["cuda:0,", "cuda:0,cpu", " "])
def test_devices_of_two_kinds_or_without_a_name(checkpoint, device):
    with pytest.raises(InvalidInputError, match="device: got .* expected one or several of one kind. Fix"):
        M3Encoder.from_pretrained(checkpoint, device=device)


def leave(device):
    os._exit(1)


def refuse(device):
    raise BackendError(f"device: no {device} here")


def test_what_a_process_raises_and_one_that_ends():
    with pytest.raises(BackendError, match="no x here"):
        DevicesBackend(["x", "y"], refuse)
    with pytest.raises(BackendError, match="a process of x ended. Fix"):
        DevicesBackend(["x"], leave)


def test_a_process_that_ends_later(checkpoint):
    two = M3Encoder.from_pretrained(checkpoint, device="cpu,cpu")
    for pool in (two._backend._idle.get(), two._backend._idle.get()):
        with pytest.raises(Exception, match="terminated"):
            pool.submit(partial(os._exit, 1)).result()
        two._backend._idle.put(pool)
    with pytest.raises(BackendError, match="a process of cpu,cpu ended"):
        two.encode(["a text"])


def test_a_script_that_is_not_guarded(checkpoint, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from bgem3 import M3Encoder\n"
        f"encoder = M3Encoder.from_pretrained({str(checkpoint)!r}, device='cpu,cpu')\n"
        "print(len(encoder.encode(['a text'])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "if __name__ == '__main__'" in done.stderr
    lines = script.read_text().splitlines()
    script.write_text("\n".join([lines[0], "if __name__ == '__main__':", *(f"    {line}" for line in lines[1:])]))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
