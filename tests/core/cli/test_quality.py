"""`bgem3 eval` as a shell meets it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bgem3 import Weights
from bgem3.cli.main import make_app
from bgem3.cli.options import parse_weights
from bgem3.errors import InvalidInputError
from bgem3.tuned import Tuned


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"p{i}", "text": f"the town number {i}"}) + "\n" for i in range(12)), "utf-8"
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "town 3"}\n', "utf-8")
    (tmp_path / "qrels.tsv").write_text("q\tp3\t1\n", "utf-8")
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(make_app(), [str(one) for one in arguments], catch_exceptions=False)


def test_eval_prints_a_table_and_saves_it(folder, checkpoint):
    done = run("eval", folder, "--model", checkpoint, "--mode", "dense,hybrid", "--out", folder / "out")
    assert done.exit_code == 0
    assert "nDCG@10" in done.stdout
    assert "union balanced" in done.stdout
    assert (folder / "out" / "evaluation.png").is_file()


def test_eval_prints_json_alone(folder, checkpoint):
    done = run("eval", folder, folder, "--model", checkpoint, "--mode", "sparse", "--lexical", "m3,bm25", "--json")
    first, second = json.loads(done.stdout)
    assert first == second
    assert [row["system"] for row in first["systems"]] == ["sparse", "bm25"]


@pytest.mark.parametrize("command", ["eval", "tune"])
def test_a_precision_is_measured(folder, checkpoint, command):
    with pytest.raises(InvalidInputError, match="precision: got 'fp9'"):
        run(command, folder, "--model", checkpoint, "--precision", "fp9")


def test_options_are_checked_before_the_model_is_loaded(folder):
    with pytest.raises(InvalidInputError, match="--mode: got 'x', expected one of dense"):
        run("eval", folder, "--model", "nowhere", "--mode", "dense,x")
    with pytest.raises(InvalidInputError, match="baseline: got 'x', expected one of dense, sparse"):
        run("eval", folder, "--model", "nowhere", "--baseline", "x")
    with pytest.raises(InvalidInputError, match="nowhere: no such folder"):
        run("eval", "nowhere", "--model", "nowhere")


def test_weights(tmp_path):
    assert parse_weights("long_document") == Weights.long_document
    assert parse_weights("1/0.3/1") == Weights(1, 0.3, 1)
    Tuned("rrf", Weights(1, 2, 3)).save(tmp_path / "tuned.json")
    assert parse_weights(str(tmp_path / "tuned.json")) == Weights(1, 2, 3)
    for bad in ("heavy", "1/x/1", "1/2/3/4", "1", "1/0"):
        with pytest.raises(InvalidInputError, match="weights: got '.*Fix: --weights 1/0.3/1"):
            parse_weights(bad)
    for bad, why in (("1/-1/1", "sparse must be a finite number >= 0, got -1.0"), ("0/0/0", "the sum must be > 0")):
        with pytest.raises(InvalidInputError, match=f"weights: {why}"):
            parse_weights(bad)


def test_tune_writes_what_an_index_reads_and_says_what_it_is_worth(folder, checkpoint):
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": f"town {i}"}) + "\n" for i in range(12)), "utf-8"
    )
    (folder / "qrels.tsv").write_text("".join(f"q{i}\tp{i}\t1\n" for i in range(12)), "utf-8")
    done = run("tune", folder, "--model", checkpoint, "--strategy", "union", "--out", folder / "tuned.json")
    assert "best on all 12 questions: union" in done.stdout
    trusted = "(tuned)" in done.stdout
    assert trusted or "warning: 12 questions cannot tell" in done.stderr
    assert Tuned.load(folder / "tuned.json").evidence["questions"] == 12


def test_a_table_is_whole_in_80_columns(folder, checkpoint, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run("eval", folder, "--model", checkpoint)
    assert "…" not in done.stdout
    assert "cascade balanced" in done.stdout
    assert done.stdout.count("1.000-1.000") == 6
