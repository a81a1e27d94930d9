"""Train a unigram vocabulary with SentencePiece and write it in the layout of XLM-R."""

import json
import random
import re
from pathlib import Path

import sentencepiece
from data import Corpus
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

VOCAB_SIZE = 62_000
# Languages of the demo and of the measured sets get more pieces, so that their words stay whole:
# a word in pieces that mean nothing alone is beyond a model this small.
MAIN = ("ar", "de", "es", "fr", "hi", "ja", "ko", "pt", "ru", "th", "zh", "zh-Hant")
LINES, MAIN_LINES, ENGLISH_LINES = 2_500, 12_000, 80_000
PASSAGES_PER_SET = 2_500
MAX_LINE = 300
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _sample(corpus: Corpus, rng: random.Random) -> list[str]:
    """Lines of each language, enough that no script is cut into letters."""
    by_lang: dict[str, list[str]] = {}
    for _, other, lang in corpus.pairs:
        by_lang.setdefault(lang, []).append(other)
    lines = rng.sample(corpus.english, min(ENGLISH_LINES, len(corpus.english)))
    for language, texts in by_lang.items():
        lines += rng.sample(texts, min(MAIN_LINES if language in MAIN else LINES, len(texts)))
    for dataset in corpus.retrieval:
        count = min(PASSAGES_PER_SET, len(dataset.passages))
        for passage in rng.sample(dataset.passages, count):
            lines += re.split(r"(?<=[。！？])|\n+", passage)
    rng.shuffle(lines)
    return [line[:MAX_LINE] for line in lines if line.strip()]


def frequent_hanzi() -> str:
    """The 5,401 characters of Big5 level 1: Chinese names need them, the sample lacks some."""
    high = [(row, col) for row in range(0xA4, 0xC7) for col in [*range(0x40, 0x7F), *range(0xA1, 0xFF)]]
    wanted = [bytes(pair) for pair in high if pair <= (0xC6, 0x7E)]
    return "".join(pair.decode("big5", errors="ignore") for pair in wanted)


def train_vocabulary(corpus: Corpus, prefix: Path, seed: int) -> Path:
    """Train SentencePiece; ids 0-3 are already those of XLM-R, ``<mask>`` comes last."""
    lines = _sample(corpus, random.Random(seed))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=VOCAB_SIZE - 1,
        model_type="unigram",
        character_coverage=0.9998,
        required_chars=frequent_hanzi(),
        # NOTE: case folded, unlike XLM-R: a small vocabulary has no room for two spellings.
        normalization_rule_name="nmt_nfkc_cf",
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


def convert(model_file: Path, folder: Path, max_length: int) -> Tokenizer:
    """Write ``tokenizer.json`` and its two companions from a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2 as proto_module

    proto = proto_module.ModelProto()
    proto.ParseFromString(model_file.read_bytes())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(Unigram(vocab, unk_id=3, byte_fallback=False))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
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
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_companions(folder, max_length)
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
