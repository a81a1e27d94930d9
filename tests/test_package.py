"""The package as a user meets it: its names, and what importing costs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import bgem3
import langchain_bgem3
import llamaindex_bgem3

HEAVY = ("torch", "transformers", "chromadb", "qdrant_client", "pymilvus", "FlagEmbedding")


def test_every_listed_name_is_there():
    for name in bgem3.__all__:
        assert getattr(bgem3, name).__doc__
    assert sorted(bgem3.__all__) == sorted(bgem3._HOMES)
    assert set(bgem3.__all__) <= set(dir(bgem3))


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = bgem3.Nonsense


@pytest.mark.parametrize("package", ["bgem3", "langchain_bgem3", "llamaindex_bgem3"])
def test_importing_loads_nothing_heavy(package):
    code = f"import {package}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


_ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    ("package", "absent", "extra"),
    [
        ("langchain_bgem3", ("langchain_core", "langchain_qdrant"), "langchain"),
        ("llamaindex_bgem3", ("llama_index.core",), "llamaindex"),
        ("llamaindex_bgem3", ("llama_index",), "llamaindex"),
    ],
)
def test_an_adapter_without_its_framework_names_the_extra(package, absent, extra):
    code = f"""{_ABSENT.format(absent=absent)}
import {package}
from bgem3.errors import MissingExtraError
for name in {package}.__all__:
    try:
        getattr({package}, name)
    except MissingExtraError as error:
        print(error.extra)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = done.stdout.split()
    assert len(told) == len(import_module(package).__all__)
    assert set(told) - {"langchain-qdrant"} == {extra}


def test_encoding_without_torch_transformers_and_flagembedding(checkpoint):
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {HEAVY!r} else found(name, package)
from bgem3 import M3Encoder
encoder = M3Encoder.from_pretrained({str(checkpoint)!r})
print(encoder.backend, encoder.encode(["a text"]).dense.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnx (1,")


@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_nothing_tells_its_maker_that_it_was_used(backend, checkpoint, tmp_path):
    # onnxruntime and OpenVINO would keep a number for this machine in its home, and send it
    code = f"""
import sys
def refuse(event, arguments):
    if event in ("os.fork", "socket.getaddrinfo", "socket.connect"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(refuse)
from bgem3 import M3Encoder
M3Encoder.from_pretrained({str(checkpoint)!r}, backend={backend!r}, show_progress=False).encode(["a text"])
"""
    told = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in told} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.integration
def test_a_type_checker_accepts_typical_calls_and_refuses_slips():
    program = Path(__file__).parent / "support" / "typical_calls.py"
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", program], capture_output=True, text=True)
    refused = [number for number, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# refused")]
    assert [int(line.split(":")[1]) for line in done.stdout.splitlines() if " error: " in line] == refused, done.stdout


def test_a_model_is_called_by_either_word(checkpoint):
    for made in (
        langchain_bgem3.BGEM3Embeddings(model=str(checkpoint)),
        llamaindex_bgem3.BGEM3Embedding(model=str(checkpoint)),
    ):
        assert made.model == made.model_name == str(checkpoint)
        assert "model" not in made.model_dump()
