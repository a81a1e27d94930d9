"""A language model server on loopback that speaks OpenAI's protocol and remembers what it was asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class FakeModel(ThreadingHTTPServer):
    """Answers with `answer`, or with `standalone` where it is asked to rewrite a question."""

    daemon_threads = True

    def __init__(self, answer: str, standalone: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.standalone = standalone
        self.asked: list[list[dict[str, str]]] = []
        self.streamed: list[bool] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def fake_model(answer: str, standalone: str = "") -> Iterator[FakeModel]:
    with FakeModel(answer, standalone) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeModel
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["messages"])
        self.server.streamed.append(bool(body.get("stream")))
        self.server.keys.add(self.headers["Authorization"])
        rewrite = "Rewrite" in json.dumps(body["messages"])
        text = self.server.standalone if rewrite else self.server.answer
        if body.get("stream"):
            self._send("text/event-stream", "".join(self._events(text)))
        else:
            message = {"role": "assistant", "content": text}
            self._send("application/json", json.dumps(_completion("chat.completion", message=message)))

    def _events(self, text: str) -> Iterator[str]:
        for word in text.split(" "):
            yield f"data: {json.dumps(_completion('chat.completion.chunk', delta={'content': word + ' '}))}\n\n"
        yield f"data: {json.dumps(_completion('chat.completion.chunk', 'stop', delta={}))}\n\ndata: [DONE]\n\n"

    def _send(self, kind: str, content: str) -> None:
        payload = content.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


def _completion(kind: str, finish: str | None = None, **part: object) -> dict[str, object]:
    choice = {"index": 0, "finish_reason": finish or ("stop" if kind == "chat.completion" else None), **part}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    whole = {"id": "1", "object": kind, "created": 0, "model": "fake", "choices": [choice]}
    return {**whole, "usage": usage} if kind == "chat.completion" else whole
