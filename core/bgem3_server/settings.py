"""What a server is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgem3.chat import ChatModel
from bgem3.errors import InvalidInputError, StoreNotFoundError
from bgem3.stores.opening import place_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of a server; beyond it the answer is 413, 422 or 429 and names the limit.

    Attributes:
        max_texts: Texts of one request.
        max_tokens: Tokens of one text; None: whatever the encoder reads, long texts in windows.
        max_body_bytes: Bytes of one request.
        max_queue: Requests under way at once, those that wait for the encoder among them.
        body_timeout: Seconds a client may take to send its request.
        max_k: Results of one search.
        max_collections: Collections of one server.
        max_numbers: Numbers of the token vectors of one answer; in base64, which is shorter, eight times as many;
            for scores, where they stay here, 32 times, which is also the bound of all requests together.

    Raises:
        InvalidInputError: a limit below 1.
    """

    max_texts: int = 2048
    max_tokens: int | None = 8192
    max_body_bytes: int = 16 * 2**20
    max_queue: int = 256
    body_timeout: float = 30.0
    max_k: int = 1000
    max_collections: int = 100
    # one text of 8,192 tokens, 1,024 numbers each: 170 MB of JSON
    max_numbers: int = 8 * 2**20

    @property
    def max_held(self) -> int:
        """Numbers of token vectors that the requests under way hold together, a gigabyte by default; more wait."""
        return 32 * self.max_numbers

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInputError(f"{name}: got {value}, expected a number >= 1. Fix: {name}=1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything `create_app` needs to know.

    Attributes:
        model: A folder or a hub id.
        encoder_options: Further options of `M3Encoder.from_pretrained`; not shown, like `api_keys`: one may be a key.
        db: Folder of the collections, or the address of a Qdrant server; None: kept in memory until the end.
        api_keys: Keys of which a request must show one; none: no key is asked for.
        cors_origins: Origins whose pages may call the API; none: no other page may.
        hosts: Names by which requests may call, as the header Host has them; none: any.
        chat: The language model behind the chat; None: passages are quoted.
        limits: What one client may ask.
        must_exist: Refuse a folder that holds no collections, as the place of a disk that is not mounted.

    Raises:
        InvalidInputError: a key that no header can carry, or `db` is a file.
        StoreNotFoundError: `db` holds no collections and must.
    """

    model: str = "BAAI/bge-m3"
    encoder_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    db: str | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    chat: ChatModel | None = None
    limits: Limits = Limits()
    must_exist: bool = False

    def __post_init__(self) -> None:
        if any(not key or not key.isascii() for key in self.api_keys):
            raise InvalidInputError(
                "api_keys: got an empty key or one that is not ASCII, which no header can carry. Fix: printable ASCII"
            )
        if self.db is not None and Path(self.db).is_file():
            raise InvalidInputError(f"db: {self.db} is a file, expected a folder. Fix: the folder it stands in")
        if self.must_exist and (self.db is None or place_of(self.db) is None):
            raise StoreNotFoundError(
                f"db: {self.db or 'none was given'} holds no collections, and must_exist is set. Fix: mount the disk, another "
                f"db, or no must_exist (--must-exist) before the first collection is made"
            )
