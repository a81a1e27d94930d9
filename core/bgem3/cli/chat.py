"""`bgem3 chat`: questions to a collection, answered from its passages."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bgem3.cli.options import (
    BackendOption,
    CollectionOption,
    DbOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    open_index,
)
from bgem3.cli.output import console, shortened, write_json_line

if TYPE_CHECKING:
    from bgem3.chat import ChatModel, Turn
    from bgem3.hybrid import HybridIndex
    from bgem3.types import Hits


def chat(
    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="Ask this and leave; more than once for a conversation.")
    ] = None,
    *,
    db: DbOption = "./db",
    collection: CollectionOption = "bgem3",
    k: Annotated[int, typer.Option("-k", min=1, help="Passages of an answer.")] = 5,
    chat_model: Annotated[
        str | None,
        typer.Option(envvar="BGEM3_CHAT_MODEL", help="A name, or ollama:NAME; without one passages are quoted."),
    ] = None,
    chat_base_url: Annotated[
        str | None,
        typer.Option(envvar="BGEM3_CHAT_BASE_URL", help="Its OpenAI-compatible address; the key is OPENAI_API_KEY."),
    ] = None,
    model: ModelOption = "BAAI/bge-m3",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Chat with a collection; answers cite their passages. An empty line ends the conversation."""
    from bgem3.chat import ChatModel, Turn

    chosen = ChatModel.parse(chat_model, chat_base_url) if chat_model else None
    turns: list[Turn] = []
    with open_index(db, collection, model, backend, precision, create=False) as opened:
        for question in ask or _typed():
            turns.append(Turn("user", question))
            said = asyncio.run(_answer(turns, opened, chosen, k, as_json))
            turns.append(Turn("assistant", said))


async def _answer(turns: list[Turn], opened: HybridIndex, model: ChatModel | None, k: int, as_json: bool) -> str:
    from bgem3.chat import answer, standalone_question

    question = await standalone_question(turns, model)
    hits = await opened.asearch(question, k=k)
    parts: list[str] = []
    async for part in answer(turns, question, hits, model=model, encoder=opened.encoder):
        parts.append(part)
        if not as_json:
            sys.stdout.write(part)
            sys.stdout.flush()
    said = "".join(parts)
    _finish(turns[-1].content, said, hits, as_json)
    return said


def _finish(question: str, said: str, hits: Hits, as_json: bool) -> None:
    if as_json:
        write_json_line({"question": question, "answer": said, "passages": [hit.to_dict() for hit in hits]})
        return
    cited = [(number, hit) for number, hit in enumerate(hits, start=1) if f"[{number}]" in said]
    out = console()
    out.print("\n")
    for number, hit in cited:
        out.print(f"[{number}] {hit.id}: {shortened(hit.text)}", style="dim", markup=False)


def _typed() -> Iterator[str]:
    while True:
        try:
            question = input("\n> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not question:
            return
        yield question
