"""The fine-tuning example runs from questions to a checkpoint that loads and has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bgem3 import M3Encoder
from tests.support.hub import Hub

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.integration
def test_two_steps_change_a_checkpoint_of_the_hub_and_are_measured(tmp_path, hub: Hub):
    questions = [json.loads(line) for line in (EXAMPLES / "data" / "questions.jsonl").read_text("utf-8").splitlines()]
    lines = [json.dumps({"id": one["id"], "text": one["text"]}) for one in questions]
    judged = [f"{one['id']}\t{answer}\t1" for one in questions for answer in one["answers"]]
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "corpus.jsonl").write_text((EXAMPLES / "data" / "collection.jsonl").read_text("utf-8"), "utf-8")
    (data / "queries.jsonl").write_text("\n".join(lines), "utf-8")
    (data / "qrels.tsv").write_text("\n".join(judged), "utf-8")

    script = [sys.executable, EXAMPLES / "finetune" / "finetune.py", data, "--out", out, "--steps", "2"]
    hub.add("someone/mini", EXAMPLES / "bge-m3-mini")
    done = subprocess.run([*script, "--model", "someone/mini"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert "union balanced" in done.stdout
    assert " -> " in done.stdout
    assert len((out / "train.jsonl").read_text("utf-8").splitlines()) > 10
    text = ["bees"]
    models = (EXAMPLES / "bge-m3-mini", out)
    before, after = (M3Encoder.from_pretrained(one, backend="torch", precision="float32") for one in models)
    old, new = before.encode(text), after.encode(text)
    assert old.sparse.indices.tolist() == new.sparse.indices.tolist()
    assert 0.5 < float((old.dense @ new.dense.T)[0, 0]) < 0.99999
    assert not np.allclose(old.sparse.data, new.sparse.data, atol=1e-5)
