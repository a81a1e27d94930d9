"""Tables, JSON and the picture."""

import json

import numpy as np
import pytest

from bgem3.errors import InvalidInputError, StoreWriteError
from bgem3.evaluation import Evaluation, markdown, save
from bgem3.evaluation.report import rows


def evaluation(name="set", **ndcg):
    values = {
        system: {measure: np.array(v, dtype=float) for measure in ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")}
        for system, v in ndcg.items()
    }
    return Evaluation(dataset=name, n_passages=9, query_ids=list("abcd"), encoder={"model": "m"}, values=values)


RESULT = evaluation(dense=[0, 0, 1, 1], hybrid=[1, 1, 1, 1])


def test_rows_compare_with_the_baseline():
    dense, hybrid = rows(RESULT)
    assert (dense.means["nDCG@10"], dense.p) == (0.5, None)
    # of the 4 sign patterns of two non-zero differences, 2 are as extreme
    assert hybrid.p == pytest.approx(0.5)
    assert (hybrid.low, hybrid.high) == (1, 1)
    assert rows(RESULT, baseline="hybrid")[1].p is None
    with pytest.raises(InvalidInputError, match="baseline: got 'x', expected one of dense, hybrid"):
        rows(RESULT, baseline="x")


def test_markdown():
    text = markdown([RESULT, evaluation("other", dense=[0, 0, 0, 0])])
    assert "| system | set | other |\n|---|---|---|\n| dense | 0.500 | 0.000 |\n| hybrid | 1.000 | - |" in text
    assert "| hybrid | 1.000 | 1.000 | 1.000 | 1.000 | 1.000-1.000 | 0.500 |" in text
    assert "4 questions, 9 passages" in text


def test_saved_files(tmp_path):
    paths = save([RESULT], tmp_path / "new")
    assert [path.name for path in paths] == ["evaluation.md", "evaluation.json", "evaluation.png"]
    record = json.loads(paths[1].read_text("utf-8"))[0]
    assert record["nDCG@10"]["dense"] == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert record["systems"][1]["nDCG@10"] == 1
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreWriteError, match="Fix: out="):
        save([RESULT], tmp_path / "file")


def test_a_name_is_no_formula(tmp_path):
    paths = save([evaluation("$set_^$", **{"union $a_$": [0, 0, 1, 1]})], tmp_path)
    assert paths[2].read_bytes().startswith(b"\x89PNG")
