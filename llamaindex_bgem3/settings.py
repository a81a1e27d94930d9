"""Which model, and how it reads texts: the fields that every class with a model of its own has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from bgem3.encoder_fields import DEFAULT_MODEL, EncoderFields
from bgem3.errors import InvalidInputError


class EncoderSettings(EncoderFields, BaseModel):
    """The options of `M3Encoder.from_pretrained` as public fields.

    The ingestion cache hashes public fields, so that a changed setting is noticed; what changes
    no vector (`device`, `num_threads`, `api_key`, `timeout`) is left out. Objects with equal settings share one model,
    and one forward pass for the same text. The model is never pickled: a worker process loads its
    own when it first needs it.
    """

    # As LlamaIndex's classes have it, but a misspelt field is an error.
    model_config = ConfigDict(
        protected_namespaces=("pydantic_model_",),
        arbitrary_types_allowed=True,
        extra="forbid",
    )

    model_name: str = Field(default=DEFAULT_MODEL, description="A hub id or a folder.")
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    backend: str = Field(default="auto", description="auto, onnx, openvino, torch, flag or remote.")
    precision: str = Field(default="auto", description="auto, float32, bfloat16, float16, int8 or int4.")
    max_length: int | None = Field(default=None, description="Tokens of one forward pass; None: the model's limit.")
    overflow: str = Field(default="window", description="What happens past max_length: window, truncate or error.")
    window: int | None = Field(default=None, description="Tokens of a window; None: max_length.")
    window_overlap: int | None = Field(default=None, description="Tokens neighbouring windows share.")
    cache_folder: str | None = Field(default=None, description="Where downloads are kept.")
    local_files_only: bool = Field(default=False, description="Never use the network.")
    device: str | None = Field(default=None, exclude=True, description="A torch device name.")
    num_threads: int | None = Field(default=None, exclude=True, description="Threads of the forward pass.")

    base_url: str | None = Field(default=None, description="A server that runs the model: bgem3 serve, or vLLM.")
    api_key: str | None = Field(default=None, exclude=True, repr=False, description="Its key; None: BGEM3_API_KEY.")
    timeout: float = Field(default=60.0, exclude=True, description="Seconds that an answer of it may take.")

    _shared: Any = PrivateAttr(default=None)

    if TYPE_CHECKING:  # type checkers take the signature from the fields, and this is the other word for one
        model: str = DEFAULT_MODEL
    else:

        def __init__(self, model_name: str | None = None, /, **fields: Any) -> None:
            if "model" in fields:  # what LlamaIndex's rerankers call it
                fields.setdefault("model_name", fields.pop("model"))
            if model_name is not None:
                fields["model_name"] = model_name
            super().__init__(**fields)
            self._start()

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # LlamaIndex's own calls __init__, which would load the model before the worker needs it.
        for name, field in type(self).model_fields.items():
            if name not in state["__dict__"]:
                state["__dict__"][name] = field.get_default(call_default_factory=True)
        BaseModel.__setstate__(self, state)


def check_only(name: str, value: object, only: object, why: str) -> None:
    """Refuse a setting of another class that can have one value here.

    Raises:
        InvalidInputError: it has another value.
    """
    if value != only:
        raise InvalidInputError(f"{name}: got {value!r}, expected {only!r}: {why}. Fix: leave {name} out")
