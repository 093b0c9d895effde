"""SEAL at its own size: a language model rewrites passages about invented people and learns from its own text.

Setting. Zweiger et al. (arXiv 2506.10943): Qwen2.5-7B on SQuAD; 50 passages per round, 5 edits of each at temperature
1; inner loop with LoRA rank 32, learning rate 1e-3, 10 epochs, 3 runs for each reward; the best edit of each passage is
learned (ReST-EM, learning rate 3e-4, 2 epochs); two rounds; 200 held-out passages with one edit and one inner run each.

Simplified. Each passage states four facts about an invented person, so that answers can be graded by matching words
(SEAL uses GPT-4.1) and the model cannot know them beforehand. An edit has up to 256 tokens. Inner and outer loop train
the same adapters, and the inner loop is undone afterwards, where SEAL merges the adapters and starts new ones. The
model is instruction-tuned, because a base model needs examples in its prompt. Both loops have rank 32 (published: 64
for the outer one). Lines have no title in front. Every line is learned ten times, as published, so an edit of many
lines takes more steps than the passage alone. A stronger writer (``external``) and chains of edits are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.full import FAILS, HOLDS, OPEN, Expected, Setting, carried, figures_of
from experiments.full.cost import Work
from experiments.full.speaker import Said, Speaker, the_model
from experiments.studies import self_edits as study
from rl.analysis.gate import Gate, signal_accuracy
from rl.analysis.repeats import reliability
from rl.types import derive_seed


@dataclass
class Config(Setting):
    """Settings of the full size.

    Args:
        passages: Passages per round.
        edits: Edits that are sampled for each passage.
        repeats: Inner loops whose mean accuracy is the reward of an edit.
        rounds: Rounds of selection.
        tune_epochs: Epochs over the selected edits of a round.
        batch: Edits per optimiser step of the outer loop.
        inner_epochs: Epochs of the inner loop over the lines of an edit and its passage, one line per step.
        inner_lr: Learning rate of the inner loop.
        max_lines: Largest number of lines of an edit that are learned.
        max_answer: Largest number of tokens of an answer to a question.
        n_test: Passages outside of all rounds; one edit and one inner loop of each is measured.
    """

    model: str = "Qwen/Qwen2.5-7B-Instruct"
    lr: float = 3e-4
    prompt: int = 120
    max_new: int = 256
    passages: int = 50
    edits: int = 5
    repeats: int = 3
    rounds: int = 2
    tune_epochs: int = 2
    batch: int = 5
    inner_epochs: int = 10
    inner_lr: float = 1e-3
    max_lines: int = 10
    max_answer: int = 16
    n_test: int = 200


DRY = {"passages": 2, "edits": 2, "repeats": 2, "rounds": 2, "tune_epochs": 1, "batch": 2, "inner_epochs": 1,
       "max_lines": 2, "max_new": 12, "max_answer": 6, "n_test": 3, "prompt": 330, "rank": 4}  # fmt: skip
PROMPTS = {
    "self_edit": "Read this passage, and write down what follows from it, an implication a line.",
    "listed": "Read this passage, and state every fact of it in a sentence of its own, a line each.",
}
ARMS = ("none", "passage", "self_edit", "unselected", "true_lines", "listed", "oracle")
prepare = the_model
WRITERS = {"self_edit": "self_edit", "unselected": "self_edit", "true_lines": "self_edit", "listed": "listed"}


# ---------------------------------------------------------------- invented people

FIRST = (
    "Alder",
    "Bryn",
    "Caspia",
    "Doran",
    "Elwin",
    "Fenna",
    "Garrick",
    "Hesper",
    "Iona",
    "Jorun",
    "Kestrel",
    "Lorcan",
)
LAST = ("Ashgrove", "Blackmere", "Coldwell", "Dunmarsh", "Everpool", "Farrowby", "Greywick", "Hollin", "Innisvale",
        "Jarrowen", "Kirkmoor", "Langstead", "Merrowdale", "Northbeck", "Oakhallow", "Pellmarsh", "Quenby", "Rushford",
        "Stanmere", "Thornwick", "Underhay", "Vexley", "Wetherlam", "Yarrowby")  # fmt: skip
FACTS = (
    ("grew up in the town of {}", "In which town did {} grow up?",
     ("Marlowe", "Tarnfield", "Osterby", "Quillon", "Redmire", "Saltby", "Varnholt", "Wexcombe")),
    ("earns a living as a {}", "What does {} do for a living?",
     ("glazier", "surveyor", "luthier", "beekeeper", "cartographer", "saddler", "typesetter", "brewer")),
    ("keeps a {} at home", "Which animal does {} keep?",
     ("heron", "ferret", "tortoise", "raven", "hedgehog", "gecko", "otter", "parrot")),
    ("collects old {}", "What does {} collect?",
     ("clocks", "maps", "thimbles", "lanterns", "coins", "locks", "teapots", "stamps")),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """An invented person: a name and the values of the four facts."""

    name: str
    values: tuple[str, ...]

    @property
    def passage(self) -> str:
        """The passage that states all facts about the person."""
        told = [text.format(value) for (text, _, _), value in zip(FACTS, self.values, strict=True)]
        return f"{self.name} {told[0]} and {told[1]}. {self.name} {told[2]} and {told[3]}."

    @property
    def questions(self) -> list[str]:
        """One question for each fact."""
        return [f"{question.format(self.name)} Answer in one word." for _, question, _ in FACTS]

    def told(self, text: str) -> int:
        """Number of facts whose value a text contains; 0 if the text does not contain the person's name."""
        return sum(says(text, value) for value in self.values) if self.name in text else 0


def says(text: str, word: str) -> bool:
    """Whether a text contains a word as a whole word: ``clocks`` does not contain ``locks``."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def people(rng: np.random.Generator, n: int) -> list[Person]:
    """Samples n people with different names.

    Raises:
        ValueError: If there are fewer than n names.
    """
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    if n > len(names):
        raise ValueError(f"settings.passages and settings.n_test: there are {len(names)} people for both, not {n}")
    drawn = rng.permutation(len(names))[:n]
    return [Person(names[i], tuple(str(rng.choice(values)) for _, _, values in FACTS)) for i in drawn]


# ---------------------------------------------------------------- what it costs


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: edits, inner loops with their questions, and the outer loop; a line counts as 30 tokens."""
    line = 30 if cfg.max_new > 100 else 16

    def inner(lines: int) -> Work:  # One line per step, three passes over the weights each.
        return cfg.inner_epochs * Work(trained=lines * line + cfg.prompt, passes=3 * (lines + 1))

    asked = 4 * Work(cfg.max_answer, cfg.prompt / 2, passes=cfg.max_answer / 4)
    edit = Work(cfg.max_new, cfg.prompt)
    outer = Work(trained=cfg.rounds * cfg.tune_epochs * cfg.passages * (cfg.prompt + cfg.max_new))
    found = {
        "none": cfg.n_test * asked,
        "passage": cfg.n_test * (inner(0) + asked),
        "oracle": cfg.n_test * (inner(len(FACTS)) + asked),
    }
    for arm in WRITERS:
        tests = (cfg.rounds + 1) * cfg.n_test * (edit + inner(cfg.max_lines) + 2 * asked)
        pool = cfg.rounds * cfg.passages * cfg.edits * edit
        worth = cfg.rounds * cfg.passages * cfg.edits * cfg.repeats * (inner(cfg.max_lines) + asked)
        found[arm] = tests + pool + outer + (worth if arm in ("self_edit", "listed") else Work())
    return {arm: found[arm] for arm in ARMS}


# ---------------------------------------------------------------- the inner loop


def documents(cfg: Config, person: Person, edit: str) -> list[str]:
    """The documents that an inner loop trains on: the lines of the edit, and the passage."""
    lines = [line.strip(" -*") for line in edit.splitlines() if line.strip(" -*")]
    return [*lines[: cfg.max_lines], person.passage]


def answers(cfg: Config, speaker: Speaker, asked: Sequence[Person]) -> np.ndarray:
    """Share ``[N]`` of right answers to each person's questions, without a passage."""
    said = speaker.say([q for person in asked for q in person.questions], 0, cfg.max_answer, temperature=0.0)
    values = [value for person in asked for value in person.values]
    right = [says(one.text, value) for (one,), value in zip(said, values, strict=True)]
    return np.array(right, float).reshape(len(asked), -1).mean(1)


def worth(cfg: Config, speaker: Speaker, person: Person, texts: Sequence[str], seed: int) -> float:
    """Accuracy about a person after an inner loop on some texts, which is undone afterwards."""
    rng, rows = (
        np.random.default_rng(seed),
        [Said((speaker.renderer.end_id,), speaker.plain(text), "") for text in texts],
    )
    with speaker.for_a_while(cfg.inner_lr):
        for _ in range(cfg.inner_epochs):
            for i in rng.permutation(len(rows)):
                speaker.step([rows[i]], [1.0])
        return float(answers(cfg, speaker, [person])[0])


# ---------------------------------------------------------------- arms


def run(cfg: Config, arm: str, seed: int, base: Speaker, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measures fixed texts for every test passage, or runs rounds of writing, inner loops, selection and training."""
    base.adapt(derive_seed(seed, "adapters"))
    everyone = people(np.random.default_rng(derive_seed(seed, "people")), cfg.passages + cfg.n_test)
    train, test = everyone[: cfg.passages], everyone[cfg.passages :]
    rng, of_worth = np.random.default_rng(derive_seed(seed, "arms")), derive_seed(seed, "worth")
    if arm == "none":
        return [{"step": 0, "n": len(test), "accuracy": answers(cfg, base, test).tolist()}]
    if arm not in WRITERS:
        texts = [[*(f"{q} {v}" for q, v in zip(one.questions, one.values, strict=True) if arm == "oracle"), one.passage]
                 for one in test]  # fmt: skip
        found = [worth(cfg, base, one, text, of_worth) for one, text in zip(test, texts, strict=True)]
        return [{"step": 0, "n": len(test), "accuracy": found}]
    rows, gates = [measure(cfg, base, arm, test, seed, 0, samples)], list[Gate]()
    for step in range(1, cfg.rounds + 1):
        edits = write(cfg, base, arm, train, cfg.edits, derive_seed(seed, arm, step))
        truth = np.array(
            [[one.told(edit.text) for edit in many] for one, many in zip(train, edits, strict=True)], float
        )
        score, row = truth if arm == "true_lines" else np.zeros(truth.shape), dict[str, float]()
        if arm in ("self_edit", "listed"):
            again = [derive_seed(of_worth, step, r) for r in range(cfg.repeats)]
            runs = np.array([[[worth(cfg, base, one, documents(cfg, one, edit.text), way) for way in again]
                              for edit in many] for one, many in zip(train, edits, strict=True)])  # fmt: skip
            score = runs.mean(2)
            row = reliability(runs) | {"reward": float(score.mean()), "best_reward": float(score.max(1).mean())}
        row["reward_accuracy"] = signal_accuracy(score, truth)
        gates.append(Gate.read(truth / len(FACTS), score))
        best = (score + 1e-6 * rng.random(score.shape)).argmax(1)
        chosen = [many[i] for many, i in zip(edits, best, strict=True)]
        steps = max(1, cfg.tune_epochs * len(chosen) // cfg.batch)
        base.fit(chosen, steps, cfg.batch, derive_seed(seed, "tune", step))
        rows.append(measure(cfg, base, arm, test, seed, step, samples) | row)
    rows[-1] |= gates[0].outcome(base.gain(rows, "accuracy"), arm, study.THESIS.kind(arm))
    return rows


def write(cfg: Config, speaker: Speaker, arm: str, about: Sequence[Person], k: int, seed: int) -> list[list[Said]]:
    """Samples k edits of each passage at temperature 1."""
    asked = [f"{PROMPTS[WRITERS[arm]]}\n\n{person.passage}" for person in about]
    return speaker.say(asked, seed, cfg.max_new, k)


def measure(
    cfg: Config, speaker: Speaker, arm: str, test: Sequence[Person], seed: int, step: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measures accuracy about each test passage after an inner loop on its edit, and properties of the edits."""
    edits = [edit for (edit,) in write(cfg, speaker, arm, test, 1, derive_seed(seed, "measure"))]
    texts = [documents(cfg, one, edit.text) for one, edit in zip(test, edits, strict=True)]
    found = [worth(cfg, speaker, one, text, derive_seed(seed, "worth")) for one, text in zip(test, texts, strict=True)]
    told = [one.told(edit.text) for one, edit in zip(test, edits, strict=True)]
    for one, edit, n, share in list(zip(test, edits, told, found, strict=True))[:20]:
        about = {"prompt": one.passage, "answer": edit.text, "right": n == len(FACTS)}
        samples.append(
            {"step": step} | about | {"facts named": f"{n} of {len(FACTS)}", "answers right": f"{share:.2f}"}
        )
    return {
        "step": step,
        "n": len(test),
        "accuracy": found,
        "without_edit": float(answers(cfg, speaker, test).mean()),
        "told": float(np.mean(told)),
        "length": float(np.mean([len(edit.ids) for edit in edits])),
        "distinct_answers": len({edit.text for edit in edits}),
    }


SEAL = "arXiv 2506.10943"
EXPECTED = (
    Expected("an edit beats its passage", HOLDS, f"39.7 against 33.5 ({SEAL})"),
    Expected("rounds help", HOLDS, f"39.7 -> 47.0 ({SEAL})"),
    Expected("one round helps", OPEN, f"39.7 -> 42.7 over 200 passages, spread 27 ({SEAL}): hard to tell"),
    Expected("it is the selection", HOLDS, "edits taken by lot are what the model writes anyway"),
    Expected("the prompt matters more", OPEN, f"49.4 against 47.0 ({SEAL})"),
    Expected("rounds help within it, too", HOLDS, f"49.4 -> 55.6 ({SEAL})"),
    Expected("the truth selects better", OPEN, "nearly all lines of a 7B model about a passage that it reads are true"),
    Expected("below true questions", HOLDS, "they are the test's own"),
    Expected("edits become true", FAILS, "true from the start: there is little to gain"),
    Expected("one inner run is noise", HOLDS, "about .2, derived from the public result files"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, figures_of(study.EXHIBITS[:2])
