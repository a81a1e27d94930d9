"""`bgem3 ingest` and `bgem3 copy`, as a shell runs them."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from bgem3.cli.main import make_app
from bgem3.errors import InvalidInputError, StoreNotFoundError
from bgem3.moving import checksum
from bgem3.records import read_records
from bgem3.stores.addresses import Address
from bgem3.types import Chunk


def run(*arguments):
    done = CliRunner().invoke(make_app(), [*map(str, arguments), "--json"], catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    rows = [{"id": f"d{i}", "text": f"the cat number {i}", "n": i, "none": None, "tags": []} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_ingested_twice_copied_twice(records, tmp_path, checkpoint):
    qdrant, milvus = f"qdrant:{tmp_path / 'q'}#news", f"milvus:{tmp_path / 'm.db'}"
    for _ in range(2):
        assert run("ingest", records, "--to", qdrant, "--id-field", "id", "--model", checkpoint)["texts"] == 30
    first = run("copy", qdrant, milvus)
    assert (first["copied"], first["skipped"], first["count"]) == (30, 0, 30)
    again = run("copy", qdrant, milvus)
    assert (again["copied"], again["skipped"], again["checksum"]) == (0, 30, first["checksum"])
    store = Address.parse(milvus).make()
    store.open()
    assert store.get(["d7"]) == [Chunk("d7", "the cat number 7", {"n": 7})]
    store.close()


def test_a_checksum_is_the_same_in_any_order():
    chunks = [Chunk(str(i), "x", {"n": i}) for i in range(5)]
    assert checksum(chunks) == checksum(chunks[::-1]) != checksum([*chunks[:4], Chunk("4", "x", {"n": 5})])


def test_nothing_to_copy(tmp_path):
    with pytest.raises(StoreNotFoundError, match="not there"):
        run("copy", f"qdrant:{tmp_path / 'a'}", f"qdrant:{tmp_path / 'b'}")


@pytest.mark.parametrize("address", ["", "qdrant", "qdrant:", "redis:x"])
def test_addresses_that_name_no_store(address):
    with pytest.raises(InvalidInputError, match="store: got .* expected chroma:FOLDER"):
        Address.parse(address)


def test_addresses():
    assert Address.parse("qdrant:http://host:6333#news") == Address("qdrant", "http://host:6333", "news")
    assert Address.parse("chroma:./db").collection == "bgem3"
    assert Address.parse("milvus:http://h:1").is_server
    assert not Address.parse("milvus:./m.db").is_server


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ('{"id": "a"}', "no text in field 'text'"),
        ('{"text": "a", "x": {}}', "dict"),
        (r'{"text": "\ud800"}', "field 'text': not valid Unicode"),
    ],
)
def test_bad_records_are_named_by_file_and_line(tmp_path, checkpoint, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"text": "good"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(InvalidInputError, match=f"bad.jsonl:3.*{message}"):
        run("ingest", path, "--to", f"qdrant:{tmp_path / 'q'}", "--model", checkpoint)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: b"no Parquet " * 20,
        lambda content: content[:-8] + b"\xff" * 4 + content[-4:],  # how long the description is
        lambda content: content.replace("zwölf".encode(), b"zw\xff\xfflf"),
    ],
)
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    path = tmp_path / "damaged.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["zwölf"]}), path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    with pytest.raises(
        InvalidInputError, match=r"damaged.parquet: cannot be read as Parquet \(.*\)\. Fix: write it again"
    ):
        list(read_records([path]))


def test_a_bad_record_of_a_parquet_file_is_named_by_its_number(tmp_path, checkpoint):
    path = tmp_path / "bad.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good", None]}), path)
    with pytest.raises(InvalidInputError, match="bad.parquet:2: no text in field 'text'"):
        run("ingest", path, "--to", f"qdrant:{tmp_path / 'q'}", "--model", checkpoint)


def test_an_id_may_be_the_number_0(tmp_path, checkpoint):
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": 0, "text": "zero"}\n{"id": 1, "text": "one"}\n', encoding="utf-8")
    target = f"chroma:{tmp_path / 'db'}"
    assert run("ingest", path, "--to", target, "--id-field", "id", "--model", checkpoint)["texts"] == 2
    store = Address.parse(target).make()
    store.open()
    assert [chunk.text for chunk in store.get(["0", "1"])] == ["zero", "one"]
    store.close()
    path.write_text('{"text": "none"}\n', encoding="utf-8")
    with pytest.raises(InvalidInputError, match="no id in field 'id', there are \\['text'\\]"):
        run("ingest", path, "--to", target, "--id-field", "id", "--model", checkpoint)
