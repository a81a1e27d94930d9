"""The part of the Milvus store that talks to Milvus: one client, its errors, its collection."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
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
from bgem3.redact import without_user
from bgem3.stores.engine import settings_from
from bgem3.stores.milvus_filters import FOLDS, KEY, TEXTS, TOKENS, WORDS
from bgem3.types import IndexSettings

if TYPE_CHECKING:
    from pymilvus import CollectionSchema, MilvusClient

Result = TypeVar("Result")
TokenVectors: TypeAlias = Literal["stored", "engine", "encode"]
# Most bytes of a string, and of a JSON field. Source: Milvus docs, "Milvus Limits".
MAX_BYTES = 65_535
# Most items of an array. Source: likewise.
MAX_ITEMS = 4096
# Arrays of structs with a vector field. Source: Milvus release notes.
_STRUCTS = (2, 6, 4)
# Sparse vectors and searches over several fields. Source: Milvus release notes.
_OLDEST = (2, 4)
_SETTINGS = "bgem3"
ID, TEXT, METADATA, DENSE, SPARSE = "id", "text", "metadata", "dense", "sparse"
BLOBS, STRUCT, VECTOR = "token_blobs", "token_vectors", "vector"
_JSON_FIELDS = (METADATA, WORDS, TEXTS, FOLDS)


class MilvusCollection:
    """One collection, and every call to it, whose errors become ours.

    Args:
        client: A Milvus client.
        name: Letters, digits and underscores.
        token_vectors: Where token vectors are; see `MilvusStore`.
        timeout: Seconds that one request may take; the client tries again, with growing pauses, as long.
    """

    def __init__(self, client: MilvusClient, name: str, token_vectors: TokenVectors, *, timeout: float) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise InvalidInputError(
                f"collection: expected letters, digits and underscores, no digit first, got {name!r}. "
                f"Fix: collection='bgem3'"
            )
        self.client = client
        self.name = name
        self._token_vectors = token_vectors
        self._timeout = timeout

    def call(self, function: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Call a client's function with the collection's name first.

        Raises:
            StoreConnectionError, StoreAccessError, StoreVersionError, StoreError: as it failed.
        """
        with self._errors():
            return function(self.name, *args, timeout=self._timeout, **options)

    def pages(self, where: str, fields: list[str], size: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows that fulfil an expression, all for an empty one, at most `size` at a time.

        Raises:
            StoreError: as `call`.
        """
        options = {"batch_size": size, "filter": where, "output_fields": fields}
        with closing(self.call(self.client.query_iterator, **options)) as iterator:
            while True:
                with self._errors():
                    rows = list(iterator.next())
                if not rows:
                    return
                yield rows

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MilvusException, grpc's and ValueError have no common base
            raise to_store_error(error, self.name) from error

    def open(self, settings: IndexSettings | None, codec: str, consistency: str) -> tuple[IndexSettings, str]:
        """Make the collection where there is none; return the settings and the codec it was made with.

        Raises:
            StoreNotFoundError: it is not there, and `settings` is None.
            IndexMismatchError: it has other fields, or is no collection of ours.
            StoreVersionError: the server is too old, for `token_vectors="engine"` or at all.
        """
        self._check_version(_OLDEST, "sparse vectors", "")
        if not self.call(self.client.has_collection):
            if settings is None:
                raise StoreNotFoundError(
                    f"collection {self.name!r} is not there. Fix: collection= of one that is, or pass the store to "
                    f"HybridIndex, which makes it"
                )
            self._create(settings, codec, consistency)
        described = self.call(self.client.describe_collection)
        record = _record(described)
        made_with = settings_from(record.get("settings"))
        if made_with is None:
            raise IndexMismatchError(
                f"collection {self.name!r} was not made by bgem3, and Milvus adds no vector field to one that is "
                f"there. Fix: bgem3 backfill --into a new collection, or another collection="
            )
        if record.get("token_vectors") != self._token_vectors:
            raise IndexMismatchError(
                f"collection {self.name!r} was made with token_vectors={record.get('token_vectors')!r}, now "
                f"{self._token_vectors!r}. Fix: open it as it was made"
            )
        self._check_fields(described, made_with)
        self.call(self.client.load_collection)
        return made_with, str(record.get("codec", codec))

    def _check_fields(self, described: dict[str, Any], settings: IndexSettings) -> None:
        fields = {field["name"]: field for field in described["fields"]}
        if missing := {KEY, ID, TEXT, DENSE, SPARSE, *_JSON_FIELDS, TOKENS} - set(fields):
            raise IndexMismatchError(
                f"collection {self.name!r} lacks the fields {sorted(missing)}. Fix: choose another collection="
            )
        width = int(fields[DENSE]["params"]["dim"])
        if width != settings.dim:
            raise IndexMismatchError(
                f"collection {self.name!r}: the dense vector is {width} wide, expected {settings.dim}. "
                f"Fix: open it with the checkpoint it was made with"
            )

    def _create(self, settings: IndexSettings, codec: str, consistency: str) -> None:
        record = {"settings": asdict(settings), "token_vectors": self._token_vectors, "codec": codec}
        written = json.dumps(record)
        index = self.client.prepare_index_params()
        index.add_index(DENSE, index_type="HNSW", metric_type="IP", params={"M": 32, "efConstruction": 200})
        index.add_index(SPARSE, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        if self._token_vectors == "engine":
            name = f"{STRUCT}[{VECTOR}]"
            index.add_index(name, index_type="HNSW", metric_type="MAX_SIM_IP", params={"M": 16, "efConstruction": 100})
        try:
            self.call(
                self.client.create_collection,
                schema=self._schema(settings, written),
                # Servers keep properties they do not know; the description is for those that do not.
                properties={_SETTINGS: written},
                consistency_level=consistency,
            )
        except StoreError:
            # Another process may have made it in between.
            if not self.call(self.client.has_collection):
                raise
        # There is nothing to index yet, so nothing to wait for.
        self.call(self.client.create_index, index, sync=False)

    def _schema(self, settings: IndexSettings, description: str) -> CollectionSchema:
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
        schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=36)
        for name in (ID, TEXT):
            schema.add_field(name, DataType.VARCHAR, max_length=MAX_BYTES)
        for name in _JSON_FIELDS:
            schema.add_field(name, DataType.JSON)
        schema.add_field(TOKENS, DataType.ARRAY, element_type=DataType.VARCHAR, max_length=32, max_capacity=MAX_ITEMS)
        schema.add_field(DENSE, DataType.FLOAT_VECTOR, dim=settings.dim)
        schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
        if self._token_vectors == "stored":
            schema.add_field(
                BLOBS, DataType.ARRAY, element_type=DataType.VARCHAR, max_length=MAX_BYTES, max_capacity=MAX_ITEMS
            )
        elif self._token_vectors == "engine":
            self._check_version(_STRUCTS, "token_vectors='engine'", ", or token_vectors='stored'")
            struct = self.client.create_struct_field_schema()
            struct.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=settings.multi_dim)
            schema.add_field(
                STRUCT, DataType.ARRAY, element_type=DataType.STRUCT, struct_schema=struct, max_capacity=MAX_ITEMS
            )
        return schema

    def _check_version(self, oldest: tuple[int, ...], purpose: str, otherwise: str) -> None:
        version = self._server_version()
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        # milvus-lite counts its own versions, and has everything but arrays of structs.
        if numbers < oldest or ("lite" in version and oldest == _STRUCTS):
            raise StoreVersionError(
                f"{purpose}: needs Milvus {'.'.join(map(str, oldest))} or newer, the server is {version}. "
                f"Fix: upgrade it{otherwise}"
            )

    def _server_version(self) -> str:
        with self._errors():
            return str(self.client.get_server_version(timeout=self._timeout))


def connect(uri: str, token: str, timeout: float) -> MilvusClient:
    """Return a client; a path that ends in `.db` opens milvus-lite in this process.

    Raises:
        MissingExtraError: pymilvus is not installed.
        StoreLockedError: another process has the file open.
        StoreWriteError: the path cannot be written to.
        StoreConnectionError, StoreAccessError: the server cannot be reached, or refuses the token.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise MissingExtraError("pymilvus", "milvus", "MilvusStore") from error
    if "://" not in uri:
        if not uri.endswith(".db"):
            raise InvalidInputError(f"uri: expected a path ending in .db or a URL, got {uri!r}. Fix: uri='./milvus.db'")
        _check_folder(Path(uri))
    try:
        return MilvusClient(uri, token=token, timeout=timeout)
    except Exception as error:  # as in `MilvusCollection._errors`
        if any(
            said in str(error).lower() for said in ("opened by another program", "lock", "open local milvus failed")
        ):
            raise StoreLockedError(
                f"{uri}: another process has this file open, and milvus-lite allows one (it keeps it until it ends). "
                f"Fix: end it, or MilvusStore('http://...') with a server"
            ) from error
        raise to_store_error(error, without_user(uri)) from error


def _check_folder(place: Path) -> None:
    """Write to milvus-lite's folder, since its own error does not tell a folder that refuses from one that is open."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=place).close()
    except OSError as error:
        raise StoreWriteError(f"{place}: cannot be written ({error}). Fix: uri= a path that can be written") from error


def is_passing(error: BaseException) -> bool:
    """Say whether an error may pass by itself: the server is away, busy, or out of reach."""
    name = type(error).__name__
    said = str(error)
    return name in ("MilvusUnavailableException", "ConnectError", "ConnectionError") or any(
        part in said for part in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Fail connecting", "rate limit", "Retry timeout")
    )


def to_store_error(error: Exception, name: str) -> StoreError:
    """Return our error for one of the client's; the message holds no token."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if any(
        part in said.lower()
        for part in ("unauthenticated", "auth check failure", "permission_denied", "permission deny")
    ):
        return StoreAccessError(
            f"collection {name!r}: the server refused the token ({said}). Fix: token= with 'user:password' or a key "
            f"that is valid and may write"
        )
    if is_passing(error):
        return StoreConnectionError(
            f"collection {name!r}: the server does not answer ({said}). Fix: check that it runs and that uri= "
            f"reaches it, then call again"
        )
    return StoreError(f"collection {name!r}: Milvus refused ({said})")


def _record(described: dict[str, Any]) -> dict[str, Any]:
    """Return what was written about a collection of ours; empty for another's."""
    for written in ((described.get("properties") or {}).get(_SETTINGS), described.get("description")):
        with suppress(TypeError, ValueError):
            record = json.loads(written or "")
            if isinstance(record, dict):
                return record
    return {}
