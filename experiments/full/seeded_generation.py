"""TarGEN with a chat model: it invents domains and lists, writes claims for given labels, and corrects the labels.

Setting. Gupta et al. (arXiv 2310.17876) let GPT-3.5 write data sets of SuperGLUE's tasks in four steps (contexts,
instance seeds, an instance for a label that is chosen first, self-correction) and fine-tune students (Flan-T5, Llama 2)
on 400 to 10,000 instances. Here Qwen2.5-7B-Instruct writes 3,000 instances, and the student is the same model with
fresh adapters, 150 steps of 64 instances at 1e-4.

Simplified. The labels of the task can be computed: is a word on the list? An instance is a domain, five words and a
claim about one of the five or about another word; labels of SuperGLUE's tasks would need a judge. The student starts
from the writer's weights, so that it does not have to learn to read; training on real instances shows how much there is
to gain.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.full import FAILS, HOLDS, OPEN, Expected, Setting, carried, figures_of
from experiments.full.cost import Work
from experiments.full.speaker import Said, Speaker
from experiments.studies import seeded_generation as study
from rl.analysis.gate import Gate
from rl.types import derive_seed

WORDS = {
    "fruits": ("apple", "pear", "plum", "cherry", "grape", "lemon", "mango", "peach", "fig", "melon"),
    "animals": ("horse", "otter", "raven", "salmon", "tiger", "badger", "camel", "donkey", "eagle", "ferret"),
    "tools": ("hammer", "chisel", "saw", "wrench", "pliers", "drill", "rasp", "shovel", "rake", "anvil"),
    "rivers": ("nile", "rhine", "volga", "tiber", "loire", "ganges", "mekong", "danube", "thames", "congo"),
    "metals": ("iron", "copper", "tin", "zinc", "gold", "silver", "lead", "nickel", "cobalt", "titanium"),
}
LENGTH = 5


@dataclass
class Config(Setting):
    """Settings of the full size.

    Args:
        instances: Number of instances that the model writes, and of real training instances for the arm ``real``.
        student_steps: Optimiser steps of each student.
        batch: Instances per optimiser step.
        max_list: Largest number of tokens of a domain or a list.
        n_test: Number of real test instances.
    """

    model: str = "Qwen/Qwen2.5-7B-Instruct"
    lr: float = 1e-4
    prompt: int = 90
    max_new: int = 12
    instances: int = 3000
    student_steps: int = 150
    batch: int = 64
    max_list: int = 48
    n_test: int = 2000


DRY = {"instances": 12, "student_steps": 1, "batch": 4, "max_list": 24, "max_new": 6, "n_test": 6, "prompt": 260,
       "rank": 4}  # fmt: skip
ARMS = ("corrected", "written", "agreeing", "whole", "true_labels", "coin", "real")


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: training and testing a student; writing, done once per seed, is counted in the first arm."""
    steps = Work(2 * cfg.max_list + cfg.max_new, 4 * cfg.prompt) + Work(cfg.max_list + cfg.max_new, cfg.prompt)
    student = cfg.student_steps * cfg.batch * Work(trained=cfg.prompt) + cfg.n_test * Work(read=cfg.prompt)
    once = cfg.instances * steps + cfg.n_test * Work(read=cfg.prompt)
    read = {"whole": cfg.instances * Work(read=cfg.prompt), "real": cfg.instances * Work(read=cfg.prompt)}
    return {arm: student + (once if arm == ARMS[0] else read.get(arm, Work())) for arm in ARMS}


@dataclass(frozen=True)
class Instance:
    """A domain, words, a claim that a certain word is among them, and the label of the claim."""

    domain: str
    words: tuple[str, ...]
    claim: str
    label: bool

    @property
    def readable(self) -> bool:
        """Whether the instance is well formed: it has a domain, five different words and a claim."""
        return bool(self.domain and self.claim) and len(set(self.words)) == LENGTH

    @property
    def truth(self) -> bool:
        """The true label, by the oracle."""
        return self.claim in self.words

    @property
    def question(self) -> str:
        """The instance as a question to be answered with Yes or No."""
        return f"{self.domain}: {', '.join(self.words)}. Is {self.claim} on this list? Answer Yes or No."


def real(rng: np.random.Generator, n: int) -> list[Instance]:
    """Samples real instances; the label is chosen first."""
    found = []
    for label in rng.random(n) < 0.5:
        domain = str(rng.choice(list(WORDS)))
        words = tuple(map(str, rng.permutation(WORDS[domain])))
        claim = str(rng.choice(words[:LENGTH] if label else words[LENGTH:]))
        found.append(Instance(domain, words[:LENGTH], claim, bool(label)))
    return found


def words_of(text: str, n: int) -> tuple[str, ...]:
    """The first n words of letters, in lower case, of the line with the most commas, which is taken to be the list."""
    listed = max(text.splitlines() or [""], key=lambda line: line.count(","))
    return tuple(re.findall(r"[a-z]+", listed.rpartition(":")[2].lower())[:n])


@dataclass
class Base:
    """The model with its instances, its own labels of them, and real data.

    Args:
        speaker: The model.
        written: Instances written in steps, each for a label that was chosen first.
        whole: Instances written in one go, including the label.
        labels: Labels that the model gives to ``written`` when it reads them again.
        real: Real training instances.
        test: Real test instances.
        accuracy: Accuracy of the model on ``test`` before training.
    """

    speaker: Speaker
    written: list[Instance]
    whole: list[Instance]
    labels: np.ndarray
    real: list[Instance]
    test: list[Instance]
    accuracy: float


def prepare(cfg: Config, seed: int) -> Base:
    """Loads the model and lets it write instances, in TarGEN's four steps and in one go."""
    speaker, n = Speaker(cfg.model, cfg.rank, cfg.lr), cfg.instances
    rng = np.random.default_rng(derive_seed(seed, "data"))

    def said(asked: Sequence[str], what: str, most: int) -> list[str]:
        return [one.text for (one,) in speaker.say(asked, derive_seed(seed, what), most)]

    domains = [" ".join(words_of(text, 1)) for text in
               said(["Name one kind of things, in one word, such as fruits."] * n, "domain", cfg.max_list)]  # fmt: skip
    lists = [words_of(text, LENGTH) for text in said([f"List {LENGTH} different {one or 'things'}, in one line, with "
             "commas, a word each, nothing else." for one in domains], "list", cfg.max_list)]  # fmt: skip
    labels = rng.random(n) < 0.5
    asked = [f"{domain}: {', '.join(words)}. Name one of {domain} that is {'' if label else 'not '}on this list, "
             "in one word." for domain, words, label in zip(domains, lists, labels, strict=True)]  # fmt: skip
    claims = [" ".join(words_of(text, 1)) for text in said(asked, "claim", cfg.max_new)]
    written = list(map(Instance, domains, lists, claims, map(bool, labels)))
    one_go = said([f"Write one example: a kind of things, {LENGTH} different things of it, one more thing, and Yes if "
                   "it is among them or No if not. One line, with commas, a word each."] * n, "whole",
                  cfg.max_list + cfg.max_new)  # fmt: skip
    whole = []
    for text in one_go:
        words = words_of(text, LENGTH + 3)
        full = (*words, *[""] * (LENGTH + 3 - len(words)))
        whole.append(Instance(full[0], full[1 : LENGTH + 1], full[LENGTH + 1], full[LENGTH + 2] == "yes"))
    test = real(rng, cfg.n_test)
    after, right = judged(speaker, written), judged(speaker, test) == np.array([one.label for one in test])
    return Base(speaker, written, whole, after, real(rng, n), test, float(right.mean()))


def judged(speaker: Speaker, instances: Sequence[Instance]) -> np.ndarray:
    """Labels ``[N]`` that the model gives to instances."""
    return speaker.odds([one.question for one in instances]) > 0


def run(cfg: Config, arm: str, seed: int, base: Base, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels and filters the instances as the arm does, and trains a student on them."""
    rng = np.random.default_rng(derive_seed(seed, "arms"))
    made = {"real": base.real, "whole": base.whole}.get(arm, base.written)
    with base.speaker.as_it_was():  # The untrained model's labels; for the written instances, its corrections.
        own = base.labels if made is base.written else judged(base.speaker, made)
    after = own if made is base.written else np.array([one.label for one in made])
    coin = rng.random(len(made)) < 0.5
    label_of = {"corrected": after, "coin": coin, "true_labels": np.array([one.truth for one in made])}
    readable = np.array([one.readable for one in made])
    label, truth = np.array([one.label for one in made]), np.array([one.truth for one in made])
    kept = readable & (label == after) if arm == "agreeing" else readable
    final = label_of.get(arm, label)
    data = [replace(one, label=bool(told)) for one, told, good in zip(made, final, kept, strict=True) if good]
    row = {
        "accuracy": base.accuracy,
        "n": len(data),
        "failed": float(1 - readable.mean()),
        "reward_accuracy": study.share((final == truth)[kept]),
        "distinct": len({one.question for one in made}) / len(made),
    }
    if arm == "corrected":
        was, now = (label == truth)[kept], (final == truth)[kept]
        row |= {"label_before": study.share(was), "label_after": study.share(now)}
        row |= {"mended": study.share(now[~was]), "broken": study.share(~now[was])}
    for one, told in list(zip(made, final, strict=True))[:40]:  # Also malformed instances.
        gold = "Yes" if one.truth else "No"
        about = {
            "prompt": one.question,
            "answer": "Yes" if told else "No",
            "gold": gold if one.readable else "not readable",
        }
        samples.append({"step": 1} | about | {"right": one.readable and bool(told) == one.truth})
    speaker = base.speaker
    speaker.adapt(derive_seed(seed, "student"))
    words = {label: speaker.plain(word)[:1] for label, word in ((True, "Yes"), (False, "No"))}
    rows = [Said(speaker.prompt(one.question), words[one.label], "") for one in data]
    speaker.fit(rows, cfg.student_steps, cfg.batch, derive_seed(seed, "student rows"))
    right = judged(speaker, base.test) == np.array([one.label for one in base.test])
    gain = float(right.mean()) - base.accuracy if speaker.n_steps else None
    told = Gate.of_texts((final == truth)[kept], (own == truth)[readable]).outcome(gain, arm, study.THESIS.kind(arm))
    return [row | {"step": 0}, row | {"step": 1, "accuracy": float(right.mean())} | told]


TARGEN = "arXiv 2310.17876"
EXPECTED = (
    Expected("correction_helps_labels", HOLDS, f"what the fourth step is for ({TARGEN})"),
    Expected("mends_most", HOLDS, "a 7B model reads a list of five words nearly without error"),
    Expected("breaks_few", HOLDS, "it reads labels of five words nearly without error, as in mends_most"),
    Expected("a_seed_an_instance", HOLDS, "the model follows the form; what it does not is counted"),
    Expected("as_good_as_real", OPEN, f"82.8 against 81.1, synthetic ahead ({TARGEN}, v1); both may end near 100"),
    Expected("correction_helps_students", OPEN, "few labels are wrong before correction"),
    Expected("agreement_is_enough", HOLDS, "few labels are wrong, so few instances are left out"),
    Expected("steps_help", OPEN, f"ablation of {TARGEN}"),
    Expected("as_good_as_the_oracle", HOLDS, "corrected labels are nearly the true ones"),
    Expected("passes_its_writer", FAILS, "the writer is right from the start"),
    Expected("a_coin_teaches_nothing", OPEN, "150 steps of coins need not undo what the model can"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, figures_of(study.EXHIBITS)
