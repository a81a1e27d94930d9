"""Every example runs, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.examples.conftest import EXAMPLES, MINI

SMALL = (
    "encode.py",
    "filters.py",
    "hybrid_search.py",
    "langchain_retriever.py",
    "llamaindex_retriever.py",
    "long_documents.py",
    "rerank.py",
)
OUTPUT = "# Output:"
FIRST_HIT = r"^[ ✓] +1  (..) +(.*?)  "
NUMBER = re.compile(r"-?\d+\.\d+")


def closing_comment(path):
    lines = path.read_text(encoding="utf-8").rstrip().split("\n")
    start = lines.index(OUTPUT) + 1
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[start:])


@pytest.mark.parametrize("name", SMALL)
def test_a_small_example_prints_its_closing_comment(run, name):
    printed = run(name).rstrip()
    expected = closing_comment(EXAMPLES / name)
    # After another checkpoint: python -m tests.examples.refresh
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected), printed
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True)
    assert all(abs(float(left) - float(right)) <= 0.02 for left, right in pairs), printed


@pytest.mark.parametrize("name", SMALL)
def test_a_small_example_is_short(name):
    assert len((EXAMPLES / name).read_text(encoding="utf-8").split("\n")) <= 60


def test_every_example_is_tested():
    tested = {*SMALL, "demo.py", "cross_language.py", "chatbot_langchain.py", "chatbot_llamaindex.py"}
    assert {path.name for path in EXAMPLES.glob("[!_]*.py")} == tested


def run_demo(*arguments, db, columns=80):
    """Run the demo in a process of its own, as on a machine with the extra `demo` and no torch."""
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0]);"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'FlagEmbedding')));"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    root = str(EXAMPLES.parent)
    environment = os.environ | {"COLUMNS": str(columns), "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error", "-c", code, str(EXAMPLES / "demo.py"), "--db", str(db), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300)


@pytest.fixture(scope="module")
def demo_db(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first_demo(demo_db):
    done = run_demo("--model", str(MINI), db=demo_db)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_asks_and_compares_the_frameworks(first_demo):
    assert "113 documents in 12 languages, added in" in first_demo
    assert first_demo.count("prefer") >= 10
    assert re.search(r"LangChain .*same documents, same scores", first_demo)
    assert re.search(r"LlamaIndex .*same documents, same scores", first_demo)
    assert "onnx, float32, cpu" in first_demo


def test_the_demo_fits_a_narrow_terminal_and_has_no_colour_codes_in_a_file(first_demo):
    assert "\x1b" not in first_demo
    assert max(cell_len(line) for line in first_demo.splitlines() if not line.startswith("Index ")) <= 80


def test_the_second_demo_reuses_the_index_and_counts_per_kind(first_demo, demo_db):
    done = run_demo("--model", str(MINI), "--all", db=demo_db)
    assert done.returncode == 0, done.stderr
    assert "113 documents, added before" in done.stdout
    counted = {
        kind: list(map(int, re.findall(r"\d+", numbers)))
        for kind, numbers in re.findall(r"^(\w.*?)  +(\d+(?: +\d+%){5})$", done.stdout, re.MULTILINE)
    }
    assert [numbers[0] for numbers in counted.values()] == [35, 10, 17, 62]
    # hybrid's first hit, then its first three, in percent
    assert counted["a code, number or name decides"][-2:] >= [85, 95]
    assert counted["answer in the same language"][-1] >= 90
    assert counted["answer in another language"][-1] >= 20


@pytest.fixture(scope="module")
def first_hits(first_demo):
    return re.findall(FIRST_HIT, first_demo, re.MULTILINE)


@pytest.mark.parametrize("store", ["memory", "qdrant", "milvus"])
def test_the_demo_finds_the_same_over_every_store(run, first_hits, store, tmp_path):
    printed = run("demo.py", "--store", store, "--db", str(tmp_path), columns=80)
    assert re.findall(FIRST_HIT, printed, re.MULTILINE) == first_hits
    assert len(first_hits) == 13
    assert printed.count("same documents, same scores") == 2


def test_the_demo_says_what_is_wrong_with_a_model(tmp_path):
    done = run_demo("--model", str(tmp_path / "nothing"), db=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_cross_language_tells_translations_from_other_sentences(run):
    printed = run("cross_language.py", "--threshold", "0.7")
    assert "threshold of 0.7" in printed
    summary = dict(re.findall(r"^(dense|multi-vector) +(\d of 5 .*)$", printed, re.MULTILINE))
    for line in summary.values():
        assert "and 0 of 8 others" in line
        assert "would do" in line


def test_cross_language_refuses_a_missing_model(run, tmp_path):
    with pytest.raises(SystemExit, match=r"Error: .*nothing"):
        run("cross_language.py", "--model", str(Path(tmp_path / "nothing")))
