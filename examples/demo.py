"""Ask a small multilingual collection questions in other languages than its documents.

python examples/demo.py                        with the small model of this folder
python examples/demo.py --model BAAI/bge-m3    with the real one (2.3 GB, downloaded once)
python examples/demo.py --all                  every question, and how often each head is right
python examples/demo.py --store qdrant         over another store: memory, chroma, qdrant or milvus
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bgem3 import ChromaStore, HybridIndex, M3Encoder, MemoryStore, MilvusStore, QdrantStore
from bgem3.errors import BGEM3Error
from bgem3.stores.base import Store
from bgem3.types import HEADS, Head, Hit, Hits, Mode

try:
    from _table import hits_table, make_console, plain_table

    from langchain_bgem3 import BGEM3Retriever as LangChainRetriever
    from llamaindex_bgem3 import BGEM3Retriever as LlamaIndexRetriever
except ImportError as missing:
    sys.exit(f'{missing}\nThe demo needs more than the core. Fix: pip install -e ".[demo]"')

HERE = Path(__file__).parent
# Hits and near misses of each head; what it gets wrong is counted by --all.
CHOSEN = ("q17", "q8", "q10", "q54", "q60", "q61", "q59", "q47", "q56", "q38", "q3", "q32", "q6")
DEPTH = 10
SILENT = 0.005
NAMES = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}
KINDS = {
    "cross": "answer in another language",
    "same": "answer in the same language",
    "exact": "a code, number or name decides",
}
MODES: tuple[Mode, ...] = (*HEADS, "hybrid")
STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "chroma": lambda folder: ChromaStore(folder, collection="demo"),
    "qdrant": lambda folder: QdrantStore(folder / "qdrant", collection="demo"),
    "milvus": lambda folder: MilvusStore(folder / "milvus.db", collection="demo"),
}


@dataclass(frozen=True)
class Question:
    """One question of `data/questions.jsonl`, with the ids of the documents that answer it."""

    id: str
    text: str
    lang: str
    kind: str
    answers: list[str]


def main() -> None:
    args = parse_args()
    try:
        run(args)
    except BGEM3Error as error:
        sys.exit(f"Error: {error}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE / "bge-m3-mini"), help="a folder or a hub id")
    parser.add_argument("--db", type=Path, default=Path("db/demo"), help="folder of the index (default: db/demo)")
    parser.add_argument("--store", choices=STORES, default="chroma", help="what keeps the index (default: chroma)")
    parser.add_argument("--all", action="store_true", help="ask all questions and count the right answers")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    encoder = M3Encoder.from_pretrained(args.model)
    about = encoder.describe()
    print(f"Model       {Path(str(about['model'])).name}, loaded in {time.perf_counter() - started:.1f} s")
    print(f"Backend     {about['backend']}, {about['precision']}, {about['device']}")

    # A folder per model: vectors of two models cannot be compared, and an index refuses the other's.
    folder = args.db / encoder.fingerprint[:12]
    with HybridIndex(encoder, STORES[args.store](folder)) as index:
        ingest(index, read_lines("collection.jsonl"), folder)
        questions = [Question(**line) for line in read_lines("questions.jsonl")]
        if args.all:
            ask_all(index, questions)
        else:
            ask_chosen(index, [question for question in questions if question.id in CHOSEN])


def read_lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (HERE / "data" / name).read_text(encoding="utf-8").splitlines()]


def ingest(index: HybridIndex, documents: Sequence[dict[str, object]], folder: Path) -> None:
    """Add the documents, unless the index on disk holds exactly these already."""
    ids = [str(one["id"]) for one in documents]
    texts = [f"{one['title']}\n{one['text']}" for one in documents]
    if index.count() == len(ids) and [chunk.text for chunk in index.get(ids)] == texts:
        print(f"Collection  {len(ids)} documents, added before\nIndex       {folder}")
        return
    index.delete(where={"lang": {"$exists": True}})
    metadatas = [{"lang": str(one["lang"]), "topic": str(one["topic"])} for one in documents]
    started = time.perf_counter()
    index.add(texts, ids=ids, metadatas=metadatas, show_progress=sys.stderr.isatty())
    languages = len({one["lang"] for one in documents})
    print(f"Collection  {len(ids)} documents in {languages} languages, added in {time.perf_counter() - started:.1f} s")
    print(f"Index       {folder}")


def ask_chosen(index: HybridIndex, questions: Sequence[Question]) -> None:
    """Show what each question finds, then find it again through both frameworks."""
    console = make_console()
    results: dict[str, Hits] = {}
    seconds = []
    for question in questions:
        started = time.perf_counter()
        hits = results[question.text] = index.search(question.text, k=DEPTH)
        seconds.append(time.perf_counter() - started)
        console.print(f"\n{question.text}", style="bold")
        console.print(f"{question.lang}: {KINDS[question.kind]}", style="dim")
        ranks = {1, 2, 3, rank_of(hits, question.answers), *preferred(hits).values()}
        console.print(hits_table(hits, question.answers, ranks))
        console.print(why(hits, question.answers), style="dim")

    print("\nThe same questions through the frameworks, over the same index")
    compare("LangChain", search_with_langchain(index), results)
    compare("LlamaIndex", search_with_llamaindex(index), results)

    print("\nThese questions show hits and near misses; --all asks every one and counts.")
    first = [results[question.text][0].id in question.answers for question in questions]
    print(f"Right first answers: {sum(first)} of {len(first)}", end="; ")
    print(f"a search took {statistics.median(seconds) * 1000:.0f} ms (median).")
    print("score is the weighted mean: (1 dense + 0.3 sparse + 1 multi-vector) / 2.3.")
    print("\nNext, with python in front (it is .venv/bin/python after make demo):")
    print("  examples/demo.py --all                 every question, head by head")
    print("  examples/demo.py --model BAAI/bge-m3   the real model, better across languages")
    print("  examples/chatbot_langchain.py          the same search in a chatbot")


def preferred(hits: Sequence[Hit]) -> dict[Head, int]:
    """Return the rank of each head's own favourite; sparse has none where no word is shared."""
    ranks: dict[Head, int] = {}
    for head in HEADS:
        values = [hit.scores[head] for hit in hits]
        if max(values) > SILENT:
            ranks[head] = values.index(max(values)) + 1
    return ranks


def why(hits: Sequence[Hit], answers: Sequence[str]) -> str:
    """Say whether the first hit is right, and which heads put it there."""
    favourites = preferred(hits)
    sentences = []
    rank = rank_of(hits, answers)
    if rank != 1:
        sentences.append(
            f"The right answer is #{rank}."
            if rank
            else f"The right answer, {answers[0]}, is not among the first {DEPTH}."
        )
    for place in sorted(set(favourites.values())):
        heads = [NAMES[head] for head in HEADS if favourites.get(head) == place]
        verb = "prefers" if len(heads) == 1 else "prefer"
        sentences.append(
            f"{' and '.join(heads) if len(heads) < 3 else 'All three heads'} {verb} #{place}.".capitalize()
        )
    if "sparse" not in favourites:
        sentences.append("Sparse finds no word in common.")
    return " ".join(sentences)


Search = Callable[[str], list[tuple[str, float]]]


def search_with_langchain(index: HybridIndex) -> Search:
    retriever = LangChainRetriever(index=index, k=DEPTH)

    def search(question: str) -> list[tuple[str, float]]:
        found = retriever.invoke(question)
        return [(str(document.id), document.metadata["relevance_score"]) for document in found]

    return search


def search_with_llamaindex(index: HybridIndex) -> Search:
    retriever = LlamaIndexRetriever(index, similarity_top_k=DEPTH)

    def search(question: str) -> list[tuple[str, float]]:
        return [(found.node_id, found.get_score()) for found in retriever.retrieve(question)]

    return search


def compare(name: str, search: Search, expected: dict[str, Hits]) -> None:
    """Stop unless a framework finds the same ids with the same scores."""
    for question, hits in expected.items():
        found = search(question)
        same_ids = [one for one, _ in found] == [hit.id for hit in hits]
        if not same_ids or not all(
            math.isclose(score, hit.score, abs_tol=1e-5) for (_, score), hit in zip(found, hits, strict=True)
        ):
            sys.exit(f"{name} finds something else for {question!r}: {found}")
    print(f"  {name:<11} {len(expected)} questions, {DEPTH} hits each: same documents, same scores")


def ask_all(index: HybridIndex, questions: Sequence[Question]) -> None:
    """Count how often the first hit is right, by kind of question and by what is searched with."""
    queries = index.encoder.encode_queries([question.text for question in questions])
    right: dict[Mode, list[int]] = {}
    for mode in MODES:
        found = index.search_embedded(queries, mode=mode, k=DEPTH)
        right[mode] = [rank_of(hits, question.answers) for hits, question in zip(found, questions, strict=True)]

    table = plain_table("questions", "of", "dense", "sparse", "multi", "hybrid", "in first 3")
    for kind, meaning in [*KINDS.items(), (None, "all")]:
        members = [i for i, question in enumerate(questions) if kind in (None, question.kind)]
        shares = [share(right[mode], members, 1) for mode in MODES]
        table.add_row(meaning, str(len(members)), *shares, share(right["hybrid"], members, 3))
    console = make_console()
    console.print("\nRight first answers, by what is searched with\n", style="bold")
    console.print(table)
    missed = [i for i, rank in enumerate(right["hybrid"]) if rank != 1]
    console.print(f"\nNot first with hybrid: {len(missed)}; - is not in the first {DEPTH}\n", style="bold")
    table = plain_table("rank", "answer", "question", text=["answer", "question"])
    table.columns[1].ratio = None
    for i in missed:
        table.add_row(str(right["hybrid"][i] or "-"), questions[i].answers[0], questions[i].text)
    if missed:
        console.print(table)


def rank_of(hits: Sequence[Hit], answers: Sequence[str]) -> int:
    return next((rank for rank, hit in enumerate(hits, start=1) if hit.id in answers), 0)


def share(ranks: Sequence[int], members: Sequence[int], depth: int) -> str:
    return f"{sum(1 <= ranks[i] <= depth for i in members) / len(members):.0%}"


if __name__ == "__main__":
    main()
