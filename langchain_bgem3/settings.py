"""Which model, and how it reads texts: the fields that every class with a model of its own has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from bgem3.encoder_fields import DEFAULT_MODEL, OPTIONS, EncoderFields

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder


class EncoderSettings(EncoderFields, BaseModel):
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

    if TYPE_CHECKING:  # type checkers take the signature from the fields, and this is the other word for one
        model: str = DEFAULT_MODEL
    else:

        def __init__(self, **fields: Any) -> None:
            # Not in a validator: pydantic would wrap our errors.
            super().__init__(**self._prepared(fields))
            self._start()

    @property
    def encoder(self) -> M3Encoder:
        """The encoder behind this object, e.g. for `HybridIndex` or `from_encoder` of another class."""
        return self.shared.encoder

    @classmethod
    def _beside(cls, other: EncoderSettings) -> Self:
        """Make one that shares the model of an object of another class."""
        made = cls(**{name: getattr(other, name) for name in OPTIONS})
        made._shared = made._wants(other.shared)
        return made

    @classmethod
    def _prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of what a caller passed."""
        return fields

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"api_key": None if self.api_key is None else self.api_key.get_secret_value()}
