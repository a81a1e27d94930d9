"""`bgem3 encode` and `bgem3 compare`: what the encoder says, for people and for scripts."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bgem3 import M3Encoder, score
from bgem3.cli.main import make_app
from bgem3.errors import CheckpointNotFoundError, InvalidInputError

TEXTS = ["Tea is [calm]", "茶は穏やか"]


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return M3Encoder.from_pretrained(checkpoint)


@pytest.fixture
def run(checkpoint):
    def run(command, *arguments, **options):
        return CliRunner().invoke(make_app(), [command, *arguments, "--model", str(checkpoint)], **options)

    return run


def test_encode_writes_a_line_of_json_a_text(run, encoder):
    lines = [json.loads(line) for line in run("encode", *TEXTS, "--json").stdout.splitlines()]
    expected = encoder.encode(TEXTS)
    assert [line["text"] for line in lines] == TEXTS
    for row, line in enumerate(lines):
        assert line["dense"] == pytest.approx(expected.dense[row].tolist(), abs=1e-5)
        assert line["sparse"] == pytest.approx({str(k): v for k, v in expected.lexical_weights(row).items()}, abs=1e-5)
        assert len(line["multi_vector"]) == len(expected.multi_vector[row])


def test_encode_reads_standard_input(run):
    done = run("encode", "--json", "--head", "sparse", input="\n".join(TEXTS) + "\n")
    assert [set(json.loads(line)) for line in done.stdout.splitlines()] == [{"text", "sparse"}] * 2


def test_encode_for_people(run, encoder):
    done = run("encode", TEXTS[0])
    assert TEXTS[0] in done.stdout
    assert f"{encoder.dim} numbers" in done.stdout
    assert "\x1b" not in done.stdout


def test_encode_an_unknown_head(run):
    assert isinstance(run("encode", "a", "--head", "best").exception, InvalidInputError)


def test_compare_is_the_score(run, encoder):
    found = json.loads(run("compare", "tea", *TEXTS, "--json").stdout)
    expected = score(encoder.encode(["tea"]), encoder.encode(TEXTS))
    assert [row["text"] for row in found["passages"]] == TEXTS
    assert [row["multi_vector"] for row in found["passages"]] == pytest.approx(expected.multi_vector[0], abs=1e-5)
    assert [row["hybrid"] for row in found["passages"]] == pytest.approx(expected.combine()[0], abs=1e-5)


def test_compare_marks_what_is_above_the_threshold(run):
    lines = run("compare", "tea", "tea", "--threshold", "0.9").stdout
    assert "1.00*" in lines
    assert "*" not in run("compare", "tea", "tea", "--threshold", "1.1").stdout.replace("* 1.1", "")


def test_compare_one_text(run):
    assert "got 1, expected two or more" in str(run("compare", "tea").exception)


def test_a_model_that_is_not_there(checkpoint):
    done = CliRunner().invoke(make_app(), ["encode", "a", "--model", str(checkpoint / "nowhere")])
    assert isinstance(done.exception, CheckpointNotFoundError)
