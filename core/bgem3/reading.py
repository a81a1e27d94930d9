"""Files into passages: txt, md, pdf, csv and jsonl, cut where paragraphs end."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, TypeAlias

from bgem3.errors import InvalidInputError, InvalidMetadataError, MissingExtraError
from bgem3.intake import check_text
from bgem3.json_object import parse_object
from bgem3.metadata import check_metadata
from bgem3.types import Chunk, MetadataValue

# Names of the field that holds the text of a csv row or a jsonl object, the first one there wins.
TEXT_FIELDS = ("text", "content", "page_content", "document", "passage", "body")
_MAX_PAGES = 5000
# What a field of a csv row is read as, the first that fits: numbers as they are usually written, without zeros before.
_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], MetadataValue]], ...] = (
    (re.compile(r"-?(0|[1-9][0-9]{0,17})"), int),
    (re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]+"), float),
    (re.compile(r"true|false"), lambda text: text == "true"),
)


def read_passages(name: str, content: bytes, *, size: int = 1200) -> Iterator[Chunk]:
    """Yield the passages of one file as chunks, with the same ids whenever it is read again.

    An id is the file's name and a number, or the record's own `id`; the metadata is what the file says of the piece,
    and the file as `source`.

    Args:
        name: The file's name or path; its ending tells the kind: txt, md, pdf, csv or jsonl. Of a csv row, what
            is written as a number, true or false is one in the metadata; `00501` stays a string.
        content: The file's bytes; text is UTF-8 or UTF-16 with a mark.
        size: Characters of a passage, about; paragraphs and rows stay whole where they fit.

    Raises:
        InvalidInputError: an unknown kind, content that is not of that kind (names the line), a PDF of more than
            5,000 pages, or a size below 1.
        MissingExtraError: a PDF, and pypdf is not installed.
    """
    kind = check_kind(name)
    if size < 1:
        raise InvalidInputError(f"size: got {size}, expected at least 1 character. Fix: size=1200")
    number = 0
    for text, metadata in READERS[kind](name, content):
        own = metadata.pop("id", None)
        pieces = split_passages(text, size)
        for part, piece in enumerate(pieces, start=1):
            number += 1
            yield Chunk(_id(name, number, own, part, len(pieces)), piece, {"source": name, **metadata})


def check_kind(name: str) -> str:
    """Return the kind of a file by its name: txt, md, pdf, csv or jsonl.

    Raises:
        InvalidInputError: it is another one.
        MissingExtraError: a PDF, and pypdf is not installed.
    """
    kind = name.rpartition(".")[2].lower()
    if kind not in READERS:
        raise InvalidInputError(
            f"{name}: unknown kind, expected one of {', '.join(sorted(READERS))}. Fix: save it as one of them"
        )
    if kind == "pdf" and find_spec("pypdf") is None:
        raise MissingExtraError("pypdf", "pdf", f"{name}: a PDF")
    return kind


def _id(name: str, number: int, own: MetadataValue | None, part: int, parts: int) -> str:
    if own is None or own == "":
        return f"{name}#{number}"
    return str(own) if parts == 1 else f"{own}#{part}"


def split_passages(text: str, size: int) -> list[str]:
    """Split a text at empty lines into pieces of at most `size` characters; a longer paragraph is cut at spaces."""
    pieces: list[str] = []
    for paragraph in (part for block in text.split("\n\n") for part in _cut(block.strip(), size)):
        if pieces and len(pieces[-1]) + len(paragraph) + 2 <= size:
            pieces[-1] += f"\n\n{paragraph}"
        else:
            pieces.append(paragraph)
    return pieces


def _cut(paragraph: str, size: int) -> Iterator[str]:
    while len(paragraph) > size:
        space = paragraph.rfind(" ", size // 2, size)
        end = space if space > 0 else size
        yield paragraph[:end].strip()
        paragraph = paragraph[end:].strip()
    if paragraph:
        yield paragraph


_Piece: TypeAlias = tuple[str, dict[str, MetadataValue]]


def _plain(source: str, content: bytes) -> Iterator[_Piece]:
    yield _decoded(source, content).replace("\r\n", "\n"), {}


def _pdf(source: str, content: bytes) -> Iterator[_Piece]:
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        count = len(reader.pages)
        pages = [page.extract_text() for page in reader.pages] if count <= _MAX_PAGES else []
    except Exception as error:  # a damaged file raises nearly anything in there
        raise InvalidInputError(f"{source}: not a readable PDF ({type(error).__name__}). Fix: save it anew") from error
    if count > _MAX_PAGES:
        raise InvalidInputError(f"{source}: {count:,} pages, at most {_MAX_PAGES:,} are read. Fix: split the file")
    if not any(page.strip() for page in pages):
        raise InvalidInputError(f"{source}: no text in it. Fix: run text recognition on scanned pages first")
    for number, text in enumerate(pages, start=1):
        yield text.encode("utf-8", "replace").decode(), {"page": number}  # a damaged font gives half a surrogate pair


def _csv(source: str, content: bytes) -> Iterator[_Piece]:
    """Yield the rows; fields beside text and id that are numbers, true or false become so (`00501` stays a string)."""
    text = _decoded(source, content)
    rows = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    try:
        for piece, fields in _records(source, ((rows.line_num, row) for row in rows)):
            yield piece, {key: value if key == "id" else _typed(str(value)) for key, value in fields.items()}
    except csv.Error as error:
        raise InvalidInputError(
            f"{source}, line {rows.line_num}: not a readable table ({error}). Fix: save it as csv again"
        ) from error


def _typed(text: str) -> MetadataValue:
    return next((read(text) for kind, read in _KINDS if kind.fullmatch(text)), text)


def _jsonl(source: str, content: bytes) -> Iterator[_Piece]:
    # not splitlines, which also ends a line at marks that a JSON string may hold
    lines = enumerate(_decoded(source, content).split("\n"), start=1)
    yield from _records(source, ((n, parse_object(line, f"{source}, line {n}")) for n, line in lines if line.strip()))


def _records(source: str, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[_Piece]:
    for number, row in rows:
        field = next((name for name in TEXT_FIELDS if isinstance(row.get(name), str)), None)
        if field is None:
            raise InvalidInputError(
                f"{source}, line {number}: no text, expected one of the fields {', '.join(TEXT_FIELDS)}, "
                f"got {', '.join(map(str, list(row)[:8]))}. Fix: rename the field"
            )
        check_text(row[field], f"{source}, line {number}: {field}")
        yield row[field], _metadata({key: value for key, value in row.items() if key != field})


def _metadata(fields: dict[str, Any]) -> dict[str, MetadataValue]:
    """Keep what a store can keep; a nested `metadata` counts as fields of its own."""
    nested = fields.pop("metadata", None)
    kept: dict[str, MetadataValue] = {}
    for key, value in {**fields, **(nested if isinstance(nested, dict) else {})}.items():
        try:
            kept |= check_metadata({key: value}, key)
        except InvalidMetadataError:
            continue
    return kept


def _decoded(source: str, content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{source}: not {encoding} text at byte {error.start}. Fix: save it as UTF-8"
        ) from error


READERS: dict[str, Callable[[str, bytes], Iterator[_Piece]]] = {
    "txt": _plain,
    "md": _plain,
    "pdf": _pdf,
    "csv": _csv,
    "jsonl": _jsonl,
}
