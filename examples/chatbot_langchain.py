"""A chatbot on LangChain that answers from your documents and cites them.

python examples/chatbot_langchain.py                                        quotes, without a language model
python examples/chatbot_langchain.py --model-name gpt-5-mini                OpenAI, key in OPENAI_API_KEY
python examples/chatbot_langchain.py --model-name X --base-url http://localhost:8000/v1   any server like it
python examples/chatbot_langchain.py --model-name qwen3:4b --provider ollama --documents my_notes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from _chat import (
    ANSWER,
    CONDENSE,
    Passage,
    api_key,
    converse,
    fill,
    load_passages,
    numbered,
    open_store,
    parse_args,
    quote,
    sources,
)
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda, RunnablePassthrough

from bgem3 import HybridIndex, M3Encoder
from bgem3.errors import BGEM3Error
from langchain_bgem3 import BGEM3VectorStore


def make_llm(args: argparse.Namespace) -> BaseChatModel | None:
    """Return the chat model that was asked for; any other of LangChain's fits here too."""
    if args.model_name is None:
        return None
    try:
        if args.provider == "ollama":
            from langchain_ollama import ChatOllama

            return ChatOllama(model=args.model_name, base_url=args.base_url)
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(model=args.model_name, base_url=args.base_url, api_key=api_key(args.base_url))
    except ImportError:
        sys.exit(f"Error: --provider {args.provider} needs a package. Fix: pip install langchain-{args.provider}")


def make_chain(retriever: BaseRetriever, llm: BaseChatModel | None) -> Runnable[dict[str, Any], dict[str, Any]]:
    """Return question and history -> the query that is searched for, the documents, the answer."""
    if llm is None:
        condense: Runnable[Any, str] = RunnableLambda(add_previous_question)
        answer: Runnable[Any, str] = RunnableLambda(lambda state: quote(as_passages(state["documents"])))
    else:
        talk = [MessagesPlaceholder("history"), ("human", "{question}")]
        condense = ChatPromptTemplate([("system", CONDENSE), *talk]) | llm | StrOutputParser()
        answer = (
            RunnablePassthrough.assign(passages=lambda state: numbered(as_passages(state["documents"])))
            | ChatPromptTemplate([("system", ANSWER), *talk])
            | llm
            | StrOutputParser()
        )
    query = RunnableBranch((itemgetter("history"), condense), itemgetter("question"))
    return (
        RunnablePassthrough.assign(query=query).assign(documents=itemgetter("query") | retriever).assign(answer=answer)
    )


def add_previous_question(state: dict[str, Any]) -> str:
    previous = [message.text for message in state["history"] if isinstance(message, HumanMessage)]
    return f"{previous[-1]} {state['question']}"


def as_passages(documents: list[Document]) -> list[Passage]:
    titles = [one.metadata["title"] for one in documents]
    return [
        Passage(str(one.id), title, one.page_content.removeprefix(f"{title}\n"))
        for title, one in zip(titles, documents, strict=True)
    ]


def main() -> None:
    args = parse_args(__doc__)
    llm = make_llm(args)
    try:
        encoder = M3Encoder.from_pretrained(args.model)
        with HybridIndex(encoder, open_store(args, "langchain", encoder.fingerprint)) as index:
            store = BGEM3VectorStore(index=index)
            passages = load_passages(args.documents)
            documents = [
                Document(id=one.id, page_content=f"{one.title}\n{one.text}", metadata={"title": one.title})
                for one in passages
            ]
            fill(index, passages, lambda: store.add_documents(documents))
            chain = make_chain(store.as_retriever(search_kwargs={"k": 4}), llm)
            history: list[BaseMessage] = []

            def answer(question: str) -> Iterator[str]:
                said, found = "", []
                for part in chain.stream({"question": question, "history": history}):
                    found = part.get("documents", found)
                    said += part.get("answer", "")
                    yield part.get("answer", "")
                history.extend([HumanMessage(question), AIMessage(said)])
                yield sources(as_passages(found), said)

            converse(answer, args)
    except BGEM3Error as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
