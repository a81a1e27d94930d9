"""One model a process, and one forward pass a text, for the objects that share it.

Frameworks ask a dense object and a sparse object for the same texts, one after the other. Both
hold the same `SharedEncoder`, which computes at the first call what the second will ask for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from threading import Lock, RLock
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.errors import TextTooLongError
from bgem3.intake import check_text, check_texts
from bgem3.types import HEADS, Head, IntArray

# Texts remembered: more than any framework hands over at once, and about 100 MB at 1,024 dims.
_CAPACITY = 16_384
# With token vectors, 4 kB a token at 1,024 dims, bytes are the limit: 2,048 passages of 256 tokens.
_MAX_BYTES = 2 * 2**30

_Place: TypeAlias = tuple[M3Embeddings, int]


@dataclass(slots=True)
class _Held:
    """One result in memory: its bytes, and how many of its texts are remembered still."""

    size: int
    texts: int


_encoders: WeakValueDictionary[Hashable, SharedEncoder] = WeakValueDictionary()
_by_encoder: WeakValueDictionary[int, SharedEncoder] = WeakValueDictionary()
_loading = RLock()


def load_shared(options: Mapping[str, Any]) -> SharedEncoder:
    """Return the process's encoder for these options of `M3Encoder.from_pretrained`, loaded once.

    It is let go when nobody holds it any more.

    Raises:
        CheckpointError, MissingExtraError, BackendError, InvalidInputError: as `from_pretrained`.
    """
    key = _key(options)
    with _loading:
        shared = _encoders.get(key)
        if shared is None:
            shared = share(M3Encoder.from_pretrained(**options))
            _encoders[key] = shared
        return shared


def share(encoder: M3Encoder, options: Mapping[str, Any] | None = None) -> SharedEncoder:
    """Return the one `SharedEncoder` of an encoder that is loaded already.

    Args:
        encoder: An encoder that someone else made.
        options: Options under which `load_shared` shall find it from now on; None: none.
    """
    with _loading:
        # The id is taken only while the SharedEncoder lives, and it keeps its encoder alive.
        shared = _by_encoder.get(id(encoder))
        if shared is None:
            shared = _by_encoder[id(encoder)] = SharedEncoder(encoder)
        if options is not None:
            _encoders[_key(options)] = shared
        return shared


def _key(options: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((name, str(value)) for name, value in options.items()))


class SharedEncoder:
    """An encoder that remembers the last texts, where more than one head is wanted of them.

    Args:
        encoder: What encodes.
        capacity: Texts remembered; the least recently used goes first.
        max_bytes: Memory they may fill.
    """

    def __init__(self, encoder: M3Encoder, *, capacity: int = _CAPACITY, max_bytes: int = _MAX_BYTES) -> None:
        self.encoder = encoder
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: dict[int, _Held] = {}  # by the id of embeddings in memory
        self._wanted: set[Head] = set()
        self._memory: OrderedDict[str, _Place] = OrderedDict()
        self._lock = Lock()

    def want(self, *heads: Head) -> SharedEncoder:
        """Say which heads will be asked for; every forward pass computes them all from now on."""
        self._wanted.update(heads)
        return self

    def encode(self, texts: Sequence[str], head: Head, *, show_progress: bool = False) -> M3Embeddings:
        """Return one head of each text, from memory where it is there; see `M3Encoder.encode`."""
        heads = self._heads(head)
        if heads == (head,):
            return self.encoder.encode(texts, heads=heads, show_progress=show_progress)
        known, missing = self._recall(texts, (head,))
        if missing:
            with _placed(texts, missing):
                encoded = self.encoder.encode(missing, heads=heads, show_progress=show_progress)
            known |= self._remember(missing, encoded)
        return _assemble([known[text] for text in texts]) if texts else self.encoder.encode([], heads=heads)

    async def aencode(self, texts: Sequence[str], head: Head) -> M3Embeddings:
        """Do the same beside the event loop; see `M3Encoder.aencode`."""
        heads = self._heads(head)
        if heads == (head,):
            return await self.encoder.aencode(texts, heads=heads)
        known, missing = self._recall(texts, (head,))
        if missing:
            with _placed(texts, missing):
                encoded = await self.encoder.aencode(missing, heads=heads)
            known |= self._remember(missing, encoded)
        return _assemble([known[text] for text in texts]) if texts else self.encoder.encode([], heads=heads)

    def take(self, texts: Sequence[str]) -> M3Embeddings:
        """Return all heads of each text, and forget what was remembered of them."""
        known, missing = self._recall(texts, HEADS, forget=True)
        if missing:
            with _placed(texts, missing):
                known |= _places(missing, self.encoder.encode(missing))
        return _assemble([known[text] for text in texts]) if texts else self.encoder.encode([])

    async def atake(self, texts: Sequence[str]) -> M3Embeddings:
        """Do the same beside the event loop."""
        known, missing = self._recall(texts, HEADS, forget=True)
        if missing:
            with _placed(texts, missing):
                known |= _places(missing, await self.encoder.aencode(missing))
        return _assemble([known[text] for text in texts]) if texts else self.encoder.encode([])

    def _heads(self, head: Head) -> tuple[Head, ...]:
        return tuple(one for one in HEADS if one == head or one in self._wanted)

    def _recall(
        self, texts: Sequence[str], heads: Sequence[Head], *, forget: bool = False
    ) -> tuple[dict[str, _Place], list[str]]:
        """Split texts into those in memory and, each once, those to encode."""
        for position, text in enumerate(check_texts(texts)):
            check_text(text, f"texts[{position}]")
        known: dict[str, _Place] = {}
        with self._lock:
            for text in dict.fromkeys(texts):
                found = self._memory.get(text)
                if found is None or not set(heads) <= set(found[0].heads):
                    continue
                known[text] = found
                if forget:
                    self._drop(text)
                else:
                    self._memory.move_to_end(text)
        return known, [text for text in dict.fromkeys(texts) if text not in known]

    def _remember(self, texts: Sequence[str], embeddings: M3Embeddings) -> dict[str, _Place]:
        """Keep what fits of one result, its end first; return all of it."""
        sizes = _row_sizes(embeddings)
        fitting = int(np.searchsorted(np.cumsum(sizes[::-1]), self._max_bytes, side="right"))
        first = max(0, len(texts) - min(fitting, self._capacity))
        kept = embeddings[first:] if first else embeddings
        with self._lock:
            for text, place in _places(texts[first:], kept).items():
                self._drop(text)
                self._memory[text] = place
            if len(kept):
                self._held[id(kept)] = _Held(int(sizes[first:].sum()), len(kept))
                self._bytes += self._held[id(kept)].size
            while len(self._memory) > self._capacity or self._bytes > self._max_bytes:
                self._drop(next(iter(self._memory)))
        return _places(texts, embeddings)

    def _drop(self, text: str) -> None:
        place = self._memory.pop(text, None)
        if place is None:
            return
        held = self._held[id(place[0])]
        held.texts -= 1
        if not held.texts:  # a row is a view: the arrays go with the last of them
            self._bytes -= self._held.pop(id(place[0])).size


@contextmanager
def _placed(texts: Sequence[str], missing: Sequence[str]) -> Iterator[None]:
    """Have a text that is too long named by its place among all, since only the missing ones are encoded."""
    try:
        yield
    except TextTooLongError as error:
        raise TextTooLongError(list(texts).index(missing[error.position]), error.problem) from error


def _places(texts: Sequence[str], embeddings: M3Embeddings) -> dict[str, _Place]:
    return {text: (embeddings, row) for row, text in enumerate(texts)}


def _row_sizes(embeddings: M3Embeddings) -> IntArray:
    """Return about how many bytes each text's heads fill, `(n,)`."""
    sizes = np.zeros(len(embeddings), dtype=np.int64)
    if "dense" in embeddings.heads:
        sizes += embeddings.dense.itemsize * embeddings.dense.shape[1]
    if "sparse" in embeddings.heads:
        sizes += 8 * np.diff(embeddings.sparse.indptr)
    if "multi_vector" in embeddings.heads:
        vectors = embeddings.multi_vector
        sizes += vectors.vectors.itemsize * vectors.dim * vectors.lengths
    return sizes


def _assemble(places: Sequence[_Place]) -> M3Embeddings:
    """Join rows of several results; a result taken whole and in order is returned as it is."""
    runs = [[*run] for _, run in groupby(places, key=lambda place: id(place[0]))]
    shared = [head for head in HEADS if all(head in place[0].heads for place in places)]
    parts = []
    for run in runs:
        embeddings, rows = run[0][0], [row for _, row in run]
        whole = rows == list(range(len(embeddings)))
        parts.append((embeddings if whole else embeddings[np.array(rows)]).only(shared))
    return parts[0] if len(parts) == 1 else M3Embeddings.concatenate(parts)
