"""Servers on loopback that encode: ours, and one that answers as vLLM does."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from bgem3.encoder import M3Encoder


@contextmanager
def serve(app: Any) -> Iterator[str]:
    """Run an ASGI application and give its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def serve_encoder(model: Path, encoder: M3Encoder, **settings: Any) -> Iterator[str]:
    """Run `bgem3 serve` over an encoder that is loaded already."""
    from bgem3_server.app import create_app
    from bgem3_server.settings import ServerSettings

    with serve(create_app(ServerSettings(model=str(model), **settings), encoder=encoder)) as url:
        yield url


class Scripted:
    """Answers `GET` and `POST` by `answer(path, body)`, after the answers of `script`: (status, headers, bytes),
    `delay` seconds late, with `trickle` seconds after each byte.

    `requests` holds what came: (path, body, headers).
    """

    def __init__(self, answer: Callable[[str, Any], object]) -> None:
        self.answer = answer
        self.script: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, Any, dict[str, str]]] = []
        self.delay = self.trickle = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def do_GET(self) -> None:
                self._reply(None)

            def _reply(self, body: Any) -> None:
                outer.requests.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                time.sleep(outer.delay)
                if outer.script:
                    status, headers, content = outer.script.pop(0)
                else:
                    status, headers, content = 200, {}, json.dumps(outer.answer(self.path, body)).encode()
                try:
                    self.send_response(status)
                    for name, value in {**headers, "content-length": str(len(content))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    if outer.trickle:
                        for byte in content[:40]:
                            self.wfile.write(bytes([byte]))
                            time.sleep(outer.trickle)
                    else:
                        self.wfile.write(content)
                except OSError:  # the client did not wait
                    pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Scripted":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def posts(self) -> list[Any]:
        return [body for _, body, _ in self.requests if body is not None]


def vllm_answers(encoder: M3Encoder, name: str, *, encoding: bool = True) -> Callable[[str, Any], object]:
    """Answer as vLLM's `BgeM3EmbeddingModel` does, from our own forward pass, one text at a time.

    `<s>` is taken off the token vectors, `<s>` and `</s>` off the weights, and single dimensions are squeezed away.
    Without `encoding` the answers are lists, as older versions give them whatever is asked.
    """

    def answer(path: str, body: Any) -> object:
        if path == "/v1/models":
            model = {"id": name, "object": "model", "owned_by": "vllm", "root": name, "max_model_len": 512}
            return {"object": "list", "data": [model]}
        assert path == "/pooling"
        assert body["model"] == name
        data = []
        for index, ids in enumerate(body["input"]):
            outputs = encoder._backend.forward([np.array(ids)], ("dense", "sparse", "multi_vector"))
            values = {
                "embed": outputs.dense[0],
                "token_embed": outputs.token_vectors.squeeze(),
                "token_classify": outputs.token_weights[1:-1].squeeze(),
            }[body["task"]]
            packed = base64.b64encode(values.astype("<f4").tobytes()).decode()
            as_text = encoding and body["encoding_format"] == "base64"
            data.append({"index": index, "object": "pooling", "data": packed if as_text else values.tolist()})
        return {"id": "pool-1", "object": "list", "created": 1, "model": name, "data": data, "usage": {}}

    return answer
