"""`bgem3 convert` as a user calls it."""

import json
import sys

from typer.testing import CliRunner

from bgem3.cli.main import make_app
from bgem3.encoder import M3Encoder


def test_convert_writes_a_folder_that_encodes(checkpoint, tmp_path):
    result = CliRunner().invoke(
        make_app(), ["convert", str(checkpoint), str(tmp_path), "--precision", "int4", "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["precision"] == "int4"
    assert told["bytes"] > 0
    assert M3Encoder.from_pretrained(tmp_path).describe()["precision"] == "int4"


def test_an_unknown_backend_is_named(checkpoint, tmp_path):
    result = CliRunner().invoke(make_app(), ["convert", str(checkpoint), str(tmp_path), "--backend", "tpu"])
    assert "backend: got 'tpu', expected one of onnx, openvino" in str(result.exception)


def test_without_onnx_nothing_is_read_or_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = CliRunner().invoke(make_app(), ["convert", str(tmp_path / "no model"), str(tmp_path / "out")])
    assert 'Fix: pip install "bgem3[convert]"' in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_line_that_loads_it_names_openvino_where_it_was_asked_for(checkpoint, tmp_path):
    told = {}
    for backend in ("onnx", "openvino"):
        arguments = ["convert", str(checkpoint), str(tmp_path), "--backend", backend, "--precision", "float32"]
        told[backend] = CliRunner().invoke(make_app(), arguments).output.replace("\n", "")
    assert ", backend='openvino')" in told["openvino"]
    assert "backend=" not in told["onnx"]
