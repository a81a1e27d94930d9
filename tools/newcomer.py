#!/usr/bin/env python3
"""Do what README.md says, in its order, in an empty folder, as someone who has only Python and make.

Usage: .venv/bin/python -m tools.newcomer      from the repository's root; exit status 1 where the text is wrong, 3
where no package index is reached

`make` runs in a copy of the tree, `pip` in an environment that has nothing, with a wheel of the tree in place of the
published one. BAAI/bge-m3 is the small checkpoint, served on loopback by the hub's protocol.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.docs.blocks import ROOT, Block, blocks
from tests.support.hub import Hub

# What make and the shell need beside Python.
PROGRAMS = ("make", "sh", "echo", "mkdir", "rm", "touch", "uname")
# How a person's pip reaches its index.
KEPT = ("HOME", "LANG", "PIP_", "SSL_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
# make test is what runs this, and .ci/run has just run make demo: make says what it would do.
INSTEAD = {"make test": "make -n test"} | ({"make demo": "make -n demo"} if os.environ.get("CI") else {})
DEMO_ENDS = "open http://127.0.0.1:8080"


class Newcomer:
    """A person with a terminal: a copy of the tree, an empty folder to work in, an environment of their own."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self._tree, self._desk, self._bin = folder / "bgem3", folder / "desk", folder / "bin"
        self._environment = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        self._environment |= {
            "PATH": f"{folder / 'env' / 'bin'}:{self._bin}",
            "HF_HOME": str(folder / "models"),
            "BGEM3_CACHE": str(folder / "models" / "bgem3"),
            "HF_ENDPOINT": hub.url,
            "PIP_NO_COMPILE": "1",
            "PIP_QUIET": "1",
        }
        self._published: dict[str, str] = {}
        self._desk.mkdir()
        self._bin.mkdir()
        _copy_tree(self._tree)
        base = getattr(sys, "_base_executable", sys.executable)
        for name, program in {"python3": base, **{name: shutil.which(name) for name in PROGRAMS}}.items():
            (self._bin / name).symlink_to(program)
        self.run(f"python3 -m venv '{folder / 'env'}'")
        self._publish(folder / "wheels")

    def follow(self, page: Path) -> None:
        """Do each block of a page; stop at the first that does not do what the page says."""
        found = blocks(page)
        for block, after in zip(found, [*found[1:], None], strict=True):
            if block.language == "sh":
                for line in block.text.splitlines():
                    self.shell(line)
            elif block.language == "python":
                self.python(block, after.text if after and after.language == "text" else None)

    def shell(self, line: str) -> None:
        """Type a line of a shell block."""
        words = line.split("#")[0].split()
        if words[:2] == ["bgem3", "serve"]:
            self.serve(words)
        elif words[:1] == ["make"]:
            printed = self.run(INSTEAD.get(" ".join(words), line), self._tree)
            if words == ["make", "demo"]:
                _expect(DEMO_ENDS in printed.splitlines()[-1], f"{line}: it must end by telling what to open", printed)
        elif words:
            self.run(line)

    def python(self, block: Block, expected: str | None) -> None:
        """Run a block as a file; print what the page says it prints, or at least something."""
        script = self._desk / f"line_{block.line}.py"
        script.write_text(block.text, "utf-8")
        printed = self.run(f"python {script.name}")
        _expect(bool(printed.strip()), f"README line {block.line}: prints nothing", "")
        _expect(
            expected in (None, printed), f"README line {block.line}: the page says\n{expected}but it prints", printed
        )

    def serve(self, words: list[str]) -> None:
        """Start the server, open its page, and end it as Ctrl-C does."""
        port = 8080 if _free(8080) else _free(0)
        command = words if port == 8080 else [*words, "--port", str(port)]
        print(f"$ {' '.join(command)}", flush=True)
        with (self._desk / "serve.log").open("w") as log:
            process = subprocess.Popen(command, cwd=self._desk, env=self._environment, stdout=log, stderr=log)
        try:
            page = _opened(f"http://127.0.0.1:{port}", process)
            _expect("<title>bgem3" in page, "bgem3 serve: its page is not there", page)
            process.send_signal(signal.SIGINT)
            status = process.wait(timeout=60)
            _expect(status in (0, 130, -signal.SIGINT), f"bgem3 serve: ends with {status}", "")
        except BaseException:
            print((self._desk / "serve.log").read_text("utf-8"))
            raise
        finally:
            process.kill()

    def run(self, command: str, folder: Path | None = None) -> str:
        """Run a command to its end and return what it printed on standard output."""
        print(f"$ {command}", flush=True)
        started = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder or self._desk,
            # make installs the tree itself
            env=self._environment if folder else self._environment | self._published,
            capture_output=True,
            text=True,
            check=False,
        )
        _expect(done.returncode == 0, f"{command}: exit status {done.returncode}", done.stdout + done.stderr)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
        return done.stdout

    def _publish(self, wheels: Path) -> None:
        """Build the wheel, and let pip take it wherever bgem3 is asked for, with the versions that tests run on."""
        if subprocess.run(
            ["pip", "download", "--no-deps", "--retries", "0", "-d", str(wheels), "hatchling"],
            env=self._environment,
            executable=self._environment["PATH"].split(":")[0] + "/pip",
            check=False,
        ).returncode:
            raise NoIndexError
        project = self._tree / "pyproject.toml"
        kept = project.read_text("utf-8")
        # a local version, which no index can have
        project.write_text(re.sub(r'^version = "(.*)"$', r'version = "\1+tree"', kept, flags=re.MULTILINE), "utf-8")
        self.run(f"pip wheel --no-deps -w '{wheels}' '{self._tree}'")
        project.write_text(kept, "utf-8")
        (wheel,) = wheels.glob("bgem3-*+tree-*.whl")
        versions = wheels.parent / "constraints.txt"
        pinned = (ROOT / "constraints.txt").read_text("utf-8")
        versions.write_text(f"bgem3=={wheel.name.split('-')[1]}\n{pinned}", "utf-8")
        links = self._environment.get("PIP_FIND_LINKS", "")
        self._published = {"PIP_CONSTRAINT": str(versions), "PIP_FIND_LINKS": f"{wheels} {links}"}


class NoIndexError(Exception):
    """No package index is reached from here."""


def _expect(good: bool, problem: str, printed: str) -> None:
    if not good:
        sys.exit(f"{problem}\n{printed}")


def _copy_tree(target: Path) -> None:
    """Copy what git would: tracked files and new ones, nothing that it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def _free(port: int) -> int:
    """Return a port that is free, or 0 where the one asked for is taken."""
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return int(one.getsockname()[1])


def _opened(url: str, process: subprocess.Popen[bytes]) -> str:
    """Return the page once the server is ready."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=5)
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.2)
    sys.exit("bgem3 serve: not ready after 120 s")


def main() -> int:
    """Follow README.md; say what was typed."""
    hub = Hub()
    hub.add("BAAI/bge-m3", ROOT / "examples" / "bge-m3-mini")
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        try:
            Newcomer(Path(folder), hub).follow(ROOT / "README.md")
        except NoIndexError:
            print("no package index is reached from here: nothing can be installed")
            return 3
    print("README.md does what it says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
