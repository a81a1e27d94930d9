"""PyTorch, on sequences packed one after another, so that no padding is ever computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bgem3.backends.attention import Attend, VariableLength, choose
from bgem3.backends.base import FAILED, HeadOutputs
from bgem3.backends.graphs import Graphs
from bgem3.backends.linear import Linear, LinearType
from bgem3.backends.linear import choose as choose_linear
from bgem3.backends.norm import Norm, NormType
from bgem3.backends.norm import choose as choose_norm
from bgem3.backends.packing import positions
from bgem3.checkpoint import Checkpoint, Config
from bgem3.errors import BackendError, CheckpointFileError, PrecisionWarning
from bgem3.types import HEADS, FloatArray, Head, IntArray

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tokens of a batch: a processor's cache holds no more; a GPU's kernels should be longer than their launch.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
# Batches in flight on a GPU, so that it computes one while another is brought, copied back and assembled.
_STREAMS = 3


class TorchBackend:
    """XLM-RoBERTa written for packed sequences.

    Linear layers see all tokens of a batch at once, attention what `attention.choose` says.

    Args:
        checkpoint: Loaded with `form="torch"`.
        precision: float32, bfloat16 or float16; the heads are computed in it too.
        device: A torch device name; None: the CPU.
        num_threads: Sets torch's thread count for the whole process when given.

    Raises:
        BackendError: the precision or the device is not there.
        CheckpointFileError: the weights lack a tensor or hold one of a wrong shape.
    """

    name = "torch"
    concurrency = 1

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: str = "float32",
        device: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise BackendError(
                f"precision: torch has {', '.join(_DTYPES)}, got {precision!r}. Fix: precision='float32'"
            )
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.precision = precision
        self.device = device or "cpu"
        kind = self.device.split(":")[0]
        self.batch_tokens = _BATCH_TOKENS.get(kind, 16_384)
        self.dim = checkpoint.config.hidden_size
        self.multi_dim = len(checkpoint.multi_vector_head.weight)
        self._pad = checkpoint.config.pad_token_id
        self._checkpoint = checkpoint
        self._wider: TorchBackend | None = None
        self._widening = Lock()
        self._one_alone = Lock()
        dtype = _DTYPES[precision]
        try:
            self._model = _Model(checkpoint, torch.device(self.device), dtype)
            heads = (checkpoint.sparse_head, checkpoint.multi_vector_head)
            self._sparse, self._multi_vector = (
                self._model.linear(
                    *(torch.from_numpy(part).to(self.device, dtype) for part in (head.weight, head.bias))
                )
                for head in heads
            )
        except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
            raise BackendError(f"device: torch cannot use {self.device!r} ({error}). Fix: device='cpu'") from error
        self._streams: SimpleQueue[torch.cuda.Stream] | None = None
        self._graphs: Graphs | None = None
        if kind == "cuda":
            self._start_cuda()

    def _start_cuda(self) -> None:
        """Make a stream for each batch in flight, and graphs for single short texts."""
        device = torch.device(self.device)
        self._streams = SimpleQueue()
        for _ in range(_STREAMS):
            self._streams.put(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # torch has no types here
        self.concurrency = _STREAMS
        plan, model = self._model.plan, self._model
        if isinstance(plan, VariableLength):

            def forward(ids: Tensor, positions: Tensor, ends: Tensor, longest: int) -> dict[str, Tensor]:
                hidden = model.run(ids, positions, plan.over(ends, longest))
                every = torch.arange(len(hidden), device=device)
                return self._apply(hidden, every[:1], every, HEADS)

            self._graphs = Graphs(forward, device, self._pad)
        torch.cuda.synchronize(device)  # the weights are there for every stream

    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences; see `Backend.forward`.

        A batch that exceeds the device's memory is halved until it fits; a single text is tried once more when no other
        batch is in flight. A result in float16 that is not finite is computed again in float32, with weights that
        are loaded then, and a `PrecisionWarning`.
        """
        try:
            outputs = self._forward(sequences, heads)
        except torch.OutOfMemoryError:
            outputs = None
        except RuntimeError as error:
            raise BackendError(
                f"torch failed on a batch of {sum(map(len, sequences))} tokens: {error}. {FAILED}"
            ) from error
        if outputs is None:  # out here the failed attempt's tensors are gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(sequences) > 1:
                half = len(sequences) // 2
                return HeadOutputs.join([self.forward(part, heads) for part in (sequences[:half], sequences[half:])])
            outputs = self._forward_alone(sequences, heads)
        if self.precision == "float16" and not outputs.is_finite():
            return self._in_float32(sequences, heads)
        return outputs

    def _forward_alone(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode one text while no other batch holds memory."""
        with self._one_alone, ExitStack() as taken:
            for _ in range(_STREAMS - 1 if self._streams is not None else 0):
                taken.enter_context(self._stream())
            try:
                return self._forward(sequences, heads)
            except torch.OutOfMemoryError as error:
                raise BackendError(
                    f"device: {self.device} has no memory left for one text of {len(sequences[0])} tokens ({error}). "
                    f"Fix: a lower max_length=, precision='bfloat16', or device='cpu'"
                ) from error

    def _in_float32(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        warnings.warn(
            f"{len(sequences)} texts gave a number that is not finite in float16 and were computed again in float32; "
            f"precision='bfloat16' has the range and the speed",
            PrecisionWarning,
            stacklevel=2,
        )
        with self._widening:
            if self._wider is None:
                self._wider = TorchBackend(self._checkpoint, precision="float32", device=self.device)
        return self._wider.forward(sequences, heads)

    @torch.inference_mode()
    def _forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        lengths = [len(ids) for ids in sequences]
        ids = np.concatenate(sequences)
        places = positions(ids, np.array(lengths), self._pad)
        if self._graphs is not None and len(sequences) == 1:
            recorded = self._graphs(ids, places, frozenset(heads))
            if recorded is not None:
                return _outputs(recorded, skip=1)
        with self._stream():
            hidden = self._model(self._to_device(ids), self._to_device(places), lengths)
            first = np.cumsum([0, *lengths[:-1]])
            rest = np.delete(np.arange(len(ids)), first)
            found = self._apply(hidden, self._to_device(first), self._to_device(rest), heads)
            # copies into pinned memory run beside each other; on the CPU nothing is copied
            here = {head: values.to("cpu", non_blocking=True) for head, values in found.items()}
            if not hidden.is_cuda:
                return _outputs(here)
            # where the numbers are it takes a twentieth of the time
            finite = torch.stack([values.isfinite().all() for values in found.values()]).all().item()
        return replace(_outputs(here), finite=bool(finite))

    def _apply(self, hidden: Tensor, first: Tensor, rest: Tensor, heads: Collection[Head]) -> dict[str, Tensor]:
        """Compute the heads; `first` are the rows of sequences' first tokens, `rest` those that get token vectors."""
        found: dict[str, Tensor] = {}
        if "dense" in heads:
            found["dense"] = F.normalize(hidden[first].float(), dim=-1)
        if "sparse" in heads:
            found["sparse"] = self._sparse(hidden)[:, 0].relu().float()
        if "multi_vector" in heads:
            found["multi_vector"] = F.normalize(self._multi_vector(hidden[rest]).float(), dim=-1)
        return found

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """Use a stream that no other batch uses; nothing outside CUDA."""
        if self._streams is None:
            yield
            return
        stream = self._streams.get()
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)

    def _to_device(self, values: IntArray) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.device == "cpu":
            return tensor
        return (tensor.pin_memory() if self._streams is not None else tensor).to(self.device, non_blocking=True)


def _outputs(found: dict[str, Tensor], skip: int = 0) -> HeadOutputs:
    """Take heads on the host, without the first `skip` token vectors."""
    arrays: dict[str, FloatArray] = {head: values.numpy() for head, values in found.items()}
    vectors = arrays.get("multi_vector")
    return HeadOutputs(arrays.get("dense"), arrays.get("sparse"), None if vectors is None else vectors[skip:])


class _Model:
    """The encoder's weights and its forward pass."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.config = checkpoint.config
        weights = _Weights(checkpoint, device, dtype)
        self.plan = choose(device, dtype)
        self.linear, norm = choose_linear(device, dtype), choose_norm(device, dtype)
        self.embeddings = _Embeddings(weights, self.config, norm)
        layers = range(self.config.num_hidden_layers)
        self.layers = [_Layer(weights, i, self.config, self.linear, norm) for i in layers]

    def __call__(self, ids: Tensor, positions: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the last hidden states of packed sequences, `(total_tokens, hidden_size)`."""
        return self.run(ids, positions, self.plan(lengths, ids.device))

    def run(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the same; `attend` knows the lengths."""
        hidden = self.embeddings(ids, positions)
        for layer in self.layers:
            hidden = layer(hidden, attend)
        return hidden


class _Embeddings:
    def __init__(self, weights: _Weights, config: Config, norm: NormType) -> None:
        size = config.hidden_size
        self.words = weights.take("embeddings.word_embeddings.weight", config.vocab_size, size)
        self.positions = weights.take("embeddings.position_embeddings.weight", config.max_position_embeddings, size)
        self.type = weights.take("embeddings.token_type_embeddings.weight", None, size)[0]
        self.norm = _norm(norm, weights, "embeddings.LayerNorm", config)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.norm(self.words[ids] + self.type + self.positions[positions])


def _norm(kind: NormType, weights: _Weights, name: str, config: Config) -> Norm:
    weight, bias = (weights.take(f"{name}.{part}", config.hidden_size) for part in ("weight", "bias"))
    return kind(weight, bias, config.layer_norm_eps)


class _Layer:
    def __init__(self, weights: _Weights, number: int, config: Config, linear: LinearType, norm: NormType) -> None:
        name, size, inner = f"encoder.layer.{number}", config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads

        def make(parts: Sequence[str], rows: int, columns: int) -> Linear:
            taken = [
                (weights.take(f"{name}.{part}.weight", rows, columns), weights.take(f"{name}.{part}.bias", rows))
                for part in parts
            ]
            return linear(*(torch.cat(group) for group in zip(*taken, strict=True)))

        self.qkv = make([f"attention.self.{part}" for part in ("query", "key", "value")], size, size)
        self.attended = make(["attention.output.dense"], size, size)
        self.attention_norm = _norm(norm, weights, f"{name}.attention.output.LayerNorm", config)
        self.up = make(["intermediate.dense"], inner, size)
        self.down = make(["output.dense"], size, inner)
        self.norm = _norm(norm, weights, f"{name}.output.LayerNorm", config)

    def __call__(self, hidden: Tensor, attend: Attend) -> Tensor:
        hidden = self.attention_norm.after(self.attended, attend(self.qkv(hidden), self.heads), hidden)
        return self.norm.after(self.down, self.up.gelu(hidden), hidden)


class _Weights:
    """The tensors of a checkpoint, each read when it is taken.

    Held as a whole, the file would stay in memory beside what is made of it.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        if checkpoint.weights_path is None:
            raise CheckpointFileError(f"{checkpoint.folder}: no PyTorch weights. Fix: backend='onnx'")
        self._path, self._device, self._dtype = checkpoint.weights_path, device, dtype
        with _reading(self._path):
            tensors = _safetensors(self._path) if self._path.suffix == ".safetensors" else _pickled(self._path)
        self._tensors = {name.removeprefix("roberta."): read for name, read in tensors.items()}

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Return a tensor by name; None in `shape` admits any size."""
        if name not in self._tensors:
            raise CheckpointFileError(
                f"weights: no tensor {name!r}. Fix: use a BGE-M3 checkpoint, or download it again"
            )
        with _reading(self._path):
            tensor = self._tensors[name]()
        if len(tensor.shape) != len(shape) or any(
            want not in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        ):
            raise CheckpointFileError(
                f"weights: {name} has shape {tuple(tensor.shape)}, expected {shape}. "
                f"Fix: config.json and weights must match"
            )
        return tensor.to(self._device, self._dtype)


_Read: TypeAlias = Callable[[], Tensor]


def _safetensors(path: Path) -> dict[str, _Read]:
    from safetensors import safe_open

    def read(name: str) -> Tensor:
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    with safe_open(path, "pt") as file:
        names = file.keys()
    return {name: partial(read, name) for name in names}


def _pickled(path: Path) -> dict[str, _Read]:
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {name: partial(loaded.__getitem__, name) for name in loaded}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # both readers raise many unrelated types for a damaged or unsafe file
        raise CheckpointFileError(f"{path}: cannot be read ({error}). Fix: download it again") from error
