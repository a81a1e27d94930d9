"""Texts to token ids, in any thread, and long texts to windows."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Collection, Sequence
from pathlib import Path
from unicodedata import category

import numpy as np
from tokenizers import Tokenizer

from bgem3.errors import CheckpointFileError
from bgem3.intake import check_text
from bgem3.types import IntArray, Token

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
# For private use, so that no vocabulary has it.
_UNKNOWN = "\ue000"
_CHARSMAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]*)"')


class M3Tokenizer:
    """The checkpoint's tokenizer. Safe to share between threads.

    A shared Hugging Face tokenizer changes its truncation state in each call, so that threads with
    different lengths get each other's ids. Here that state is set once and texts are cut by us.

    Args:
        path: The checkpoint's `tokenizer.json`; kept as an attribute.
        vocab_size: Tokens that the model knows; None: any number.

    Raises:
        CheckpointFileError: the file is not a tokenizer, lacks a special token, or has more tokens than the model.
    """

    def __init__(self, path: Path, vocab_size: int | None = None) -> None:
        self.path = path
        try:
            _check_charsmap(path)
            self._tokenizer = Tokenizer.from_file(str(path))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            empty = self._tokenizer.encode("").ids
            self._tokenizer.encode(_UNKNOWN)
        except BaseException as error:
            # For a malformed file the library raises plain Exception, or panics, which is no Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CheckpointFileError(
                f"{path}: not a readable tokenizer ({error}). Fix: download the checkpoint again"
            ) from error
        if vocab_size is not None and (size := self._tokenizer.get_vocab_size()) > vocab_size:
            raise CheckpointFileError(
                f"{path}: {size} tokens, config.json has a vocab_size of {vocab_size}. Fix: files of one checkpoint"
            )
        ids: dict[str, int] = {}
        for token in SPECIAL_TOKENS:
            found = self._tokenizer.token_to_id(token)
            if found is None:
                raise CheckpointFileError(f"{path}: no token {token}. Fix: use an XLM-RoBERTa tokenizer")
            ids[token] = found
        if empty != [ids["<s>"], ids["</s>"]]:
            raise CheckpointFileError(
                f"{path}: does not put <s> and </s> around a text. Fix: use an XLM-RoBERTa tokenizer"
            )
        self.special_ids: IntArray = np.array(list(ids.values()), dtype=np.int64)

    def encode(self, texts: Sequence[str], first: int = 0) -> list[IntArray]:
        """Return each text's token ids, `<s> ... </s>`, of any length, int64.

        Args:
            texts: What to tokenise.
            first: Position of the first one, for errors.

        Raises:
            InvalidTextError: an item is not a string, or holds a lone surrogate; names its position.
        """
        for position, text in enumerate(texts, first):
            check_text(text, f"texts[{position}]")
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        return [np.array(one.ids, dtype=np.int64) for one in encoded]

    def spans(self, text: str) -> list[Token]:
        """Return each token of a text, `<s> ... </s>`, with the characters it stands for."""
        encoded = self._tokenizer.encode(text)
        starts = {start for start, end in encoded.offsets if end > start}
        pieces = zip(encoded.tokens, encoded.offsets, strict=True)
        return [
            Token(position, piece, start, _with_marks(text, end, starts) if end > start else end)
            for position, (piece, (start, end)) in enumerate(pieces)
        ]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary's piece of each id, `▁` marking the start of a word."""
        return [self._tokenizer.id_to_token(int(i)) or "" for i in ids]


def _check_charsmap(path: Path) -> None:
    """Refuse a table of characters shorter than it says: the library would ask for up to 8 GB, and end the process."""
    for found in _CHARSMAP.finditer(path.read_bytes()):
        table = b64decode(found[1])
        if int.from_bytes(table[:4], "little") > len(table) - 4:
            raise ValueError(f"precompiled_charsmap: {len(table)} bytes, fewer than it says")


def _with_marks(text: str, end: int, starts: Collection[int]) -> int:
    """Move a token's end behind the accents that normalisation joins to its last letter; the library leaves them out."""
    while end < len(text) and end not in starts and category(text[end]).startswith("M"):
        end += 1
    return end


def cut(ids: IntArray, length: int) -> IntArray:
    """Keep the first `length` tokens, the closing `</s>` among them."""
    return ids if len(ids) <= length else np.concatenate([ids[: length - 1], ids[-1:]])


def windows(ids: IntArray, size: int, overlap: int) -> list[IntArray]:
    """Cut `<s> ... </s>` into windows of at most `size` tokens, each with its own specials.

    Args:
        ids: Token ids of one text, `(n,)`, specials included.
        size: Tokens a window, the two specials included, > overlap + 2.
        overlap: Tokens that a window shares with the one before it.
    """
    if len(ids) <= size:
        return [ids]
    content, room = ids[1:-1], size - 2
    starts = range(0, len(content) - overlap, room - overlap)
    return [np.concatenate([ids[:1], content[start : start + room], ids[-1:]]) for start in starts]
