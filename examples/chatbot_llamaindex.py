"""A chatbot on LlamaIndex that answers from your documents and cites them.

python examples/chatbot_llamaindex.py                                        quotes, without a language model
python examples/chatbot_llamaindex.py --model-name gpt-5-mini                OpenAI, key in OPENAI_API_KEY
python examples/chatbot_llamaindex.py --model-name X --base-url http://localhost:8000/v1   any server like it
python examples/chatbot_llamaindex.py --model-name qwen3:4b --provider ollama --documents my_notes
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator

from _chat import (
    ANSWER,
    CONDENSE,
    Passage,
    api_key,
    converse,
    fill,
    load_passages,
    open_store,
    parse_args,
    quote,
    sources,
)
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from bgem3.errors import BGEM3Error
from llamaindex_bgem3 import BGEM3Embedding, BGEM3VectorStore

CONTEXT_WINDOW = 8192
CONDENSE_PROMPT = CONDENSE + "\n\nConversation:\n{chat_history}\n\nLast question: {question}"
CONTEXT_PROMPT = ANSWER.replace("{passages}", "{context_str}")


def make_llm(args: argparse.Namespace) -> LLM | None:
    """Return the language model that was asked for; any other of LlamaIndex's fits here too."""
    if args.model_name is None:
        return None
    try:
        if args.provider == "ollama":
            from llama_index.llms.ollama import Ollama

            address = {"base_url": args.base_url} if args.base_url else {}
            return Ollama(model=args.model_name, context_window=CONTEXT_WINDOW, **address)
        from llama_index.llms.openai_like import OpenAILike

        return OpenAILike(
            model=args.model_name,
            api_base=args.base_url or "https://api.openai.com/v1",
            api_key=api_key(args.base_url),
            is_chat_model=True,
            context_window=CONTEXT_WINDOW,
        )
    except ImportError:
        package = {"ollama": "llama-index-llms-ollama", "openai": "llama-index-llms-openai-like"}[args.provider]
        sys.exit(f"Error: --provider {args.provider} needs a package. Fix: pip install {package}")


class NumberPassages(BaseNodePostprocessor):
    """Puts number, title and id before each passage, for the model to cite."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        numbered = []
        for i, found in enumerate(nodes, start=1):
            node = TextNode(
                id_=found.node_id,
                text=f"[{i}] {found.metadata['title']} ({found.node_id})\n{found.text}",
                metadata=found.metadata,
                excluded_llm_metadata_keys=list(found.metadata),
            )
            numbered.append(NodeWithScore(node=node, score=found.score))
        return numbered


Answer = Callable[[str], Iterator[str]]


def with_model(retriever: BaseRetriever, llm: LLM) -> Answer:
    # A failure of the model is raised here and once more in a thread of LlamaIndex, which would print it.
    threading.excepthook = lambda failure: None
    engine = CondensePlusContextChatEngine.from_defaults(
        retriever=retriever,
        llm=llm,
        memory=ChatMemoryBuffer.from_defaults(token_limit=CONTEXT_WINDOW // 4),
        context_prompt=CONTEXT_PROMPT,
        condense_prompt=CONDENSE_PROMPT,
        node_postprocessors=[NumberPassages()],
    )

    def answer(question: str) -> Iterator[str]:
        response = engine.stream_chat(question)
        said = ""
        for part in response.response_gen:
            said += part
            yield part
        yield sources(as_passages(response.source_nodes), said)

    return answer


def without_model(retriever: BaseRetriever) -> Answer:
    asked: list[str] = []

    def answer(question: str) -> Iterator[str]:
        found = as_passages(retriever.retrieve(" ".join([*asked[-1:], question])))
        asked.append(question)
        said = quote(found)
        yield said
        yield sources(found, said)

    return answer


def as_passages(nodes: list[NodeWithScore]) -> list[Passage]:
    return [Passage(one.node_id, one.metadata["title"], one.text) for one in nodes]


def main() -> None:
    args = parse_args(__doc__)
    llm = make_llm(args)
    try:
        embed_model = BGEM3Embedding(model_name=args.model)
        fingerprint = embed_model.shared.encoder.fingerprint
        vector_store = BGEM3VectorStore.from_store(open_store(args, "llamaindex", fingerprint), embed_model)
        with vector_store.client:
            index = VectorStoreIndex.from_vector_store(vector_store, embed_model=embed_model)
            passages = load_passages(args.documents)
            nodes = [TextNode(id_=one.id, text=one.text, metadata={"title": one.title}) for one in passages]
            fill(vector_store.client, passages, lambda: index.insert_nodes(nodes))
            retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=4)
            converse(with_model(retriever, llm) if llm else without_model(retriever), args)
    except BGEM3Error as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
