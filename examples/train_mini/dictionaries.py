"""Word pairs between English and other languages, joined from bilingual dictionaries in dictd's format.

Few of them have English on one side. The others are joined on the words of a third language: *hornet* is *herhiläinen* in
Finnish and *szerszeń* in Polish, and both lead to *Hornisse*. A pair that several dictionaries lead to comes first.
"""

from __future__ import annotations

import gzip
import re
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import wordfreq

_CODES = {"bul": "bg", "deu": "de", "ell": "el", "eng": "en", "fin": "fi", "fra": "fr", "ind": "id", "ita": "it"}
_CODES |= {"jpn": "ja", "nld": "nl", "pol": "pl", "por": "pt", "rus": "ru", "spa": "es", "swe": "sv", "tur": "tr"}
_PIVOTS = ("el", "fi", "pl")
_SENSE = re.compile(r"^\d+\. ?|\s\d+\.$|\([^)]*\)|\[[^\]]*\]|\N{COMBINING ACUTE ACCENT}")
# Of an entry's translations the first are the most usual.
_TRANSLATIONS, _PER_WORD = 3, 2
Entries = dict[str, list[str]]


def read_dictionaries(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Return (English, other) words by language from ``freedict-<from>-<to>.index`` and ``.dict.dz``."""
    tables: dict[tuple[str, str], Entries] = {}
    for file in sorted(folder.glob("*.index")):
        source, target = (_CODES.get(code, code) for code in file.stem.split("-")[1:])
        tables[source, target] = dict(_entries(file))
    return {
        language: _best(_pairs(tables, language), language)
        for language in sorted({code for pair in tables for code in pair} - {"en"})
        if wordfreq.available_languages().get(language)
    }


def _entries(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a word and the translations of its first sense, of each entry."""
    content = gzip.decompress(file.with_suffix(".dict.dz").read_bytes())
    for line in file.read_text("utf-8").splitlines():
        word, *place = line.split("\t")
        if word.startswith("00database"):
            continue
        start, length = (_number(digits) for digits in place[:2])
        lines = content[start : start + length].decode("utf-8").splitlines()
        if len(lines) > 1:
            found = [_SENSE.sub("", one).strip() for one in _SENSE.sub("", lines[1]).split(",")]
            yield word, [one for one in found if one][:_TRANSLATIONS]


def _number(digits: str) -> int:
    """Decode dictd's numbers, base 64 without leading zeros."""
    return int.from_bytes(b64decode(digits.rjust(8, "A")), "big")


def _pairs(tables: dict[tuple[str, str], Entries], language: str) -> Counter[tuple[str, str]]:
    """Count how many ways lead from an English word to one of a language."""
    found: Counter[tuple[str, str]] = Counter()
    for word, translations in tables.get(("en", language), {}).items():
        found.update((word, one) for one in translations)
    for word, translations in tables.get((language, "en"), {}).items():
        found.update((one, word) for one in translations)
    for pivot in _PIVOTS:
        english = tables.get((pivot, "en"), {})
        for word, translations in tables.get((pivot, language), {}).items():
            found.update(product(english.get(word, []), translations))
        for word, translations in tables.get((language, pivot), {}).items():
            found.update((source, word) for one in translations for source in english.get(one, []))
    return found


def _best(found: Counter[tuple[str, str]], language: str) -> list[tuple[str, str]]:
    """Return for each word in use its English words with most ways to them."""
    usual, words = (wordfreq.get_frequency_dict(code, wordlist="best") for code in ("en", language))
    by_word: dict[str, list[tuple[int, float, str]]] = defaultdict(list)
    for (english, word), ways in found.items():
        if english.casefold() in usual and word.casefold() in words:
            by_word[word].append((ways, usual[english.casefold()], english))
    return [
        (english, word)
        for word, options in sorted(by_word.items())
        for ways, _, english in sorted(options, reverse=True)[:_PER_WORD]
        if ways >= max(options)[0] - 1
    ]
