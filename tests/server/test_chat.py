"""`/v1/collections/{name}/chat`: passages, an answer that cites them, and what a language model is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bgem3 import score
from bgem3.chat import ChatModel, quote, split_sentences
from bgem3.errors import ChatModelError, InvalidInputError
from bgem3.types import Hit
from bgem3_server.settings import Limits
from tests.examples.fake_model import fake_model
from tests.support.servers import Scripted

TEXTS = ["Part KX-220B fits the small pump. It is blue.", "茶叶含有茶氨酸。能让人放松。"]


def events(answer) -> list[tuple[str, dict]]:
    pairs = (event.split("\n") for event in answer.text.strip().split("\n\n"))
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def ask(client, *said: str):
    client.post("/v1/collections/parts/documents", json={"documents": [{"id": t[:4], "text": t} for t in TEXTS]})
    roles = ["assistant" if (len(said) - place) % 2 == 0 else "user" for place in range(len(said))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    return client.post("/v1/collections/parts/chat", json={"messages": messages, "k": 2})


def test_without_a_model_the_nearest_sentences_are_quoted(client):
    answer = ask(client, "What fits the small pump?")
    assert answer.headers["content-type"].startswith("text/event-stream")
    (first, sources), (second, text), (last, _) = events(answer)
    assert (first, second, last) == ("sources", "text", "done")
    assert sources["model"] is None
    place = [passage["id"] for passage in sources["passages"]].index("Part") + 1
    said = text["text"].split("\n\n")
    assert said[0].startswith("No language model is set")
    assert said[1] == f"“Part KX-220B fits the small pump.” [{place}]"


def test_a_model_gets_the_passages_and_its_words_are_streamed(make_client):
    with fake_model("It is [1].") as model:
        found = events(ask(make_client(chat=ChatModel("fake", model.url)), "What fits?"))
    assert "".join(data["text"] for name, data in found if name == "text").strip() == "It is [1]."
    assert found[0][1]["model"] == "fake"
    (messages,) = model.asked
    assert all(text in messages[0]["content"] for text in TEXTS)
    assert messages[1] == {"role": "user", "content": "What fits?"}


def test_a_later_question_is_rewritten_to_stand_alone(make_client):
    with fake_model("Blue [1].", standalone="What colour is part KX-220B?") as model:
        found = events(ask(make_client(chat=ChatModel("fake", model.url)), "What fits?", "KX-220B [1].", "Its colour?"))
    assert found[0][1]["question"] == "What colour is part KX-220B?"
    rewriting, answering = model.asked
    assert "Its colour?" in rewriting[1]["content"]
    assert [message["content"] for message in answering[1:]] == ["What fits?", "KX-220B [1].", "Its colour?"]


def test_a_model_that_is_not_there_is_an_event(make_client, monkeypatch):
    monkeypatch.setattr("openai._base_client.DEFAULT_MAX_RETRIES", 0)
    client = make_client(chat=ChatModel("fake", "http://127.0.0.1:1/v1"))
    found = events(ask(client, "What fits?"))
    assert [name for name, _ in found] == ["sources", "error"]
    assert found[1][1]["message"] == (
        "The language model gave no answer (APIConnectionError); the operator's log says more"
    )


@contextmanager
def scripted(status: int, content: bytes, **headers: str) -> Iterator[Scripted]:
    """Run a model server that answers once, with these bytes."""
    with Scripted(lambda path, body: {}) as model:
        model.script.append((status, {"content-type": "text/event-stream", **headers}, content))
        yield model


@pytest.mark.parametrize(
    ("content", "headers", "kind"),
    [
        (b'data: {"choices": []}\n\ndata: {broken\n\n', {}, "JSONDecodeError"),
        (b"data: 5\n\n", {}, "AttributeError"),
        (b"500\r\ndata: ", {"transfer-encoding": "chunked", "connection": "close"}, "RemoteProtocolError"),
    ],
)
def test_a_model_that_breaks_off_is_an_event(make_client, content, headers, kind):
    with scripted(200, content, **headers) as model:
        found = events(ask(make_client(chat=ChatModel("fake", f"{model.url}/v1")), "What fits?"))
    assert [name for name, _ in found] == ["sources", "error"]
    assert f"gave no answer ({kind});" in found[1][1]["message"]


def test_half_a_surrogate_pair_is_a_question_mark(make_client):
    with fake_model("a\ud83d b", standalone="Which \ude00 pump?") as model:
        found = events(ask(make_client(chat=ChatModel("fake", model.url)), "What fits?", "KX-220B [1].", "Its colour?"))
    assert found[0][1]["question"] == "Which ? pump?"
    assert "".join(data["text"] for name, data in found if name == "text").strip() == "a? b"
    assert found[-1][0] == "done"


@pytest.mark.parametrize("said", [["What fits?"], ["What fits?", "KX-220B [1].", "Its colour?"]])
def test_visitors_and_the_log_get_no_word_of_a_model_that_refuses(make_client, capsys, said):
    refusal = b'{"error": {"message": "Incorrect API key sk-secret at 10.0.0.7"}}'
    with scripted(401, refusal, **{"content-type": "application/json"}) as model:
        address = f"{model.url}/v1"
        client = make_client(chat=ChatModel("fake", address.replace("//", "//me:sk-secret@")))
        answer = ask(client, *said)
    if len(said) == 1:
        message = events(answer)[1][1]["message"]
    else:
        assert answer.status_code == 502
        message = answer.json()["error"]["message"]
    told = "The language model gave no answer (AuthenticationError, HTTP 401); the operator's log says more"
    assert message == told
    logged = capsys.readouterr().err
    (line,) = [line for line in map(json.loads, logged.splitlines()) if line["level"] == "warning"]
    assert (line["error"], line["status"], line["base_url"]) == ("AuthenticationError", 401, address)
    assert "sk-secret" not in logged
    assert "10.0.0.7" not in logged


async def test_a_program_gets_the_models_words():
    with scripted(401, b'{"error": {"message": "no such key"}}') as model:
        chat = ChatModel("fake", f"{model.url}/v1")
        with pytest.raises(ChatModelError, match="fake: no answer from .*no such key"):
            [part async for part in chat.stream([{"role": "user", "content": "What fits?"}])]


def test_the_last_turn_must_be_the_users(client):
    client.post("/v1/collections/parts/documents", json={"documents": []})
    body = {"messages": [{"role": "assistant", "content": "Yes?"}]}
    assert client.post("/v1/collections/parts/chat", json=body).status_code == 422


def test_more_passages_than_a_search_may_have(make_client):
    client = make_client(limits=Limits(max_k=1))
    answer = ask(client, "What fits?")
    assert answer.status_code == 422
    assert answer.json()["error"]["limit"] == {"name": "max_k", "value": 1, "got": 2}


async def test_sentences_are_scored_beside_the_event_loop(encoder, monkeypatch):
    threads: list[int] = []

    def noted(queries, passages):
        threads.append(threading.get_ident())
        return score(queries, passages)

    monkeypatch.setattr("bgem3.chat.score", noted)
    said = await quote("What fits?", [Hit("1", TEXTS[0], {}, 1.0, {})], encoder)
    assert "KX-220B" in said
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_key_is_not_shown():
    assert "sk-secret" not in repr(ChatModel("fake", api_key="sk-secret"))


def test_an_empty_collection_has_no_answer(client):
    client.post("/v1/collections/empty/documents", json={"documents": []})
    answer = client.post("/v1/collections/empty/chat", json={"messages": [{"role": "user", "content": "What?"}]})
    assert events(answer)[1][1]["text"] == "The collection holds nothing on this."


def test_names_of_models():
    assert ChatModel.parse("ollama:llama3.2") == ChatModel("llama3.2", "http://localhost:11434/v1")
    assert ChatModel.parse("gpt", "http://there/v1") == ChatModel("gpt", "http://there/v1")
    with pytest.raises(InvalidInputError, match="got no name"):
        ChatModel.parse("ollama:")


def test_sentences_of_several_scripts():
    assert split_sentences("One. Two? 三。四！ पाँच। छह\nseven 1.5 kg") == [
        "One.",
        "Two?",
        "三。",
        "四！",
        "पाँच।",
        "छह",
        "seven 1.5 kg",
    ]
