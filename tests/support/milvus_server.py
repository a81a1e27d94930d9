"""Milvus' gRPC API on loopback: milvus-lite behind a proxy that can fail."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from milvus_lite.adapter.grpc.server import start_server_in_thread


class MilvusServer(grpc.GenericRpcHandler):
    """A server at `uri`, and what to do wrong.

    Attributes:
        version: What it says of itself; None: what milvus-lite says.
        methods: Name of each call.
        sizes: Bytes of each upsert.
        answers: Codes for the next upserts; None is the right answer.
        code: Answer every call with it, where it is not None.
    """

    def __init__(self, folder: Path) -> None:
        self.version: str | None = None
        self.methods: list[str] = []
        self.sizes: list[int] = []
        self.answers: list[grpc.StatusCode | None] = []
        self.code: grpc.StatusCode | None = None
        self._lite, self._db, port = start_server_in_thread(data_dir=str(folder / "m.db"), host="127.0.0.1", port=0)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)])
        unlimited = [("grpc.max_receive_message_length", -1)]
        self._proxy = grpc.server(ThreadPoolExecutor(4), handlers=[self], options=unlimited)
        self.uri = f"http://127.0.0.1:{self._proxy.add_insecure_port('127.0.0.1:0')}"
        self._proxy.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Pass one call on, or fail."""
        method = details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.methods.append(method)
            code = self.code
            if method == "Upsert":
                self.sizes.append(len(request))
                code = code or (self.answers.pop(0) if self.answers else None)
            if code is not None:
                context.abort(code, "said the server")
            if method == "GetVersion" and self.version:
                return _version(self.version)
            return self._channel.unary_unary(details.method)(request)

        return grpc.unary_unary_rpc_method_handler(answer)

    def close(self) -> None:
        """Stop both servers."""
        self._proxy.stop(None).wait()
        self._channel.close()
        self._lite.stop(None).wait()
        self._db.close()


def _version(version: str) -> bytes:
    from pymilvus.grpc_gen import milvus_pb2

    answer = milvus_pb2.GetVersionResponse(version=version)
    return bytes(answer.SerializeToString())
