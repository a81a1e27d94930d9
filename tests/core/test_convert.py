"""Converted forms: accuracy, size, what they were made from, and what happens where they do not fit."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from bgem3.backends.processor import has_vnni
from bgem3.calibration import calibration_texts, observe
from bgem3.checkpoint import load_checkpoint
from bgem3.convert import convert_checkpoint, find_or_convert
from bgem3.encoder import M3Encoder
from bgem3.errors import BackendError, CheckpointError, CheckpointFileError, InvalidInputError, MissingExtraError
from bgem3.packed_graph import MOST_MOVED
from bgem3.tokenizer import M3Tokenizer
from bgem3.weights import read_weights

TEXTS = [*calibration_texts(), "", "a", "A sentence that calibration has not seen, about rivers and 17 boats."]
# Dense cosine on the mini checkpoint, lowest: int8 0.9996, in 8 bits 0.9999; int4 0.995.
# Largest error of a lexical weight, which go up to 0.7: 0.003 and 0.008.
CLOSE = {"int8": 0.999, "int4": 0.99}
SPARSE = {"int8": 0.01, "int4": 0.03}


@pytest.fixture(scope="module")
def mini() -> Path:
    return Path(__file__).parents[2] / "examples" / "bge-m3-mini"


@pytest.fixture(scope="module")
def exact(mini):
    return M3Encoder.from_pretrained(mini, backend="torch", precision="float32").encode(TEXTS)


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_rounded_precisions_stay_close(mini, exact, backend, precision):
    encoder = M3Encoder.from_pretrained(mini, backend=backend, precision=precision, show_progress=False)
    assert (encoder.backend, encoder.precision) == (backend, precision)
    out = encoder.encode(TEXTS)
    cosines = np.sum(out.dense * exact.dense, axis=1)
    assert cosines.min() > CLOSE[precision]
    assert np.sum(out.multi_vector.vectors * exact.multi_vector.vectors, axis=1).mean() > CLOSE[precision]
    assert abs(out.sparse - exact.sparse).max() < SPARSE[precision]


def test_attention_that_hangs_on_small_differences_is_kept_exact(mini, checkpoint_factory, tmp_path):
    """Queries forty times as long make attention as sharp as a step; the last layer of the mini checkpoint has it by training."""
    source = load_checkpoint(checkpoint_factory(seed=5))
    weights = dict(read_weights(source))
    for part in ("weight", "bias"):
        weights[f"encoder.layer.1.attention.self.query.{part}"] = (
            weights[f"encoder.layer.1.attention.self.query.{part}"] * 40
        )
    ids = [one[: source.positions] for one in M3Tokenizer(source.tokenizer_path).encode(calibration_texts())]
    even, sharp = (layer.moved for layer in observe(weights, source.config, ids))
    assert even < MOST_MOVED < sharp
    convert_checkpoint(load_checkpoint(mini), tmp_path, "int8", show_progress=False)
    (graph,) = (onnx.load(path, load_external_data=False) for path in tmp_path.rglob("model.onnx"))
    exact = [node.input[1] for node in graph.graph.node if node.op_type == "MatMul"]
    exact = [name for name in exact if not name.endswith(".exact")]  # outliers
    assert exact == ["encoder.layer.3.qkv.weight", "encoder.layer.3.attention.output.weight"]


def test_weights_that_are_no_numbers_are_refused(checkpoint_factory):
    source = load_checkpoint(checkpoint_factory(seed=5))
    weights = dict(read_weights(source))
    name = "encoder.layer.1.intermediate.dense.weight"
    weights[name] = np.full_like(weights[name], np.nan)
    with pytest.raises(CheckpointFileError, match="encoder.layer.1: gives numbers that are not finite. Fix: download"):
        list(observe(weights, source.config, [np.array([0, 5, 2])]))


@pytest.mark.skipif(not has_vnni(), reason="without VNNI eight bits would saturate, and are not used")
def test_vnni_rounds_activations_more_finely(mini, exact, monkeypatch):
    errors = {}
    for vnni in (True, False):
        monkeypatch.setattr("bgem3.backends.choice.has_vnni", lambda vnni=vnni: vnni)
        encoder = M3Encoder.from_pretrained(mini, backend="onnx", precision="int8", show_progress=False)
        errors[vnni] = 1 - np.sum(encoder.encode(TEXTS).dense * exact.dense, axis=1).mean()
    # a step half as wide is a quarter of the squared error, to which the weights add the same as before
    assert 0 < errors[True] < 0.8 * errors[False]


@pytest.mark.parametrize("precision", CLOSE)
def test_a_text_is_the_same_whatever_it_is_batched_with(mini, precision):
    encoder = M3Encoder.from_pretrained(mini, backend="onnx", precision=precision, show_progress=False)
    together, alone = encoder.encode(TEXTS), encoder.encode(TEXTS[3:4])
    np.testing.assert_allclose(together.dense[3], alone.dense[0], atol=2e-3)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_converted_folder_stands_alone(checkpoint, tmp_path, monkeypatch, bfloat16):
    monkeypatch.setattr("bgem3.backends.choice.has_bfloat16", lambda: bfloat16)
    source = load_checkpoint(checkpoint)
    convert_checkpoint(source, tmp_path / "small", "int8", show_progress=False)
    assert not (tmp_path / "small" / "model.safetensors").exists()
    encoder = M3Encoder.from_pretrained(tmp_path / "small")
    assert (encoder.backend, encoder.precision) == ("onnx", "int8")
    assert encoder.fingerprint == source.fingerprint
    with pytest.raises(BackendError, match="holds int8, got 'int4', and no weights to convert"):
        M3Encoder.from_pretrained(tmp_path / "small", precision="int4")


def test_a_form_of_another_checkpoint_is_refused(checkpoint, checkpoint_factory, tmp_path):
    convert_checkpoint(load_checkpoint(checkpoint), tmp_path, "int8", show_progress=False)
    other = load_checkpoint(checkpoint_factory(seed=9))
    shutil.copy(other.folder / "sparse_linear.pt", tmp_path / "sparse_linear.pt")
    with pytest.raises(CheckpointFileError, match="made from the checkpoint .* expected .* Fix: bgem3 convert"):
        M3Encoder.from_pretrained(tmp_path)


def test_a_form_of_another_version_and_one_that_is_not_whole(checkpoint, tmp_path):
    form = convert_checkpoint(load_checkpoint(checkpoint), tmp_path, "int8", show_progress=False)
    made = (form / "form.json").read_text()
    (form / "form.json").write_text(json.dumps(json.loads(made) | {"version": "1"}))
    with pytest.raises(CheckpointFileError, match="made by another version of bgem3. Fix: bgem3 convert"):
        M3Encoder.from_pretrained(tmp_path)
    (form / "form.json").write_text(made)
    (form / "model.onnx_data").unlink()
    with pytest.raises(CheckpointFileError, match="model.onnx_data not there. Fix: bgem3 convert"):
        M3Encoder.from_pretrained(tmp_path)


def test_a_folder_of_another_checkpoint_is_left_alone(checkpoint, checkpoint_factory, tmp_path):
    other = shutil.copytree(checkpoint_factory(seed=9), tmp_path / "other")
    before = {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match="holds another checkpoint's .* Fix: a folder that is empty"):
        convert_checkpoint(load_checkpoint(checkpoint), other, "int8", show_progress=False)
    assert {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()} == before
    convert_checkpoint(load_checkpoint(other), other, "int4", show_progress=False)  # its own


def test_what_a_killed_conversion_left_is_removed(checkpoint, tmp_path):
    left = tmp_path / "converted" / ".int4-abcd"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    convert_checkpoint(load_checkpoint(checkpoint), tmp_path, "int4", show_progress=False)
    assert [path.name for path in left.parent.iterdir()] == ["int4"]


def test_a_form_is_made_once(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path))
    source = load_checkpoint(checkpoint)
    first = find_or_convert(source, "int4", show_progress=False)
    made = (first / "model.onnx").stat().st_mtime_ns
    assert find_or_convert(source, "int4", show_progress=False) == first
    assert (first / "model.onnx").stat().st_mtime_ns == made
    assert json.loads((first / "form.json").read_text())["fingerprint"] == source.fingerprint
    assert not [entry for entry in first.parent.iterdir() if entry.name.startswith(".")]


def test_a_conversion_that_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("BGEM3_CACHE", str(tmp_path))
    monkeypatch.setattr("bgem3.packed_graph.quantize_blocks", _full_disk)
    with pytest.raises(CheckpointError, match="could not be written .*No space left.* Fix: free space"):
        find_or_convert(load_checkpoint(checkpoint), "int4", show_progress=False)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and "converted" in path.parts] == ["int4.lock"]


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_an_unknown_precision_is_refused(checkpoint, tmp_path):
    with pytest.raises(InvalidInputError, match="precision: got 'int3', expected one of float32, int8, int4"):
        convert_checkpoint(load_checkpoint(checkpoint), tmp_path, "int3")


def test_four_bits_are_small(mini, tmp_path):
    """60 % less than float32, the embedding table included."""
    source = load_checkpoint(mini)
    form = convert_checkpoint(source, tmp_path, "int4", show_progress=False)
    full = sum(read_weights(source)[name].nbytes for name in read_weights(source) if "pooler" not in name)
    assert (form / "model.onnx_data").stat().st_size < 0.4 * full


@pytest.mark.parametrize("options", [{"weights": "bin"}, {"weights": None, "external": True}, {"weights": None}])
def test_weights_are_the_same_in_every_form(checkpoint_factory, options):
    reference = read_weights(load_checkpoint(checkpoint_factory(seed=5)))
    weights = read_weights(load_checkpoint(checkpoint_factory(seed=5, **options), forms=("torch", "onnx")))
    for name in reference:
        if "pooler" not in name:
            np.testing.assert_array_equal(weights[name], reference[name], err_msg=name)


def test_without_onnx_no_folder_is_left(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"bgem3\[convert\]"):
        convert_checkpoint(load_checkpoint(checkpoint), tmp_path / "out", "int8", show_progress=False)
    assert not (tmp_path / "out").exists()
