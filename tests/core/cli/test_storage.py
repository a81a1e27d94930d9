"""`bgem3 info`, `verify` and `repair` on real folders."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import asdict

import chromadb
import pytest
from typer.testing import CliRunner

from bgem3 import ChromaStore, HybridIndex, M3Encoder
from bgem3.cli.main import make_app
from bgem3.errors import IndexMismatchError, TruncationWarning
from bgem3.stores.chroma_embedded import OWNER

TEXTS = ["Brake pads wear out.", "Part KX-220B fits the small pump.", "茶叶含有茶氨酸，能让人放松。"]
IDS = ["brakes", "pump", "tea"]


@pytest.fixture
def db(checkpoint, tmp_path):
    with HybridIndex(M3Encoder.from_pretrained(checkpoint), ChromaStore(tmp_path / "db")) as index:
        index.add(TEXTS, ids=IDS)
    return tmp_path / "db"


def run(command, db, *arguments):
    return CliRunner().invoke(make_app(), [command, "--db", str(db), *map(str, arguments)])


def damage(db, id_):
    with sqlite3.connect(db / "bgem3-bgem3.sqlite3") as sidecar:
        sidecar.execute("UPDATE rows SET multi_vector = x'00' WHERE id = ?", [id_])
    sidecar.close()


def test_info_counts_chunks_and_bytes(db, checkpoint):
    told = json.loads(run("info", db, "--json").stdout)
    assert told["chunks"] == 3
    assert told["bytes"]["sidecar"] >= (db / "bgem3-bgem3.sqlite3").stat().st_size
    assert told["settings"]["fingerprint"] == M3Encoder.from_pretrained(checkpoint).fingerprint
    assert told["settings"]["codec"] == "binary"
    assert "chunks" in run("info", db).stdout


def test_a_whole_collection_verifies(db):
    done = run("verify", db)
    assert (done.exit_code, done.stdout.strip()) == (0, "3 chunks, every one whole")


def test_damage_is_found_and_repaired_by_encoding_that_chunk_alone(db, checkpoint):
    damage(db, "pump")
    done = run("verify", db)
    assert done.exit_code == 1
    assert "pump" in done.stdout
    assert f"Fix: bgem3 repair --db {db} --collection bgem3" in done.stdout.replace("\n", "")
    assert json.loads(run("verify", db, "--json").stdout)["problems"] == {"pump": "damaged"}
    mended = json.loads(run("repair", db, "--model", checkpoint, "--json").stdout)
    assert mended == {"chunks": 3, "mended": {"pump": "damaged"}}
    assert run("verify", db).exit_code == 0


def test_a_collection_that_is_not_there(tmp_path):
    done = run("info", tmp_path)
    assert "not there" in str(done.exception)


def test_what_is_restored_or_copied_keeps_the_codec_that_is_asked_for(db, tmp_path):
    def done(*arguments):
        return CliRunner().invoke(make_app(), [*map(str, arguments)])

    assert done("export", f"chroma:{db}", tmp_path / "export").exit_code == 0
    assert done("import", tmp_path / "export", f"chroma:{tmp_path / 'restored'}", "--codec", "int8").exit_code == 0
    assert done("copy", f"chroma:{db}", f"chroma:{tmp_path / 'copied'}", "--codec", "int4").exit_code == 0
    for place, codec in (("restored", "int8"), ("copied", "int4")):
        assert json.loads(run("info", tmp_path / place, "--json").stdout)["settings"]["codec"] == codec
    refused = done("import", tmp_path / "export", f"qdrant:{tmp_path / 'points'}", "--codec", "int8")
    assert "codec: Qdrant keeps token vectors as numbers" in str(refused.exception)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_folder_that_cannot_be_written_is_to_be_copied(db, monkeypatch, command):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    (
        db / "bgem3-bgem3.sqlite3-wal"
    ).mkdir()  # root may write everywhere: this is what SQLite says of a folder it may not
    assert "Fix: copy the folder to where it can be written" in str(run(command, db).exception)


def test_compact_gives_back_what_deleted_chunks_took(tmp_path, checkpoint):
    db, encoder = tmp_path / "db", M3Encoder.from_pretrained(checkpoint)
    with HybridIndex(encoder, ChromaStore(db, codec="float32")) as index:
        ids = index.add([f"{TEXTS[i % 3]} {i}" for i in range(300)])
        index.delete(ids=ids[3:])
    size = sum(path.stat().st_size for path in db.rglob("*") if path.is_file())
    done = json.loads(run("compact", db, "--json").stdout)
    left = sum(path.stat().st_size for path in db.rglob("*") if path.is_file())
    assert done["before"]["sidecar"] > 4 * done["after"]["sidecar"]
    assert done["after"]["chroma, all collections"] < done["before"]["chroma, all collections"]
    assert size - left == pytest.approx(done["freed"], abs=100_000)
    assert run("verify", db).stdout.strip() == "3 chunks, every one whole"
    with HybridIndex(encoder, ChromaStore(db)) as index:
        assert index.search(f"{TEXTS[1]} 1", k=1)[0].id == ids[1]
    assert "given back" in run("compact", db).stdout


def test_export_and_import(db, tmp_path):
    def out(*arguments):
        done = CliRunner().invoke(make_app(), list(map(str, arguments)))
        return done.stdout if not done.exception else repr(done.exception)

    folder, target = tmp_path / "export", f"qdrant:{tmp_path / 'q'}#parts"
    assert json.loads(out("export", f"chroma:{db}", folder, "--codec", "binary", "--json"))["chunks"] == 3
    assert "is not empty" in out("export", f"chroma:{db}", folder)
    done = json.loads(out("import", folder, target, "--json"))
    assert (done["copied"], done["skipped"], done["count"]) == (3, 0, 3)
    assert "0 chunks imported, 3 were there, 3 in" in out("import", folder, target)
    (folder / "chunks.jsonl").write_text("")
    assert "has 0 bytes, expected" in out("import", folder, target)


def test_repair_keeps_what_can_be_read_of_a_damaged_file(db, checkpoint):
    path = db / "bgem3-bgem3.sqlite3"
    path.write_bytes(b"no SQLite file")
    assert "Fix: restore a backup, or bgem3 repair" in str(run("verify", db).exception)
    done = run("repair", db, "--model", checkpoint)
    assert "put aside as bgem3-bgem3.sqlite3.damaged; 0 rows of it are kept" in done.stdout
    assert "3 chunks, 3 mended" in done.stdout
    assert run("verify", db).exit_code == 0
    assert path.with_name(f"{path.name}.damaged").read_bytes() == b"no SQLite file"


def test_repair_reads_texts_with_the_lengths_of_the_collection(tmp_path, checkpoint):
    long = "Brake pads wear out. " * 9 + "zebra"
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=16, overflow="truncate")
    with HybridIndex(encoder, ChromaStore(tmp_path)) as index:
        with pytest.warns(TruncationWarning):
            index.add([long, "short"], ids=["long", "short"])
        before = index.dense_vectors(["long"])["long"]
        assert index.search("zebra", mode="sparse") == []
    damage(tmp_path, "long")
    with pytest.warns(TruncationWarning):
        assert json.loads(run("repair", tmp_path, "--model", checkpoint, "--json").stdout)["mended"] == {
            "long": "damaged"
        }
    with HybridIndex(encoder, ChromaStore(tmp_path)) as index:
        assert index.search("zebra", mode="sparse") == []
        assert index.dense_vectors(["long"])["long"] == pytest.approx(before, abs=1e-3)


@pytest.mark.parametrize("opened_meanwhile", [False, True])
def test_a_lost_file_is_made_with_what_it_was_made_with(tmp_path, checkpoint, opened_meanwhile):
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=40, overflow="truncate")
    with HybridIndex(encoder, ChromaStore(tmp_path, codec="int4"), lexical="bm25") as index:
        index.add(TEXTS, ids=IDS)
        settings = index.settings
    (tmp_path / "bgem3-bgem3.sqlite3").unlink()
    if opened_meanwhile:
        with pytest.raises(IndexMismatchError, match="bgem3 repair if the file was lost"):
            HybridIndex(encoder, ChromaStore(tmp_path))
    done = run("repair", tmp_path, "--model", checkpoint)
    assert "0 rows of it are kept; codec int4, lexical bm25\n" in done.stdout
    assert "3 chunks, 3 mended" in done.stdout
    assert json.loads(run("info", tmp_path, "--json").stdout)["settings"] == asdict(settings) | {"codec": "int4"}


def test_of_a_lost_file_that_chroma_tells_nothing_of_the_defaults_are_taken_and_said(db, checkpoint):
    (db / "bgem3-bgem3.sqlite3").unlink()
    with closing(chromadb.PersistentClient(str(db))) as client:
        collection = client.get_collection("bgem3")
        collection.modify(metadata={key: value for key, value in collection.metadata.items() if key == OWNER})
    assert "codec binary, lexical m3\n" in run("repair", db, "--model", checkpoint).stdout
