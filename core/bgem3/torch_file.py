"""Tensors out of a torch zip file, without torch and without executing pickle.

Such a file is a zip archive: `data.pkl` describes a state dict, `data/<key>` holds raw numbers.
The description is walked opcode by opcode (`pickletools.genops` decodes and executes nothing)
by an interpreter that knows a plain state dict and refuses everything else.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bgem3.errors import CheckpointFileError, CheckpointNotFoundError

_MAX_DESCRIPTION = 16 * 2**20
_MAX_AXES = 8
_MAX_NUMBER = 2**40
_BFLOAT16 = "bfloat16"
_STORAGES = {
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
}
# What zipfile raises: damage, a method it does not know, a password, an early end, a place or name that is none.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, UnicodeDecodeError)
_SAVE_AGAIN = "Fix: save it again with torch.save(module.state_dict(), path), torch 1.6 or later"
_FETCH_AGAIN = "Fix: download the file again"


def read_torch_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors of a state dict that `torch.save` wrote as a zip file.

    Nothing in the file is executed. Float16, float32, float64, int32 and int64 tensors keep their
    dtype and shape; bfloat16 becomes float32. The arrays are maps of the file (copy on write), so
    a large file costs no memory until it is read.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointFileError: the file is truncated, of torch's format before 1.6, or holds
            anything but a plain state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path}: no such file. {_FETCH_AGAIN}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except _UNREADABLE as error:
        raise CheckpointFileError(_not_a_zip(path, error)) from error


def check_torch_file(path: Path) -> None:
    """Check that a torch file is whole, as far as its zip directory tells; reads no tensor.

    Raises:
        CheckpointFileError: the file is truncated, or not a zip file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _archive_root(path, archive)
    except _UNREADABLE as error:
        raise CheckpointFileError(_not_a_zip(path, error)) from error


def _not_a_zip(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(b"PK"):
        return f"{path}: the file is truncated or damaged ({error}). {_FETCH_AGAIN}"
    if start.startswith(b"\x80"):
        return f"{path}: a pickle of the format before torch 1.6, which cannot be read safely. {_SAVE_AGAIN}"
    if start == b"version http":
        return f"{path}: a pointer of Git LFS in the file's place. Fix: git lfs pull, or the hub id"
    return f"{path}: expected a zip file written by torch.save, got bytes that start with {start[:4]!r}. {_FETCH_AGAIN}"


def _archive_root(path: Path, archive: zipfile.ZipFile) -> str:
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise CheckpointFileError(
            f"{path}: expected one data.pkl in the zip file, got {len(roots)}; torch.save did not write it. {_SAVE_AGAIN}"
        )
    return roots[0]


def _read_archive(path: Path, archive: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    root = _archive_root(path, archive)
    size = archive.getinfo(f"{root}data.pkl").file_size
    if size > _MAX_DESCRIPTION:
        raise CheckpointFileError(
            f"{path}: data.pkl has {size:,} bytes, expected at most {_MAX_DESCRIPTION:,} for a state dict. {_SAVE_AGAIN}"
        )
    tensors = _Interpreter(path).run(archive.read(f"{root}data.pkl"))
    order = b"little"
    if f"{root}byteorder" in archive.namelist():
        with archive.open(f"{root}byteorder") as entry:  # may unpack to gigabytes
            order = entry.read(20).strip()
    if order not in (b"little", b"big"):
        raise CheckpointFileError(f"{path}: byteorder is {order!r}, expected 'little' or 'big'. {_SAVE_AGAIN}")
    content = np.memmap(path, mode="c", dtype=np.uint8)
    return {
        name: _tensor(
            path, name, tensor, _stored_bytes(path, archive, content, f"{root}data/{tensor.storage.key}"), order
        )
        for name, tensor in tensors.items()
    }


def _stored_bytes(path: Path, archive: zipfile.ZipFile, content: NDArray[np.uint8], entry: str) -> NDArray[np.uint8]:
    """Return the bytes of a zip entry that is stored uncompressed, as torch stores them."""
    try:
        info = archive.getinfo(entry)
    except KeyError as error:
        raise CheckpointFileError(f"{path}: {entry} is missing in the zip file. {_FETCH_AGAIN}") from error
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointFileError(f"{path}: {entry} is compressed, expected stored as torch.save does. {_SAVE_AGAIN}")
    header = content[info.header_offset : info.header_offset + 30].tobytes()
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointFileError(f"{path}: {entry} does not begin where the zip directory says. {_FETCH_AGAIN}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    stored = content[start : start + info.file_size]
    if len(stored) != info.file_size:
        raise CheckpointFileError(f"{path}: {entry} is truncated. {_FETCH_AGAIN}")
    return stored


def _tensor(path: Path, name: str, tensor: _Tensor, stored: NDArray[np.uint8], order: bytes) -> NDArray[Any]:
    """Cut a tensor out of its storage, after checking that it lies inside."""
    kind = "u2" if tensor.storage.dtype == _BFLOAT16 else tensor.storage.dtype
    dtype = np.dtype(kind).newbyteorder("<" if order == b"little" else ">")
    count = len(stored) // dtype.itemsize
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.size, tensor.stride, strict=True))
    empty = math.prod(tensor.size) == 0
    if not empty and (last >= count or math.prod(tensor.size) > count):
        raise CheckpointFileError(
            f"{path}: {name} of shape {tensor.size} needs more than the {count} numbers that are stored. {_FETCH_AGAIN}"
        )
    if empty:
        return np.empty(tensor.size, np.float32 if tensor.storage.dtype == _BFLOAT16 else dtype.newbyteorder("="))
    numbers = stored[: count * dtype.itemsize].view(dtype)[tensor.offset :]
    strides = tuple(stride * dtype.itemsize for stride in tensor.stride)
    array = np.lib.stride_tricks.as_strided(numbers, tensor.size, strides)
    if tensor.storage.dtype == _BFLOAT16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_MARK = _Global("mark")
_ORDERED_DICT = _Global("collections OrderedDict")
_REBUILD = _Global("torch._utils _rebuild_tensor_v2")
_GLOBALS = {known.name: known for known in (_ORDERED_DICT, _REBUILD)} | {
    f"torch {name}": _Global(f"torch {name}") for name in _STORAGES
}
_PUSHES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "NONE": lambda: None,
}


class _Interpreter:
    """The few opcodes of a plain state dict, on a stack of plain values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, description: bytes) -> dict[str, _Tensor]:
        try:
            for opcode, arg, _ in pickletools.genops(description):
                self.step(opcode.name, arg)
            state = self.stack.pop()
        except CheckpointFileError:
            raise
        # the bytes are a stranger's: whatever they make an opcode trip over means the same
        except Exception as error:
            raise CheckpointFileError(f"{self.path}: data.pkl is damaged ({error}). {_FETCH_AGAIN}") from error
        if not isinstance(state, dict) or not all(isinstance(tensor, _Tensor) for tensor in state.values()):
            self.refuse("something else than a flat dictionary of tensors")
        if not all(isinstance(name, str) for name in state):
            self.refuse("a tensor whose name is not a string")
        return state

    def refuse(self, what: str) -> NoReturn:
        raise CheckpointFileError(
            f"{self.path}: the file holds {what}, which a state dict of tensors does not need; "
            f"it was not executed. {_SAVE_AGAIN}, and only take files from people you trust"
        )

    def step(self, name: str, arg: Any) -> None:
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name in _PUSHES:
            self.stack.append(arg)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, arg)
        else:
            self.refuse(f"the pickle opcode {name}")

    def to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def put(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int) -> None:
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(values))

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            self.refuse("items set on something that is no dictionary")
        target.update(zip(values[::2], values[1::2], strict=True))

    def append_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            self.refuse("items appended to something that is no list")
        self.stack[-1].extend(values)

    def find_global(self, name: str) -> None:
        if name not in _GLOBALS:
            self.refuse(f"a reference to the Python object {name.replace(' ', '.')!r}")
        self.stack.append(_GLOBALS[name])

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find_global(f"{module} {name}")

    def find_storage(self) -> None:
        kind, storage_type, key, _location, _count = self.stack.pop()
        dtype = _STORAGES.get(storage_type.name.removeprefix("torch ")) if isinstance(storage_type, _Global) else None
        if kind != "storage" or dtype is None or not isinstance(key, str):
            self.refuse("a persistent id that is no tensor storage")
        self.stack.append(_Storage(key, dtype))

    def call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if function is _ORDERED_DICT and args == ():
            self.stack.append({})
        elif function is _REBUILD:
            self.stack.append(self.rebuild(*args))
        else:
            self.refuse("a call of something else than _rebuild_tensor_v2 or OrderedDict()")

    def rebuild(self, storage: Any, offset: Any, size: Any, stride: Any, *_hooks: Any) -> _Tensor:
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or len(size) != len(stride):
            self.refuse("a tensor without a storage, size and stride")
        if len(size) > _MAX_AXES or not all(type(number) is int and 0 <= number < _MAX_NUMBER for number in numbers):
            self.refuse("a tensor whose offset, size or stride makes no sense")
        return _Tensor(storage, offset, tuple(size), tuple(stride))

    def build(self) -> None:
        """Drop the attributes of an OrderedDict: a module's state dict carries `_metadata`."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            self.refuse("attributes set on something that is no dictionary")


_STEPS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "BINPUT": _Interpreter.put,
    "LONG_BINPUT": _Interpreter.put,
    "MEMOIZE": _Interpreter.put,
    "BINGET": _Interpreter.get,
    "LONG_BINGET": _Interpreter.get,
    "TUPLE": lambda self, _: self.stack.append(tuple(self.to_mark())),
    "TUPLE1": lambda self, _: self.tuple_of(1),
    "TUPLE2": lambda self, _: self.tuple_of(2),
    "TUPLE3": lambda self, _: self.tuple_of(3),
    "SETITEM": lambda self, _: self.set_items([self.stack.pop(-2), self.stack.pop()]),
    "SETITEMS": lambda self, _: self.set_items(self.to_mark()),
    "APPEND": lambda self, _: self.append_items([self.stack.pop()]),
    "APPENDS": lambda self, _: self.append_items(self.to_mark()),
    "GLOBAL": _Interpreter.find_global,
    "STACK_GLOBAL": lambda self, _: self.stack_global(),
    "BINPERSID": lambda self, _: self.find_storage(),
    "REDUCE": lambda self, _: self.call(),
    "BUILD": lambda self, _: self.build(),
}
