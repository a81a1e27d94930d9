"""Torch files are read exactly, and nothing in them is executed."""

import struct
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from bgem3.errors import CheckpointFileError, CheckpointNotFoundError
from bgem3.torch_file import check_torch_file, read_torch_file


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def rewrite(path: Path, change) -> None:
    """Pass each entry of a zip file through `change(name, content)`; None drops it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if (changed := change(name, content)) is not None:
                archive.writestr(name, changed)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "head.pt"


@pytest.fixture
def saved(path):
    torch.save({"weight": torch.arange(6.0).reshape(2, 3)}, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int32, torch.int64])
def test_numbers_and_dtype_are_kept(path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    torch.save({"a": tensor, "empty": torch.empty(0, 3, dtype=dtype), "scalar": torch.tensor(7, dtype=dtype)}, path)
    read = read_torch_file(path)
    assert list(read) == ["a", "empty", "scalar"]
    np.testing.assert_array_equal(read["a"], tensor.numpy())
    assert read["a"].dtype == tensor.numpy().dtype
    assert read["empty"].shape == (0, 3)
    assert read["scalar"].shape == ()
    assert read["scalar"] == 7


def test_bfloat16_becomes_float32(path):
    tensor = torch.tensor([1.0, -2.5, 3.14159, 1e30, 0.0], dtype=torch.bfloat16)
    torch.save({"a": tensor, "empty": tensor[:0]}, path)
    read = read_torch_file(path)
    assert read["a"].dtype == read["empty"].dtype == np.float32
    np.testing.assert_array_equal(read["a"], tensor.float().numpy())


def test_a_module_with_metadata_and_parameters_in_half_precision(path):
    layer = torch.nn.Linear(5, 3, dtype=torch.float16)
    torch.save(layer.state_dict(), path)
    read = read_torch_file(path)
    np.testing.assert_array_equal(read["weight"], layer.weight.detach().numpy())
    np.testing.assert_array_equal(read["bias"], layer.bias.detach().numpy())


def test_views_of_one_storage(path):
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"rows": whole[1:3], "turned": whole[1:3].T, "steps": whole[:, ::2], "one": whole[3, 5]}
    torch.save(views, path)
    for name, array in read_torch_file(path).items():
        np.testing.assert_array_equal(array, views[name].numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_with_a_dictionary(path, protocol):
    torch.save({"a": torch.ones(2), "b": torch.zeros(3)}, path, pickle_protocol=protocol)
    assert {name: array.tolist() for name, array in read_torch_file(path).items()} == {"a": [1, 1], "b": [0, 0, 0]}


def test_big_endian_numbers(saved):
    def turn(name, content):
        if name.endswith("/byteorder"):
            return b"big"
        return struct.pack(">6f", *struct.unpack("<6f", content)) if "/data/" in name else content

    rewrite(saved, turn)
    np.testing.assert_array_equal(read_torch_file(saved)["weight"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_a_payload_is_refused_and_not_executed(path, tmp_path):
    target = tmp_path / "executed"
    torch.save({"weight": torch.ones(1), "extra": Payload(target)}, path)
    with pytest.raises(
        CheckpointFileError, match=r"head\.pt: the file holds a reference to .*exec.*not executed.*Fix:"
    ):
        read_torch_file(path)
    assert not target.exists()


def test_the_payload_would_have_worked(path, tmp_path):
    target = tmp_path / "executed"
    torch.save({"extra": Payload(target)}, path)
    torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "something else than a flat dictionary"),
        ({"a": {"b": torch.ones(1)}}, "something else than a flat dictionary"),
        ({"a": "text"}, "something else than a flat dictionary"),
        ({1: torch.ones(1)}, "name is not a string"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        ({"a": {1, 2}}, "__builtin__.set"),
        ({"a": b"bytes"}, "_codecs.encode"),
    ],
)
def test_only_a_flat_dictionary_of_tensors(path, content, message):
    torch.save(content, path)
    with pytest.raises(CheckpointFileError, match=message):
        read_torch_file(path)


def test_the_format_before_torch_1_6(path):
    torch.save({"weight": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(
        CheckpointFileError, match=r"head\.pt: a pickle of the format before torch 1\.6.*Fix: save it again"
    ):
        read_torch_file(path)
    with pytest.raises(CheckpointFileError, match=r"before torch 1\.6"):
        check_torch_file(path)


def test_every_truncation_is_an_error(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 61):
        saved.write_bytes(content[:length])
        with pytest.raises(CheckpointFileError, match=r"head\.pt: .*Fix: download the file again"):
            read_torch_file(saved)
        with pytest.raises(CheckpointFileError, match="Fix: download"):
            check_torch_file(saved)


def test_a_file_that_is_something_else(path):
    path.write_text("<html>404</html>")
    with pytest.raises(CheckpointFileError, match=r"expected a zip file written by torch\.save, got bytes"):
        read_torch_file(path)


def test_a_pointer_of_git_lfs(path):
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3516\n")
    with pytest.raises(CheckpointFileError, match=r"head\.pt: a pointer of Git LFS .*Fix: git lfs pull"):
        read_torch_file(path)


def test_a_file_that_is_not_there(path):
    with pytest.raises(CheckpointNotFoundError, match=r"head\.pt: no such file"):
        read_torch_file(path)


def test_a_missing_storage(saved):
    rewrite(saved, lambda name, content: None if "/data/" in name else content)
    with pytest.raises(CheckpointFileError, match="data/0 is missing in the zip file"):
        read_torch_file(saved)


def test_a_short_storage(saved):
    rewrite(saved, lambda name, content: content[:-4] if "/data/" in name else content)
    with pytest.raises(CheckpointFileError, match=r"weight of shape \(2, 3\) needs more than the 5 numbers"):
        read_torch_file(saved)


def test_a_zip_without_a_description(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointFileError, match=r"expected one data\.pkl in the zip file, got 0"):
        read_torch_file(path)


def test_a_directory_with_a_name_that_is_no_utf8(saved):
    content = bytearray(saved.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 9] |= 8  # "the name is UTF-8"
    content[entry + 46] = 0xFF
    saved.write_bytes(content)
    for read in (read_torch_file, check_torch_file):
        with pytest.raises(CheckpointFileError, match="truncated or damaged"):
            read(saved)


def test_a_directory_that_lies_behind_the_file(saved):
    content = bytearray(saved.read_bytes())
    end = content.rfind(b"PK\x06\x06")
    content[end + 48 : end + 56] = (2**40).to_bytes(8, "little")
    saved.write_bytes(content)
    with pytest.raises(CheckpointFileError, match="truncated or damaged"):
        read_torch_file(saved)


def test_an_unknown_byte_order(saved):
    rewrite(saved, lambda name, content: b"middle" if name.endswith("byteorder") else content)
    with pytest.raises(CheckpointFileError, match="byteorder is b'middle', expected 'little' or 'big'"):
        read_torch_file(saved)


def test_a_byte_order_of_gigabytes_is_not_read(saved):
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist() if not name.endswith("byteorder")}
        root = archive.namelist()[0].split("/")[0]
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.writestr(f"{root}/byteorder", b"little" + bytes(200 * 2**20), zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(CheckpointFileError, match="byteorder is b'little"):
        read_torch_file(saved)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_many_marks_take_no_long_time(saved):
    marks = 200_000  # 20,000,000,000 steps if each looked at the whole stack
    description = b"\x80\x02" + b")" * marks + b"(t" * marks + b"."
    rewrite(saved, lambda name, content: description if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointFileError, match="something else than a flat dictionary"):
        read_torch_file(saved)


def test_a_compressed_storage(saved):
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointFileError, match="is compressed, expected stored"):
        read_torch_file(saved)


def test_a_description_that_is_too_large(saved):
    rewrite(saved, lambda name, content: content + bytes(17 * 2**20) if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointFileError, match=r"data\.pkl has .* bytes, expected at most"):
        read_torch_file(saved)


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b".",
        b"\x80\x02}",
        b"\x80\x02u.",
        b"\x80\x02)R.",
        b"\x80\x02h\x05.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02]K\x01b.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02\x8c\x02os\x8c\x06system\x93.",
    ],
)
def test_strange_descriptions(saved, description):
    rewrite(saved, lambda name, content: description if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointFileError, match=r"head\.pt: .*Fix:"):
        read_torch_file(saved)


def test_a_description_with_any_byte_changed_never_escapes(saved):
    with zipfile.ZipFile(saved) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        original = archive.read(name)
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 0xFF
        rewrite(saved, lambda name, content, new=bytes(changed): new if name.endswith("data.pkl") else content)
        with suppress(CheckpointFileError):
            read_torch_file(saved)


def test_a_large_view_of_a_small_storage_is_refused(path):
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, path)
    with pytest.raises(CheckpointFileError, match="needs more than the 1 numbers"):
        read_torch_file(path)


@pytest.mark.parametrize("shape", [(0, 2**45), (0,) * 9])
def test_a_shape_that_makes_no_sense(path, shape):
    torch.save({"a": torch.empty(shape)}, path)
    with pytest.raises(CheckpointFileError, match="a tensor whose offset, size or stride makes no sense"):
        read_torch_file(path)
