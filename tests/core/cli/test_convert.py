"""`bgem3 convert` as a user calls it."""

import json

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
    assert "backend: got 'tpu', expected onnx or openvino" in str(result.exception)
