"""What callers hand in to be stored: paired, checked, cut into slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from itertools import islice, zip_longest
from typing import TypeVar
from uuid import uuid4

from bgem3.errors import DuplicateIdError, InvalidInputError, InvalidTextError, TextTooLongError
from bgem3.metadata import check_metadata
from bgem3.types import Chunk, Metadata

Item = TypeVar("Item")
_MISSING = object()


def checked_chunks(
    texts: Iterable[str], ids: Iterable[str] | None, metadatas: Iterable[Metadata | None] | None
) -> Iterable[Chunk]:
    """Pair texts with their ids and metadata, and check them.

    Where all arguments are sequences, they are checked to their end before the first chunk comes out;
    an iterator is checked as it goes, its ids only by `check_new`.

    Raises:
        InvalidInputError: ids or metadatas of another length, a text that is no string or not valid Unicode, bad metadata.
        DuplicateIdError: an id stands twice in sequences.
    """
    chunks = _paired(texts, ids, metadatas)
    if not all(part is None or isinstance(part, Sequence) for part in (texts, ids, metadatas)):
        return chunks
    whole = list(chunks)
    check_new(whole, {})
    return whole


def _paired(
    texts: Iterable[str], ids: Iterable[str] | None, metadatas: Iterable[Metadata | None] | None
) -> Iterator[Chunk]:
    """Pair texts with their ids and metadata, checked."""
    if isinstance(texts, str):
        raise InvalidInputError("texts: expected strings in a list, got one str. Fix: pass [text]")
    if isinstance(ids, str):
        raise InvalidInputError(f"ids: expected a list of strings, got one str. Fix: [{ids!r}]")
    own_ids, own_metadatas = ids is None, metadatas is None
    if not (own_ids and own_metadatas) and (isinstance(texts, set | frozenset) or isinstance(ids, set | frozenset)):
        raise InvalidInputError("texts, ids: got a set, which has no order, expected lists. Fix: ids=sorted(ids)")
    rows = zip_longest(texts, ids or (), metadatas or (), fillvalue=_MISSING)
    for position, (text, id_, metadata) in enumerate(rows):
        if text is _MISSING or (id_ is _MISSING and not own_ids) or (metadata is _MISSING and not own_metadatas):
            raise InvalidInputError(f"texts, ids and metadatas differ in length, one ends at {position}. Fix: one each")
        yield Chunk(
            str(uuid4()) if own_ids else check_id(id_),
            check_text(text, f"texts[{position}]"),
            {} if own_metadatas else check_metadata(metadata, f"metadatas[{position}]"),
        )


def slices(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut items into lists of `size`, the last one shorter."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def sized_slices(items: Iterable[Item], size: Callable[[Item], int], budget: int, most: int) -> Iterator[list[Item]]:
    """Cut items into lists of at most `most`, whose sizes add up to at most `budget`; a larger one goes alone."""
    part: list[Item] = []
    held = 0
    for item in items:
        n = size(item)
        if part and (len(part) == most or held + n > budget):
            yield part
            part, held = [], 0
        part.append(item)
        held += n
    if part:
        yield part


def check_new(chunks: Sequence[Chunk], seen: dict[str, None]) -> None:
    """Note the ids of a slice; one that was there before raises DuplicateIdError."""
    for chunk in chunks:
        if chunk.id in seen:
            raise DuplicateIdError(f"ids: {chunk.id!r} stands twice in one call. Fix: make ids unique")
        seen[chunk.id] = None


def check_id(value: object) -> str:
    """Return an id, or raise InvalidInputError where it is not a string, empty, or not valid Unicode."""
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"ids: expected strings, not empty, got {value!r}. Fix: str(id)")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInputError(f"ids: {value!r} is not valid Unicode. Fix: leave lone surrogates out")
    return value


def check_ids(ids: Sequence[str]) -> list[str]:
    """Return a list of ids, or raise InvalidInputError where it is no list of ids."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        got = f"one str. Fix: [{ids!r}]" if isinstance(ids, str) else f"{type(ids).__name__}. Fix: a list"
        raise InvalidInputError(f"ids: expected a list of strings, got {got}")
    return [check_id(one) for one in ids]


def check_parts(encoder: object, store: object) -> None:
    """Refuse what is no encoder or no store; either may be a class of its own."""
    if not hasattr(encoder, "encode_passages") or not hasattr(store, "upsert"):
        raise InvalidInputError(
            f"HybridIndex: expected an encoder and a store, got {type(encoder).__name__} and {type(store).__name__}. "
            f"Fix: HybridIndex(M3Encoder.from_pretrained(), ChromaStore('./db'))"
        )


@contextmanager
def too_long_named(name: Callable[[int], str]) -> Iterator[None]:
    """Have a text that is too long named by the caller: its place among those encoded together is not the caller's."""
    try:
        yield
    except TextTooLongError as error:
        raise TextTooLongError(error.position, error.problem, name(error.position)) from error


def too_long_by_id(chunks: Sequence[Chunk]) -> AbstractContextManager[None]:
    """Have a text that is too long named by its id."""
    return too_long_named(lambda position: f"text of id {chunks[position].id!r}")


def too_long_query(queries: Sequence[str]) -> AbstractContextManager[None]:
    """Have a query that is too long called one, with its place where there are several."""
    return too_long_named(lambda position: "query" if len(queries) == 1 else f"queries[{position}]")


def check_text(text: object, name: str) -> str:
    """Return a text, or refuse what is no string or holds a lone surrogate.

    Raises:
        InvalidTextError: begins with the name.
    """
    if not isinstance(text, str):
        raise InvalidTextError(f"{name}: expected a str, got {type(text).__name__}. Fix: convert it with str(...)")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(
            f"{name}: not valid Unicode, {text[error.start]!r} at character {error.start} is half of a "
            f"surrogate pair. Fix: text.encode('utf-8', 'replace').decode()"
        ) from error
    return text


def check_texts(texts: Sequence[str]) -> Sequence[str]:
    """Return texts, or raise InvalidInputError where it is one text or no sequence, which may be an array."""
    if isinstance(texts, str | Mapping | Set) or not hasattr(texts, "__len__"):
        got = "one str. Fix: pass [text]" if isinstance(texts, str) else f"{type(texts).__name__}. Fix: pass a list"
        raise InvalidInputError(f"texts: expected a sequence of strings, got {got}")
    return texts


def check_stream(texts: Iterable[str]) -> Iterable[str]:
    """Return texts, or raise InvalidInputError where it is one text."""
    if isinstance(texts, str):
        raise InvalidInputError("texts: expected an iterable of strings, got one str. Fix: pass [text]")
    return texts
