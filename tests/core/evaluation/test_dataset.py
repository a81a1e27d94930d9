"""Reading labelled sets: layouts, samples, and errors that name file and line."""

import gzip
import lzma

import pytest

from bgem3.errors import DatasetError, InvalidInputError
from bgem3.evaluation import Dataset


def spoil(folder, name, line, text):
    """Put `text` in place of a line, counted from 1."""
    path = folder / name
    lines = path.read_text("utf-8").splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_what_is_read(labelled):
    dataset = Dataset.read(labelled)
    assert (dataset.name, dataset.n_passages, len(dataset.queries)) == ("set", 300, 20)
    assert dataset.qrels["q2"] == {"p14": 1}
    passages = list(dataset.passages())
    assert [id_ for id_, _ in passages[:2]] == ["p0", "p1"]
    assert set(dataset.queries["q1"].split()) <= set(dict(passages)["p7"].split())


@pytest.mark.parametrize(("ending", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_compressed_files_and_the_layout_of_beir(labelled, ending, opener):
    plain = Dataset.read(labelled)
    passages = list(plain.passages())
    (labelled / "qrels").mkdir()
    (labelled / "qrels.tsv").rename(labelled / "qrels" / "test.tsv")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        with opener(f"{labelled / name}{ending}", "wt", encoding="utf-8") as file:
            file.write((labelled / name).read_text("utf-8"))
        (labelled / name).unlink()
    packed = Dataset.read(labelled)
    assert (packed.queries, packed.qrels) == (plain.queries, plain.qrels)
    assert list(packed.passages()) == passages


def test_titles_stand_before_the_text_where_wanted(labelled):
    spoil(labelled, "corpus.jsonl", 1, '{"id": "p0", "title": "A title", "text": "a text"}')
    assert next(Dataset.read(labelled).passages()) == ("p0", "A title a text")
    assert next(Dataset.read(labelled, titles=False).passages()) == ("p0", "a text")


def test_questions_without_a_relevant_passage_are_left_out(labelled):
    spoil(labelled, "qrels.tsv", 2, "q0\tp0\t0")
    assert "q0" not in Dataset.read(labelled).queries


def test_a_sample_is_the_same_for_a_seed(labelled):
    dataset = Dataset.read(labelled)
    sample = dataset.sample(5, seed=1)
    assert list(sample.queries) == list(dataset.sample(5, seed=1).queries) != list(dataset.sample(5, seed=2).queries)
    assert sample.qrels.keys() == sample.queries.keys()
    assert dataset.sample(None) is dataset.sample(20) is dataset
    with pytest.raises(InvalidInputError, match="queries: expected a number >= 1, got 0"):
        dataset.sample(0)


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("corpus.jsonl", 3, "{broken", r"corpus\.jsonl, line 3: not JSON"),
        ("corpus.jsonl", 2, "[1]", r"corpus\.jsonl, line 2: expected a JSON object, got list"),
        ("corpus.jsonl", 2, '{"_id": "p0", "text": "again"}', r"corpus\.jsonl, line 2: duplicate id 'p0'"),
        (
            "corpus.jsonl",
            2,
            '{"_id": 7, "text": "x"}',
            r"corpus\.jsonl, line 2: _id: expected a string, not empty, got 7",
        ),
        ("corpus.jsonl", 2, '{"_id": "new"}', r"corpus\.jsonl, line 2: text: expected a string, got None"),
        ("corpus.jsonl", 2, r'{"_id": "p1", "text": "\ud800"}', r"corpus\.jsonl, line 2: text: not valid Unicode"),
        (
            "corpus.jsonl",
            2,
            r'{"_id": "p1", "text": "x", "title": "\ud800"}',
            r"corpus\.jsonl, line 2: title: not valid Unicode",
        ),
        ("corpus.jsonl", 2, '{"_id": "p1", "text": "x", "title": ["x"]}', r"line 2: title: expected a string"),
        ("corpus.jsonl", 2, r'{"_id": "p1\ud800", "text": "x"}', r"corpus\.jsonl, line 2: _id: not valid Unicode"),
        ("qrels.tsv", 1, "q1\tp7\t1.0", r"qrels\.tsv, line 1: score: expected a whole number, got '1.0'"),
        pytest.param("corpus.jsonl", 2, "[" * 100_000, r"corpus\.jsonl, line 2: not JSON", id="deep"),
        pytest.param("qrels.tsv", 5, f"q1\tp7\t{'9' * 5000}", r"qrels\.tsv, line 5: score: expected", id="digits"),
        ("queries.jsonl", 4, "nonsense", r"queries\.jsonl, line 4: not JSON"),
        ("queries.jsonl", 4, '{"_id": "q3", "text": " "}', r"queries\.jsonl, line 4: question 'q3' is empty"),
        ("queries.jsonl", 4, '{"_id": "q0", "text": "x"}', r"queries\.jsonl, line 4: duplicate id 'q0'"),
        ("qrels.tsv", 5, "q99\tp0\t1", r"qrels\.tsv, line 5: unknown query id 'q99'"),
        ("qrels.tsv", 5, "q1\tp999\t1", r"qrels\.tsv, line 5: unknown passage id 'p999'"),
        ("qrels.tsv", 5, "q1 p7 1", r"qrels\.tsv, line 5: expected query id, passage id, score with tabs"),
        ("qrels.tsv", 5, "q1\tp7\tmuch", r"qrels\.tsv, line 5: score: expected a whole number, got 'much'"),
        ("qrels.tsv", 5, "q0\tp0\t1", r"qrels\.tsv, line 5: query 'q0' and passage 'p0' are judged twice"),
    ],
)
def test_a_bad_line_is_named(labelled, name, line, text, message):
    spoil(labelled, name, line, text)
    with pytest.raises(DatasetError, match=message):
        Dataset.read(labelled)


def test_what_is_missing_is_named(labelled, tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        Dataset.read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"expected other\.tsv"):
        Dataset.read(labelled, qrels="other.tsv")
    (labelled / "qrels.tsv").write_text("q0\tp0\t0\n", "utf-8")
    with pytest.raises(DatasetError, match="no question has a relevant passage"):
        Dataset.read(labelled)


def test_a_file_that_is_not_text_is_named(labelled):
    (labelled / "corpus.jsonl").write_bytes(b'{"_id": "p0", "text": "x"}\n{"_id": "p1", "text": "\xff"}\n')
    with pytest.raises(DatasetError, match=r"corpus\.jsonl, line 2: not UTF-8"):
        Dataset.read(labelled)
    (labelled / "corpus.jsonl").unlink()
    (labelled / "corpus.jsonl.xz").write_bytes(lzma.compress(b'{"_id": "p0", "text": "x"}\n' * 10)[:-20])
    with pytest.raises(DatasetError, match=r"corpus\.jsonl\.xz, line \d+: (cannot be read|duplicate)"):
        Dataset.read(labelled)


def test_ids_are_taken_as_they_stand(labelled):
    spoil(labelled, "corpus.jsonl", 1, '{"_id": " p1", "text": "another passage than p1"}')
    spoil(labelled, "qrels.tsv", 2, "q0\t p1\t 1 ")
    assert Dataset.read(labelled).qrels["q0"] == {" p1": 1}


def test_the_file_of_judgements_that_is_named_is_read(labelled):
    (labelled / "other.tsv").write_text("q0\tp0\t1\n", "utf-8")
    (labelled / "other.tsv.gz").write_bytes(gzip.compress(b"q1\tp7\t1\n"))
    assert list(Dataset.read(labelled, qrels="other.tsv").queries) == ["q0"]
    assert list(Dataset.read(labelled, qrels="other.tsv.gz").queries) == ["q1"]
