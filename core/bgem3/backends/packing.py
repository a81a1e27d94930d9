"""Token sequences packed one after another, and where each token stands when they are padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bgem3.types import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A batch of `n` sequences, `longest` tokens at most.

    Attributes:
        ids: Token ids, `(tokens,)`.
        positions: Row of the position table of each token, `(tokens,)`.
        lengths: Tokens of each sequence, `(n,)`.
        mask: 1 where the padded form holds a token, `(n, longest)` int32.
        padded: For each place of the padded form its token's row; 0 where there is none, `(n, longest)`.
        packed: For each token its place in the flattened padded form, `(tokens,)`.
    """

    ids: IntArray
    positions: IntArray
    lengths: IntArray
    mask: NDArray[np.int32]
    padded: IntArray
    packed: IntArray


def pack(sequences: Sequence[IntArray], pad: int) -> Packed:
    """Pack sequences; `pad` is the padding token's id, from which positions count."""
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    columns = np.arange(lengths.max())
    starts = np.cumsum(lengths) - lengths
    real = columns < lengths[:, None]
    ids = np.concatenate(sequences)
    return Packed(
        ids=ids,
        positions=positions(ids, lengths, pad),
        lengths=lengths,
        mask=real.astype(np.int32),
        padded=np.where(real, starts[:, None] + columns, 0),
        packed=np.flatnonzero(real),
    )


def positions(ids: IntArray, lengths: IntArray, pad: int) -> IntArray:
    """Count positions as XLM-R does: in each sequence from `pad + 1` over tokens that are not the pad token.

    Args:
        ids: Of all sequences, `(tokens,)`.
        lengths: Tokens of each sequence, at least one, `(n,)`.
        pad: The padding token's id.
    """
    real = ids != pad
    counted = np.cumsum(real)
    before = (counted - real)[np.cumsum(lengths) - lengths]
    found: IntArray = (counted - np.repeat(before, lengths)) * real + pad
    return found
