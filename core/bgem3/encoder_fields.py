"""The options of an encoder as fields of a framework's class, and the encoder for them.

Each adapter declares the fields with its own framework's pydantic; what follows from their values is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder
    from bgem3.shared import SharedEncoder

DEFAULT_MODEL = "BAAI/bge-m3"
# Fields and what `M3Encoder.from_pretrained` calls them.
OPTIONS = {
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


class EncoderFields:
    """What every class with a model of its own has: the process's encoder for the values of its fields.

    A framework's pydantic model declares the fields, `OPTIONS`, and a private attribute `_shared`, None at first,
    and ends its `__init__` with `_start`.
    """

    if TYPE_CHECKING:  # annotations that pydantic saw would be fields of its own
        model_name: str
        base_url: str | None
        model_fields_set: set[str]
        _shared: SharedEncoder | None
    else:

        @property
        def model(self) -> str:
            """The name, by the word that the constructor takes too."""
            return self.model_name

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
        declared = cast(Any, cls).model_fields
        shared = share(encoder, _renamed({name: declared[name].get_default() for name in OPTIONS} | settings))
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
        return self._shared

    def _start(self) -> None:
        """Check the fields, and load the model: one that cannot be used is an error now, not at the first text."""
        self._check()
        encoder = self.shared.encoder
        if self.base_url is not None:  # show the name of the server's model, and be found by it
            from bgem3.shared import share

            super().__setattr__("model_name", str(encoder.describe()["model"]))
            share(encoder, self._options())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in OPTIONS:
            self._shared = None
            self._start()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; one with another model, lengths or the like loads its own."""
        copied: Self = cast(Any, super()).model_copy(update=update, deep=deep)
        if OPTIONS.keys() & (update or {}):
            copied._shared = None
            copied._start()
        return copied

    def __getstate__(self) -> Any:
        return super(EncoderFields, self._bare()).__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied: Self = cast(Any, super(EncoderFields, self._bare())).__deepcopy__(memo)
        return copied

    def _bare(self) -> Self:
        """Return a copy without the model, which is no part of what is kept or sent elsewhere."""
        bare: Self = cast(Any, self).model_copy()
        bare._shared = None
        return bare

    def _options(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in OPTIONS}
        if self.base_url is not None and "model_name" not in self.model_fields_set:
            values["model_name"] = None  # whatever the server has
        return _renamed(values)

    def _check(self) -> None:
        """Refuse values the class has no use for."""

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        """Say which heads this class will ask for."""
        return shared


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {option: values[name] for name, option in OPTIONS.items()}
