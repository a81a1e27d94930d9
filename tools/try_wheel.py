#!/usr/bin/env python3
"""Install a built wheel into clean environments and use it there, outside the checkout.

Usage: python tools/try_wheel.py dist/bgem3-*.whl ["" chroma langchain ...]

Without extras the plain install is tried. Each environment is new and thrown away; exit status 1 where one fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
USES = """
import sys
from bgem3 import HybridIndex, M3Encoder, MemoryStore
encoder = M3Encoder.from_pretrained(sys.argv[1])
index = HybridIndex(encoder, MemoryStore())
index.add(["Part KX-220B fits the small pump.", "Bees dance."], ids=["part", "bees"])
assert index.search("Which part fits the pump?", k=1)[0].id == "part"
"""
# Extra -> what it must make possible, beyond the plain install's use.
EXTRAS = {
    "": "",
    "chroma": "from bgem3 import ChromaStore; HybridIndex(encoder, ChromaStore('db')).close()",
    "qdrant": "from bgem3 import QdrantStore; import qdrant_client",
    "milvus": "from bgem3 import MilvusStore; import pymilvus",
    "langchain": "import langchain_bgem3 as m; [getattr(m, name) for name in ('BGEM3Embeddings', 'BGEM3VectorStore')]",
    "llamaindex": "import llamaindex_bgem3 as m; [getattr(m, name) for name in m.__all__]",
    "server": "import bgem3_server.app",
    "torch": "M3Encoder.from_pretrained(sys.argv[1], backend='torch').encode(['a'])",
}


def tried(wheel: Path, extra: str) -> bool:
    """Return whether an extra's environment can be made and does what it is for."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "env" / "bin" / "python")
        requirement = f"{wheel.resolve()}[{extra}]" if extra else str(wheel.resolve())
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = (
            [sys.executable, "-m", "venv", str(Path(folder) / "env")],
            [*pip, "-c", str(ROOT / "constraints.txt"), requirement],
            [python, "-m", "pip", "check", "--disable-pip-version-check"],
            [python, "-c", USES + EXTRAS[extra], str(ROOT / "examples" / "bge-m3-mini")],
            [python, "-m", "bgem3", "--version"],
        )
        return all(subprocess.run(step, cwd=folder, check=False).returncode == 0 for step in steps)


def main(wheel: str, *extras: str) -> int:
    """Try the extras and print which work."""
    results = {extra: tried(Path(wheel), extra) for extra in extras or ("",)}
    print(
        "\n".join(
            f"{'works' if good else 'FAILS'}: bgem3{f'[{extra}]' if extra else ''}" for extra, good in results.items()
        )
    )
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
