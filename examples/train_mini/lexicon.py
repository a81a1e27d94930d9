"""Words beside sentences: what the sentences are too few to teach.

The folder given has, as their packages ship them:

* ``annotations/<lang>/annotations.json``, ``localenames/<lang>/territories.json`` and ``languages.json``: Unicode CLDR,
  names and keywords of 1,900 things (its emoji), countries and languages in every language;
* ``edict`` and ``cedict.js``: Japanese and Chinese words with English glosses;
* ``dictd/freedict-*``: bilingual dictionaries of 15 languages;
* ``wordnet/data.*``: English words with definitions.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import wordfreq
from dictionaries import read_dictionaries

# A gloss of more words explains rather than translates.
_GLOSS_WORDS = 3
_NOTES = re.compile(r"\([^)]*\)|\{[^}]*\}|\[[^\]]*\]")
Pairs = dict[str, list[tuple[str, str]]]


def read_lexicon(folder: Path, languages: list[str]) -> Pairs:
    """Return (English, other) pairs by language: names alone, and names with their keywords."""
    pairs: Pairs = defaultdict(list)  # the dictionaries may have more languages
    english = _cldr(folder, "en")
    for language in languages:
        for key, (name, keywords) in _cldr(folder, language).items():
            if key in english:
                source, words = english[key]
                pairs[language].append((source, name))
                if keywords:
                    pairs[language].append((", ".join([source, *words]), ", ".join([name, *keywords])))
    for language, rows in read_dictionaries(folder / "dictd").items():
        pairs[language] += rows
    pairs["ja"] += _edict(folder / "edict")
    known = wordfreq.get_frequency_dict("zh", wordlist="best")
    for simplified, traditional, gloss in _cedict(folder / "cedict.js"):
        if simplified not in known:
            continue
        pairs["zh"].append((gloss, simplified))
        pairs["zh-Hant"].append((gloss, traditional))
    return {language: pairs[language] for language in languages}


def definitions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the words of a meaning, joined by commas, and its English definition with examples."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / "wordnet" / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith(" "):
                continue
            entry, _, gloss = line.partition(" | ")
            fields = entry.split()
            words = [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]
            yield ", ".join(words), gloss.strip()


def _cldr(folder: Path, language: str) -> dict[str, tuple[str, list[str]]]:
    """Return name and keywords of each thing that CLDR names in a language."""
    file = folder / "annotations" / language / "annotations.json"
    entries = json.loads(file.read_text("utf-8"))["annotations"]["annotations"]
    found = {
        key: (entry["tts"][0], [word for word in entry.get("default", []) if word != entry["tts"][0]])
        for key, entry in entries.items()
        if "tts" in entry
    }
    for kind in ("territories", "languages"):
        names = json.loads((folder / "localenames" / language / f"{kind}.json").read_text("utf-8"))["main"][language]
        for code, name in names["localeDisplayNames"][kind].items():
            if "-" not in code:
                found[f"{kind}.{code}"] = (name, [])
    return found


def _edict(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (gloss, word) of the common Japanese words, in each way of writing them."""
    for line in file.read_text("euc_jp", errors="ignore").splitlines()[1:]:
        if not line.endswith("/(P)/"):
            continue
        head, _, rest = line.partition(" /")
        spellings = [_NOTES.sub("", one) for one in head.split(" ")[0].split(";")]
        if "(uk)" in line and (reading := re.search(r"\[([^\];(]+)", head)):
            spellings.append(reading[1])
        for gloss in _glosses(rest.removesuffix("(P)/").split("/")):
            yield from ((gloss, spelling) for spelling in spellings)


def _cedict(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (simplified, traditional, gloss) of the Chinese words of at least two characters."""
    content = json.loads(file.read_text("utf-8").removeprefix("export default ").rstrip().rstrip(";"))
    for traditional, simplified, _, english, *_ in content["all"]:
        if 2 <= len(simplified) <= 5 and simplified.isalpha():
            for gloss in _glosses(english if isinstance(english, list) else [english]):
                yield simplified, traditional, gloss


def _glosses(texts: list[str]) -> Iterator[str]:
    """Yield what is short enough to be a translation, without notes, at most three."""
    found = 0
    for text in texts:
        gloss = _NOTES.sub("", text).strip().removeprefix("to ").strip()
        if gloss and not gloss[0].isupper() and len(gloss.split()) <= _GLOSS_WORDS and gloss.isascii():
            found += 1
            if found <= 3:
                yield gloss
