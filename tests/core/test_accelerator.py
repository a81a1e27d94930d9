"""The quick answer about a GPU is torch's own, and does not load it where there can be none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bgem3.backends import accelerator


def test_the_answer_is_torchs():
    torch = pytest.importorskip("torch")
    assert accelerator.has_cuda() == torch.cuda.is_available()


def test_a_build_without_gpu_code_is_not_loaded():
    torch = pytest.importorskip("torch")
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch is built for GPUs")
    code = "import sys; from bgem3.backends.accelerator import has_cuda; print(has_cuda(), 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


@pytest.mark.parametrize(
    ("version", "driver", "worth"),
    [
        ("cuda = None\nhip = None", True, False),
        ("cuda = '13.0'\nhip = None", True, True),
        ("cuda = '13.0'\nhip = None", False, False),
        ("cuda = None\nhip = '7.0'", False, True),
    ],
)
def test_who_is_asked(version, driver, worth, tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(version)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(accelerator, "_has_driver", lambda: driver)
    assert accelerator._worth_asking() is worth
