"""Cache what an English sentence encoder says about the English sentences (all-MiniLM-L6-v2)."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from data import Corpus
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

CHUNK = 8192
MAX_TOKENS = 64
BATCH_TOKENS = 8192


def choose(corpus: Corpus, count: int, seed: int) -> np.ndarray:
    """Rows of the English sentences worth a vector: those with most translations first."""
    uses = Counter(row for row, _, _ in corpus.pairs)
    order = np.random.default_rng(seed).permutation(len(corpus.english))
    return np.array(sorted(order, key=lambda row: -uses[int(row)])[:count])


class Teacher:
    """all-MiniLM-L6-v2 in bfloat16: mean of the token states, normalised, 384 dimensions."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> np.ndarray:
        """Vectors ``(n, 384)`` float16 of unit length, in the order of ``texts``."""
        ids = self.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        out = np.empty((len(texts), self.model.config.hidden_size), np.float16)
        start = 0
        while start < len(order):
            size = max(1, BATCH_TOKENS // len(ids[order[min(start + 256, len(order) - 1)]]))
            rows = order[start : start + size]
            start += size
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return out


def cache_vectors(
    corpus: Corpus, teacher_folder: Path, folder: Path, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and vectors of ``count`` English sentences; finished chunks are kept on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = choose(corpus, count, seed)
    teacher: Teacher | None = None
    parts = []
    for start in tqdm(range(0, len(rows), CHUNK), desc="teacher", unit="chunk"):
        file = folder / f"{start:07d}.npy"
        if not file.exists():
            teacher = teacher or Teacher(teacher_folder)
            part = teacher.encode([corpus.english[i] for i in rows[start : start + CHUNK]])
            np.save(file.with_suffix(".tmp.npy"), part)
            file.with_suffix(".tmp.npy").replace(file)
        parts.append(np.load(file))
    return rows, np.concatenate(parts)
