"""One spelling for each word: how text is normalised before it is cut into pieces.

A small vocabulary has no room for two spellings of a word. Beyond NFKC and folded case, which XLM-R's
neighbours use, Chinese characters take their simplified form in every language (Japanese and Chinese then
share thousands of words), Arabic and Hebrew lose their vowel signs, and digits of all scripts are one.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from opencc import OpenCC

# Letters that writers of Arabic, Persian and Russian interchange.
_SAME = dict(zip("أإآٱىةیکےҐё", "اااايهيكيГе", strict=True)) | {"Ё": "е"}
# Vowel signs of Arabic and Hebrew, the Arabic stretching sign, and the dot below of Devanagari.
_DROPPED = [
    *range(0x0591, 0x05C8),
    0x0640,
    *range(0x064B, 0x0653),
    0x0670,
    0x093C,
]
_LAST = 0x1FBFF


def write_rules(file: Path) -> None:
    """Write SentencePiece's normalisation rules: code points, a tab, what they become."""
    simplified = _Simplified()
    lines = []
    for code in range(1, _LAST + 1):
        char = chr(code)
        if unicodedata.category(char) not in ("Cs", "Cn", "Co"):
            became = _spelled(char, simplified)
            if became != char:
                lines.append(_rule(char, became))
            pair = unicodedata.normalize("NFD", char)
            if pair not in (char, became):
                lines.append(_rule(pair, became))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rule(source: str, became: str) -> str:
    return "\t".join(" ".join(f"{ord(char):X}" for char in side) for side in (source, became))


def _spelled(char: str, simplified: _Simplified) -> str:
    """Return what a character becomes; rules are not applied to their own results, so this is the end."""
    if ord(char) in _DROPPED:
        return ""
    category = unicodedata.category(char)
    if category == "Cf" or (category == "Cc" and char not in "\t\n\r"):
        return ""
    if category in ("Zs", "Zl", "Zp") or char in "\t\n\r":
        return " "
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", char).casefold())
    digits = (str(unicodedata.digit(one)) if unicodedata.category(one) == "Nd" else one for one in folded)
    kept = (_SAME.get(one, one) for one in digits if ord(one) not in _DROPPED)
    return "".join(simplified(one) for one in kept)


class _Simplified:
    """Characters of Japan and Taiwan in their simplified form."""

    def __init__(self) -> None:
        self._from_japanese, self._from_traditional = OpenCC("jp2t"), OpenCC("t2s")

    def __call__(self, char: str) -> str:
        if not "\u3400" <= char <= "\U0003ffff" or "\ua000" <= char <= "\uf8ff":
            return char
        became = self._from_traditional.convert(self._from_japanese.convert(char))
        return became if len(became) == 1 else char
