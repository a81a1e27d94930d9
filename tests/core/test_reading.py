"""Files into passages."""

from __future__ import annotations

import csv
import io
import json

import pytest

from bgem3.errors import InvalidInputError
from bgem3.reading import read_passages, split_passages
from bgem3.types import Chunk


def read(name: str, content: str | bytes, **options: int) -> list[Chunk]:
    return list(read_passages(name, content if isinstance(content, bytes) else content.encode(), **options))


def test_paragraphs_are_joined_up_to_the_size():
    assert split_passages("aaa\n\nbbb\n\ncccc", 8) == ["aaa\n\nbbb", "cccc"]


def test_a_long_paragraph_is_cut_at_a_space():
    assert split_passages("aaaa bbbb cccc", 10) == ["aaaa bbbb", "cccc"]


def test_a_long_paragraph_without_spaces_is_cut_anyway():
    assert split_passages("茶" * 25, 10) == ["茶" * 10, "茶" * 10, "茶" * 5]


@pytest.mark.parametrize("text", ["", "\n\n \n"])
def test_nothing(text):
    assert read("a.txt", text) == []


def test_text_of_any_line_ends_and_encodings():
    expected = [Chunk("a.md#1", "é", {"source": "a.md"}), Chunk("a.md#2", "b" * 100, {"source": "a.md"})]
    text = "é\r\n\r\n" + "b" * 100
    for content in (text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        assert read("a.md", content, size=100) == expected


def test_csv_rows_keep_their_other_columns():
    table = io.StringIO()
    csv.writer(table).writerows([["id", "text", "lang"], ["1", "one, two\nthree", "en"], ["2", "茶", "zh"]])
    assert read("a.csv", table.getvalue()) == [
        Chunk("1", "one, two\nthree", {"source": "a.csv", "lang": "en"}),
        Chunk("2", "茶", {"source": "a.csv", "lang": "zh"}),
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2020", 2020),
        ("-7", -7),
        ("0", 0),
        ("2.50", 2.5),
        ("-0.5", -0.5),
        ("true", True),
        ("false", False),
        ("00501", "00501"),
        ("1" * 19, "1" * 19),
        ("9" * 400 + ".0", "9" * 400 + ".0"),
        ("1e5", "1e5"),
        (".5", ".5"),
        ("True", "True"),
        ("٣", "٣"),
        (" 1", " 1"),
        ("", ""),
    ],
)
def test_csv_numbers_are_numbers_where_they_are_written_plainly(written, value):
    (found,) = read("a.csv", f"id,text,field\n007,42,{written}")
    assert (found.id, found.text) == ("007", "42")
    assert found.metadata["field"] == value
    assert type(found.metadata["field"]) is type(value)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
def test_jsonl_lines_end_at_line_feeds_alone(mark):
    line = json.dumps({"text": f"one{mark}two"}, ensure_ascii=False)
    assert [one.text for one in read("a.jsonl", f"{line}\r\n{line}\r\n")] == [f"one{mark}two"] * 2


def test_jsonl_keeps_what_a_store_can_keep():
    line = '{"page_content": "a", "year": 2020, "none": null, "deep": {"x": 1}, "metadata": {"lang": "en"}, "id": 7}'
    assert (
        read("a.jsonl", f"{line}\n\n{line}") == [Chunk("7", "a", {"source": "a.jsonl", "year": 2020, "lang": "en"})] * 2
    )


def test_a_record_in_several_pieces_has_numbered_ids():
    assert [one.id for one in read("a.jsonl", '{"id": "x", "text": "%s"}' % ("a" * 250), size=100)] == [
        "x#1",
        "x#2",
        "x#3",
    ]


def test_pdf_pages_are_numbered():
    found = read("a.pdf", pdf_of(["First page of tea", "Second page of coffee"]))
    assert found == [
        Chunk("a.pdf#1", "First page of tea", {"source": "a.pdf", "page": 1}),
        Chunk("a.pdf#2", "Second page of coffee", {"source": "a.pdf", "page": 2}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.docx", "x", "unknown kind, expected one of csv, jsonl, md, pdf, txt"),
        ("noending", "x", "unknown kind"),
        ("a.txt", b"\xff\xfd\xfc", "not utf-8-sig text at byte 0"),
        ("a.jsonl", '{"text": "a"}\n{', "line 2: not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", "[1]", "line 1: expected an object"),
        ("a.jsonl", '{"title": "a"}', "line 1: no text, expected one of the fields text"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b\\ud83d"}', "a.jsonl, line 2: text: not valid Unicode"),
        ("a.csv", "title,lang\na,b", "line 2: no text"),
        ("a.csv", "text\n" + "a" * 200_000, "not a readable table"),
        ("a.pdf", "nothing", "not a readable PDF"),
        ("a.pdf", "%PDF-1.7\n%%EOF", "not a readable PDF"),
    ],
)
def test_what_cannot_be_read(name, content, said):
    with pytest.raises(InvalidInputError, match=said):
        read(name, content)


def test_a_pdf_without_text():
    with pytest.raises(InvalidInputError, match="no text in it. Fix: run text recognition"):
        read("scan.pdf", pdf_of([""]))


def test_a_pdf_of_too_many_pages(monkeypatch):
    monkeypatch.setattr("bgem3.reading._MAX_PAGES", 2)
    assert len(read("a.pdf", pdf_of(["one", "two"]))) == 2
    with pytest.raises(InvalidInputError, match="3 pages, at most 2 are read. Fix: split the file"):
        read("a.pdf", pdf_of(["one", "two", "three"]))


def test_a_size_below_one():
    with pytest.raises(InvalidInputError, match="size: got 0, expected at least 1"):
        next(read_passages("a.txt", b"text", size=0))


def pdf_of(pages: list[str]) -> bytes:
    """Return a PDF with one line of text a page."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(width=300, height=300)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
