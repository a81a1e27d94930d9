"""Train a unigram vocabulary with SentencePiece and write it in the layout of XLM-R."""

import json
import random
import re
from pathlib import Path

import numpy as np
import sentencepiece
import wordfreq
from data import Corpus
from progress import whole
from spelling import write_rules
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

VOCAB_SIZE = 84_000
# Pieces that SentencePiece finds; whole words that it would cut take the rest.
BASE_SIZE = 36_000
# Languages of the demo and of the measured sets get more pieces, so that their words stay whole:
# a word in pieces that mean nothing alone is beyond a model this small.
MAIN = ("ar", "de", "es", "fr", "hi", "ja", "ko", "pt", "ru", "th", "zh", "zh-Hant")
LINES, MAIN_LINES, ENGLISH_LINES = 2_500, 10_000, 60_000
PASSAGES_PER_SET, DEFINITIONS = 2_500, 40_000
# Words drawn by how often people use them, since many of the sentences are technical; a power below
# one brings the less frequent ones in.
WORDS, MAIN_WORDS, ENGLISH_WORDS, EVENNESS = 20_000, 160_000, 250_000, 0.75
# Of the words that become pieces, the share of each language; English has its own.
WHOLE, ENGLISH_WHOLE, OTHERS_WHOLE = 1.0, 3.0, 0.03
UNSPACED = ("ja", "zh", "zh-Hant", "th")
MAX_LINE = 300
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _sample(corpus: Corpus, seed: int) -> list[str]:
    """Lines of each language, enough that no script is cut into letters."""
    rng = random.Random(seed)
    by_lang: dict[str, list[str]] = {}
    for _, other, lang in corpus.pairs:
        by_lang.setdefault(lang, []).append(other)
    lines = rng.sample(corpus.english, min(ENGLISH_LINES, len(corpus.english)))
    lines += [" ".join(pair) for pair in rng.sample(corpus.definitions, DEFINITIONS)]
    lines += _everyday("en", ENGLISH_WORDS, seed)
    for language, texts in by_lang.items():
        main = language in MAIN
        lines += rng.sample(texts, min(MAIN_LINES if main else LINES, len(texts)))
        lines += _everyday(language, MAIN_WORDS if main else WORDS, seed)
        lines += corpus.words.get(language, [])
    for dataset in corpus.retrieval:
        count = min(PASSAGES_PER_SET, len(dataset.passages))
        for passage in rng.sample(dataset.passages, count):
            lines += re.split(r"(?<=[。！？])|\n+", passage)
    rng.shuffle(lines)
    return [line[:MAX_LINE] for line in lines if line.strip()]


def _frequencies(language: str) -> dict[str, float]:
    """Return how often the words of a language are used, most frequent first; empty where unknown."""
    try:
        return wordfreq.get_frequency_dict(language.split("-")[0], wordlist="best")
    except LookupError:
        return {}


def _everyday(language: str, count: int, seed: int) -> list[str]:
    """Lines of words of a language in the proportions of its books, subtitles and news."""
    found = _frequencies(language)
    if not found:
        return []
    words = [*found][:60_000]
    share = np.array([found[word] for word in words]) ** EVENNESS
    drawn = np.random.default_rng(seed).choice(len(words), count, p=share / share.sum())
    space = "" if language in UNSPACED else " "
    return [space.join(words[i] for i in line) for line in np.array_split(drawn, count // 12)]


def _wanted(corpus: Corpus, language: str) -> list[str]:
    """Words of a language worth a piece, the lexicon's common ones and the most used first, as they stand in a text."""
    found = _frequencies(language)
    listed = {word.casefold() for text in corpus.words[language] for word in re.split(r"[\s,،、，;；()/]+", text)}
    listed -= {"", *"0123456789"}
    words = sorted(listed | {*[*found][:40_000]}, key=lambda word: -found.get(word, 0) * (1 + 40 * (word in listed)))
    if language == "th":
        words = sorted(listed, key=lambda word: len(word))
    space = "" if language in UNSPACED else "▁"
    spaced = [space + word for word in words if word.isprintable() and 2 <= len(word) <= 14]
    # Arabic writes the article and prepositions with the word.
    return [form for word in spaced for form in ((word, word[1:]) if language == "ar" else (word,))]


def add_words(tokenizer: Tokenizer, pieces: list[tuple[str, float]], corpus: Corpus) -> list[tuple[str, float]]:
    """Return the pieces with words that they cut added, as many as the vocabulary has room for.

    A word scores a little more than the pieces that it was cut into, so that it stays whole.
    """
    known = dict(pieces)
    share = {
        language: WHOLE if language in MAIN else OTHERS_WHOLE for language in corpus.words if language != "zh-Hant"
    }
    share["en"] = ENGLISH_WHOLE
    lists = {language: iter(_wanted(corpus, language)) for language in share}
    taken = dict.fromkeys(share, 0)
    room = VOCAB_SIZE - 1 - len(pieces)
    while room and lists:
        language = min(lists, key=lambda one: taken[one] / share[one])
        word = next(lists[language], None)
        if word is None:
            del lists[language]
            continue
        form = tokenizer.normalizer.normalize_str(word.lstrip("▁"))
        form = "▁" + form if word.startswith("▁") else form
        if form in known or any(char not in known for char in form) or " " in form:
            continue
        cut = tokenizer.model.tokenize(form)
        known[form] = sum(known[token.value] for token in cut) + 0.1
        taken[language] += 1
        room -= 1
    return [*known.items()]


def frequent_hanzi() -> str:
    """The 5,401 characters of Big5 level 1: Chinese names need them, the sample lacks some."""
    high = [(row, col) for row in range(0xA4, 0xC7) for col in [*range(0x40, 0x7F), *range(0xA1, 0xFF)]]
    wanted = [bytes(pair) for pair in high if pair <= (0xC6, 0x7E)]
    return "".join(pair.decode("big5", errors="ignore") for pair in wanted)


def train_vocabulary(corpus: Corpus, prefix: Path, seed: int) -> Path:
    """Train SentencePiece; ids 0-3 are already those of XLM-R, ``<mask>`` comes last."""
    lines, rules = _sample(corpus, seed), prefix.with_suffix(".rules.tsv")
    write_rules(rules)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=BASE_SIZE,
        model_type="unigram",
        character_coverage=0.9998,
        required_chars=frequent_hanzi(),
        # NOTE: unlike XLM-R's, which keeps case and every script's own spelling.
        normalization_rule_tsv=str(rules),
        max_sentencepiece_length=14,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        num_threads=2,
        train_extremely_large_corpus=False,
        minloglevel=1,
    )
    return prefix.with_suffix(".model")


def convert(model_file: Path, corpus: Corpus, folder: Path, max_length: int) -> Tokenizer:
    """Write ``tokenizer.json`` and its two companions from a SentencePiece model and the words that it cuts."""
    from sentencepiece import sentencepiece_model_pb2 as proto_module

    proto = proto_module.ModelProto()
    proto.ParseFromString(model_file.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    pieces = add_words(tokenizer, pieces, corpus)
    tokenizer.model = Unigram([*pieces, ("<mask>", 0.0)], unk_id=3, byte_fallback=False)
    # The steps XLMRobertaTokenizer builds, so that every loader cuts a text the same way.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_companions(folder, max_length)
    with whole(folder / "tokenizer.json") as file:
        tokenizer.save(str(file))
    return tokenizer


def _write_companions(folder: Path, max_length: int) -> None:
    special = {**SPECIAL, "sep_token": "</s>", "cls_token": "<s>", "mask_token": "<mask>"}
    settings = {
        **special,
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
