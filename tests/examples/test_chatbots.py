"""The chatbots, with real clients against a model server on loopback, and without a model."""

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from tests.examples.conftest import EXAMPLES
from tests.examples.fake_model import fake_model
from tests.support.servers import Scripted

BOTS = ("chatbot_langchain.py", "chatbot_llamaindex.py")
TRAY = "E-4107 on the Orla 620"
FIRST = "What should I do about printer error E-4107?"
SECOND = "And about the other one, E-4170?"

pytestmark = pytest.mark.parametrize("bot", BOTS)


def system_text(messages):
    return next(message["content"] for message in messages if message["role"] in ("system", "developer"))


def document(name):
    from tests.examples.test_data import DOCUMENTS

    return DOCUMENTS[name]["text"]


def test_the_model_gets_the_passages_and_its_answer_is_streamed(run, bot, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    with fake_model("Look into the manual [1].") as server:
        printed = run(bot, "--model-name", "fake", "--base-url", server.url, "--ask", FIRST)
    [messages] = server.asked
    prompt = system_text(messages)
    assert "cite" in prompt
    assert "[1] " in prompt
    assert "(printer-en-1)" in prompt
    assert document("printer-en-1") in prompt
    assert messages[-1]["content"] == FIRST
    assert server.streamed == [True]
    assert server.keys == {"Bearer key-of-the-test"}
    assert "Look into the manual [1]." in printed
    assert re.search(r"Sources:\n\[1\] .*\n\Z", printed)  # the one that the answer cites


def test_a_follow_up_is_condensed_and_the_history_kept(run, bot):
    with fake_model("Look into the manual [1].", "What does printer error E-4170 mean?") as server:
        run(bot, "--model-name", "fake", "--base-url", server.url, "--ask", FIRST, "--ask", SECOND)
    _, condense, answer = server.asked
    said = json.dumps(condense)
    assert FIRST in said
    assert "Look into the manual [1]." in said
    assert SECOND in said
    assert document("printer-en-2") in system_text(answer)
    assert [message["role"] for message in answer][1:] == ["user", "assistant", "user"]
    assert answer[1]["content"] == FIRST
    assert answer[-1]["content"] == SECOND


def test_without_a_model_the_best_passages_are_quoted(run, bot):
    printed = run(bot, "--ask", FIRST, "--ask", "What does it mean?")
    assert printed.count("No language model is configured") == 2
    assert printed.count(f"“{document('printer-en-1')}”") == 2  # the second question has its words from the first
    assert "[1] printer-en-1: " in printed


def test_own_documents_are_read_and_followed(run, bot, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "keys.md").write_text("# Keys\n\nThe key KX-77 is under the mat.\n\n" + "Filler. " * 200, encoding="utf-8")
    arguments = (bot, "--documents", str(notes), "--ask", "Where is the key KX-77?")
    assert "The key KX-77 is under the mat." in run(*arguments)
    (notes / "keys.md").write_text("The key KX-77 is on the roof.", encoding="utf-8")
    printed = run(*arguments)
    assert "on the roof" in printed
    assert "under the mat" not in printed
    assert "[1] keys.md#1: keys.md" in printed


def test_a_conversation_is_typed(run, bot, monkeypatch):
    lines = iter([FIRST, ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert "printer-en-1" in run(bot)


@pytest.mark.parametrize(
    ("provider", "packages"),
    [
        ("openai", {"langchain_openai": "langchain-openai", "llama_index.llms.openai_like": "openai-like"}),
        ("ollama", {"langchain_ollama": "langchain-ollama", "llama_index.llms.ollama": "llms-ollama"}),
    ],
)
def test_a_missing_package_is_named(run, bot, monkeypatch, provider, packages):
    for module in packages:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=r"Fix: pip install (langchain|llama-index-llms)-(openai|ollama)"):
        run(bot, "--model-name", "x", "--provider", provider, "--base-url", "http://127.0.0.1:9/v1", "--ask", "?")


def test_no_key_is_said_before_anything_is_read(run, bot, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="OPENAI_API_KEY"):
        run(bot, "--model-name", "x", "--ask", "?")


def test_a_server_that_is_not_there_is_said_plainly(run, bot):
    with pytest.raises(SystemExit, match="Error: x gave no answer"):
        run(bot, "--model-name", "x", "--base-url", "http://127.0.0.1:9/v1", "--ask", FIRST)


def test_an_unknown_model_folder_is_an_error_of_one_line(run, bot, tmp_path):
    with pytest.raises(SystemExit, match=r"Error: .*nothing"):
        run(bot, "--model", str(tmp_path / "nothing"), "--ask", FIRST)


def test_a_file_of_another_encoding_is_named(run, bot, tmp_path):
    (tmp_path / "old.txt").write_bytes("Schlüssel".encode("latin-1"))
    with pytest.raises(SystemExit, match=r"Error: .*old.txt: not UTF-8 text at byte 4. Fix: save it as UTF-8"):
        run(bot, "--documents", str(tmp_path), "--ask", FIRST)


@pytest.mark.parametrize(("options", "status", "prompts"), [(["--ask", FIRST], 130, 1), ([], 0, 2)])
def test_an_answer_is_stopped_with_ctrl_c(bot, tmp_path, options, status, prompts):
    with Scripted(lambda path, body: {}) as model:
        model.delay = 60
        command = [sys.executable, str(EXAMPLES / bot), "--model-name", "x", "--base-url", f"{model.url}/v1", *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # a background job of a shell ignores Ctrl-C, and so would what it starts
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(command, cwd=tmp_path, text=True, preexec_fn=heed, **pipes) as process:
            process.stdin.write(f"{FIRST}\n")
            process.stdin.flush()
            while not model.requests and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            printed, problems = process.communicate("\n", timeout=30)
    assert process.returncode == status
    assert printed.count("\n> ") == prompts
    assert "Traceback" not in problems
