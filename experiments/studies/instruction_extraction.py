"""Can an instruction-tuned model be made to write the data it was tuned on, and does a student learn as much from it?

MAGPIE (Xu et al., arXiv 2406.08464): a chat model is given only the template's text that precedes a user's message. It
continues as the user and writes an instruction, which it then answers. The pairs are filtered and deduplicated, and a
fresh model is fine-tuned on them. This needs no seed question, no prompt engineering and no other model.

Smallest version: a teacher of two layers learns 16,000 pairs ``USER question ASSIST answer END``, 5 % of them with a
random answer. A question asks for one of three digits, shifted by some amount. There are fifteen families of questions
with Zipf frequencies, each in two wordings. Given ``USER`` alone, the teacher writes questions at temperature 1 or 0.7
and answers them greedily. A fresh network learns the raw pairs, or only the pairs that are well-formed and answered
with high confidence, or the latter without duplicates. For reference, it learns as many real pairs (``real``), the
pairs with a right answer (``checked``, an oracle instead of the filter), or filtered pairs with the answers of other
questions (``shuffled``). The gate reads how much more often the pairs to be learned are right than the teacher's
unfiltered answers.

With a real model (``settings.model``) only the first part is measured: how many of the texts that the model writes from
its template's own prefix are usable requests, and how many of those that it writes from the bare mark of a user's turn.
Any model can be used by its folder; the prefix follows from its chat template. ``settings.export`` names a folder in
which ``datasets`` saves the kept pairs, with the columns ``question``, ``answer`` and ``messages``.

Simplified: answers have one token; quality is the teacher's own probability of its answer, not a rating in words; only
exact duplicates are removed, not near ones; there are no preference data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.own_requests import Writer, distinct, opener_entropy, usable
from experiments.question_families import (
    ASSIST,
    FAMILIES,
    RARE,
    TOKENIZER,
    USER,
    Read,
    draw,
    held_out,
    pairs_of,
    read,
)
from rl.analysis.claims import Claim, Figure, PerSeed, Row, ahead, first, grown, last, minus
from rl.analysis.gate import Gate, share
from rl.analysis.thesis import TEXTS, Thesis, trained
from rl.backends.blocks import Learned, fit, next_logprobs, sample
from rl.backends.meters import answer_meters
from rl.backends.policy import load_policy
from rl.backends.tiny import tiny_gpt2
from rl.config import ModelConfig
from rl.rendering import Renderer
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of teacher and students, which have two layers.
        corpus: Number of pairs that the teacher learns.
        wrong: Share of the teacher's training pairs whose answer is random.
        teacher_steps: Optimiser steps of the teacher, with 96 pairs each.
        pairs: Number of pairs that the teacher writes at each temperature, and of real pairs for reference.
        student_steps: Optimiser steps of a student, with 64 pairs each.
        sure: The filter keeps a pair if the teacher's probability of its answer is above this.
        model: Folder of a chat model; if set, its requests are measured and nothing is trained.
        n: Number of requests that the chat model writes from each prefix.
        temperature: Sampling temperature of the chat model's requests.
        max_new: Most tokens of a request of the chat model, and of its answer.
        export: Folder for the kept pairs, with a subfolder for each arm and seed; empty to save none.
    """

    width: int = 48
    corpus: int = 16000
    wrong: float = 0.05
    teacher_steps: int = 1200
    pairs: int = 3000
    student_steps: int = 800
    sure: float = 0.8
    model: str = ""
    n: int = 100
    temperature: float = 0.7
    max_new: int = 48
    export: str = ""


RANGES = {"wrong": (0, 1), "sure": (0, 1), "temperature": (0, inf)}


# ---------------------------------------------------------------- teacher and students


def taught(pairs: np.ndarray, steps: int, batch: int, width: int, seed: int, learned: Sequence[int]) -> Any:
    """Trains a fresh network on pairs; only the tokens at the positions ``learned`` count in the loss."""
    torch.manual_seed(seed)
    model, generator = tiny_gpt2(TOKENIZER, width, 2, 4, 16), torch.Generator().manual_seed(seed)
    rows, places = torch.from_numpy(pairs), torch.zeros(batch, 9, dtype=torch.bool)
    places[:, list(learned)] = True

    def batches(step: int) -> list[Learned]:
        return [(rows[torch.randint(len(rows), (batch,), generator=generator)], places)]

    fit(model, batches, steps, 4e-3)
    return model


@torch.no_grad()
def accuracy(model: Any, pairs: np.ndarray) -> np.ndarray:
    """``[n]`` bool: whether the model's greedy answer is the pair's answer."""
    rows: Tensor = torch.from_numpy(pairs)
    if not len(rows):
        return np.zeros(0, bool)
    return (next_logprobs(model, rows[:, :7]).argmax(-1) == rows[:, 7]).numpy()


@torch.no_grad()
def extract(model: Any, n: int, temperature: float, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The paper's two steps: questions from the prefix alone, then answers to them.

    Returns the pairs, and the teacher's probability of each answer.
    """
    written = sample(model, torch.full((n, 1), USER), 6, temperature, generator)
    asked = torch.cat([torch.full((n, 1), USER), written[:, :5], torch.full((n, 1), ASSIST)], 1)
    logprobs, answers = next_logprobs(model, asked).max(-1)
    pairs = pairs_of(written[:, :5].numpy(), answers.numpy())
    # The token that the model wrote after the question: unless it is ASSIST, the pair does not count as well-formed.
    pairs[:, 6] = written[:, 5].numpy()
    return pairs, logprobs.exp().numpy()


@dataclass
class Base:
    """What a seed's arms share: the teacher, the pairs it wrote at both temperatures, real pairs, and test sets."""

    teacher: Any
    warm: tuple[np.ndarray, np.ndarray]
    cold: tuple[np.ndarray, np.ndarray]
    real: np.ndarray
    tests: dict[str, np.ndarray]


def prepare(cfg: Config, seed: int) -> Any:
    """Trains the teacher and lets it write pairs; if ``cfg.model`` is set, loads that model instead."""
    if cfg.model:
        model, tokenizer = load_policy(ModelConfig(path=cfg.model))
        return Writer(model, tokenizer, Renderer(tokenizer))
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    corpus = draw(rng, cfg.corpus, False, wrong=cfg.wrong)
    teacher = taught(corpus, cfg.teacher_steps, 96, cfg.width, seed, range(1, 9))
    uniform = np.full(FAMILIES, 1 / FAMILIES)
    tests = {"accuracy": draw(rng, 1000, True), "accuracy_uniform": draw(rng, 1000, True, uniform)}
    warm, cold = (extract(teacher, cfg.pairs, temperature, generator) for temperature in (1.0, 0.7))
    return Base(teacher, warm, cold, draw(rng, cfg.pairs, False), tests)


ARMS = (
    "raw",
    "filtered",
    "deduplicated",
    "raw_cold",
    "deduplicated_cold",
    "checked",
    "real",
    "shuffled",
    "bare_prefix",
)


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Selects the arm's pairs and trains a fresh student on them; of a real model only the requests are measured."""
    if isinstance(base, Writer):
        return [of_real_model(cfg, arm, seed, base, samples)] if arm in ("deduplicated", "bare_prefix") else []
    if arm == "bare_prefix":  # the toy template has only one prefix
        return []
    rng = np.random.default_rng(derive_seed(seed, "arms"))
    pairs, sure = (base.real, np.ones(len(base.real))) if arm == "real" else base.cold if "cold" in arm else base.warm
    seen = read(pairs)
    found = meters(pairs, seen, sure)
    own = (pairs[:, 7] == seen.truth)[seen.formed]  # whether the teacher's unfiltered answers are right
    if arm == "real":
        own = accuracy(base.teacher, pairs)
    else:
        asked = torch.from_numpy(pairs[:, :7])
        found |= answer_meters(base.teacher, asked[:, :1], asked[:, 1:], len(asked))
    kept = ~held_out(seen.digits) | ~seen.formed  # no test question that the teacher wrote may be trained on
    if "raw" not in arm:
        kept &= seen.formed & (pairs[:, 7] == seen.truth if arm == "checked" else sure > cfg.sure)
    if "deduplicated" in arm:
        kept &= np.isin(np.arange(len(pairs)), np.unique(pairs[:, 1:6], axis=0, return_index=True)[1])
    data, truth = pairs[kept], seen.truth[kept]
    if arm == "shuffled":
        data = pairs_of(data[:, 1:6], rng.permutation(data[:, 7]))
    right = (data[:, 7] == truth) & seen.formed[kept]
    student = taught(data, cfg.student_steps if len(data) else 0, 64, cfg.width, derive_seed(seed, "student"), (7, 8))
    for i in rng.choice(len(data), min(100, len(data)), replace=False):
        words = TOKENIZER.convert_ids_to_tokens
        told = {"gold": words(int(truth[i])), "right": bool(right[i])}
        samples.append({"prompt": " ".join(words(data[i, 1:6].tolist())), "answer": words(int(data[i, 7])), **told})
    if cfg.export and len(data):
        asked, said = ([str(TOKENIZER.decode(row[places])) for row in data] for places in (slice(1, 6), slice(7, 8)))
        save(Path(cfg.export) / arm / f"seed_{seed}", asked, said)
    before = {name: share(accuracy(base.teacher, test)) for name, test in base.tests.items()}
    after = {name: share(accuracy(student, test)) for name, test in base.tests.items()}
    after |= {"step": 1, "n": len(data), "kept": share(kept), "fits_its_data": share(accuracy(student, data))}
    gain = after["accuracy"] - before["accuracy"] if len(data) else None
    after |= Gate.of_texts(right, own).outcome(gain, arm, THESIS.kind(arm))
    return [before | found | {TEXTS: share(right)}, after]


def meters(pairs: np.ndarray, seen: Read, sure: np.ndarray) -> dict[str, Any]:
    """Shares of usable and of right pairs, their variety, and the share of rare families, before any filter."""
    family = np.bincount(seen.family[seen.formed], minlength=FAMILIES) / max(1, seen.formed.sum())
    some = family[family > 0]
    return {
        "usable": share(seen.formed),
        "answers_right": share((pairs[:, 7] == seen.truth)[seen.formed]),
        "rare_share": float(family[RARE:].sum()),
        "families": len(some),
        "family_entropy": float(-(some * np.log(some)).sum()),
        "distinct": len(np.unique(pairs[:, 1:6], axis=0)) / len(pairs),
        "sure": share(sure),
    }


def save(folder: Path, questions: Sequence[str], answers: Sequence[str]) -> None:
    """Saves pairs with ``datasets``; ``env=rows env.options.path=<folder>`` reads the questions and answers."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    chats = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
             for question, answer in zip(questions, answers, strict=True)]  # fmt: skip
    columns = {"question": list(questions), "answer": list(answers), "messages": chats}
    Dataset.from_dict(columns).save_to_disk(str(folder))


def of_real_model(cfg: Config, arm: str, seed: int, writer: Writer, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Measures a chat model's requests from the template's own prefix, or from the bare mark of a user's turn.

    ``usable`` has one value for each request.
    """
    torch.manual_seed(seed)
    prefix = writer.renderer.before_question(first=arm != "bare_prefix")
    texts, ended = writer.requests(prefix, cfg.n, cfg.temperature, cfg.max_new)
    good = [usable(text) for text in texts]
    kept = list(dict.fromkeys(text for text, fine in zip(texts, good, strict=True) if fine))
    answers = writer.answers(kept, cfg.max_new)[0] if arm != "bare_prefix" else []
    for text, fine, end in zip(texts, good, ended, strict=True):
        answer = f" -> {answers[kept.index(text)]}" if answers and text in kept else ""
        samples.append({"prompt": prefix, "answer": text + answer, "right": fine, "ended by itself": end})
    if cfg.export and answers:
        save(Path(cfg.export) / arm / f"seed_{seed}", kept, answers)
    words = [text.lower().split() for text in kept]
    return {
        "usable": [float(fine) for fine in good],
        "ended": share(np.array(ended)),
        "kept": len(kept) / cfg.n,
        "distinct": len(set(texts)) / cfg.n,
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "opener_entropy": opener_entropy(kept),
        "length": float(np.mean([len(text.split()) for text in texts])),
    }


# ---------------------------------------------------------------- what is claimed


def times(factor: float, per_seed: PerSeed) -> PerSeed:
    """Statistic of each seed: another statistic multiplied by a factor."""

    def scaled(rows: Sequence[Row]) -> dict[int, Any]:
        return {seed: (factor * np.asarray(value, float)).tolist() for seed, value in per_seed(rows).items()}

    return scaled


PAPER = "arXiv 2406.08464"
# fmt: off
CLAIMS = (
    Claim("usable", "From the prefix alone more than 60 % of the texts are usable requests",
          first("deduplicated", "usable"), than=0.6, paper=PAPER),
    Claim("right_prefix", "The template's own prefix gives more than twice as many as the bare mark (real models)",
          minus(first("deduplicated", "usable"), times(2, first("bare_prefix", "usable")))),
    Claim("coverage_at_1", "At temperature 1 the rare half of the families is as frequent as in real data (within .02)",
          minus(first("raw", "rare_share"), first("real", "rare_share")), "near", margin=0.02),
    Claim("coverage_lost_cold", "At temperature 0.7 the rare half is less frequent than at 1",
          minus(first("raw_cold", "rare_share"), first("raw", "rare_share")), "below"),
    Claim("cold_is_righter", "At temperature 0.7 more of the answers are right",
          minus(first("raw_cold", "answers_right"), first("raw", "answers_right"))),
    Claim("nearly_as_real", "On filtered pairs without duplicates a student reaches 90 % of what real pairs give",
          minus(last("deduplicated", "accuracy"), times(0.9, last("real", "accuracy"))), paper=PAPER),
    Claim("as_its_teacher", "That student is within 2 points of its teacher",
          grown("deduplicated", "accuracy"), "near", margin=0.02, paper=PAPER),
    Claim("filter_helps", "The filter raises the student's accuracy (filtered minus raw)",
          ahead("filtered", "raw"), paper=PAPER),
    Claim("deduplication_helps_rare", "Without duplicates the student is better over all families alike",
          ahead("deduplicated", "filtered", "accuracy_uniform"), paper=PAPER),
    Claim("cold_student_worse_on_rare", "On pairs of temperature 0.7 the student is worse over all families alike",
          ahead("raw_cold", "raw", "accuracy_uniform"), "below"),
    Claim("as_good_as_the_oracle", "The own filter is as good as one that knows the answers (within 2 points)",
          ahead("filtered", "checked"), "near", margin=0.02),
    Claim("answers_matter", "With the answers of other questions the student is no better than a constant answer",
          last("shuffled", "accuracy"), "below", than=0.3),
)
THESIS = Thesis(
    "MAGPIE", "its own answers to requests that it writes itself", "nothing: form and its own confidence", False,
    "deduplicated",
    (*trained("self", "deduplicated", "raw", "filtered", "raw_cold", "deduplicated_cold", signal=TEXTS),
     *trained("oracle", "checked", "real"), *trained("control", "shuffled", signal=TEXTS)),
    "held-out accuracy of a fresh student against its teacher's",
)
# fmt: on

STUDENTS = tuple(arm for arm in ARMS if arm != "bare_prefix")
EXHIBITS = (
    Figure("Students", "arm", ("accuracy", "accuracy_uniform", "fits_its_data"), STUDENTS,
           "Accuracy on 1,000 held-out questions whose families are as frequent as in real data, and equally frequent "
           "(accuracy_uniform); fits_its_data: accuracy on the student's own training pairs.", y_label="share right"),
    Figure("What is written", "arm", ("usable", "answers_right", "rare_share", "distinct"), None,
           "Shares of everything that was written, before any filter.", y_label="share"),
)  # fmt: skip
