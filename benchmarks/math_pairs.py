"""Pairs of (gold, answer) for comparing graders: answers that a policy might give to MATH, made by rule and seed.

No model is used: an answer is the gold in another form, the gold with a typical mistake, or another task's gold.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rewards.answers import boxed

GROUP_SIZE = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """A gold, an offered answer, and how the answer was made."""

    gold: str
    answer: str
    made_by: str


def load_golds(folder: Path) -> list[str]:
    """Golds of MATH's test split: the last box of each solution; solutions without a box are left out."""
    lines = (folder / "math" / "test.jsonl").read_text().splitlines()
    boxes = [boxed(json.loads(line)["solution"]) for line in lines]
    return [found[-1] for found in boxes if found]


def _number_changed(gold: str, rng: random.Random) -> str:
    numbers = list(re.finditer(r"\d+", gold))
    if not numbers:
        return f"-{gold}"
    match = rng.choice(numbers)
    value = int(match[0]) + rng.choice([-2, -1, 1, 2, 10])
    return gold[: match.start()] + str(abs(value)) + gold[match.end() :]


def _negated(gold: str, rng: random.Random) -> str:
    return gold[1:] if gold.startswith("-") else f"-{gold}"


def _spaced(gold: str, rng: random.Random) -> str:
    return re.sub(r"(?<=[\d}a-z])([+,=])", r" \1 ", gold)


def _fractions_swapped(gold: str, rng: random.Random) -> str:
    if "dfrac" in gold:
        return gold.replace("\\dfrac", "\\frac")
    return gold.replace("\\frac", "\\dfrac") if "\\frac" in gold else f"{gold}.0" if gold.isdigit() else f"{gold}."


def _fraction_scaled(gold: str, rng: random.Random) -> str:
    match = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    if match:
        return f"{match[1]}{int(match[2]) * 3}/{int(match[3]) * 3}"
    return f"\\frac{{{2 * int(gold)}}}{{2}}" if gold.isdigit() else gold.replace("(", "( ")


def _with_unit(gold: str, rng: random.Random) -> str:
    return f"{gold}\\text{{ cm}}"


def _named(gold: str, rng: random.Random) -> str:
    return f"x = {gold}"


def _reordered(gold: str, rng: random.Random) -> str:
    match = re.fullmatch(r"([^(){}\[\]\\+-]+)\+([^(){}\[\]\\+-]+)", gold)
    return f"{match[2]}+{match[1]}" if match else f"{{{gold}}}"


RIGHT: tuple[Callable[[str, random.Random], str], ...] = (
    lambda gold, rng: gold, _spaced, _fractions_swapped, _fraction_scaled, _named, _reordered,
)  # fmt: skip
WRONG: tuple[Callable[[str, random.Random], str], ...] = (_number_changed, _number_changed, _negated, _with_unit)


def rl_stream(golds: list[str], n_tasks: int, seed: int) -> list[Pair]:
    """Eight answers for each of ``n_tasks`` tasks, with duplicates, as a policy would sample them.

    The share of right answers is random for each task; wrong answers are chosen from four per task.
    """
    rng = random.Random(seed)
    pairs = []
    for gold in rng.sample(golds, n_tasks):
        wrong = [_number_changed(gold, rng), _negated(gold, rng), _number_changed(gold, rng), rng.choice(golds)]
        accuracy = rng.random()
        for _ in range(GROUP_SIZE):
            if rng.random() < accuracy:
                made = rng.choice(RIGHT)
                pairs.append(Pair(gold, made(gold, rng), f"right:{made.__name__}"))
            else:
                pairs.append(Pair(gold, rng.choice(wrong), "wrong"))
    return pairs


def distinct_pairs(golds: list[str], seed: int) -> Iterator[Pair]:
    """Up to two answers for every gold, without repeating a pair.

    The first is the gold in another form or with a mistake, with equal probability; the second is another task's gold.
    """
    rng = random.Random(seed)
    seen: set[tuple[str, str]] = set()
    for gold in golds:
        made = rng.choice(RIGHT[1:] if rng.random() < 0.5 else WRONG)
        answer = made(gold, rng)
        if (gold, answer) not in seen:
            seen.add((gold, answer))
            yield Pair(gold, answer, made.__name__)
    for gold in golds:
        other = rng.choice(golds)
        if other != gold and (gold, other) not in seen:
            seen.add((gold, other))
            yield Pair(gold, other, "another gold")
