"""`bgem3 index`, `search` and `chat`: files in, hits and answers out."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bgem3 import Weights
from bgem3.cli import collections
from bgem3.cli.main import make_app
from bgem3.errors import IndexMismatchError
from bgem3.tuned import Tuned

RECORDS = [
    {"id": "zh", "text": "茶叶含有茶氨酸，能让人放松。", "lang": "zh"},
    {"id": "en", "text": "Part KX-220B fits the small pump.", "lang": "en"},
]


@pytest.fixture
def run(checkpoint, tmp_path):
    def run(command, *arguments, **options):
        shared = ["--model", str(checkpoint), "--db", str(tmp_path / "db")]
        return CliRunner().invoke(make_app(), [command, *map(str, arguments), *shared], **options)

    return run


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    (folder / "sub").mkdir(parents=True)
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, RECORDS)), "utf-8")
    (folder / "sub" / "notes.md").write_text("# Notes\n\nBrake pads wear out.", "utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_a_folder_is_indexed_and_searched(run, folder):
    assert json.loads(run("index", folder, "--json").stdout)["added"] == 3
    found = json.loads(run("search", "KX-220B", "--mode", "sparse", "-k", 1, "--json").stdout)
    (hit,) = found["hits"]
    assert (hit["id"], hit["metadata"]) == ("en", {"lang": "en", "source": "records.jsonl"})


def test_the_same_files_again_replace_their_passages(run, folder):
    run("index", folder)
    (folder / "sub" / "notes.md").write_text("Brake discs wear out too.", "utf-8")
    assert json.loads(run("index", folder, "--json").stdout)["count"] == 3
    hits = json.loads(run("search", "brake", "--where", '{"source": "sub/notes.md"}', "--json").stdout)["hits"]
    assert [(hit["id"], hit["text"]) for hit in hits] == [("sub/notes.md#1", "Brake discs wear out too.")]


def test_a_file_that_became_shorter_leaves_nothing_of_its_former_end(run, folder, monkeypatch):
    monkeypatch.setattr(collections, "_LOOKED", 2)
    notes = folder / "sub" / "notes.md"
    notes.write_text("\n\n".join(f"Paragraph {i} of the notes. " * 5 for i in range(8)), "utf-8")
    long = json.loads(run("index", folder, "--size", 150, "--json").stdout)["count"]
    assert long == 2 + 8
    notes.write_text("Brake discs wear out too.", "utf-8")
    assert json.loads(run("index", folder, "--json").stdout)["count"] == 3
    hits = json.loads(run("search", "paragraph", "--where", '{"source": "sub/notes.md"}', "--json").stdout)["hits"]
    assert [hit["id"] for hit in hits] == ["sub/notes.md#1"]


def test_index_reads_json_lines_from_standard_input(run):
    done = run("index", "-", "--json", input="\n".join(map(json.dumps, RECORDS)))
    assert json.loads(done.stdout)["added"] == 2


def test_search_for_people_shows_text_id_and_scores(run, folder):
    run("index", folder)
    shown = run("search", "pump", "--mode", "sparse", "--weights", "0,1,0").stdout
    assert run("search", "pump", "--mode", "sparse", "--weights", "0/1/0").stdout == shown
    assert run("search", "pump", "--mode", "sparse", "--weights", "lexical").exit_code == 0
    assert "Part KX-220B" in shown
    assert "en" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--where", "{"], "--where: not JSON"),
        (["--where", "[]"], "--where: expected an object"),
        (["--weights", "1,2"], "weights: got '1,2'"),
        (["--mode", "best"], "mode: got 'best'"),
        (["--collection", "other"], "no collection 'other', there are bgem3"),
    ],
)
def test_bad_searches(run, folder, options, said):
    run("index", folder)
    assert said in str(run("search", "pump", *options).exception)


def test_files_that_are_none(run, tmp_path, folder):
    assert "cannot be read" in str(run("index", tmp_path / "nowhere.txt").exception)
    assert "unknown kind" in str(run("index", folder / "picture.png").exception)
    (tmp_path / "empty").mkdir()
    assert "no csv, jsonl, md, pdf, txt file" in str(run("index", tmp_path / "empty").exception)


def test_chat_quotes_and_names_its_sources(run, folder):
    run("index", folder)
    shown = run("chat", "--ask", "What fits the pump?").stdout
    assert "No language model is set" in shown
    assert "“Part KX-220B fits the small pump.” [" in shown
    assert "] en: Part KX-220B" in shown


def test_chat_for_scripts(run, folder):
    run("index", folder)
    done = run("chat", "--ask", "What fits?", "--ask", "And then?", "--json", "-k", 2)
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["question"], second["question"]) == ("What fits?", "And then?")
    assert len(first["passages"]) == 2


def test_chat_reads_questions_until_an_empty_line(run, folder, monkeypatch):
    run("index", folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = run("chat", "--json", input="What fits?\n\nnever asked\n")
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == ["What fits?"]


def test_an_error_is_one_line_and_exits_with_2(tmp_path):
    command = [sys.executable, "-m", "bgem3", "search", "x", "--db", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: InvalidInputError: ")
    assert "Traceback" not in done.stderr


def test_a_file_of_tune_brings_its_strategy_and_is_checked(run, folder, tmp_path):
    run("index", folder)
    Tuned("rrf", Weights(0, 1, 0)).save(tmp_path / "tuned.json")

    def score(*options):
        done = run("search", "KX-220B", "-k", 1, "--weights", tmp_path / "tuned.json", *options, "--json")
        return json.loads(done.stdout)["hits"][0]["score"]

    assert score() == pytest.approx(1 / 61)  # the first of one ranking
    assert score("--strategy", "union") > 0.1
    Tuned(fingerprint="of another checkpoint").save(tmp_path / "other.json")
    error = run("search", "KX-220B", "--weights", tmp_path / "other.json").exception
    assert isinstance(error, IndexMismatchError)
