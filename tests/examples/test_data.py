"""The demo collection is what its README says."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "examples" / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")


def read_lines(name):
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


DOCUMENTS = {one["id"]: one for one in read_lines("collection.jsonl")}
QUESTIONS = read_lines("questions.jsonl")


def test_records_have_the_documented_fields():
    assert len(DOCUMENTS) == len(read_lines("collection.jsonl"))
    assert {tuple(one) for one in DOCUMENTS.values()} == {("id", "lang", "topic", "title", "text")}
    assert {tuple(one) for one in QUESTIONS} == {("id", "text", "lang", "kind", "answers")}
    assert all(one["text"].strip() and one["title"].strip() for one in DOCUMENTS.values())
    assert len({one["id"] for one in QUESTIONS}) == len(QUESTIONS)


def test_the_collection_is_large_and_multilingual_enough():
    assert len(DOCUMENTS) >= 60
    assert len({one["lang"] for one in DOCUMENTS.values()}) >= 8


def test_readme_counts_per_language():
    rows = re.findall(r"^\| [^|]+ \| `(\w\w)` \| (\d+) \| (\d+) \| (\d+) \|$", README, re.MULTILINE)
    counted = {lang: tuple(map(int, numbers)) for lang, *numbers in rows}
    documents = Counter(one["lang"] for one in DOCUMENTS.values())
    asked = Counter(one["lang"] for one in QUESTIONS)
    answered = Counter(DOCUMENTS[one["answers"][0]]["lang"] for one in QUESTIONS)
    assert counted == {lang: (documents[lang], asked[lang], answered[lang]) for lang in documents}


def test_readme_counts_of_all():
    assert f"{len(DOCUMENTS)} short documents in {len({d['lang'] for d in DOCUMENTS.values()})} languages" in README
    assert f"and {len(QUESTIONS)} questions" in README
    assert f"| **{len(DOCUMENTS)}** | **{len(QUESTIONS)}** | **{len(QUESTIONS)}** |" in README


def test_readme_counts_per_kind_and_topic():
    kinds = {kind: int(count) for kind, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", README, re.MULTILINE)}
    assert kinds == Counter(one["kind"] for one in QUESTIONS)
    topics = README.split("Topics:")[1].split("\n")[0]
    named = {topic: int(count) for topic, count in re.findall(r"`(\w+)` (\d+)", topics)}
    assert named == Counter(one["topic"] for one in DOCUMENTS.values())


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["id"])
def test_the_kind_of_a_question_fits_its_answers(question):
    languages = {DOCUMENTS[answer]["lang"] for answer in question["answers"]}
    assert languages
    if question["kind"] == "cross":
        assert question["lang"] not in languages
    elif question["kind"] == "same":
        assert languages == {question["lang"]}
    else:
        [answer] = question["answers"]
        codes = re.findall(r"[A-Za-z0-9.-]*\d[A-Za-z0-9.-]*[A-Za-z0-9]", question["text"]) or ["Mill Lane"]
        document = DOCUMENTS[answer]["title"] + DOCUMENTS[answer]["text"]
        assert any(code in document for code in codes)


def test_sentences():
    sentences = json.loads((DATA / "sentences.json").read_text(encoding="utf-8"))
    assert list(sentences["translations"]) == ["zh", "en", "ja", "ar", "es"]
    assert sentences["query"] != sentences["translations"]["en"]
    assert len(sentences["distractors"]) == 8
