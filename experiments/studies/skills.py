"""Can a model collect, by playing against itself, the parts that it needs of a book longer than its context window?

Ctx2Skill (arXiv 2604.27660): from a long context a Challenger makes tasks, a Reasoner answers them with the skills
collected so far (texts in its prompt), a Judge grades the answers, and failed tasks become new skills. No weights are
trained: only the skills change. As the Challenger gets harder, the skills drift away from the real tasks. Therefore
every set of skills is kept and replayed on probes: hard ones that were failed and easy ones that were solved. The set
with the highest product of both rates is selected.

Smallest version: a book is sixteen rules ``a>b``, of which six fit into the prompt; a task gives a symbol and a depth,
and asks for the chain of symbols. The Reasoner (two layers, width 48) has learned to apply the rules in its prompt, and
knows no book. Real tasks are one or two steps deep, and the frequencies of their start symbols follow Zipf's law. There
are six iterations of ten tasks. Each failed task adds the first rule on its chain that is missing from the skills;
beyond six rules, the oldest is dropped.

Arms: a Challenger that moves to rare symbols and deep chains (``drifting``), a Challenger that samples tasks like the
real ones (``steady``), and the drifting one with a Judge that errs in a fifth of its verdicts (``noisy_judge``) or in
half of them (``coin_judge``, the control). The sets of the game are compared with no skills, with random rules, and
with the six rules that a curator would choose (those of the most frequent symbols).

Simplified: all roles except the Reasoner are scripted, a skill is a verbatim rule, and grading is exact except for the
added noise. No gate is read, since nothing is trained and no signal picks among answers to one task.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch

from experiments.rule_books import (
    DEEPEST,
    END,
    S0,
    SYMBOLS,
    TOKENIZER,
    WINDOW,
    Context,
    Skills,
    Task,
    chain,
    challenge,
    drawn,
    on_the_way,
    prompt,
)
from rl.analysis.claims import Claim, Figure, PerSeed, ahead, last, minus
from rl.analysis.thesis import Thesis, Trained
from rl.backends.blocks import Learned, fit, sample
from rl.backends.tiny import tiny_gpt2
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of the Reasoner.
        steps: Most training steps of the Reasoner, with 64 chains each.
        skilled: Share of right chains, with all needed rules shown, at which the Reasoner's training stops.
        contexts: Number of books.
        iterations: Iterations of the game.
        tasks: Tasks of the Challenger in each iteration.
        probes: Number of probes of each kind (hard and easy) on which a set of skills is replayed.
        tests: Number of real tasks of each book. The best set in hindsight is chosen on one half and measured on the
            other.
        zipf: Exponent of the frequencies of the real tasks' start symbols.
        judge_error: Share of wrong verdicts of ``noisy_judge``.
    """

    width: int = 48
    steps: int = 1500
    skilled: float = 0.97
    contexts: int = 30
    iterations: int = 6
    tasks: int = 10
    probes: int = 12
    tests: int = 100
    zipf: float = 1.5
    judge_error: float = 0.2


RANGES = {"skilled": (0, 1), "judge_error": (0, 1), "zipf": (0, inf), "tests": (2, inf)}


# ---------------------------------------------------------------- the Reasoner: applies what it is shown


def answers(model: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Greedy answers of ``DEEPEST + 1`` ids; a chat model (:mod:`experiments.full.skills`) has a method for them."""
    if hasattr(model, "chains"):
        return model.chains(prompts)
    return sample(model, torch.tensor(prompts), DEEPEST + 1, 0.0, torch.Generator(), END).tolist()


def solved(model: Any, asked: Sequence[tuple[Sequence[int], Skills, Task]], rng: random.Random) -> np.ndarray:
    """``[n]`` bool: whether the answer is the whole right chain followed by the end token."""
    if not asked:
        return np.zeros(0, bool)
    gold = [[S0 + one for one in chain(book, task)] + [END] for book, _, task in asked]
    said = answers(model, [prompt(book, skills, task, rng) for book, skills, task in asked])
    return np.array([given[: len(true)] == true for given, true in zip(said, gold, strict=True)])


def prepare(cfg: Config, seed: int) -> Any:
    """Trains the Reasoner to apply rules, with a new book in every row, so that it cannot memorise any book.

    A window holds most of the needed rules, and other rules of the book or empty places.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = tiny_gpt2(TOKENIZER, cfg.width, 2, 4, WINDOW + 4 + DEEPEST + 1)

    def example(all_shown: bool) -> tuple[list[int], Skills, Task]:
        book, task = [rng.randrange(SYMBOLS) for _ in range(SYMBOLS)], (rng.randrange(SYMBOLS), rng.randint(1, DEEPEST))
        needed = on_the_way(book, task)
        skills = [one for one in needed if all_shown or rng.random() < 0.9]
        others = [one for one in range(SYMBOLS) if one not in needed]
        return book, skills + rng.sample(others, rng.randint(0, WINDOW - len(skills))), task

    def batch(step: int) -> list[Learned]:
        rows, learned = torch.zeros(64, WINDOW + 4 + DEEPEST + 1, dtype=torch.long), []
        for i in range(64):
            book, skills, task = example(all_shown=False)
            row = [*prompt(book, skills, task, rng), *(S0 + one for one in chain(book, task)), END]
            rows[i, : len(row)] = torch.tensor(row)
            learned.append([WINDOW + 4 <= place < len(row) for place in range(rows.shape[1])])
        return [(rows, torch.tensor(learned))]

    def skilled(step: int) -> bool:
        if step % 100 or step < 300:
            return False
        return solved(model, [example(all_shown=True) for _ in range(300)], rng).mean() >= cfg.skilled

    fit(model, batch, cfg.steps, 3e-3, until=skilled)
    return model


# ---------------------------------------------------------------- the game


def play(cfg: Config, model: Any, contexts: Sequence[Context], drifts: bool, error: float, rng: random.Random) -> None:
    """Plays all iterations of the game on all contexts at once: tasks, answers, verdicts, and new skills."""
    for iteration in range(cfg.iterations):
        tasks = [[challenge(one, iteration * drifts, rng) for _ in range(cfg.tasks)] for one in contexts]
        asked = [(one.book, one.sets[-1], task) for one, mine in zip(contexts, tasks, strict=True) for task in mine]
        right = solved(model, asked, rng).reshape(len(contexts), -1)
        for one, mine, truth in zip(contexts, tasks, right, strict=True):
            verdicts = [bool(good) != (rng.random() < error) for good in truth]
            one.hard.append([task for task, good in zip(mine, verdicts, strict=True) if not good])
            one.easy.append([task for task, good in zip(mine, verdicts, strict=True) if good])
            skills = list(one.sets[-1])
            for task in one.hard[-1]:
                lacking = [symbol for symbol in on_the_way(one.book, task) if symbol not in skills]
                skills = [*skills, *lacking[:1]][-WINDOW:]
            one.sets.append(skills)


def rates(
    model: Any, contexts: Sequence[Context], sets: Sequence[Sequence[Skills]], tasks: Sequence[Sequence[Task]], rng: Any
) -> np.ndarray:
    """``[contexts, sets]`` share of a context's tasks that each of its sets of skills solves; 1 without tasks."""
    asked = [(one.book, skills, task) for one, mine, some in zip(contexts, sets, tasks, strict=True)
             for skills in mine for task in some]  # fmt: skip
    right, found = iter(solved(model, asked, rng)), []
    for mine, some in zip(sets, tasks, strict=True):
        found.append([np.mean([next(right) for _ in some]) if some else 1.0 for _ in mine])
    return np.array(found, float)


# ---------------------------------------------------------------- replay: which set is kept


def select(scores: Sequence[float] | np.ndarray) -> int:
    """Index of the set with the highest score, the latest if several are equal; the initial empty set is excluded."""
    return max(range(1, len(scores)), key=lambda i: (scores[i], i))


def in_hindsight(one: np.ndarray, other: np.ndarray) -> float:
    """Rate of each context's best set, chosen on one half of the real tasks and measured on the other, both ways.

    A set that is measured on the tasks by which it was chosen would look better than it is.

    Args:
        one: ``[contexts, sets]`` rates on one half.
        other: ``[contexts, sets]`` rates on the other half.
    """
    found = [
        measured[i, select(by)] for chosen, measured in ((one, other), (other, one)) for i, by in enumerate(chosen)
    ]
    return float(np.mean(found))


# ---------------------------------------------------------------- arms

ERRORS: dict[str, Callable[[Config], float]] = {
    "drifting": lambda cfg: 0.0,
    "steady": lambda cfg: 0.0,
    "noisy_judge": lambda cfg: cfg.judge_error,
    "coin_judge": lambda cfg: 0.5,
}
ARMS = tuple(ERRORS)


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plays the game, measures every set of skills on real tasks, and selects a set by replay."""
    rng, contexts = random.Random(derive_seed(seed, "game")), []
    for _ in range(cfg.contexts):
        weights = np.array(rng.sample([rank**-cfg.zipf for rank in range(1, SYMBOLS + 1)], SYMBOLS))
        contexts.append(Context([rng.randrange(SYMBOLS) for _ in range(SYMBOLS)], weights))
    tests = [[challenge(one, 0, rng) for _ in range(cfg.tests)] for one in contexts]
    others = [[rng.sample(range(SYMBOLS), WINDOW), np.argsort(-one.weights)[:WINDOW].tolist()] for one in contexts]
    reference = rates(base, contexts, others, tests, rng)  # before the game, so that it is the same in all arms
    play(cfg, base, contexts, arm != "steady", ERRORS[arm](cfg), rng)

    sets = [one.sets for one in contexts]
    halves = [rates(base, contexts, sets, [some[i::2] for some in tests], rng) for i in (0, 1)]
    true, rows_of = (halves[0] + halves[1]) / 2, np.arange(len(contexts))
    hard, easy, evenly_hard, evenly_easy = (
        rates(base, contexts, sets, [drawn(tasks, cfg.probes, rng, evenly) for tasks in kind], rng)
        for evenly in (False, True)
        for kind in ([one.hard for one in contexts], [one.easy for one in contexts])
    )
    scores = {"selected": hard * easy, "hard_only": hard, "easy_only": easy, "evenly": evenly_hard * evenly_easy}
    chosen = {name: np.array([select(one) for one in score]) for name, score in scores.items()}
    picked = {name: true[rows_of, index] for name, index in chosen.items()}

    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "accuracy": float(true[:, step].mean()),
            "skills": float(np.mean([len(one.sets[step]) for one in contexts])),
            "reward_accuracy": 1 - ERRORS[arm](cfg),
        }
        for step in range(cfg.iterations + 1)
    ]
    for step, row in enumerate(rows[1:]):  # properties of the iteration that led to this set
        tasks = [task for one in contexts for task in one.hard[step] + one.easy[step]]
        row["called_failed"] = float(np.mean([len(one.hard[step]) for one in contexts]) / cfg.tasks)
        row["length"] = float(np.mean([depth for _, depth in tasks]))
        ranks = [int((one.weights > one.weights[start]).sum()) for one in contexts
                 for start, _ in one.hard[step] + one.easy[step]]  # fmt: skip
        shares = np.bincount(ranks, minlength=SYMBOLS) / len(ranks)
        row["entropy"] = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
        row["distinct"] = len(set(ranks)) / SYMBOLS
    rows[-1] |= {"none": float(true[:, 0].mean()), "first_set": float(true[:, 1].mean())}
    rows[-1] |= {"best": in_hindsight(*halves), "chosen": float(chosen["selected"].mean())}
    rows[-1] |= {"random": float(reference[:, 0].mean()), "curated": float(reference[:, 1].mean())}
    rows[-1] |= {name: float(values.mean()) for name, values in picked.items()}
    show(base, contexts, chosen["selected"], tests, rng, samples)
    return rows


def show(
    model: Any,
    contexts: Sequence[Context],
    chosen: np.ndarray,
    tests: Sequence[Sequence[Task]],
    rng: random.Random,
    samples: list[dict[str, Any]],
) -> None:
    """Adds four real tasks of each book, answered with the selected skills, to ``samples``."""
    words = TOKENIZER.convert_ids_to_tokens
    asked = [(one.book, one.sets[i], task) for one, i, some in zip(contexts, chosen, tests, strict=True)
             for task in some[:4]]  # fmt: skip
    prompts = [prompt(book, skills, task, rng) for book, skills, task in asked]
    for (book, _, task), shown, said in zip(asked, prompts, answers(model, prompts), strict=True):
        gold = " ".join(f"s{one}" for one in chain(book, task))
        answer = " ".join(words(said)).partition(" <|end|>")[0]
        samples.append({
            "step": len(contexts[0].sets) - 1,
            "prompt": " ".join(words(shown)),
            "answer": answer,
            "gold": gold,
            "right": answer == gold,
        })  # fmt: skip


# ---------------------------------------------------------------- what is claimed

PAPER = "arXiv 2604.27660"


def over(other: str, arm: str = "drifting") -> PerSeed:
    """Statistic of each seed: rate of the selected skills on real tasks minus that of another set of the same arm."""
    return minus(last(arm, "selected"), last(arm, other))


# fmt: off
CLAIMS = (
    Claim("selected_helps", "With the selected skills more real tasks are solved than with none",
          over("none"), paper=PAPER),
    Claim("drift_harms", "With a drifting Challenger the last set is worse than the first",
          minus(last("drifting", "accuracy"), last("drifting", "first_set")), "below", paper=PAPER),
    Claim("replay_guards", "With a drifting Challenger the selected set is better than the last",
          over("accuracy"), paper=PAPER),
    Claim("replay_helps_steady", "With a steady Challenger too the selected set is better than the last",
          over("accuracy", "steady")),
    Claim("replay_finds_the_best", "The selected set is at most 5 points below the set that other real tasks choose",
          over("best"), than=-0.05),
    Claim("beats_random_rules", "The selected set is better than six rules of the book at random",
          over("random")),
    Claim("beats_the_curator", "With a steady Challenger it is better than the rules of the six most frequent symbols",
          over("curated", "steady")),
    Claim("product_beats_hard", "The product of both rates selects better than hard probes alone",
          over("hard_only"), paper=PAPER),
    Claim("product_beats_easy", "The product of both rates selects better than easy probes alone",
          over("easy_only"), paper=PAPER),
    Claim("even_probes_help", "Probes drawn in turn from every iteration select better than probes from all together",
          minus(last("drifting", "evenly"), last("drifting", "selected"))),
    Claim("survives_a_noisy_judge", "With a Judge that errs in a share of {judge_error} it still is",
          over("accuracy", "noisy_judge")),
    Claim("the_judge_matters", "With a Judge that tosses a coin the selected set is worse",
          ahead("coin_judge", "drifting", "selected"), "below"),
)


def brings(arm: str, kind: str) -> Trained:
    """An arm for the thesis: its gain is the rate with the selected skills minus the rate without skills."""
    told = None if kind == "oracle" else last(arm, "reward_accuracy")
    return Trained(arm, kind, over("none", arm), told)


THESIS = Thesis(
    "Ctx2Skill", "tasks that it fails, by the word of a Judge", "the book itself: grading is exact", True, "drifting",
    (brings("drifting", "oracle"), brings("steady", "oracle"), brings("noisy_judge", "indirect"),
     brings("coin_judge", "control")),
    "real tasks solved, without any training",
    without="coin_judge",
)

EXHIBITS = (
    Figure("Sets of the game on real tasks", "step", "accuracy", None, "Every set on real tasks of its book.",
           "iteration", "share solved"),
    Figure("What is kept", "arm", ("selected", "evenly", "none", "random", "curated", "best"), None,
           "Share of real tasks solved with the set that is kept, and with others.", y_label="share solved"),
    Figure("The Challenger", "step", ("called_failed", "length", "entropy"), None,
           "Tasks of each iteration: share that failed by the Judge's verdict, depth in steps, and entropy of how rare "
           "their starts are (nats).",
           "iteration"),
)
# fmt: on
