"""How long texts are read: limits, windows, and what happens to what does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, TypeAlias, get_args

from bgem3.errors import InvalidInputError, TextTooLongError, TruncationWarning
from bgem3.tokenizer import cut, windows
from bgem3.types import IntArray, check_choice

Overflow: TypeAlias = Literal["window", "truncate", "error"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

# The shortest useful length: `<s>`, one token, `</s>`.
_MIN_LENGTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long texts are read, in tokens, the two special tokens included.

    Attributes:
        max_length: Tokens of one forward pass.
        overflow: What happens to a longer text: cut into windows, truncated with a warning, refused.
        window: Tokens of a window.
        window_overlap: Tokens a window shares with the one before it.

    Raises:
        InvalidInputError: a value is out of range.
    """

    max_length: int
    overflow: Overflow
    window: int
    window_overlap: int

    def __post_init__(self) -> None:
        check_choice("overflow", self.overflow, OVERFLOWS)
        if not _MIN_LENGTH <= self.window <= self.max_length:
            raise InvalidInputError(
                f"window: got {self.window}, expected {_MIN_LENGTH} to max_length={self.max_length} tokens. "
                f"Fix: window={self.max_length}, or leave it out"
            )
        if not 0 <= self.window_overlap <= self.window - _MIN_LENGTH:
            raise InvalidInputError(
                f"window_overlap: got {self.window_overlap}, expected 0 to {self.window - _MIN_LENGTH} for "
                f"window={self.window}. Fix: leave it out for an eighth of the window"
            )

    @classmethod
    def resolve(
        cls, limit: int, max_length: int | None, overflow: Overflow, window: int | None, overlap: int | None
    ) -> Lengths:
        """Fill in what was left out; `limit` is the most tokens the checkpoint can read."""
        for name, value in (("max_length", max_length), ("window", window), ("window_overlap", overlap)):
            if value is not None and not isinstance(value, Integral):
                raise InvalidInputError(f"{name}: expected a whole number of tokens, got {value!r}. Fix: {name}=512")
        length = limit if max_length is None else max_length
        if not _MIN_LENGTH <= length <= limit:
            raise InvalidInputError(
                f"max_length: got {length}, expected {_MIN_LENGTH} to {limit} tokens, the most that this encoder reads. "
                f"Fix: max_length={limit}, or leave it out"
            )
        size = length if window is None else window
        shared = min(64, size // 8) if overlap is None else overlap
        return cls(max_length=length, overflow=overflow, window=size, window_overlap=shared)

    def shortened(self, max_length: int | None) -> Lengths:
        """Return these lengths with a smaller `max_length`; None changes nothing."""
        if max_length is None or max_length == self.max_length:
            return self
        window = min(self.window, max_length) if isinstance(max_length, Integral) else self.window
        # No more of a window than before, or than is usual: else it would advance by a few tokens.
        overlap = min(self.window_overlap, max(window // 8, self.window_overlap * window // self.window))
        overlap = max(0, min(overlap, window - _MIN_LENGTH))
        return Lengths.resolve(self.max_length, max_length, self.overflow, window, overlap)


def fit(ids: Sequence[IntArray], lengths: Lengths, *, warn: bool = True, first: int = 0) -> list[list[IntArray]]:
    """Make each text fit: one sequence, or several windows; `warn` where texts are truncated; `first` is the first text's position.

    Raises:
        TextTooLongError: under `overflow="error"`; names the text's position.
    """
    too_long = [i for i, one in enumerate(ids) if len(one) > lengths.max_length]
    if not too_long:
        return [[one] for one in ids]
    if lengths.overflow == "error":
        raise TextTooLongError(
            first + too_long[0],
            f"{len(ids[too_long[0]])} tokens, max_length is {lengths.max_length}. "
            f"Fix: split the text, or overflow='window'",
        )
    if lengths.overflow == "truncate":
        if warn:
            warnings.warn(
                f"{len(too_long)} of {len(ids)} texts were cut at max_length={lengths.max_length} tokens "
                f"(overflow='truncate'); overflow='window' reads them whole",
                TruncationWarning,
                stacklevel=4,
            )
        return [[cut(one, lengths.max_length)] for one in ids]
    return [
        windows(one, lengths.window, lengths.window_overlap) if len(one) > lengths.max_length else [one] for one in ids
    ]
