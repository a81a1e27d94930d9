"""Texts in, all three representations out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tqdm.auto import tqdm

from bgem3.assembly import Assembly, TokenSequences, merge_tokens, token_runs
from bgem3.backends.base import Backend, HeadOutputs, Model
from bgem3.backends.choice import DEFAULT_MODEL, is_remote, load_backend
from bgem3.backends.processor import processor_name
from bgem3.batching import Merger, ahead, in_flight, token_batches
from bgem3.cache import DEFAULT_BYTES, EmbeddingCache, identity_of
from bgem3.embeddings import M3Embeddings
from bgem3.errors import BackendError, InvalidInputError
from bgem3.index_settings import LENGTHS
from bgem3.intake import check_stream, check_text, check_texts
from bgem3.lengths import Lengths, Overflow, fit
from bgem3.tokenizer import M3Tokenizer, cut
from bgem3.types import HEADS, Head, IndexSettings, IntArray, Token

# Texts tokenised in one go while the model runs; for a GPU, where the tokenizer is the slower of the two, more.
_TOKENISE_TEXTS, _TOKENISE_MANY = 64, 256
# On a GPU, batches whose texts are sorted by length together, while the next are tokenised.
_PART_BATCHES = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    prepare: Callable[[], TokenSequences]
    heads: tuple[Head, ...]


class M3Encoder:
    """BGE-M3 as an encoder. Make one with `from_pretrained`; share it between threads.

    Attributes:
        backend, precision, device: What runs the forward pass.
        dim, multi_dim, vocab_size: Width of a dense vector, a token vector and a sparse row.
        lengths: How long texts are read; see `Lengths`.
        fingerprint: Hash of configuration, tokenizer, heads and weights, the same for every backend.
    """

    def __init__(
        self, model: Model, backend: Backend, lengths: Lengths, *, cache: EmbeddingCache | None = None
    ) -> None:
        self._model = model
        self._cache = cache
        self._backend = backend
        self._gate = Semaphore(backend.concurrency)
        self._merger: Merger[_Request, M3Embeddings] = Merger(self._encode_merged)
        self.lengths = lengths
        self.tokenizer = M3Tokenizer(model.tokenizer_path, model.vocab_size)
        self.backend, self.precision, self.device = backend.name, backend.precision, backend.device
        self.dim, self.multi_dim = backend.dim, backend.multi_dim
        self.vocab_size = model.vocab_size
        self.fingerprint = model.fingerprint

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        backend: str = "auto",
        precision: str = "auto",
        device: str | None = None,
        max_length: int | None = None,
        overflow: Overflow = "window",
        window: int | None = None,
        window_overlap: int | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        num_threads: int | None = None,
        show_progress: bool = True,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        cache: str | Path | None = None,
        cache_bytes: int | None = DEFAULT_BYTES,
    ) -> M3Encoder:
        """Load a checkpoint from a folder or, through the Hugging Face cache, from the hub; or ask a server.

        Args:
            model: A folder or a hub id; None: "BAAI/bge-m3", or what the server at base_url has.
            backend: `onnx` (onnxruntime), `openvino`, `torch`, `flag` (FlagEmbedding), or `auto`: torch where a GPU,
                bfloat16 or AVX-512 is at hand, else onnx, else torch. Only the files it reads are downloaded.
                `remote`: a server at base_url.
            precision: `float32`; `bfloat16` (torch, openvino), `float16` (torch on a GPU), `int8` and `int4` (onnx,
                openvino), which are converted on first use and kept. `auto`: bfloat16 where the hardware has it,
                else float32.
            device: A torch device name such as `cuda:0`, or several with commas between them, which run side by side
                in a process each; None: a GPU under `auto` if there is one, else the CPU.
            max_length: Tokens of one forward pass; None: all the checkpoint can read (8,192 for bge-m3).
            overflow: What happens past max_length: `window` cuts the text into overlapping windows and joins
                their results, `truncate` cuts and warns, `error` raises.
            window: Tokens of a window; None: max_length.
            window_overlap: Tokens shared by neighbouring windows; None: min(64, window // 8).
            revision: Branch, tag or commit on the hub.
            cache_dir: Where downloads are kept; None: the Hugging Face cache.
            local_files_only: Never use the network.
            num_threads: Threads of the forward pass; None: the library's own choice.
            show_progress: Show a bar while files are downloaded.
            base_url: A server that runs the model: `bgem3 serve`, or vLLM with the architecture BgeM3EmbeddingModel.
            api_key: Its key; None: the variable BGEM3_API_KEY.
            timeout: Seconds that an answer of it may take.
            cache: Folder where the embeddings of texts are kept, see `EmbeddingCache`; None: nowhere. `encode` and
                `aencode` read it; `stream` does not.
            cache_bytes: What it may fill; the texts that were not used for longest go. None: no bound.

        Raises:
            InvalidInputError: an option is unknown or out of range.
            CheckpointError: the checkpoint is not there, incomplete, damaged or unsafe.
            MissingExtraError: the backend is not installed.
            BackendError: the backend has no such precision or device.
            RemoteConnectionError, RemoteAccessError: the server is not there, too slow, or refuses the key.
        """
        files: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "show_progress": show_progress,
        }
        found: Model
        engine: Backend
        if is_remote(backend, base_url, device, num_threads):
            from bgem3.backends.connect import connect

            found, engine = connect(
                str(base_url), model, api_key=api_key, timeout=timeout, precision=precision, **files
            )
        else:
            found, engine = load_backend(model or DEFAULT_MODEL, backend, precision, device, num_threads, **files)
        lengths = Lengths.resolve(found.positions, max_length, overflow, window, window_overlap)
        return cls(found, engine, lengths, cache=EmbeddingCache(cache, cache_bytes) if cache is not None else None)

    def encode(
        self,
        texts: Sequence[str],
        *,
        heads: Collection[Head] = HEADS,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> M3Embeddings:
        """Encode texts; one forward pass gives all heads.

        Args:
            texts: Any number, empty strings too. The order is kept, and a text's result does not depend on the
                others but by rounding: some 1e-7 in float32, up to 2e-3 in int8, int4 and bfloat16.
            heads: Which representations to compute.
            max_length: Tokens, for this call only; at most the encoder's own.
            show_progress: Show a bar over the forward passes.

        Returns:
            Dense `(n, dim)`, sparse `(n, vocab_size)` and `n` token-vector arrays `(n_tokens, multi_dim)`,
            all float32. Queries and passages are encoded alike: this model takes no instruction.

        Raises:
            InvalidInputError: an unknown head, texts that are one string or no sequence, or a max_length out of range.
            InvalidTextError, TextTooLongError: an item is no string, no valid Unicode, or under `overflow="error"` too
                long; names its position.
            BackendError: the forward pass failed or gave a number that is not finite.
        """
        chosen = _check_heads(heads)
        return self._cached(
            texts, chosen, max_length, lambda some: self._encode_all(some, chosen, max_length, show_progress)
        )

    # This model encodes both sides alike; the names are for readers of the calling code.
    encode_queries = encode
    encode_passages = encode

    def stream(
        self,
        texts: Iterable[str],
        *,
        heads: Collection[Head] = HEADS,
        max_length: int | None = None,
        tokens: int = 32_768,
    ) -> Iterator[M3Embeddings]:
        """Encode any number of texts in constant memory.

        The next texts are tokenised while the model runs.

        Args:
            texts: Read as they are needed; may be endless.
            heads: Which representations to compute.
            max_length: Tokens of a text; at most the encoder's own.
            tokens: A result covers texts of about this many tokens; with 1,024 dims their token vectors fill
                4 kB each.

        Yields:
            The representations of the next texts, in order; lengths differ.

        Raises:
            InvalidTextError, TextTooLongError, BackendError: as `encode`; positions count from the first text.
            InvalidInputError: `tokens` is below 1.
        """
        chosen = _check_heads(heads)
        if tokens < 1:
            raise InvalidInputError(f"tokens: got {tokens}, expected at least 1. Fix: leave it out")
        parts = token_runs(check_stream(texts), partial(self._prepare, max_length), tokens, _TOKENISE_TEXTS)
        return (self._run(sequences, chosen) for sequences in ahead(parts))

    async def aencode(
        self, texts: Sequence[str], *, heads: Collection[Head] = HEADS, max_length: int | None = None
    ) -> M3Embeddings:
        """Encode beside the event loop; concurrent callers are merged into shared batches.

        Arguments, result and errors are those of `encode`. An error in one caller's texts, or its
        cancellation, reaches that caller alone.
        """
        chosen = _check_heads(heads)

        def submit(some: Sequence[str]) -> Future[M3Embeddings]:
            return self._merger.submit(
                _Request(partial(self._prepare, max_length, some, warn=self._cache is None), chosen)
            )

        if self._cache is None:
            return await asyncio.wrap_future(submit(texts))
        return await asyncio.to_thread(self._cached, texts, chosen, max_length, lambda some: submit(some).result())

    async def aencode_tokens(self, ids: Sequence[IntArray], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Encode texts that this checkpoint's tokenizer has read already, as `aencode` does.

        Args:
            ids: One array of token ids a text, `<s> ... </s>`; nothing is cut.
            heads: Which representations to compute.

        Raises:
            InvalidInputError: an array is empty or longer than the checkpoint reads, or holds an id beyond its
                vocabulary; names its position.
            BackendError: as `encode`.
        """
        request = _Request(partial(self._prepare_ids, ids), _check_heads(heads))
        return await asyncio.wrap_future(self._merger.submit(request))

    aencode_queries = aencode
    aencode_passages = aencode

    def token_counts(self, texts: Sequence[str]) -> csr_array:
        """Count the token ids of each text, special tokens left out: `(n, vocab_size)` float32.

        Raises:
            InvalidTextError: an item is not a string or not valid Unicode; names its position.
        """
        ids = self.tokenizer.encode(check_texts(texts))
        if self.lengths.overflow == "truncate":
            ids = [cut(one, self.lengths.max_length) for one in ids]
        flat = np.concatenate([*ids, np.empty(0, dtype=np.int64)])
        owners, ones = np.repeat(np.arange(len(ids)), [len(one) for one in ids]), np.ones(len(flat), np.float32)
        return merge_tokens(flat, ones, owners, (len(ids), self.vocab_size), self.tokenizer.special_ids, np.add)

    def vector_tokens(self, text: str) -> list[Token]:
        """Return the token of each of a text's token vectors, in their order.

        Raises:
            InvalidTextError, TextTooLongError: as `encode`.
        """
        check_text(text, "text")
        spans = self.tokenizer.spans(text)
        (parts,) = fit([np.arange(len(spans))], self.lengths, warn=False)
        places = [int(place) for part in parts for place in part[1:]]
        return [replace(spans[place], position=position) for position, place in enumerate(places)]

    def describe(self) -> dict[str, object]:
        """Return what runs here: model, backend, precision, device, widths, lengths, fingerprint."""
        names = ("backend", "precision", "device", "dim", "multi_dim", "vocab_size", "fingerprint")
        own = {name: getattr(self, name) for name in names}
        return {"model": self._model.name, **own, "processor": processor_name(), **asdict(self.lengths)}

    def reading_as(self, settings: IndexSettings) -> M3Encoder:
        """Return an encoder over the same model and cache that reads texts as an index was made with."""
        lengths = Lengths(**{name: getattr(settings, name) for name in LENGTHS})
        if lengths == self.lengths:
            return self
        other = copy(self)  # with the gate: the backend takes so many calls at a time from both together
        other.lengths = lengths
        other._merger = Merger(other._encode_merged)
        return other

    def close(self) -> None:
        """End the worker thread of the async methods, which waits for what was submitted, and close the cache."""
        self._merger.close()
        if self._cache is not None:
            self._cache.close()

    def _cached(
        self,
        texts: Sequence[str],
        heads: tuple[Head, ...],
        max_length: int | None,
        encode: Callable[[Sequence[str]], M3Embeddings],
    ) -> M3Embeddings:
        if self._cache is None or not len(check_texts(texts)) or not all(isinstance(text, str) for text in texts):
            return encode(texts)
        if self.lengths.overflow == "truncate":  # warns of texts too that the cache knows
            self._prepare(max_length, texts)
        identity = identity_of(self.fingerprint, self.backend, self.precision, self.lengths.shortened(max_length))
        try:
            return self._cache.complete(texts, heads, identity, (self.vocab_size, self.multi_dim), encode)
        except InvalidInputError:
            self._prepare(max_length, texts)  # names the text's place among all
            raise

    def _encode_all(
        self, texts: Sequence[str], heads: tuple[Head, ...], max_length: int | None, show_progress: bool
    ) -> M3Embeddings:
        """Encode in one run, or on a GPU, which the tokenizer must not keep waiting, in several side by side."""
        with tqdm(total=0, unit="tok", desc="Encoding", disable=not show_progress) as bar:
            # token vectors are too large to be joined afterwards
            fast = self.device.startswith("cuda") and "multi_vector" not in heads
            if not fast or len(check_texts(texts)) <= _TOKENISE_MANY:
                return self._run(self._prepare(max_length, texts, warn=self._cache is None), heads, bar)
            batch, prepare = self._backend.batch_tokens, partial(self._prepare, max_length, warn=self._cache is None)
            parts = ahead(token_runs(texts, prepare, _PART_BATCHES * batch, _TOKENISE_MANY, batch))
            return M3Embeddings.concatenate([*in_flight(lambda part: self._run(part, heads, bar), parts, 2)])

    def _prepare(
        self, max_length: int | None, texts: Sequence[str], first: int = 0, *, warn: bool = True
    ) -> TokenSequences:
        lengths, ids = self.lengths.shortened(max_length), self.tokenizer.encode(check_texts(texts), first)
        return TokenSequences.of_parts(fit(ids, lengths, warn=warn, first=first))

    def _prepare_ids(self, ids: Sequence[IntArray]) -> TokenSequences:
        for position, one in enumerate(ids):
            if not 0 < len(one) <= self._model.positions or one.min() < 0 or one.max() >= self.vocab_size:
                raise InvalidInputError(
                    f"ids[{position}]: expected 1 to {self._model.positions} ids below {self.vocab_size}, got {len(one)}. "
                    f"Fix: ids of this checkpoint's tokenizer, long texts in windows"
                )
        return TokenSequences.of_parts([[one] for one in ids])

    def _run(self, sequences: TokenSequences, heads: tuple[Head, ...], bar: tqdm | None = None) -> M3Embeddings:
        lengths, backend = sequences.lengths, self._backend
        assembly = Assembly(sequences, heads, self.dim, self.multi_dim)

        def forward(members: IntArray) -> int:
            with self._gate:
                outputs = backend.forward([sequences.ids[i] for i in members], heads)
            _check_finite(outputs, self.precision)
            assembly.put(members, outputs)  # batches write to places of their own
            return int(lengths[members].sum())

        batches = token_batches(lengths, backend.batch_tokens)
        if bar is not None:
            bar.total += int(lengths.sum())
        for tokens in in_flight(forward, batches, min(backend.concurrency, max(1, len(batches)))):
            if bar is not None:
                bar.update(tokens)
        return assembly.finish(self.tokenizer.special_ids, self.vocab_size)

    def _encode_merged(self, requests: Sequence[_Request]) -> list[M3Embeddings | Exception]:
        """Encode the requests of several callers together, those with the same heads in one run."""
        results: dict[int, M3Embeddings | Exception] = {}
        groups: dict[tuple[Head, ...], dict[int, TokenSequences]] = {}
        for number, request in enumerate(requests):
            try:
                prepared = request.prepare()
            except Exception as error:  # a warning made an error, say: it is this caller's alone
                results[number] = error
            else:
                groups.setdefault(request.heads, {})[number] = prepared
        for heads, members in groups.items():
            results.update(zip(members, self._run_group(heads, [*members.values()]), strict=True))
        return [results[number] for number in range(len(requests))]

    def _run_group(self, heads: tuple[Head, ...], members: list[TokenSequences]) -> list[M3Embeddings | Exception]:
        try:
            whole = self._run(TokenSequences.join(members), heads)
        except Exception as error:  # one caller's texts must not fail the others
            return [error] if len(members) == 1 else [self._run_group(heads, [member])[0] for member in members]
        if len(members) == 1:
            return [whole]
        ends = np.cumsum([member.n_texts for member in members])
        return [whole[int(end) - member.n_texts : int(end)] for end, member in zip(ends, members, strict=True)]


def _check_heads(heads: Collection[Head]) -> tuple[Head, ...]:
    chosen = {heads} if isinstance(heads, str) else set(heads)
    if not chosen or not chosen <= set(HEADS):
        raise InvalidInputError(f"heads: got {sorted(chosen)}, expected some of {', '.join(HEADS)}. Fix: leave it out")
    return tuple(head for head in HEADS if head in chosen)


def _check_finite(outputs: HeadOutputs, precision: str) -> None:
    if not outputs.is_finite():
        raise BackendError(f"the forward pass gave a number not finite in {precision}. Fix: precision='float32'")
