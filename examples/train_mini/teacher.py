"""Cache what an English sentence encoder says about the English sentences (all-MiniLM-L6-v2)."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from data import Corpus
from progress import whole
from space import OWN, RESERVED
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

CHUNK = 8192
MAX_TOKENS = 64
BATCH_TOKENS = 8192
# Fewer make a word of the lexicon rather than a sentence.
_SPACES = 2


def choose(corpus: Corpus, count: int, seed: int) -> np.ndarray:
    """Rows of the English texts worth a vector: sentences before words, those with most translations first."""
    uses = Counter(row for row, _, _ in corpus.pairs)
    order = np.random.default_rng(seed).permutation(len(corpus.english))
    worth = [(corpus.english[row].count(" ") < _SPACES, -uses[int(row)]) for row in order]
    return order[sorted(range(len(order)), key=worth.__getitem__)[:count]]


class SentenceEncoder:
    """all-MiniLM-L6-v2: mean of the token states, normalised, 384 dimensions."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()

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
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt").to(self.model.device)
            hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return out


def cache_vectors(
    corpus: Corpus, teacher_folder: Path, folder: Path, count: int, seed: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and vectors of ``count`` English texts; finished chunks are kept on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = choose(corpus, count, seed)
    encoder: SentenceEncoder | None = None
    parts = []
    for start in tqdm(range(0, len(rows), CHUNK), desc="teacher", unit="chunk"):
        file = folder / f"{start:07d}.npy"
        if not file.exists():
            encoder = encoder or SentenceEncoder(teacher_folder, device)
            part = encoder.encode([corpus.english[i] for i in rows[start : start + CHUNK]])
            with whole(file) as beside:
                np.save(beside, part)
        parts.append(np.load(file))
    return rows, np.concatenate(parts)


def topics(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the topic of each vector by k-means on the sphere, eight rounds."""
    vectors = vectors.astype(np.float32)
    centres = np.random.default_rng(seed).choice(vectors, count, replace=False)
    for _ in range(8):
        nearest = np.concatenate([(part @ centres.T).argmax(1) for part in np.array_split(vectors, 64)])
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return nearest


class Teacher:
    """What the sentence encoder says about a meaning, turned towards what the student says already.

    Args:
        rows: Meanings that it knows.
        vectors: Its unit vectors, `(n, 384)`.
        meanings: How many meanings there are.
        student: The student's unit vectors of the same meanings, `(n, width)`, which may be narrower.
    """

    def __init__(self, rows: np.ndarray, vectors: np.ndarray, meanings: int, student: np.ndarray) -> None:
        self._place = np.full(meanings, -1)
        self._place[rows] = np.arange(len(rows))
        turned = vectors.astype(np.float32) @ turning(vectors.astype(np.float32), student)
        self._vectors = turned / np.linalg.norm(turned, axis=1, keepdims=True)

    def of(self, meaning: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places in ``meaning`` that it knows, and its unit vectors for them."""
        places = self._place[meaning]
        known = np.flatnonzero(places >= 0)
        return known, self._vectors[places[known]]


def turning(vectors: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Return the map `(teacher's width, width)` into the space that the student's can take, as near to them as a rotation brings them.

    Content has a zero mean and none of the dimensions with a meaning of their own, so the axes of least
    variance go. Source: orthogonal Procrustes (Schoenemann 1966).
    """
    width = student.shape[1]
    own = np.eye(width)[:, [*range(OWN), *range(width - RESERVED, width)]]
    noise = np.random.default_rng(0).standard_normal((width, width))
    basis = np.linalg.qr(np.concatenate([own, np.ones((width, 1)), noise], axis=1))[0][:, own.shape[1] + 1 : width]
    axes = np.linalg.svd(vectors[::3], full_matrices=False)[2][: basis.shape[1]]
    left, _, right = np.linalg.svd((vectors @ axes.T).T @ (student @ basis))
    turned: np.ndarray = (axes.T @ left @ right @ basis.T).astype(np.float32)
    return turned
