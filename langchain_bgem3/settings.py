"""Which model, and how it reads texts: the fields that every class with a model of its own has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder
    from bgem3.shared import SharedEncoder

DEFAULT_MODEL = "BAAI/bge-m3"
# Fields and what `M3Encoder.from_pretrained` calls them.
_OPTIONS = {
    "model_name": "model",
    "revision": "revision",
    "backend": "backend",
    "precision": "precision",
    "device": "device",
    "max_length": "max_length",
    "overflow": "overflow",
    "window": "window",
    "window_overlap": "window_overlap",
    "cache_folder": "cache_dir",
    "local_files_only": "local_files_only",
    "num_threads": "num_threads",
    "base_url": "base_url",
    "api_key": "api_key",
    "timeout": "timeout",
}
# Fields whose value in force is what a loaded encoder says.
_DESCRIBED = ("backend", "precision", "device", "max_length", "overflow", "window", "window_overlap")


class EncoderSettings(BaseModel):
    """The options of `M3Encoder.from_pretrained` as fields.

    Objects with equal settings share one model, and one forward pass for the same text. The model
    is never pickled: a copy in another process loads its own when it first needs it.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    # Not `alias=`, after which type checkers would know `model` only.
    model_name: str = Field(
        default=DEFAULT_MODEL,
        validation_alias=AliasChoices("model_name", "model"),
        description="A hub id or a folder.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    backend: str = Field(default="auto", description="auto, onnx, openvino, torch, flag or remote.")
    precision: str = Field(default="auto", description="auto, float32, bfloat16, float16, int8 or int4.")
    device: str | None = Field(default=None, description="A torch device name; None: a GPU where there is one.")
    max_length: int | None = Field(default=None, description="Tokens of one forward pass; None: the model's limit.")
    overflow: str = Field(default="window", description="What happens past max_length: window, truncate or error.")
    window: int | None = Field(default=None, description="Tokens of a window; None: max_length.")
    window_overlap: int | None = Field(default=None, description="Tokens neighbouring windows share.")
    cache_folder: str | None = Field(default=None, description="Where downloads are kept.")
    local_files_only: bool = Field(default=False, description="Never use the network.")
    num_threads: int | None = Field(default=None, description="Threads of the forward pass.")

    base_url: str | None = Field(default=None, description="A server that runs the model: bgem3 serve, or vLLM.")
    api_key: SecretStr | None = Field(default=None, description="Its key; None: the variable BGEM3_API_KEY.")
    timeout: float = Field(default=60.0, description="Seconds that an answer of it may take.")

    _shared: Any = PrivateAttr(default=None)

    if not TYPE_CHECKING:  # type checkers take the signature from the fields

        def __init__(self, **fields: Any) -> None:
            # Not in a validator: pydantic would wrap our errors.
            super().__init__(**self._prepared(fields))
            self._check()
            _ = self.shared  # a checkpoint that cannot be used is an error here, not at the first text
            if self.base_url is not None:
                self._take_name()

    @classmethod
    def from_encoder(cls, encoder: M3Encoder, **fields: Any) -> Self:
        """Make one over an encoder that is loaded already; its settings become the fields.

        Args:
            encoder: What encodes.
            fields: Any other fields of the class.
        """
        from bgem3.shared import share

        described = encoder.describe()
        settings = {"model_name": str(described["model"]), **{name: described[name] for name in _DESCRIBED}}
        if described["backend"] == "remote":
            settings |= {"base_url": described["device"], "device": None}
        blank = {name: EncoderSettings.model_fields[name].get_default() for name in _OPTIONS}
        shared = share(encoder, _options({**blank, **settings}))
        made = cls(**{**settings, **fields})
        made._shared = made._wants(shared)
        return made

    @property
    def shared(self) -> SharedEncoder:
        """The process's encoder for these settings, loaded when it is first needed.

        Raises:
            CheckpointError, MissingExtraError, BackendError, InvalidInputError: as
                `M3Encoder.from_pretrained`.
        """
        if self._shared is None:
            from bgem3.shared import load_shared

            self._shared = self._wants(load_shared(self._options()))
        shared: SharedEncoder = self._shared
        return shared

    @property
    def encoder(self) -> M3Encoder:
        """The encoder behind this object, e.g. for `HybridIndex` or `from_encoder` of another class."""
        return self.shared.encoder

    @classmethod
    def _beside(cls, other: EncoderSettings) -> Self:
        """Make one that shares the model of an object of another class."""
        made = cls(**{name: getattr(other, name) for name in _OPTIONS})
        made._shared = made._wants(other.shared)
        return made

    @classmethod
    def _prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of what a caller passed."""
        return fields

    def _options(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in _OPTIONS}
        if self.base_url is not None and "model_name" not in self.model_fields_set:
            values["model_name"] = None  # whatever the server has
        return _options(values)

    def _take_name(self) -> None:
        """Show the name of the server's model, and be found by it."""
        from bgem3.shared import share

        self.model_name = str(self.shared.encoder.describe()["model"])
        share(self.shared.encoder, self._options())

    def _check(self) -> None:
        """Refuse values the class has no use for."""

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        """Say which heads this class will ask for."""
        return shared

    def __getstate__(self) -> dict[Any, Any]:
        return super(EncoderSettings, self._bare()).__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super(EncoderSettings, self._bare()).__deepcopy__(memo)

    def _bare(self) -> Self:
        bare = self.model_copy()
        bare._shared = None
        return bare


def _options(values: dict[str, Any]) -> dict[str, Any]:
    options = {option: values[name] for name, option in _OPTIONS.items()}
    key = options["api_key"]
    return {**options, "api_key": key.get_secret_value() if isinstance(key, SecretStr) else key}
