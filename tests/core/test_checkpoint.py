"""Folders: every file is found, checked and named in the error when it is not as it should be."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bgem3.checkpoint import load_checkpoint
from bgem3.errors import CheckpointFileError, CheckpointNotFoundError
from bgem3.fingerprint import cache_root, file_sha256, read_json, write_json
from tests.support.checkpoints import make_checkpoint


@pytest.fixture
def folder(checkpoint, tmp_path):
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        values.pop(name, None)
        if value is not None:
            values[name] = value
    path.write_text(json.dumps(values))


def run(graph: Path) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ids = np.array([[0, 5, 2]])
    session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def test_what_a_folder_holds(checkpoint):
    loaded = load_checkpoint(checkpoint)
    assert loaded.form == "torch"
    assert loaded.name == str(checkpoint)
    assert loaded.weights_path == checkpoint / "model.safetensors"
    assert loaded.onnx_path is None
    assert loaded.tokenizer_path == checkpoint / "tokenizer.json"
    assert (loaded.config.hidden_size, loaded.config.num_attention_heads, loaded.config.layer_norm_eps) == (64, 4, 1e-5)
    assert loaded.positions == 128
    assert len(loaded.fingerprint) == 64


def test_the_first_form_that_is_there_is_taken(checkpoint, checkpoint_factory):
    assert load_checkpoint(checkpoint, forms=("onnx", "torch")).form == "onnx"
    assert load_checkpoint(checkpoint, forms=("torch", "onnx")).form == "torch"
    assert load_checkpoint(checkpoint_factory(onnx=False), forms=("onnx", "torch")).form == "torch"
    assert load_checkpoint(checkpoint_factory(weights=None), forms=("torch", "onnx")).form == "onnx"


def test_heads_are_read_as_torch_reads_them(checkpoint_factory):
    folder = checkpoint_factory(hidden_size=96, heads=8, multi_dim=40)
    loaded = load_checkpoint(str(folder))
    for head, name, shape in (
        (loaded.sparse_head, "sparse_linear.pt", (1, 96)),
        (loaded.multi_vector_head, "colbert_linear.pt", (40, 96)),
    ):
        expected = torch.load(folder / name, weights_only=True)
        assert head.weight.shape == shape
        assert head.weight.dtype == head.bias.dtype == np.float32
        np.testing.assert_array_equal(head.weight, expected["weight"].float().numpy())
        np.testing.assert_array_equal(head.bias, expected["bias"].float().numpy())


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c", Path("nowhere"), "~/nowhere-at-all"])
def test_no_such_folder(model):
    with pytest.raises(CheckpointNotFoundError, match=r"no such folder\. Fix: check the path"):
        load_checkpoint(model)


@pytest.mark.parametrize("model", ["~nosuch/x", "a" * 300 + "/b", "a\0b"], ids=["user", "long", "nul"])
def test_what_can_be_no_path(model):
    with pytest.raises(CheckpointNotFoundError, match="Fix: "):
        load_checkpoint(model, local_files_only=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "sparse_linear.pt", "colbert_linear.pt"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointNotFoundError, match=f"{name} is missing in .*Fix: download the whole checkpoint"):
        load_checkpoint(folder)


def test_missing_weights(checkpoint_factory):
    with pytest.raises(CheckpointNotFoundError, match=r'no onnx/model\.onnx .*backend="torch" \(pip install "bgem3'):
        load_checkpoint(checkpoint_factory(onnx=False), forms=("onnx",))
    with pytest.raises(
        CheckpointNotFoundError, match=r'expected model\.safetensors or pytorch_model\.bin.*backend="onnx"'
    ):
        load_checkpoint(checkpoint_factory(weights=None), forms=("torch",))
    with pytest.raises(CheckpointNotFoundError, match=r"expected model\.safetensors or pytorch_model\.bin or onnx"):
        load_checkpoint(checkpoint_factory(weights=None, onnx=False), forms=("onnx", "torch"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, r"config\.json: model_type is 'bert', expected 'xlm-roberta'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected a whole number"),
        ({"vocab_size": 0}, "vocab_size is 0, expected a whole number >= 1"),
        ({"vocab_size": 2**31}, "vocab_size is 2147483648, expected a whole number >= 1 of 31 bits"),
        ({"num_attention_heads": 5}, "hidden_size 64 is not a multiple of num_attention_heads 5"),
        ({"max_position_embeddings": 2}, "max_position_embeddings is 2, expected at least 3"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ({"pad_token_id": 10**9}, "pad_token_id is 1000000000, expected one of the vocabulary"),
        ({"pad_token_id": "x"}, "pad_token_id is 'x'"),
        ({"layer_norm_eps": "abc"}, "layer_norm_eps is 'abc', expected above 0, below 1"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
    ],
)
def test_a_wrong_config(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(CheckpointFileError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object, got list"),
        pytest.param("[" * 100_000, "not valid JSON", id="deep"),
    ],
)
def test_a_config_that_is_no_object(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointFileError, match=rf"config\.json: {message}.*Fix: download"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        (
            "sparse_linear.pt",
            {"weight": torch.ones(2, 64), "bias": torch.ones(2)},
            r"weight is \(2, 64\).*expected \(1, 64\)",
        ),
        (
            "sparse_linear.pt",
            {"weight": torch.ones(1, 32), "bias": torch.ones(1)},
            r"\(1, 32\).*hidden_size=64 in config",
        ),
        ("colbert_linear.pt", {"weight": torch.ones(8, 32), "bias": torch.ones(8)}, r"expected \(8, 64\)"),
        ("colbert_linear.pt", {"weight": torch.ones(8, 64), "bias": torch.ones(7)}, r"bias \(7,\), expected .*\(8,\)"),
        (
            "colbert_linear.pt",
            {"weight": torch.ones(64), "bias": torch.ones(1)},
            r"weight is \(64,\).*expected \(n, 64\)",
        ),
        ("colbert_linear.pt", {"weight": torch.ones(0, 64), "bias": torch.ones(0)}, r"weight is \(0, 64\)"),
        ("colbert_linear.pt", {"weight": torch.ones(8, 64)}, "expected the tensors weight and bias, got weight"),
        ("sparse_linear.pt", {"weight": torch.full((1, 64), torch.nan), "bias": torch.ones(1)}, "not finite"),
    ],
)
def test_a_head_of_a_wrong_shape(folder, name, state, message):
    torch.save(state, folder / name)
    with pytest.raises(CheckpointFileError, match=rf"{name}: .*{message}.*Fix: "):
        load_checkpoint(folder)


def test_a_payload_in_a_head_is_not_executed(folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save(Payload(), folder / "sparse_linear.pt")
    with pytest.raises(CheckpointFileError, match=r"sparse_linear\.pt: .*system.*it was not executed"):
        load_checkpoint(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "sparse_linear.pt", "onnx/model.onnx"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file(tmp_path, name, share):
    folder = make_checkpoint(tmp_path, weights="bin" if name.endswith(".bin") else "safetensors", external=True)
    os.truncate(folder / name, int((folder / name).stat().st_size * share))
    with pytest.raises(CheckpointFileError, match=rf"{name}: .*Fix: download the file again"):
        load_checkpoint(folder, forms=("onnx",) if "onnx" in name else ("torch",))


def test_external_data_that_is_missing_or_short(tmp_path):
    folder = make_checkpoint(tmp_path, external=True)
    data = folder / "onnx" / "model.onnx_data"
    os.truncate(data, data.stat().st_size - 1)
    with pytest.raises(CheckpointFileError, match=r"model\.onnx_data: truncated, got .* expected at least"):
        load_checkpoint(folder, forms=("onnx",))
    (folder / "onnx" / "Constant_7_attr__value").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"Constant_7_attr__value: missing, and model\.onnx keeps"):
        load_checkpoint(folder, forms=("onnx",))


def test_external_data_outside_the_folder(folder):
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../secret")
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        CheckpointFileError, match=r"its external data lies at '\.\./\.\./secret', expected a file beside"
    ):
        load_checkpoint(folder, forms=("onnx",))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x07", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"])
def test_a_graph_that_is_none(folder, content):
    (folder / "onnx" / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointFileError, match=r"model\.onnx: not a whole ONNX file"):
        load_checkpoint(folder, forms=("onnx",))


def test_onnx_runtime_reads_a_graph_whose_files_are_links(tmp_path):
    real = make_checkpoint(tmp_path / "real", external=True)
    linked = tmp_path / "linked"
    for file in sorted(file for file in real.rglob("*") if file.is_file()):
        blob = tmp_path / "shared" / file_sha256(file)[:2] / file_sha256(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blob)
        link = linked / file.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    with pytest.raises(Exception, match="External data path escapes model directory"):
        run(linked / "onnx" / "model.onnx")
    graph = load_checkpoint(linked, forms=("onnx",)).onnx_path
    run(graph)
    data = graph.with_name("model.onnx_data")
    assert data.stat().st_nlink == 2
    before = data.stat()
    assert load_checkpoint(linked, forms=("onnx",)).onnx_path == graph
    assert data.stat() == before


def test_no_place_for_real_files(tmp_path, monkeypatch):
    real = make_checkpoint(tmp_path / "real", external=True)
    graph = real / "onnx" / "model.onnx_data"
    graph.rename(tmp_path / "elsewhere")
    graph.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointFileError, match=r"symbolic links.*Fix: set BGEM3_CACHE"):
        load_checkpoint(real, forms=("onnx",))


def test_the_fingerprint_does_not_depend_on_the_form_or_the_place(checkpoint, folder):
    prints = {
        load_checkpoint(path, forms=(form,)).fingerprint for path in (checkpoint, folder) for form in ("torch", "onnx")
    }
    assert len(prints) == 1


@pytest.mark.parametrize("part", ["config.json", "tokenizer.json", "sparse_linear.pt", "colbert_linear.pt", "weights"])
def test_the_fingerprint_depends_on_each_part(folder, part):
    before = load_checkpoint(folder).fingerprint
    if part == "config.json":
        edit_config(folder, layer_norm_eps=1e-6)
    elif part == "tokenizer.json":
        (folder / part).write_text((folder / part).read_text() + "\n")
    elif part == "weights":
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
    else:
        state = torch.load(folder / part, weights_only=True)
        state["bias"][0] += 1
        torch.save(state, folder / part)
    assert load_checkpoint(folder).fingerprint != before


def test_the_fingerprint_of_an_onnx_checkpoint_depends_on_its_data(tmp_path):
    folder = make_checkpoint(tmp_path, external=True, weights=None)
    before = load_checkpoint(folder, forms=("onnx",)).fingerprint
    data = folder / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert load_checkpoint(folder, forms=("onnx",)).fingerprint != before


def test_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(file) == digest
    assert list(read_json(cache_root() / "hashes.json").values()) == [digest]
    write_json(cache_root() / "hashes.json", dict.fromkeys(read_json(cache_root() / "hashes.json"), "remembered"))
    assert file_sha256(file) == "remembered"
    file.write_bytes(b"abcd")
    assert file_sha256(file) != "remembered"


def test_a_cache_that_cannot_be_written_or_read_is_no_error(tmp_path, monkeypatch, checkpoint):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path / "file"))
    assert load_checkpoint(checkpoint).form == "torch"
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "hashes.json").write_text("{ damaged")
    assert load_checkpoint(checkpoint).form == "torch"


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path):
    target = tmp_path / "record.json"
    target.mkdir()  # os.replace onto a folder fails
    assert not write_json(target, {"a": "b"})
    assert list(tmp_path.iterdir()) == [target]


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("BGEM3_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "bgem3"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "bgem3"


@pytest.mark.parametrize("chosen", [None, "~/cache"])
def test_a_user_without_a_home_loads_a_checkpoint_and_keeps_nothing(monkeypatch, checkpoint, chosen):
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("BGEM3_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("BGEM3_CACHE", chosen)
    assert load_checkpoint(checkpoint).form == "torch"
    assert not write_json(cache_root() / "hashes.json", {"a": "b"})
