"""A server on loopback that speaks the Hugging Face hub's file protocol for folders on disk."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

LFS = {".safetensors", ".bin", ".onnx", ".onnx_data", ".pt"}
LFS_NAMES = {"tokenizer.json", "Constant_7_attr__value"}


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    range: str | None


@dataclass
class Repository:
    """A folder served under an id; `status` other than 200 refuses every request."""

    folder: Path
    status: int = 200
    code: str = ""

    @cached_property
    def files(self) -> dict[str, Path]:
        return {path.relative_to(self.folder).as_posix(): path for path in self._paths()}

    def _paths(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.rglob("*")) if path.is_file())

    @cached_property
    def commit(self) -> str:
        return sha1("".join(name + self.digest(name) for name in self.files).encode()).hexdigest()

    def digest(self, name: str) -> str:
        return sha256(self.files[name].read_bytes()).hexdigest()

    def etag(self, name: str) -> str:
        return self.digest(name) if self.is_lfs(name) else self.blob_id(name)

    def blob_id(self, name: str) -> str:
        return sha1(self.digest(name).encode()).hexdigest()

    def size(self, name: str) -> int:
        return self.files[name].stat().st_size

    @staticmethod
    def is_lfs(name: str) -> bool:
        return Path(name).suffix in LFS or Path(name).name in LFS_NAMES

    def info(self, repo_id: str) -> dict[str, Any]:
        siblings = []
        for name in self.files:
            entry: dict[str, Any] = {"rfilename": name, "size": self.size(name), "blobId": self.blob_id(name)}
            if self.is_lfs(name):
                entry["lfs"] = {"sha256": self.digest(name), "size": self.size(name), "pointerSize": 130}
            siblings.append(entry)
        return {"id": repo_id, "modelId": repo_id, "sha": self.commit, "private": False, "siblings": siblings}

    def tree(self) -> list[dict[str, Any]]:
        entries = []
        for name in self.files:
            entry: dict[str, Any] = {"type": "file", "path": name, "size": self.size(name), "oid": self.blob_id(name)}
            if self.is_lfs(name):
                entry["lfs"] = {"oid": self.digest(name), "size": self.size(name), "pointerSize": 130}
            entries.append(entry)
        return entries


@dataclass
class Hub:
    """The server: add repositories, read what was asked of it."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    login_page: bool = False

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo_id: str, folder: Path, *, status: int = 200, code: str = "") -> Repository:
        """Serve a folder; with a `status`, refuse it with that status and `X-Error-Code`."""
        self.repositories[repo_id] = Repository(folder, status, code)
        return self.repositories[repo_id]

    def cut_once(self, file: str, after: int) -> None:
        """Close the connection after so many bytes the next time the file is downloaded."""
        self.cuts[file] = after

    def reset(self) -> None:
        """Forget repositories, requests and cuts."""
        self.repositories.clear()
        self.requests.clear()
        self.cuts.clear()
        self.login_page = False

    @property
    def downloads(self) -> list[str]:
        """Files whose content was asked for, in order."""
        gets = [request.path for request in self.requests if request.method == "GET" and "/resolve/" in request.path]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in gets]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range")))
        if self.hub.login_page:  # what a hotel's network answers to anything
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>" if self.command == "GET" else b"")
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.respond_api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.respond_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.refuse(404, "")

    def find(self, repo_id: str, revision: str) -> Repository | None:
        """Return the repository, or None after refusing the request."""
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            self.refuse(401, "RepoNotFound")
        elif repository.status != 200:
            self.refuse(repository.status, repository.code)
        elif revision not in ("main", repository.commit):
            self.refuse(404, "RevisionNotFound")
        else:
            return repository
        return None

    def respond_api(self, repo_id: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        if repository := self.find(repo_id, revision):
            content = repository.tree() if rest[:1] == ["tree"] else repository.info(repo_id)
            self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def respond_file(self, repo_id: str, revision: str, name: str) -> None:
        repository = self.find(repo_id, revision)
        if repository is None:
            return
        if name not in repository.files:
            self.refuse(404, "EntryNotFound")
            return
        content = repository.files[name].read_bytes()
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{repository.etag(name)}"', "Accept-Ranges": "bytes"}
        if repository.is_lfs(name):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206, content[start:], headers, name)
        else:
            self.send(200, content, headers, name)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b'{"error": "refused"}', {"X-Error-Code": code} if code else {})

    def send(self, status: int, content: bytes, headers: Mapping[str, str], name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cuts.pop(name, None)
        self.wfile.write(content[:cut])
        self.close_connection = self.close_connection or cut is not None
