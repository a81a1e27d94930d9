"""What both chatbots share: options, passages, the index folder, the conversation."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NoReturn

from bgem3 import ChromaStore, HybridIndex
from bgem3.errors import BGEM3Error

HERE = Path(__file__).parent
SIZE = 1200

ANSWER = (
    "Answer the question from the numbered passages alone, in the language of the question. After each "
    "statement cite its passages, like [1] or [2][3]. If the passages do not answer the question, say so.\n\n"
    "Passages:\n{passages}"
)
CONDENSE = (
    "Rewrite the user's last question so that it can be understood without the conversation. "
    "Keep its language. Reply with the question alone."
)


@dataclass(frozen=True)
class Passage:
    """A piece of text small enough to quote."""

    id: str
    title: str
    text: str


def parse_args(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "bge-m3-mini"), help="BGE-M3: a folder or a hub id")
    parser.add_argument("--documents", type=Path, help="a folder of .txt and .md files (default: the demo collection)")
    parser.add_argument("--db", type=Path, default=Path("db/chat"), help="folder of the index (default: db/chat)")
    parser.add_argument("--ask", action="append", help="ask this and leave; more than once for a conversation")
    parser.add_argument("--model-name", help="a language model; without one the best passages are quoted")
    parser.add_argument("--provider", choices=("openai", "ollama"), default="openai", help="who serves it")
    parser.add_argument("--base-url", help="its address, e.g. http://localhost:8000/v1; the key is OPENAI_API_KEY")
    args = parser.parse_args()
    if args.model_name is None and args.base_url is not None:
        parser.error("--base-url needs --model-name")
    return args


def api_key(base_url: str | None) -> str:
    """Return the key; servers of one's own mostly take any."""
    key = os.environ.get("OPENAI_API_KEY")
    if not key and base_url is None:
        sys.exit("Error: no key for OpenAI. Fix: set OPENAI_API_KEY, or give --base-url for another server")
    return key or "none"


def load_passages(folder: Path | None) -> list[Passage]:
    if folder is None:
        lines = (HERE / "data" / "collection.jsonl").read_text(encoding="utf-8").splitlines()
        return [Passage(one["id"], one["title"], one["text"]) for one in map(json.loads, lines)]
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".md"))
    passages = [passage for path in files for passage in split(path, path.relative_to(folder).as_posix())]
    if not passages:
        sys.exit(f"Error: no text in .txt or .md files under {folder}")
    return passages


def split(path: Path, name: str) -> Iterator[Passage]:
    """Yield a file in passages of whole paragraphs, about `SIZE` characters each."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        sys.exit(f"Error: {path}: not UTF-8 text at byte {error.start}. Fix: save it as UTF-8")
    pieces: list[str] = []
    for paragraph in text.split("\n\n"):
        if pieces and len(pieces[-1]) + len(paragraph) <= SIZE:
            pieces[-1] += f"\n\n{paragraph}"
        elif paragraph.strip():
            pieces.append(paragraph)
    for number, piece in enumerate(pieces, start=1):
        yield Passage(f"{name}#{number}", name, piece.strip())


def open_store(args: argparse.Namespace, framework: str, fingerprint: str) -> ChromaStore:
    """Open one collection per framework, model and set of documents."""
    documents = zlib.crc32(str(args.documents.resolve() if args.documents else "").encode())
    return ChromaStore(args.db, collection=f"{framework}-{fingerprint[:12]}-{documents:08x}")


def fill(index: HybridIndex, passages: list[Passage], add: Callable[[], object]) -> None:
    """Call `add` unless the index holds exactly these passages."""
    stored = index.get([passage.id for passage in passages])
    if index.count() == len(stored) == len(passages) and all(
        passage.text in chunk.text for passage, chunk in zip(passages, stored, strict=True)
    ):
        return
    print(f"Reading {len(passages)} passages ...", file=sys.stderr)
    index.delete(where={"title": {"$exists": True}})
    add()


def numbered(passages: Iterable[Passage]) -> str:
    return "\n\n".join(f"[{i}] {one.title} ({one.id})\n{one.text}" for i, one in enumerate(passages, start=1))


def sources(passages: Iterable[Passage], answer: str) -> str:
    """Return the list of the passages that an answer cites; of all where it cites none."""
    lines = {f"[{i}]": f"[{i}] {one.id}: {one.title}" for i, one in enumerate(passages, start=1)}
    cited = [line for number, line in lines.items() if number in answer]
    return "\n\nSources:\n" + "\n".join(cited or lines.values())


def quote(passages: Iterable[Passage]) -> str:
    """Return the answer where there is no language model: the best passages, word for word."""
    best = [f"[{i}] {one.title}\n“{one.text}”" for i, one in enumerate(passages, start=1)][:2]
    return "No language model is configured (--model-name), so here are the best passages:\n\n" + "\n\n".join(best)


def converse(answer: Callable[[str], Iterator[str]], args: argparse.Namespace) -> None:
    """Print the answers to `--ask`, or to what is typed until an empty line; Ctrl-C stops an answer."""
    stopped = False
    for question in args.ask or typed():
        print(f"\n> {question}\n" if args.ask else "")
        try:
            for part in beside(answer(question)):
                print(part, end="", flush=True)
        except KeyboardInterrupt:
            if args.ask:
                leave(130)
            stopped = True
        except Exception as error:  # each model's client has errors of its own
            if args.model_name is None or isinstance(error, BGEM3Error):
                raise
            problem = f"Error: {args.model_name} gave no answer: {error}"
            if args.ask:
                sys.exit(problem)
            print(problem, file=sys.stderr)
        print()
    if stopped:
        leave(0)


def beside(parts: Iterator[str]) -> Iterator[str]:
    """Yield the parts from a thread of their own: Ctrl-C need not wait there for the model's next word."""
    queue: SimpleQueue[str | Exception | None] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            for part in parts:
                queue.put(part)
                if stopped.is_set():
                    return
            queue.put(None)
        except Exception as error:
            queue.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            try:
                part = queue.get(timeout=0.1)  # a wait without an end can miss Ctrl-C
            except Empty:
                continue
            if part is None:
                return
            if isinstance(part, Exception):
                raise part
            yield part
    finally:
        stopped.set()


def leave(status: int) -> NoReturn:
    """End at once: Python would wait for the frameworks' threads, and they for the model whose answer was stopped."""
    print(flush=True)
    os._exit(status)


def typed() -> Iterator[str]:
    print("Ask something; an empty line ends the conversation.")
    while True:
        try:
            question = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not question:
            return
        yield question
