#!/usr/bin/env python3
"""Install a built wheel into clean environments and use it there, outside the checkout.

Usage: python tools/try_wheel.py dist/bgem3-*.whl [--versions pinned|lowest|newest] [--python python3.13] [EXTRA ...]

Without extras the plain install is tried; "" among them is the plain install. `pinned` are the versions of
constraints.txt, `newest` what pip finds without them, `lowest` the lower bounds of pyproject.toml, resolved by uv.
torch is always the pinned one. Each environment is new and thrown away; exit status 1 where one fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINI = ROOT / "examples" / "bge-m3-mini"
USES = """
import sys
from bgem3 import HybridIndex, M3Encoder, MemoryStore
model = sys.argv[1]
encoder = M3Encoder.from_pretrained(model)
texts, question = ["Part KX-220B fits the small pump.", "Bees dance."], "Which part fits the pump?"
def found(store):
    with HybridIndex(encoder, store) as index:
        index.add(texts, ids=["part", "bees"])
        return index.search(question, k=1)[0].id
assert found(MemoryStore()) == "part"
"""
CHROMA = "from bgem3 import ChromaStore; assert found(ChromaStore('db')) == 'part'"
SERVER = """
from bgem3_server.app import create_app
from bgem3_server.settings import ServerSettings
from fastapi.testclient import TestClient
with TestClient(create_app(ServerSettings(model=model), encoder=encoder)) as client:
    assert len(client.post('/v1/embeddings', json={'input': texts}).json()['data']) == 2
"""
# Every class that needs nothing but the framework: a version that is too old lacks a module.
LANGCHAIN = """
import langchain_bgem3
for name in {*langchain_bgem3.__all__} - {"BGEM3SparseEmbeddings"}:
    getattr(langchain_bgem3, name)
embeddings = langchain_bgem3.BGEM3Embeddings(model=model)
"""
LLAMAINDEX = """
import llamaindex_bgem3
for name in llamaindex_bgem3.__all__:
    getattr(llamaindex_bgem3, name)
from llamaindex_bgem3 import BGEM3Embedding
BGEM3Embedding(model_name=model).get_text_embedding('a')
"""
EVAL = """
import matplotlib, numpy
from bgem3.evaluation import report
from bgem3.evaluation.measures import MEASURES, measure_rankings
from bgem3.evaluation.statistics import mean_interval, paired_p
values = measure_rankings({"a": {"r": 1}, "b": {"r": 1}}, {"a": ["r"], "b": ["x"]}, tuple(MEASURES))["nDCG@10"]
assert mean_interval(values)[0] < paired_p(values, 1 - values) <= 1
"""
FRAMEWORK_STORES = """
from bgem3 import ChromaStore
from langchain_bgem3 import BGEM3VectorStore
store = BGEM3VectorStore.from_texts(texts, embeddings, persist_directory='langchain')
assert store.as_retriever(search_type='hybrid').invoke(question)[0].page_content == texts[0]
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llamaindex_bgem3 import BGEM3VectorStore as LlamaIndexStore
embedding = BGEM3Embedding(model_name=model)
storage = StorageContext.from_defaults(vector_store=LlamaIndexStore.from_store(ChromaStore('llamaindex'), embedding))
documents = [Document(text=text) for text in texts]
nodes = VectorStoreIndex.from_documents(documents, storage_context=storage, embed_model=embedding)
assert nodes.as_retriever(vector_store_query_mode='hybrid').retrieve(question)[0].text == texts[0]
"""
# Extra -> what it must make possible, beyond the plain install's use.
EXTRAS = {
    "": "",
    "chroma": CHROMA,
    "qdrant": "from bgem3 import QdrantStore; assert found(QdrantStore(':memory:')) == 'part'",
    "milvus": "from bgem3 import MilvusStore; assert found(MilvusStore('./milvus.db')) == 'part'",
    "langchain": f"{LANGCHAIN}\nembeddings.embed_query('a')",
    "langchain-qdrant": f"""{LANGCHAIN}
from langchain_qdrant import QdrantVectorStore, RetrievalMode
store = QdrantVectorStore.from_texts(texts, embedding=embeddings, sparse_embedding=embeddings.as_qdrant_sparse(),
                                     retrieval_mode=RetrievalMode.HYBRID, location=":memory:")
assert store.similarity_search(question, k=1)[0].page_content == texts[0]
""",
    "langchain-milvus": f"{LANGCHAIN}\nimport langchain_milvus; embeddings.as_milvus_sparse().embed_documents(texts)",
    "llamaindex": LLAMAINDEX,
    "llamaindex-milvus": """
from llama_index.vector_stores.milvus import MilvusVectorStore
from llamaindex_bgem3 import BGEM3SparseEmbedding
BGEM3SparseEmbedding(model_name=model).as_milvus().encode_documents(texts)
""",
    "pdf": "import pypdf, bgem3.reading",
    "chat": "from bgem3.chat import ChatModel; import openai; ChatModel.parse('ollama:a', None)",
    "server": CHROMA + SERVER,
    "demo": f"{CHROMA}{SERVER}{LANGCHAIN}\n{LLAMAINDEX}\n{FRAMEWORK_STORES}",
    "eval": EVAL,
    "mteb": "from bgem3.evaluation.mteb import MTEBModel",
    "convert": "M3Encoder.from_pretrained(model, backend='onnx', precision='int8').encode(texts)",
    "openvino": "M3Encoder.from_pretrained(model, backend='openvino').encode(texts)",
    "ray": "import ray.data; from bgem3.records import read_records",
    "torch": "M3Encoder.from_pretrained(model, backend='torch').encode(texts)",
    "flag": "M3Encoder.from_pretrained(model, backend='flag').encode(texts)",
}
EXTRAS["all"] = "\n".join(EXTRAS[name] for name in ("demo", "qdrant", "milvus", "eval", "openvino", "torch", "flag"))
TORCH = ("torch", "flag", "mteb", "all")


def requirements(wheel: Path, extra: str, versions: str, python: str, folder: Path) -> list[str]:
    """Return pip's arguments that install the wheel with its dependencies in the versions asked for."""
    wanted = f"{wheel.resolve()}[{extra}]" if extra else str(wheel.resolve())
    if versions == "pinned":
        return ["-c", str(ROOT / "constraints.txt"), wanted]
    if versions == "newest":
        held = folder / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        held.write_text("\n".join(line for line in lines if line.startswith("torch==")), "utf-8")
        return ["--upgrade", "-c", str(held), wanted]
    resolved = folder / "requirements.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct"]
    command += ["--python-version", python, str(ROOT / "pyproject.toml"), "--output-file", str(resolved)]
    subprocess.run(command + (["--extra", extra] if extra else []), check=True)
    return ["--no-deps", "-r", str(resolved), str(wheel.resolve())]


def tried(wheel: Path, extra: str, versions: str, python: str) -> str:
    """Return what came of making an extra's environment and using it there."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = str(folder / "env" / "bin" / "python")
        pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        try:
            subprocess.run([python, "-m", "venv", str(folder / "env")], check=True)
            found = subprocess.check_output([own, "-c", "import platform; print(platform.python_version())"], text=True)
            subprocess.run([*pip, *requirements(wheel, extra, versions, found.strip(), folder)], check=True)
            subprocess.run([own, "-m", "pip", "check", "--disable-pip-version-check"], check=True)
            subprocess.run([own, "-c", USES + EXTRAS[extra], str(MINI)], cwd=folder, check=True)
            subprocess.run([own, "-m", "bgem3", "doctor", "--model", str(MINI)], cwd=folder, check=True)
        except subprocess.CalledProcessError as error:
            return f"FAILS at {' '.join(map(str, error.cmd[1:4]))}"
        size = sum(path.stat().st_size for path in (folder / "env").rglob("*") if path.is_file()) / 2**20
        return f"works, Python {found.strip()}, {size:,.0f} MB, {time.monotonic() - started:.0f} s"


def main() -> int:
    """Try the extras and print which work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f'"" or one of {", ".join(EXTRAS)}')
    parser.add_argument("--versions", default="pinned", choices=["pinned", "lowest", "newest"])
    parser.add_argument("--python", default=sys.executable, help="interpreter to make the environments with")
    args = parser.parse_intermixed_args()
    failed = 0
    for extra in args.extras or [""]:
        if extra not in EXTRAS:
            parser.error(f"{extra}: no such extra")
        if args.versions == "lowest" and extra in TORCH:
            parser.error(f"{extra} brings torch, which is not tried at its lowest version")
        result = tried(args.wheel, extra, args.versions, args.python)
        failed += result.startswith("FAILS")
        print(f"bgem3{f'[{extra}]' if extra else ''}, {args.versions}: {result}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
