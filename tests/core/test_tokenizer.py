from __future__ import annotations

import json
from base64 import b64decode, b64encode

import numpy as np
import pytest
from tokenizers import Tokenizer

from bgem3.errors import CheckpointFileError
from bgem3.tokenizer import M3Tokenizer, cut, windows


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return M3Tokenizer(checkpoint / "tokenizer.json")


def test_ids_are_those_of_the_library(tokenizer, checkpoint):
    texts = ["the cat", "", "猫", "a <mask> b"]
    reference = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == [reference.encode(t).ids for t in texts]


def test_special_ids(tokenizer):
    assert tokenizer.special_ids.tolist() == [0, 1, 2, 3]  # <s> <pad> </s> <unk>
    assert tokenizer.encode([""])[0].tolist() == [0, 2]


def test_tokens_are_the_vocabulary_pieces(tokenizer):
    ids = tokenizer.encode(["the cat"])[0]
    pieces = tokenizer.tokens(ids)
    assert pieces[0] == "<s>"
    assert pieces[-1] == "</s>"
    assert "".join(pieces[1:-1]).replace("▁", " ").strip() == "the cat"


@pytest.mark.parametrize(
    "words",
    [
        ["re\u0301sume\u0301", "the"],  # a letter and its accent, two characters
        ["قَهْوَةٌ", "the"],  # ends in a vowel sign
        ["cat\ufe0f", "\u0301the"],
        ["ＡＢＣ", "🇩🇪"],
    ],
)
def test_a_span_has_the_accents_of_its_letters(tokenizer, words):
    text = " ".join(words)
    covered = {place for token in tokenizer.spans(text) for place in range(token.start, token.end)}
    assert "".join(text[place] for place in sorted(covered)) == "".join(words)


def test_cut_keeps_the_closing_token():
    ids = np.array([0, 10, 11, 12, 2])
    assert cut(ids, 5).tolist() == [0, 10, 11, 12, 2]
    assert cut(ids, 4).tolist() == [0, 10, 11, 2]
    assert cut(ids, 3).tolist() == [0, 10, 2]


@pytest.mark.parametrize(
    ("size", "overlap", "expected"),
    [
        (7, 0, [[0, 1, 2, 3, 4, 5, 9]]),
        (5, 0, [[0, 1, 2, 3, 9], [0, 4, 5, 9]]),
        (5, 1, [[0, 1, 2, 3, 9], [0, 3, 4, 5, 9]]),
        (4, 1, [[0, 1, 2, 9], [0, 2, 3, 9], [0, 3, 4, 9], [0, 4, 5, 9]]),
        (6, 3, [[0, 1, 2, 3, 4, 9], [0, 2, 3, 4, 5, 9]]),
    ],
)
def test_windows(size, overlap, expected):
    ids = np.array([0, 1, 2, 3, 4, 5, 9])
    assert [window.tolist() for window in windows(ids, size, overlap)] == expected


def test_a_damaged_table_of_characters_is_refused_before_the_library_reserves_memory_for_it(tmp_path, checkpoint):
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    table = b64decode(tokenizer["normalizer"]["precompiled_charsmap"])
    tokenizer["normalizer"]["precompiled_charsmap"] = b64encode(b"\xfc\xff\xff\xff" + table[4:]).decode()
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointFileError, match=f"precompiled_charsmap: {len(table)} bytes, fewer than it says"):
        M3Tokenizer(path)


def test_not_a_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(CheckpointFileError, match="not a readable tokenizer"):
        M3Tokenizer(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda t: t["normalizer"].update(precompiled_charsmap=""),
        lambda t: t["post_processor"]["special_tokens"].pop("</s>"),
        lambda t: t["model"].update(unk_id=None),
    ],
)
def test_a_tokenizer_over_which_the_library_panics(tmp_path, checkpoint, harm):
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    harm(tokenizer)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointFileError, match="not a readable tokenizer"):
        M3Tokenizer(path)
