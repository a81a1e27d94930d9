"""Every error and warning of the project, as one tree.

BGEM3Error
├── InvalidInputError (ValueError)         an argument is wrong; nothing was changed
│   ├── InvalidTextError                   not a string, or not valid Unicode
│   ├── TextTooLongError                   longer than max_length under overflow="error"
│   ├── InvalidFilterError                 a `where` that does not follow the grammar
│   ├── InvalidMetadataError               metadata a store cannot keep
│   ├── DuplicateIdError                   one id twice in a call
│   ├── DatasetError                       a file of a labelled set is missing or damaged
│   └── HeadNotEncodedError                a head that `encode` was not asked for
├── MissingExtraError (ImportError)        an optional part is not installed
├── CheckpointError                        a model folder or repository cannot be used
│   ├── CheckpointNotFoundError (FileNotFoundError)
│   └── CheckpointFileError (ValueError)   truncated, of a wrong shape, or unsafe
├── BackendError (RuntimeError)            the forward pass failed or is not possible here
│   ├── RemoteConnectionError (ConnectionError)  the server that encodes is not there, too slow or too busy
│   └── RemoteAccessError (PermissionError)      it refused the key
├── ChatModelError (RuntimeError)          the language model gave no answer
└── StoreError (RuntimeError)              what is stored cannot be read or changed
    ├── StoreClosedError
    ├── StoreNotFoundError (FileNotFoundError)  nothing is stored there
    ├── StoreLockedError                   another process writes to it
    ├── StoreWriteError (OSError)          read-only folder, full disk
    │   └── PartialWriteError              an engine failed midway; says which ids were written
    ├── StoreConnectionError (ConnectionError)  no server, or it stopped answering
    ├── StoreAccessError (PermissionError) the server refused the key
    ├── StoreVersionError                  the server is too old
    ├── StoreCorruptError                  a damaged file
    └── IndexMismatchError                 made with another checkpoint or other settings

BGEM3Warning (UserWarning)
├── TruncationWarning                      text was cut under overflow="truncate"
├── PrecisionWarning                       float16 overflowed, and float32 was used instead
├── TuningWarning                          a sample too small to tell weights apart
└── SettingsWarning                        an index opened with other settings than it was made with
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class BGEM3Error(Exception):
    """Base of every error this project raises on purpose.

    One whose `__init__` takes more than the message has a `__reduce__`, so that it passes between processes whole.
    """


class InvalidInputError(BGEM3Error, ValueError):
    """An argument is wrong. Nothing was changed."""


class InvalidTextError(InvalidInputError):
    """A text is not a string, or holds a lone surrogate."""


class TextTooLongError(InvalidInputError):
    """A text is longer than `max_length` and `overflow="error"`; `problem` is the message without its place.

    Args:
        position: Which of the call's texts.
        problem: Its length, the limit, the fix.
        name: What the message calls it; None: by its position.
    """

    def __init__(self, position: int, problem: str, name: str | None = None) -> None:
        super().__init__(f"{name or f'texts[{position}]'}: {problem}")
        self.position, self.problem, self.name = position, problem, name

    def __reduce__(self) -> tuple[type[TextTooLongError], tuple[int, str, str | None]]:
        return type(self), (self.position, self.problem, self.name)


class InvalidFilterError(InvalidInputError):
    """A `where` filter does not follow the grammar."""


class InvalidMetadataError(InvalidInputError):
    """Metadata has a key or a value that a store cannot keep."""


class DuplicateIdError(InvalidInputError):
    """The same id stands twice in one call."""


class DatasetError(InvalidInputError):
    """A file of a labelled set is missing or damaged; the message names the file and, from 1, the line."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}" if line else f"{path}: {problem}")
        self.path, self.line, self.problem = path, line, problem

    def __reduce__(self) -> tuple[type[DatasetError], tuple[Path, int, str]]:
        return type(self), (self.path, self.line, self.problem)


class HeadNotEncodedError(InvalidInputError):
    """A head is read that `encode` was not asked for."""


class MissingExtraError(BGEM3Error, ImportError):
    """An optional part of the project is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f'{purpose} needs the package {package!r}, which is not installed. Fix: pip install "bgem3[{extra}]"'
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.purpose)


class CheckpointError(BGEM3Error):
    """A model folder or repository cannot be used."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A folder, a repository or one of its files is not there."""


class CheckpointFileError(CheckpointError, ValueError):
    """A file of a checkpoint is truncated, of a wrong shape, or unsafe."""


class BackendError(BGEM3Error, RuntimeError):
    """A forward pass failed, or the machine cannot do what was asked."""


class RemoteConnectionError(BackendError, ConnectionError):
    """The server that encodes cannot be reached, does not answer in time, or stays busy."""


class RemoteAccessError(BackendError, PermissionError):
    """The server that encodes refused the key: missing, wrong or expired."""


class ChatModelError(BGEM3Error, RuntimeError):
    """The language model behind a chat cannot be reached, or refuses."""


class StoreError(BGEM3Error, RuntimeError):
    """What is stored cannot be read or changed."""


class StoreClosedError(StoreError):
    """The store was closed before the call."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no index where one should be opened as it is."""


class StoreLockedError(StoreError):
    """Another process is writing to the same folder."""


class StoreWriteError(StoreError, OSError):
    """The disk refused a write: read-only, or full. What was stored is intact."""


class PartialWriteError(StoreWriteError):
    """An engine failed in the middle of a call. `written` are the ids it had confirmed before.

    Chunks of other ids may be written or not, each wholly; adding them again is safe.
    """

    def __init__(self, message: str, written: Sequence[str]) -> None:
        super().__init__(message)
        self.written = tuple(written)

    def __reduce__(self) -> tuple[type[PartialWriteError], tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.written)


class StoreConnectionError(StoreError, ConnectionError):
    """A server cannot be reached, or stopped answering; or the folder of an open store is not there any more."""


class StoreAccessError(StoreError, PermissionError):
    """A server refused the key: missing, wrong or expired."""


class StoreVersionError(StoreError):
    """A server is too old for what was asked of it."""


class StoreCorruptError(StoreError):
    """A file of the store is damaged."""


class IndexMismatchError(StoreError):
    """The index was made with another checkpoint or with other settings."""


class BGEM3Warning(UserWarning):
    """Base of every warning this project gives."""


class TruncationWarning(BGEM3Warning):
    """Texts were cut at `max_length` under `overflow="truncate"`."""


class PrecisionWarning(BGEM3Warning):
    """A result in float16 was not finite and was computed again in float32."""


class SettingsWarning(BGEM3Warning):
    """An index is opened with other settings than it was made with."""


class TuningWarning(BGEM3Warning):
    """A labelled sample cannot tell the weights it favours from the default."""
