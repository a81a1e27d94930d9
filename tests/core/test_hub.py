"""The hub: only what is needed comes over the line, once, and it works offline afterwards."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import onnxruntime
import pytest

from bgem3.checkpoint import load_checkpoint
from bgem3.convert import convert_checkpoint
from bgem3.errors import CheckpointError, CheckpointFileError, CheckpointNotFoundError
from tests.support.hub import Hub

COMMON = {"config.json", "tokenizer.json", "sparse_linear.pt", "colbert_linear.pt"}
ONNX = {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/Constant_7_attr__value"}
NAME = "someone/bge-m3-small"


@pytest.fixture(scope="module")
def official(checkpoint_factory):
    """Return a folder laid out as BAAI/bge-m3 is: a .bin file, and an ONNX graph with external data."""
    folder = checkpoint_factory(weights="bin", external=True)
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(folder / name, folder / "onnx" / name)
    return folder


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "show_progress": False}


@pytest.fixture
def no_connection(monkeypatch):
    """Point huggingface_hub at a port where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(("form", "large"), [("torch", {"pytorch_model.bin"}), ("onnx", ONNX)])
def test_only_one_form_is_downloaded(hub: Hub, official, options, form, large):
    hub.add(NAME, official)
    loaded = load_checkpoint(NAME, forms=(form,), **options)
    assert sorted(hub.downloads) == sorted(COMMON | large)
    assert loaded.form == form
    assert loaded.name == NAME


def test_safetensors_is_preferred(hub: Hub, official, checkpoint, options, tmp_path):
    both = Path(shutil.copytree(official, tmp_path / "both"))
    shutil.copy(checkpoint / "model.safetensors", both)
    hub.add(NAME, both)
    loaded = load_checkpoint(NAME, **options)
    assert set(hub.downloads) == COMMON | {"model.safetensors"}
    assert loaded.weights_path.name == "model.safetensors"


def test_the_first_form_that_the_repository_has(hub: Hub, checkpoint_factory, options):
    hub.add(NAME, checkpoint_factory(onnx=False))
    assert load_checkpoint(NAME, forms=("onnx", "torch"), **options).form == "torch"
    with pytest.raises(CheckpointNotFoundError, match=r'bge-m3-small: no onnx/model\.onnx there.*backend="torch"'):
        load_checkpoint(NAME, forms=("onnx",), **options)


def test_onnx_runtime_reads_the_graph_from_the_cache(hub: Hub, official, options):
    hub.add(NAME, official)
    graph = load_checkpoint(NAME, forms=("onnx",), **options).onnx_path
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ids = np.array([[0, 5, 2]])
    states = session.run(["token_embeddings"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    assert states.shape == (1, 3, 64)
    data = graph.with_name("model.onnx_data")
    assert options["cache_dir"] in data.parents
    assert data.stat().st_nlink == 2
    huggingface_hub.scan_cache_dir(options["cache_dir"])


def test_nothing_is_downloaded_twice(hub: Hub, official, options):
    hub.add(NAME, official)
    first = load_checkpoint(NAME, forms=("onnx",), **options)
    count = len(hub.downloads)
    assert load_checkpoint(NAME, forms=("onnx",), **options).onnx_path == first.onnx_path
    assert len(hub.downloads) == count


def test_a_cut_connection_resumes(hub: Hub, official, options, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.add(NAME, official)
    hub.cut_once("pytorch_model.bin", after=100_000)
    loaded = load_checkpoint(NAME, **options)
    gets = [request.range for request in hub.requests if request.path.endswith("bin") and request.method == "GET"]
    assert gets[0] is None
    assert gets[1] == "bytes=100000-"
    assert loaded.weights_path.read_bytes() == (official / "pytorch_model.bin").read_bytes()


def test_a_commit_that_is_complete_needs_no_request(hub: Hub, official, options):
    commit = hub.add(NAME, official).commit
    first = load_checkpoint(NAME, revision=commit, **options)
    hub.requests.clear()
    assert load_checkpoint(NAME, revision=commit, **options).fingerprint == first.fingerprint
    assert hub.requests == []


def test_local_files_only(hub: Hub, official, options):
    with pytest.raises(CheckpointNotFoundError, match=r"not all in the cache, and local_files_only=True.*Fix:"):
        load_checkpoint(NAME, local_files_only=True, **options)
    hub.add(NAME, official)
    first = load_checkpoint(NAME, **options)
    hub.requests.clear()
    again = load_checkpoint(NAME, local_files_only=True, **options)
    assert (again.fingerprint, again.weights_path) == (first.fingerprint, first.weights_path)
    assert load_checkpoint(NAME, forms=("onnx", "torch"), local_files_only=True, **options).form == "torch"
    with pytest.raises(CheckpointNotFoundError, match="files for onnx are not all in the cache"):
        load_checkpoint(NAME, forms=("onnx",), local_files_only=True, **options)
    assert hub.requests == []


def test_the_fingerprint_is_the_same_for_every_form_and_place(hub: Hub, official, options, tmp_path):
    hub.add(NAME, official)
    expected = load_checkpoint(official).fingerprint
    assert load_checkpoint(NAME, forms=("onnx",), **options).fingerprint == expected
    assert load_checkpoint(NAME, forms=("onnx",), local_files_only=True, **options).fingerprint == expected
    other = {**options, "cache_dir": tmp_path / "other"}
    torch_form = load_checkpoint(NAME, forms=("torch",), **other)
    assert torch_form.fingerprint == expected
    assert load_checkpoint(torch_form.folder).fingerprint == expected


def test_the_weights_are_known_in_a_cache_that_cannot_be_written(hub: Hub, official, options, monkeypatch, tmp_path):
    hub.add(NAME, official)
    expected = load_checkpoint(NAME, forms=("onnx",), **options)
    side = expected.folder.parent.parent / "bgem3"
    shutil.rmtree(side)
    side.write_text("in the way")
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path / "own"))
    again = load_checkpoint(NAME, forms=("onnx",), **options)
    assert again.fingerprint == expected.fingerprint
    assert tmp_path / "own" in again.onnx_path.parents
    assert load_checkpoint(NAME, forms=("onnx",), local_files_only=True, **options).fingerprint == expected.fingerprint


def test_without_a_connection(hub: Hub, official, options, request):
    hub.add(NAME, official)
    first = load_checkpoint(NAME, **options)
    request.getfixturevalue("no_connection")
    assert load_checkpoint(NAME, **options).fingerprint == first.fingerprint
    with pytest.raises(
        CheckpointNotFoundError, match=r"not downloaded yet, and the hub cannot be reached.*Fix: connect"
    ):
        load_checkpoint(NAME, forms=("onnx",), **options)
    with pytest.raises(CheckpointNotFoundError, match="someone/other: not downloaded yet"):
        load_checkpoint("someone/other", **options)


def test_environment_of_huggingface_hub(hub: Hub, official, tmp_path):
    """HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE, which are read when a process starts."""
    hub.add(NAME, official)
    code = f"from bgem3.checkpoint import load_checkpoint as l; print(l({NAME!r}, show_progress=False).weights_path)"

    def run(**extra: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), **extra}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    refused = run(HF_HUB_OFFLINE="1")
    assert "CheckpointNotFoundError: someone/bge-m3-small: not downloaded yet" in refused.stderr
    assert "unset HF_HUB_OFFLINE" in refused.stderr
    assert hub.requests == []
    online = run()
    assert Path(online.stdout.strip()).is_relative_to(tmp_path / "hub")
    assert online.stderr == ""
    hub.requests.clear()
    assert run(HF_HUB_OFFLINE="1").stdout == online.stdout
    assert hub.requests == []


def test_progress_is_drawn_when_asked_for(hub: Hub, official, options, capfd):
    hub.add(NAME, official)
    load_checkpoint(NAME, **{**options, "show_progress": True})
    assert "%" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", r"no such repository on the hub \(or a private one\)\. Fix: check the spelling"),
        (403, "GatedRepo", r"access is restricted\. Fix: ask for access on its hub page"),
        (401, "GatedRepo", "access is restricted"),
        (401, "", "no such repository on the hub"),
    ],
)
def test_no_access(hub: Hub, official, options, status, code, message):
    hub.add(NAME, official, status=status, code=code)
    with pytest.raises(CheckpointNotFoundError, match=message):
        load_checkpoint(NAME, **options)


def test_a_hub_that_is_down(hub: Hub, official, options):
    repository = hub.add(NAME, official, status=500)
    with pytest.raises(CheckpointError, match=r"the hub answered 500\. Fix: try again later"):
        load_checkpoint(NAME, **options)
    repository.status = 200
    first = load_checkpoint(NAME, **options)
    repository.status = 500
    assert load_checkpoint(NAME, **options).folder == first.folder


def test_a_login_page_in_the_hubs_place(hub: Hub, official, options):
    hub.add(NAME, official)
    hub.login_page = True
    with pytest.raises(CheckpointError, match="the hub's answer cannot be read .*Fix: look what answers"):
        load_checkpoint(NAME, **options)
    hub.login_page = False
    first = load_checkpoint(NAME, **options)
    hub.login_page = True
    assert load_checkpoint(NAME, **options).folder == first.folder


@pytest.mark.parametrize(("form", "name"), [("torch", "pytorch_model.bin"), ("onnx", "onnx/model.onnx_data")])
def test_other_content_than_the_hub_names_is_refused(hub: Hub, official, options, tmp_path, form, name):
    folder = Path(shutil.copytree(official, tmp_path / "served"))
    repository = hub.add(NAME, folder)
    named = {file: repository.digest(file) for file in repository.files}
    repository.digest = named.__getitem__
    content = bytearray((folder / name).read_bytes())
    content[-200] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointFileError, match="other content than the hub names. Fix: delete it"):
        load_checkpoint(NAME, forms=(form,), **options)


def test_a_damaged_file_of_the_cache_is_mended_as_the_message_says(hub: Hub, official, options):
    hub.add(NAME, official)
    head = load_checkpoint(NAME, **options).folder / "sparse_linear.pt"
    head.resolve().write_bytes(head.read_bytes()[:500])
    with pytest.raises(CheckpointFileError, match="truncated.* It is from the hub: delete (.*) to have it") as caught:
        load_checkpoint(NAME, **options)
    shutil.rmtree(str(caught.value).split(" delete ")[1].removesuffix(" to have it downloaded anew"))
    load_checkpoint(NAME, **options)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_graph_of_the_cache_is_converted(hub: Hub, checkpoint_factory, options, tmp_path, precision):
    hub.add(NAME, checkpoint_factory(weights=None, external=True))
    source = load_checkpoint(NAME, forms=("onnx",), **options)
    convert_checkpoint(source, tmp_path / "made", precision, show_progress=False)


def test_unknown_names(hub: Hub, official, options):
    with pytest.raises(CheckpointNotFoundError, match="nobody/nothing: no such folder here and no such repository"):
        load_checkpoint("nobody/nothing", **options)
    with pytest.raises(CheckpointNotFoundError, match="'two words' is neither a folder that exists nor a hub id"):
        load_checkpoint("two words", **options)
    hub.add(NAME, official)
    with pytest.raises(CheckpointNotFoundError, match=r"no revision 'v9'\. Fix: revision=None"):
        load_checkpoint(NAME, revision="v9", **options)


@pytest.mark.parametrize("name", sorted(COMMON))
def test_a_repository_without_a_file(hub: Hub, official, options, tmp_path, name):
    partial = Path(shutil.copytree(official, tmp_path / "partial"))
    (partial / name).unlink()
    hub.add(NAME, partial)
    with pytest.raises(CheckpointNotFoundError, match=rf"the repository has no {name}, so it is no BGE-M3 checkpoint"):
        load_checkpoint(NAME, **options)
    assert hub.downloads == []


def test_a_repository_without_the_graphs_data(hub: Hub, official, options, tmp_path):
    partial = Path(shutil.copytree(official, tmp_path / "partial"))
    (partial / "onnx" / "model.onnx_data").unlink()
    hub.add(NAME, partial)
    with pytest.raises(CheckpointNotFoundError, match=r'no onnx/model\.onnx_data, where .*Fix: backend="torch"'):
        load_checkpoint(NAME, forms=("onnx",), **options)


def test_a_cache_that_cannot_be_written(hub: Hub, official, tmp_path):
    hub.add(NAME, official)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"the download failed .*Fix: make room on the disk"):
        load_checkpoint(NAME, cache_dir=tmp_path / "file", show_progress=False)
