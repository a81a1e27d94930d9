"""Write the trained model in the file layout of BAAI/bge-m3, half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from student import Student

from bgem3.onnx_graph import save_graph

_MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
)


def export(student: Student, tokenizer: Path, out: Path) -> None:
    """Write weights, heads, tokenizer, configuration and ONNX graph.

    Args:
        student: The trained model.
        tokenizer: Folder with `tokenizer.json` and its two companions.
        out: The checkpoint's folder; other files in it stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in student.body.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    save_file(state, out / "model.safetensors", {"format": "pt"})
    for name in ("sparse_linear", "colbert_linear"):
        torch.save({k: v.half() for k, v in getattr(student, name).state_dict().items()}, out / f"{name}.pt")
    for file in tokenizer.glob("*.json"):
        shutil.copy(file, out)
    student.config.architectures = ["XLMRobertaModel"]
    _write(out / "config.json", {**student.config.to_diff_dict(), "torch_dtype": "float16"})
    _write_sentence_transformers(student, out)
    save_graph(
        {name: tensor.numpy().astype(np.float32) for name, tensor in state.items()},
        out / "onnx" / "model.onnx",
        heads=student.config.num_attention_heads,
        eps=student.config.layer_norm_eps,
        half=True,
    )


def _write_sentence_transformers(student: Student, out: Path) -> None:
    length = student.config.max_position_embeddings - 2
    _write(out / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    _write(
        out / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(_MODULES)],
    )
    pooling = {"word_embedding_dimension": student.config.hidden_size, "pooling_mode_cls_token": True}
    _write(out / "1_Pooling" / "config.json", pooling)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
