"""The cache of embeddings: what is encoded once, what makes it encoded again, what is let go."""

import asyncio
import gc
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from bgem3 import M3Encoder, cache
from bgem3.cache import EmbeddingCache, identity_of
from bgem3.errors import InvalidInputError, InvalidTextError, StoreWriteError, TruncationWarning
from bgem3.index.database import Database
from bgem3.lengths import Lengths
from tests.langchain.conftest import CountingBackend

TEXTS = ["The river rises.", "", "word word 7", "The river rises."]


@pytest.fixture
def make(checkpoint, tmp_path):
    """Return a function that loads an encoder over the cache of this test, with a counter of its forward passes."""

    def load(**options):
        encoder = M3Encoder.from_pretrained(checkpoint, backend="onnx", **{"cache": tmp_path / "cache", **options})
        encoder._backend = CountingBackend(encoder._backend)
        return encoder

    return load


def assert_same(got, expected):
    np.testing.assert_allclose(got.dense, expected.dense, atol=1e-6)
    np.testing.assert_allclose((got.sparse - expected.sparse).toarray(), 0, atol=1e-6)
    assert got.sparse.shape == expected.sparse.shape
    np.testing.assert_array_equal(got.multi_vector.offsets, expected.multi_vector.offsets)
    np.testing.assert_allclose(got.multi_vector.vectors, expected.multi_vector.vectors, atol=1e-6)


def test_a_text_is_encoded_once(make):
    expected = make(cache=None).encode(TEXTS)
    first = make()
    assert_same(first.encode(TEXTS), expected)
    assert first._backend.sequences == 3  # the fourth is the first again
    second = make()
    assert_same(second.encode(TEXTS[::-1]), expected[::-1])
    assert second._backend.sequences == 0
    assert_same(second.encode(["new", *TEXTS])[1:], expected)
    assert second._backend.sequences == 1


def test_beside_the_event_loop(make):
    encoder = make()
    expected = encoder.encode(TEXTS)

    async def ask():
        return await asyncio.gather(encoder.aencode(TEXTS), encoder.aencode(["new"]))

    known, fresh = asyncio.run(ask())
    assert_same(known, expected)
    assert_same(fresh, encoder.encode(["new"]))
    assert encoder._backend.sequences == 4
    encoder.close()


def test_heads_are_kept_apart(make):
    encoder = make()
    encoder.encode(["a"], heads=("dense",))
    encoder.encode(["a"], heads=("sparse",))
    assert encoder.encode(["a"], heads=("dense", "sparse")).heads == ("dense", "sparse")
    assert encoder._backend.sequences == 2
    encoder.encode(["a"])
    assert encoder._backend.sequences == 3


@pytest.mark.parametrize("other", [{"max_length": 64}, {"overflow": "truncate"}, {"backend": "torch"}])
def test_other_settings_read_nothing_of_it(make, other, checkpoint, tmp_path):
    make().encode(TEXTS)
    encoder = M3Encoder.from_pretrained(checkpoint, **{"backend": "onnx", "cache": tmp_path / "cache", **other})
    encoder._backend = CountingBackend(encoder._backend)
    encoder.encode(TEXTS)
    assert encoder._backend.sequences == 3


def test_a_length_of_one_call(make):
    encoder = make()
    long = "word " * 100
    whole = encoder.encode([long])
    assert len(encoder.encode([long], max_length=16, heads=("multi_vector",)).multi_vector[0]) > len(
        whole.multi_vector[0]
    )
    assert_same(encoder.encode([long]), whole)


def test_another_checkpoint_reads_nothing_of_it(make, checkpoint_factory, tmp_path):
    make().encode(TEXTS)
    other = M3Encoder.from_pretrained(checkpoint_factory(seed=5), backend="onnx", cache=tmp_path / "cache")
    other._backend = CountingBackend(other._backend)
    other.encode(TEXTS)
    assert other._backend.sequences == 3


def test_an_error_names_the_place_among_all_texts(make):
    encoder = make()
    encoder.encode(TEXTS)
    for wrong, said in (("\ud800", "not valid Unicode"), (7, "expected a str, got int")):
        with pytest.raises(InvalidTextError, match=rf"texts\[4\]: {said}"):
            encoder.encode([*TEXTS, wrong])
    with pytest.raises(InvalidInputError, match="got one str"):
        encoder.encode("text")
    assert len(encoder.encode([])) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "content = zeroblob(8) WHERE head = 'dense'",
        "content = CAST(content AS TEXT) WHERE head = 'dense'",
        "content = 7 WHERE head = 'dense'",
        "content = x'', sum = 0 WHERE head != 'sparse'",  # the checksum of nothing is 0
    ],
)
def test_a_damaged_row_is_encoded_again(make, tmp_path, damage):
    encoder = make()
    expected = encoder.encode(TEXTS)
    with sqlite3.connect(tmp_path / "cache" / "embeddings.sqlite") as file:
        file.execute(f"UPDATE rows SET {damage}")
    file.close()
    assert_same(encoder.encode(TEXTS), expected)
    assert encoder._backend.sequences == 6
    assert_same(encoder.encode(TEXTS), expected)
    assert encoder._backend.sequences == 6


@pytest.mark.parametrize("while_open", [True, False])
def test_a_damaged_file_is_begun_anew(make, tmp_path, while_open):
    encoder = make()
    expected = encoder.encode(TEXTS)
    encoder._cache._database.run("PRAGMA wal_checkpoint(TRUNCATE)")
    if not while_open:
        encoder.close()
    path = tmp_path / "cache" / "embeddings.sqlite"
    path.write_bytes(b"not a database " * 1000)
    again = encoder if while_open else make()
    assert_same(again.encode(TEXTS), expected)
    assert_same(make().encode(TEXTS), expected)
    assert make()._cache.size() > 0


@pytest.mark.parametrize(("written", "damaged"), [(b"TABLE rows", b"TA\xe5LE rows"), (b"dense", b"\xe5ense")])
def test_a_damaged_name_is_as_a_damaged_file(make, tmp_path, written, damaged):
    encoder = make()
    expected = encoder.encode(TEXTS)
    encoder._cache._database.run("PRAGMA wal_checkpoint(TRUNCATE)")
    encoder.close()
    path = tmp_path / "cache" / "embeddings.sqlite"
    content = path.read_bytes()
    assert written in content
    path.write_bytes(content.replace(written, damaged))
    again = make()
    assert_same(again.encode(TEXTS), expected)
    assert again._cache.size() > 0


@pytest.mark.parametrize("ask", [EmbeddingCache.size, EmbeddingCache.clear])
def test_a_damaged_file_can_be_measured_and_cleared(tmp_path, ask):
    EmbeddingCache(tmp_path).close()
    path = tmp_path / "embeddings.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))  # the first page, which names the tables, stays
    again = EmbeddingCache(tmp_path)
    assert not ask(again)
    again.close()


def test_closing_loses_nothing(make):
    encoder = make()
    encoder.encode(TEXTS)
    encoder.close()
    encoder.encode(TEXTS)
    assert encoder._backend.sequences == 3


def test_the_least_recently_used_go(make, monkeypatch):
    encoder = make(cache_bytes=3000)
    texts = [f"text {number}" for number in range(8)]  # dense vectors of 64 float32: 256 bytes each
    for hour, text in enumerate(texts):
        monkeypatch.setattr("bgem3.cache._now", lambda hour=hour: hour)
        encoder.encode([text], heads=("dense",))
    monkeypatch.setattr("bgem3.cache._now", lambda: 100)
    encoder.encode(texts[:1], heads=("dense",))  # used last
    encoder.encode([f"more {number}" for number in range(5)], heads=("dense",))  # 13 x 256 is over 3,000
    assert encoder._cache.size() == 10 * 256  # down to 90 %
    before = encoder._backend.sequences
    encoder.encode(texts[:1], heads=("dense",))
    assert encoder._backend.sequences == before
    encoder.encode(texts[1:4], heads=("dense",))
    assert encoder._backend.sequences == before + 3
    encoder._cache.clear()
    assert encoder._cache.size() == 0


def test_two_processes_write_at_once(make, tmp_path, checkpoint):
    code = (
        "import sys; from bgem3 import M3Encoder\n"
        "encoder = M3Encoder.from_pretrained(sys.argv[1], backend='onnx', cache=sys.argv[2])\n"
        "for number in range(40): encoder.encode([f'text {number}', f'{sys.argv[3]} {number}'])\n"
        "encoder.close()\n"
    )
    command = [sys.executable, "-c", code, str(checkpoint), str(tmp_path / "cache")]
    running = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    encoder = make()
    expected = make(cache=None)
    texts = [f"{name} {number}" for name in ("text", "one", "two") for number in range(40)]
    assert_same(encoder.encode(texts), expected.encode(texts))
    assert encoder._backend.sequences == 0


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreWriteError, match="Fix: cache="):
        EmbeddingCache(tmp_path / "file")
    with pytest.raises(StoreWriteError, match=r"~nobody-here/cache: .* Fix: cache="):
        EmbeddingCache("~nobody-here/cache")
    with pytest.raises(InvalidInputError, match="cache_bytes: got 0"):
        EmbeddingCache(tmp_path, 0)


def test_a_text_that_is_cut_is_told_of_when_it_is_known_too(make):
    encoder = make(overflow="truncate", max_length=8)
    for texts, count in (
        (["x " * 50, "y " * 50], "2 of 2"),
        (["x " * 50, "y " * 50], "2 of 2"),
        (["x " * 50, "z " * 50, "w"], "2 of 3"),
    ):
        with pytest.warns(TruncationWarning, match=count) as told:
            encoder.encode(texts)
        assert len(told) == 1


def test_arrays_of_strings(make):
    assert_same(make().encode(np.array(TEXTS)), make(cache=None).encode(TEXTS))


def test_reopening_keeps_nothing_of_before(make):
    encoder = make()
    for _ in range(3):
        encoder.encode(TEXTS)
        encoder.close()
    assert sum(type(one) is Database and one.path == encoder._cache.path for one in gc.get_objects()) == 0


def test_vectors_of_another_version_of_a_converted_form_are_not_taken(monkeypatch):
    def identities():
        lengths = Lengths(max_length=512, overflow="window", window=512, window_overlap=64)
        return {name: identity_of("f", "onnx", name, lengths) for name in ("float32", "int8", "int4")}

    before = identities()
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    after = identities()
    assert [name for name in before if before[name] != after[name]] == ["int8", "int4"]
