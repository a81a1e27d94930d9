"""A labelled retrieval set on disk, in the layout of BEIR and MTEB."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bgem3.errors import DatasetError, InvalidInputError
from bgem3.evaluation.lines import find, read_lines, read_objects

Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Passages, questions, and which passage answers which question.

    The passages stay on disk: only their ids are held. Make one with `read`.

    Attributes:
        name: The folder's name.
        corpus: The file of the passages.
        titles: Whether a passage's title stands before its text.
        n_passages: Passages in the corpus, all of them one pool.
        queries: Text of each question that has a relevant passage, by id, in file order.
        qrels: Relevance > 0 of passages, by query id and passage id.
    """

    name: str
    corpus: Path
    titles: bool
    n_passages: int
    queries: Mapping[str, str]
    qrels: Qrels

    @classmethod
    def read(cls, folder: str | Path, *, qrels: str | None = None, titles: bool = True) -> Dataset:
        """Read and check a folder with `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` (or `qrels/test.tsv`).

        Lines of the first two are `{"_id": ..., "text": ..., "title": ...}` (`id` does too), those of
        the third query id, passage id and a whole number, apart by tabs; a header is skipped. Ids are
        taken as they stand, with their spaces. Each file may be compressed (`.gz`, `.xz`).

        Args:
            folder: Where the files are.
            qrels: Name of the judgements' file within the folder; None: the usual names.
            titles: Put a passage's title before its text, as BEIR and MTEB do.

        Raises:
            DatasetError: a file is missing, or a line of it is wrong: not JSON, no text, a duplicate
                or unknown id, an empty question. Names file and line.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DatasetError(root, 0, "no such folder. Fix: pass a BEIR-style folder")
        corpus = find(root, ("corpus.jsonl",))
        passages = {id_ for id_, _ in _passages(corpus, titles)}
        queries = _read_queries(find(root, ("queries.jsonl",)))
        judged = _read_qrels(find(root, (qrels,) if qrels else ("qrels.tsv", "qrels/test.tsv")), queries, passages)
        return cls(
            name=root.resolve().name,
            corpus=corpus,
            titles=titles,
            n_passages=len(passages),
            queries={id_: text for id_, text in queries.items() if id_ in judged},
            qrels=judged,
        )

    def passages(self) -> Iterator[tuple[str, str]]:
        """Yield id and text of each passage, in file order, without holding the corpus in memory.

        Raises:
            DatasetError: the file has changed since `read` and a line is wrong.
        """
        return _passages(self.corpus, self.titles)

    def sample(self, n: int | None, *, seed: int = 0) -> Dataset:
        """Return the set with `n` random questions, the same ones for a seed; all where there are fewer or n is None.

        Raises:
            InvalidInputError: `n` below 1.
        """
        if n is not None and n < 1:
            raise InvalidInputError(f"queries: expected a number >= 1, got {n}. Fix: queries=100, or None for all")
        if n is None or n >= len(self.queries):
            return self
        return self.only(random.Random(seed).sample(sorted(self.queries), n))

    def only(self, query_ids: list[str]) -> Dataset:
        """Return the set with these questions, over the same passages.

        Raises:
            KeyError: the set has no such question.
        """
        return replace(
            self,
            queries={one: self.queries[one] for one in query_ids},
            qrels={one: self.qrels[one] for one in query_ids},
        )


def _passages(path: Path, titles: bool) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for number, entry in read_objects(path):
        id_ = _new_id(path, number, entry, seen)
        text = _text(path, number, entry)
        title = _text(path, number, entry, "title") if titles and entry.get("title") is not None else ""
        yield id_, f"{title} {text}" if title else text


def _read_queries(path: Path) -> dict[str, str]:
    seen: set[str] = set()
    queries = {}
    for number, entry in read_objects(path):
        id_, text = _new_id(path, number, entry, seen), _text(path, number, entry)
        if not text.strip():
            raise DatasetError(path, number, f"question {id_!r} is empty. Fix: leave it out, in the qrels too")
        queries[id_] = text
    return queries


def _read_qrels(path: Path, queries: Mapping[str, str], passages: set[str]) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    seen: set[tuple[str, str]] = set()
    for number, line in read_lines(path):
        parts = line.split("\t")
        if len(parts) != 3:
            raise DatasetError(
                path,
                number,
                f"expected query id, passage id, score with tabs between, got {line[:200]!r}. Fix: those three, in this order",
            )
        query, passage, score = parts[0], parts[1], parts[2].strip()
        if not _is_whole(score):
            if number == 1 and query not in queries:
                continue
            raise DatasetError(path, number, f"score: expected a whole number, got {score[:40]!r}. Fix: 1 for relevant")
        if query not in queries:
            raise DatasetError(path, number, f"unknown query id {query!r}. Fix: add it to queries.jsonl")
        if passage not in passages:
            raise DatasetError(path, number, f"unknown passage id {passage!r}. Fix: add it to corpus.jsonl")
        if (query, passage) in seen:
            raise DatasetError(
                path, number, f"query {query!r} and passage {passage!r} are judged twice. Fix: leave one line out"
            )
        seen.add((query, passage))
        if int(score) > 0:
            judged.setdefault(query, {})[passage] = int(score)
    if not judged:
        raise DatasetError(path, 0, "no question has a relevant passage (a score above 0)")
    return judged


def _new_id(path: Path, number: int, entry: Mapping[str, Any], seen: set[str]) -> str:
    id_ = entry.get("_id", entry.get("id"))
    if not isinstance(id_, str) or not id_:
        raise DatasetError(path, number, f'_id: expected a string, not empty, got {id_!r}. Fix: "_id": "7"')
    _check_unicode(path, number, "_id", id_)
    if id_ in seen:
        raise DatasetError(path, number, f"duplicate id {id_!r}. Fix: make ids unique")
    seen.add(id_)
    return id_


def _text(path: Path, number: int, entry: Mapping[str, Any], field: str = "text") -> str:
    text = entry.get(field)
    if not isinstance(text, str):
        raise DatasetError(path, number, f'{field}: expected a string, got {text!r}. Fix: "{field}": "..."')
    _check_unicode(path, number, field, text)
    return text


def _check_unicode(path: Path, number: int, field: str, text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DatasetError(path, number, f"{field}: not valid Unicode. Fix: leave lone surrogates out")


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 10
