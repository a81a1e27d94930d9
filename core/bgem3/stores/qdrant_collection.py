"""The part of the Qdrant store that talks to Qdrant: one client, its errors, its retries, its collection."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from bgem3.errors import (
    IndexMismatchError,
    InvalidInputError,
    MissingExtraError,
    StoreAccessError,
    StoreConnectionError,
    StoreError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
    StoreWriteError,
)
from bgem3.stores.engine import settings_from, with_retries
from bgem3.stores.layouts import Layout
from bgem3.stores.qdrant_filters import TOKENS, range_field
from bgem3.types import Head, IndexSettings, check_choice

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

Result = TypeVar("Result")
Quantization: TypeAlias = Literal["none", "scalar", "binary"]
# Collections carry metadata of their own, where the settings stand, since 1.16.
_OLDEST = (1, 16)
# The server's rule for a new collection; one that is there has its name.
_NAME = re.compile(r"""(?!\.{1,2}\Z)[^<>:"/\\|?*\0\x1f]{1,255}""")
_SETTINGS, _ADOPTED = "bgem3", "bgem3_adopted"
_TEMPORARY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TEMPORARY_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL"})
_DENIED_CODES = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """How a new collection is made; `QdrantStore` documents each."""

    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    quantization: Quantization = "none"
    on_disk: bool = False
    token_datatype: Literal["float32", "float16", "uint8"] = "float16"
    range_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("quantization", self.quantization, ("none", "scalar", "binary"))
        check_choice("token_datatype", self.token_datatype, ("float16", "float32", "uint8"))


class QdrantCollection:
    """One collection, and every call to it: passing errors are retried, others become ours.

    Args:
        client: A Qdrant client.
        name: The collection's name.
        names: Vector name of each head; a collection that was adopted brings its own.
        layout: Names of the payload's fields, likewise.
        wait: Seconds before the second of five attempts.
    """

    def __init__(
        self, client: QdrantClient, name: str, names: dict[Head, str], layout: Layout, *, wait: float = 0.5
    ) -> None:
        self.client = client
        self.name = name
        self.names = names
        self.layout = layout
        self.n_shards = 1
        self._wait = wait
        # The local mode is plain Python over lists, not safe among threads.
        self.is_local = type(getattr(client, "_client", None)).__name__ == "QdrantLocal"
        self._lock = RLock()

    def call(self, function: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Call a client's function.

        Raises:
            StoreConnectionError, StoreAccessError, StoreVersionError, StoreError: as it failed.
        """

        def attempt() -> Result:
            if not self.is_local:
                return function(*args, **options)
            with self._lock:
                return function(*args, **options)

        try:
            return with_retries(attempt, is_passing, self._wait)
        except Exception as error:  # httpx's, grpc's, pydantic's and ValueError have no common base
            raise to_store_error(error, self.name) from error

    def open(self, settings: IndexSettings | None, options: CollectionOptions) -> IndexSettings:
        """Make the collection where there is none; return the settings it was made with.

        Raises:
            InvalidInputError: it is not there, and Qdrant makes none of this name.
            StoreNotFoundError: it is not there, and `settings` is None.
            IndexMismatchError: it has other vectors, or is no collection of ours.
            StoreVersionError: the server is too old.
        """
        self.check_version(_OLDEST, "collections with metadata")
        if not (self.name and self.call(self.client.collection_exists, self.name)):
            if not _NAME.fullmatch(self.name):
                raise InvalidInputError(
                    f'collection: got {self.name!r}, expected 1 to 255 characters without < > : " / \\ | ? * and control '
                    f"characters, not . or .. alone. Fix: collection='bgem3'"
                )
            if settings is None:
                raise StoreNotFoundError(
                    f"collection {self.name!r} is not there. Fix: collection= of one that is, or pass the store to "
                    f"HybridIndex, which makes it"
                )
            self._create(settings, options)
        params, made_with = self.read()
        if made_with is None:
            raise IndexMismatchError(
                f"collection {self.name!r} was not made by bgem3, so its chunks lack vectors. "
                f"Fix: QdrantStore(...).adopt(encoder) or bgem3 backfill, which add them, or another collection="
            )
        self.check_vectors(params, made_with)
        return made_with

    def read(self) -> tuple[models.CollectionParams, IndexSettings | None]:
        """Return the collection's parameters and what it was made with, None where another program made it."""
        config = self.call(self.client.get_collection, self.name).config
        self.n_shards = config.params.shard_number or 1
        record = (config.metadata or {}).get(_ADOPTED)
        if record:
            self.names.update(record["names"])
            self.layout = Layout(**record["layout"])
        return config.params, settings_from((config.metadata or {}).get(_SETTINGS))

    def check_vectors(self, params: models.CollectionParams, settings: IndexSettings) -> None:
        """Refuse a collection whose vectors are not those of the settings."""
        there = vector_names(params)
        for head, name in self.names.items():
            if name not in there:
                raise self._mismatch(head, f"is missing, there are {sorted(there)}")
        self.check_found(params, settings)

    def check_found(self, params: models.CollectionParams, settings: IndexSettings) -> None:
        """Refuse vectors that have a head's name and are not what the settings say; a missing one is no matter."""
        widths: dict[Head, int] = {"dense": settings.dim, "multi_vector": settings.multi_dim}
        for head, width in widths.items():
            if found := dense_params(params).get(self.names[head]):
                if found.size != width:
                    raise self._mismatch(
                        head, f"is {found.size} wide, expected {width}", "the checkpoint it was made with"
                    )
                if found.distance.value not in ("Dot", "Cosine"):
                    raise self._mismatch(head, f"has distance {found.distance.value}, expected Dot or Cosine")
                if (found.multivector_config is not None) != (head == "multi_vector"):
                    raise self._mismatch(head, "is of the other kind, one vector or many a chunk")
        sparse = (params.sparse_vectors or {}).get(self.names["sparse"])
        if sparse is not None and sparse.modifier and sparse.modifier.value != "none":
            raise self._mismatch("sparse", f"is weighed again by {sparse.modifier.value}, expected no modifier")

    def save_adoption(self, settings: IndexSettings) -> None:
        """Write settings and names into the collection of another program."""
        record = {"names": dict(self.names), "layout": asdict(self.layout)}
        self.call(self.client.update_collection, self.name, metadata={_SETTINGS: asdict(settings), _ADOPTED: record})

    def _mismatch(self, head: Head, problem: str, fix: str = "") -> IndexMismatchError:
        fix = fix or f"collection= of another, or {head}_name= of the right vector"
        return IndexMismatchError(
            f"collection {self.name!r}: the {head} vector {self.names[head]!r} {problem}. Fix: {fix}"
        )

    def _create(self, settings: IndexSettings, options: CollectionOptions) -> None:
        from qdrant_client import models

        try:
            self.call(
                self.client.create_collection,
                self.name,
                vectors_config={
                    self.names["dense"]: models.VectorParams(
                        size=settings.dim,
                        distance=models.Distance.DOT,
                        on_disk=options.on_disk,
                        quantization_config=_quantization(options.quantization),
                    ),
                    self.names["multi_vector"]: models.VectorParams(
                        size=settings.multi_dim,
                        distance=models.Distance.DOT,
                        # Only candidates are scored by it: a graph over token vectors would cost gigabytes.
                        hnsw_config=models.HnswConfigDiff(m=0),
                        on_disk=True,
                        datatype=models.Datatype(options.token_datatype),
                        quantization_config=_quantization(options.quantization),
                        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                    ),
                },
                sparse_vectors_config={
                    self.names["sparse"]: models.SparseVectorParams(
                        index=models.SparseIndexParams(on_disk=options.on_disk)
                    )
                },
                shard_number=options.shard_number,
                replication_factor=options.replication_factor,
                write_consistency_factor=options.write_consistency_factor,
                on_disk_payload=True,
                metadata={_SETTINGS: asdict(settings)},
            )
        except StoreError:
            # Another process may have made it in between.
            if not self.call(self.client.collection_exists, self.name):
                raise
        self.index_payload(options.range_keys)

    def index_payload(self, range_keys: tuple[str, ...]) -> None:
        """Index what filters ask about; the local mode has no such index and needs none."""
        if self.is_local:
            return
        from qdrant_client import models

        self.call(self.client.create_payload_index, self.name, TOKENS, models.PayloadSchemaType.KEYWORD, wait=True)
        for key in range_keys:
            name = range_field(key)
            self.call(self.client.create_payload_index, self.name, name, models.PayloadSchemaType.FLOAT, wait=True)

    def check_version(self, oldest: tuple[int, int], purpose: str, otherwise: str = "") -> None:
        """Refuse a server that is older than `oldest`, which brought `purpose`; `otherwise` is another way.

        Raises:
            StoreVersionError: it is.
        """
        version = str(self.call(self.client.info).version)
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < oldest:
            raise StoreVersionError(
                f"the server runs Qdrant {version}, expected {oldest[0]}.{oldest[1]} or newer for {purpose}. "
                f"Fix: upgrade the server, one minor version at a time{otherwise}"
            )


def dense_params(params: models.CollectionParams) -> dict[str, models.VectorParams]:
    """Return the vectors of a collection by name; an unnamed one has the empty name."""
    vectors = params.vectors
    return dict(vectors) if isinstance(vectors, dict) else {} if vectors is None else {"": vectors}


def vector_names(params: models.CollectionParams) -> set[str]:
    """Return the names of a collection's dense and sparse vectors."""
    return {*dense_params(params), *(params.sparse_vectors or {})}


def connect(
    path: str | Path | None, url: str | None, api_key: str | None, prefer_grpc: bool, grpc_port: int, timeout: int
) -> QdrantClient:
    """Return a client.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        StoreLockedError: another process has the folder open.
        StoreConnectionError: the address cannot be read.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingExtraError("qdrant-client", "qdrant", "QdrantStore") from error
    try:
        if url is None:
            if path == ":memory:":
                return QdrantClient(":memory:")
            # every thread may use its database, one at a time: see `QdrantCollection.call`
            return QdrantClient(path=str(path), force_disable_check_same_thread=True)
        return QdrantClient(
            url=url,
            api_key=api_key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=timeout,
            check_compatibility=False,
        )
    except RuntimeError as error:
        if "already accessed" in str(error):
            raise StoreLockedError(
                f"{path}: another process has this folder open, and Qdrant's local mode allows one. "
                f"Fix: close it there, or QdrantStore(url=...) with a server"
            ) from error
        raise to_store_error(error, str(path)) from error
    except (OSError, ValueError) as error:
        if path is not None:
            raise StoreWriteError(f"{path}: cannot be opened ({error}). Fix: a folder that can be written") from error
        raise StoreConnectionError(f"{url or path}: cannot be opened ({error}). Fix: check url or path") from error


def is_passing(error: BaseException) -> bool:
    """Say whether an error may pass by itself: the server is away, busy, or out of reach."""
    code = _grpc_code(error)
    if code is not None:
        return code in _TEMPORARY_CODES
    status = getattr(error, "status_code", None)
    if status is not None:
        return status in _TEMPORARY_STATUS
    return type(error).__name__ in ("ResponseHandlingException", "ResourceExhaustedResponse")


def to_store_error(error: Exception, name: str) -> StoreError:
    """Return our error for one of the client's; the message holds no key."""
    code, status = _grpc_code(error), getattr(error, "status_code", None)
    said = _said(error)
    if code in _DENIED_CODES or status in (401, 403):
        return StoreAccessError(
            f"collection {name!r}: the server refused the key ({said}). Fix: api_key= with a key that is valid "
            f"and may write"
        )
    if is_passing(error):
        return StoreConnectionError(
            f"collection {name!r}: the server does not answer ({said}). Fix: check that it runs and that url= "
            f"(and grpc_port=, or prefer_grpc=False) reach it, then call again"
        )
    if "substring" in said:
        return StoreVersionError(
            f"collection {name!r}: this server knows no substring filter ({said}). Fix: upgrade Qdrant to 1.20, or "
            f"leave $text_match out"
        )
    if isinstance(error, sqlite3.Error | OSError):  # of its local mode
        return StoreWriteError(f"collection {name!r}: {said}. Fix: free disk space, or make the folder writable")
    if code == "NOT_FOUND" or status == 404:
        return StoreNotFoundError(
            f"collection {name!r}: deleted meanwhile, or url= is no Qdrant server ({said}). Fix: make a new store, or check url="
        )
    return StoreError(f"collection {name!r}: Qdrant refused ({said}). Fix: what it says")


def _grpc_code(error: BaseException) -> str | None:
    code = getattr(error, "code", None)
    if not callable(code):
        return None
    with suppress(Exception):  # another library's `code` may want arguments
        return str(getattr(code(), "name", None))
    return None


def _said(error: BaseException) -> str:
    details = getattr(error, "details", None)
    with suppress(Exception):  # as above
        if callable(details):
            return f"{_grpc_code(error)}: {details()}"
    source = getattr(error, "source", None)
    return " ".join(f"{type(source or error).__name__}: {source or error}".split())[:300]


def _quantization(kind: Quantization) -> Any:
    from qdrant_client import models

    if kind == "scalar":
        config = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        return models.ScalarQuantization(scalar=config)
    if kind == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None
