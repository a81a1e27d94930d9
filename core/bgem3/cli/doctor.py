"""`bgem3 doctor`: what is installed here, and what would run."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bgem3.cli.options import JsonOption, ModelOption
from bgem3.cli.output import console, table, write_json
from bgem3.errors import BGEM3Error

# What each package is there for, and the extra that installs it.
_PACKAGES = {
    "onnxruntime": ("runs the model on the CPU", ""),
    "torch": ("runs the model on CPU or GPU", "torch"),
    "openvino": ("runs the model on the CPU", "openvino"),
    "onnx": ("writes ONNX graphs", "convert"),
    "FlagEmbedding": ("the reference implementation", "flag"),
    "chromadb": ("collections on disk", "chroma"),
    "qdrant-client": ("collections in Qdrant", "qdrant"),
    "pymilvus": ("collections in Milvus", "milvus"),
    "langchain-core": ("LangChain", "langchain"),
    "llama-index-core": ("LlamaIndex", "llamaindex"),
    "fastapi": ("bgem3 serve", "server"),
    "openai": ("a language model for the chat", "chat"),
    "pypdf": ("PDF files", "pdf"),
}
_FLAGS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")}


def doctor(*, model: ModelOption = "BAAI/bge-m3", as_json: JsonOption = False) -> None:
    """Tell what is installed, which backend would run, whether the model is here, and what the processor can do."""
    facts: dict[str, Any] = {
        "bgem3": version("bgem3"),
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "gpu": _gpu(),
        "model": _model(model),
    }
    if as_json:
        write_json(facts)
    else:
        _show(facts)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    from bgem3.backends.processor import flags

    able = {name: next((flag for flag in wanted if flag in flags()), None) for name, wanted in _FLAGS.items()}
    return {"cores": os.cpu_count(), "bf16": able["bf16"], "int8": able["int8"], "known": bool(flags())}


def _gpu() -> str | None:
    from bgem3.backends.accelerator import has_cuda

    if not has_cuda():
        return None
    import torch

    return torch.cuda.get_device_name()


def _model(name: str) -> dict[str, Any]:
    """Say where a model is and what would run it; nothing is downloaded or loaded."""
    from bgem3.backends.choice import backend_for, choose_forms
    from bgem3.checkpoint import load_checkpoint

    try:
        backend, _, forms = choose_forms("auto", None)
        checkpoint = load_checkpoint(name, forms=forms, local_files_only=True, show_progress=False)
    except BGEM3Error as error:
        return {"name": name, "here": False, "why": str(error)}
    return {
        "name": name,
        "here": True,
        "backend": backend_for(backend, checkpoint.form),
        "max_length": checkpoint.positions,
        "fingerprint": checkpoint.fingerprint,
    }


def _show(facts: dict[str, Any]) -> None:
    out = console()
    processor, model = facts["processor"], facts["model"]
    out.print(f"bgem3 {facts['bgem3']}, Python {facts['python']}, {facts['system']}")
    out.print(f"{processor['cores']} cores, bf16: {_said(processor, 'bf16')}, int8: {_said(processor, 'int8')}")
    out.print(f"GPU: {facts['gpu'] or 'none that torch can use'}\n")
    shown = table("package", "version", "for", text=["for"])
    for name, (purpose, extra) in _PACKAGES.items():
        found = facts["packages"][name]
        missing = f'{purpose}: pip install "bgem3\\[{extra}]"'
        shown.add_row(name, found or "-", purpose if found else missing)
    out.print(shown)
    if model["here"]:
        out.print(f"\n{model['name']}: here, would run on {model['backend']}, reads {model['max_length']} tokens")
    else:
        out.print(f"\n{model['name']}: not ready. {model['why']}", markup=False)


def _said(processor: dict[str, Any], name: str) -> str:
    return processor[name] or ("no" if processor["known"] else "unknown on this system")
