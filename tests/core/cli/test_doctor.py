"""`bgem3 doctor`: true about this environment."""

from __future__ import annotations

import json
from importlib.metadata import version

from typer.testing import CliRunner

from bgem3 import M3Encoder
from bgem3.backends.processor import has_avx512, has_bfloat16
from bgem3.checkpoint import load_checkpoint
from bgem3.cli.main import make_app
from bgem3.convert import convert_checkpoint


def doctor(*arguments: str) -> str:
    return CliRunner().invoke(make_app(), ["doctor", *arguments]).stdout


def test_what_it_says_is_so(checkpoint):
    facts = json.loads(doctor("--model", str(checkpoint), "--json"))
    encoder = M3Encoder.from_pretrained(checkpoint)
    assert facts["packages"]["chromadb"] == version("chromadb")
    assert facts["model"]["here"]
    assert facts["model"]["fingerprint"] == encoder.fingerprint
    assert facts["processor"]["cores"] >= 1


def test_a_converted_model(checkpoint, tmp_path):
    convert_checkpoint(load_checkpoint(checkpoint), tmp_path, "int8", show_progress=False)
    facts = json.loads(doctor("--model", str(tmp_path), "--json"))
    assert facts["model"]["backend"] == M3Encoder.from_pretrained(tmp_path).backend == "onnx"


def test_a_model_that_is_not_downloaded():
    facts = json.loads(doctor("--model", "nobody/never-fetched", "--json"))
    assert facts["model"]["here"] is False
    assert "allows no download" in facts["model"]["why"]


def test_for_people(checkpoint):
    shown = doctor("--model", str(checkpoint))
    assert f"would run on {'torch' if has_bfloat16() or has_avx512() else 'onnx'}" in shown
    assert "onnxruntime" in shown
