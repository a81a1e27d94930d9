"""What does the server cost beside its encoder, and does it hold under load?

python benchmarks/serve.py                          one client, then 64 for 60 seconds
python benchmarks/serve.py --seconds 5 --clients 8

A server is started on loopback and shares the machine with the clients. Every client checks that each answer is its own
text's vector. Overhead is the median time of one request less that of one `encode`; throughput is held against one
offline `encode` of as many texts. Memory is sampled twelve times while the clients ask. Where there is a Chromium, the page is
opened too: from a ready server to a page that answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import openai

from bgem3 import M3Encoder

HERE = Path(__file__).parent
MINI = HERE.parent / "examples" / "bge-m3-mini"
WORDS = [
    "tea",
    "pump",
    "brake",
    "river",
    "bread",
    "train",
    "solar",
    "insect",
    "museum",
    "clinic",
    "soil",
    "battery",
    "part",
    "invoice",
    "standard",
    "bridge",
]
TEXTS_A_REQUEST = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MINI))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=2048, help="different texts that are asked for")
    args = parser.parse_args()
    encoder = M3Encoder.from_pretrained(args.model)
    command = [sys.executable, "-m", "bgem3", "serve", "--model", args.model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = wait_until_ready(server)
            report(server.pid, url, encoder, args)
        finally:
            server.terminate()


def wait_until_ready(server: subprocess.Popen[str]) -> str:
    """Return the server's address once it is ready, and go on emptying its log."""
    assert server.stderr is not None
    url = ""
    for line in server.stderr:
        found = json.loads(line)
        url = found.get("url", url)
        if found["event"] == "ready":
            break
    subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
    return url


def report(pid: int, url: str, encoder: M3Encoder, args: argparse.Namespace) -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}, {encoder.describe()}")
    alone, direct = one_client(url), one_encoder(encoder)
    print(
        f"one client, one text: request p50 {alone:.2f} ms, encode p50 {direct:.2f} ms, overhead {alone - direct:.2f} ms"
    )
    texts = [text_of(number) for number in range(args.texts)]
    vectors = encoder.encode(texts, heads=["dense"]).dense
    samples = [memory(pid)]
    run = load(
        url,
        texts,
        vectors,
        clients=args.clients,
        seconds=args.seconds,
        sample=lambda: samples.append(memory(pid)),
    )
    done, seconds = asyncio.run(run)
    rate = done * TEXTS_A_REQUEST / seconds
    started = time.perf_counter()
    encoder.encode(texts, heads=["dense"])
    offline = len(texts) / (time.perf_counter() - started)
    print(f"{args.clients} clients, {seconds:.0f} s: {done} requests of {TEXTS_A_REQUEST} texts, every answer right")
    print(f"throughput {rate:.0f} texts/s, offline {offline:.0f} texts/s: {rate / offline:.0%}")
    print(f"memory of the server: {samples[0]} MB before, then {', '.join(map(str, samples[1:]))} MB")
    if browser := shutil.which("chromium") or shutil.which("google-chrome"):
        print(f"page ready after {', '.join(f'{one:.2f}' for one in page_seconds(browser, url))} s, first visit first")


def one_client(url: str) -> float:
    """Return the median milliseconds of a request with one short text."""
    with httpx.Client(base_url=url) as client:
        times = []
        for number in range(220):
            started = time.perf_counter()
            body = {"input": text_of(number)[:60], "encoding_format": "base64"}
            client.post("/v1/embeddings", json=body).raise_for_status()
            times.append(time.perf_counter() - started)
    return statistics.median(times[20:]) * 1000


def one_encoder(encoder: M3Encoder) -> float:
    """Return the median milliseconds of `encode` for the same texts."""
    times = []
    for number in range(220):
        started = time.perf_counter()
        encoder.encode([text_of(number)[:60]], heads=["dense"])
        times.append(time.perf_counter() - started)
    return statistics.median(times[20:]) * 1000


def page_seconds(browser: str, url: str) -> list[float]:
    """Return the seconds until the page answers, for three visits of a browser that runs already."""
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        for _ in range(3):
            started = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("html[data-ready]", state="attached")
            times.append(time.perf_counter() - started)
    return times


async def load(
    url: str,
    texts: Sequence[str],
    vectors: np.ndarray,
    *,
    clients: int,
    seconds: float,
    sample: Callable[[], None] = lambda: None,
) -> tuple[int, float]:
    """Let clients ask for their own texts until the time is over; half through OpenAI's client, half raw HTTP.

    Returns:
        Requests answered, and the seconds it took.

    Raises:
        AssertionError: an answer is not the vector of the text that was asked for.
    """
    started = time.perf_counter()
    limits = httpx.Limits(max_connections=clients)
    async with (
        httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as raw,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as official,
    ):
        name = (await official.models.list()).data[0].id

        async def one(number: int) -> int:
            done = 0
            while not done or time.perf_counter() - started < seconds:
                rows = np.random.default_rng((number, done)).integers(len(texts), size=TEXTS_A_REQUEST)
                asked = [texts[row] for row in rows]
                found = await (ask_raw(raw, asked) if number % 2 else ask_official(official, name, asked))
                np.testing.assert_allclose(found, vectors[rows], atol=1e-4)
                done += 1
            return done

        async def sampled() -> int:
            for _ in range(12):
                await asyncio.sleep(seconds / 12)
                sample()
            return 0

        answered = await asyncio.gather(sampled(), *(one(number) for number in range(clients)))
    return sum(answered), time.perf_counter() - started


async def ask_raw(client: httpx.AsyncClient, texts: Sequence[str]) -> np.ndarray:
    answer = await client.post("/v1/embeddings", json={"input": texts})
    answer.raise_for_status()
    return np.array([item["embedding"] for item in answer.json()["data"]])


async def ask_official(client: openai.AsyncOpenAI, model: str, texts: Sequence[str]) -> np.ndarray:
    answer = await client.embeddings.create(model=model, input=list(texts))
    return np.array([item.embedding for item in answer.data])


def text_of(number: int) -> str:
    """Return a text of 5 to 60 words that no other number has."""
    chosen = np.random.default_rng(number).choice(WORDS, size=5 + number % 56)
    return f"{number} {' '.join(chosen)}"


def memory(pid: int) -> int:
    """Return the resident megabytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * 4096 // 2**20


if __name__ == "__main__":
    main()
