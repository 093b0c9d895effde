"""Claims: a sentence of a paper, a statistic over training seeds with its interval, and what that says of the sentence.

Rows are what a study measured: mappings with ``arm``, ``seed``, ``step`` and numbers. A claim reads one value (or one
for each question) per seed out of them and never sees how they came about, so that contrary rows give the contrary
verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from rewards.wording import counted
from rl.analysis.printing import fixed

Row = Mapping[str, Any]
PerSeed = Callable[[Sequence[Row]], Mapping[int, float | Sequence[float]]]
"""From rows to a value of each seed, or to one for each of its questions; seeds without a value are left out."""

LEVEL = 0.95
DRAWS = 2_000


class Verdict(StrEnum):
    """What the interval says of the sentence."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_TELL = "cannot tell"
    NOT_MEASURED = "not measured"


EXPECTATIONS = ("above", "below", "near")


@dataclass(frozen=True)
class Claim:
    """A sentence and what decides it.

    Args:
        name: Short, in lower case; names the claim in tables.
        sentence: The claim in its paper's terms, as if it held.
        per_seed: The statistic of each seed.
        expect: ``above`` or ``below``: the whole interval lies on that side of ``than``. ``near``: the whole interval
            lies within ``margin`` of ``than``. It does not hold if the whole interval lies outside.
        than: What the statistic is compared with.
        margin: Of ``near``.
        paper: What was published, with its source; empty where nothing was.
    """

    name: str
    sentence: str
    per_seed: PerSeed
    expect: str = "above"
    than: float = 0.0
    margin: float = 0.0
    paper: str = ""

    def __post_init__(self) -> None:
        if self.expect not in EXPECTATIONS:
            raise ValueError(f"claim {self.name}: expect={self.expect}; use {', '.join(EXPECTATIONS)}")
        if (self.expect == "near") != (self.margin > 0):
            raise ValueError(f"claim {self.name}: expect=near takes a margin above 0, the others take none")


@dataclass(frozen=True)
class Finding:
    """A claim beside its data.

    Args:
        name: Of the claim.
        sentence: Of the claim.
        verdict: What the interval says.
        mean: Mean over seeds; ``nan`` without data.
        low: Lower end of the 95 % interval; ``nan`` where there is none.
        high: Upper end.
        n_seeds: Seeds behind it.
        over: What the interval is over: ``seeds``, or ``questions`` where there is one seed.
        by_seed: The value of each seed.
        expected: Such as ``above 0``.
        paper: What was published.
    """

    name: str
    sentence: str
    verdict: Verdict
    mean: float
    low: float
    high: float
    n_seeds: int
    over: str
    by_seed: dict[int, float]
    expected: str
    paper: str

    @property
    def numbers(self) -> str:
        """Mean, interval, and the value of every seed."""
        seeds = ", ".join(f"{seed}: {fixed(value, 3, signed=True)}" for seed, value in self.by_seed.items())
        interval = f"[{fixed(self.low, 3, signed=True)}, {fixed(self.high, 3, signed=True)}]"
        of = counted(self.n_seeds, "seed")
        return (
            f"{fixed(self.mean, 3, signed=True)} {interval} over {of if self.over == 'seeds' else self.over} ({seeds})"
        )

    @property
    def line(self) -> str:
        """Verdict, sentence and numbers."""
        measured = f"; measured {self.numbers}" if self.by_seed else ""
        return f"{self.verdict}: {self.sentence} Expected {self.expected}{measured}."

    def to_json(self) -> dict[str, Any]:
        """As JSON types; what is not a number is ``None``."""
        plain = {key: None if value != value else value for key, value in asdict(self).items()}
        plain["by_seed"] = {str(seed): None if one != one else one for seed, one in self.by_seed.items()}
        return plain


def judge(claim: Claim, rows: Sequence[Row]) -> Finding:
    """What the rows say of a claim: nothing can be told without an interval (of one seed with a single value, say).

    A claim about arms that this size of the study does not have is not measured.
    """
    # Over seeds where there are several: training runs are what is independent. One run with a value for each question
    # still says something about other questions, so that is its interval then.
    found = {int(seed): np.atleast_1d(np.asarray(value, float)) for seed, value in claim.per_seed(rows).items()}
    by_seed = {seed: float(np.mean(value)) for seed, value in sorted(found.items()) if not np.isnan(value).any()}
    values, over = np.array(list(by_seed.values())), "seeds"
    if len(values) == 1 and len(found[next(iter(by_seed))]) > 1:
        over, values = "questions", found[next(iter(by_seed))]
    mean, low, high = resampled(values) if over == "questions" else student_t(values)
    expected = f"{claim.expect} {claim.than:g}" + (f" (within {claim.margin:g})" if claim.margin else "")
    of_claim = (claim.name, claim.sentence, _verdict(claim, low, high) if by_seed else Verdict.NOT_MEASURED)
    return Finding(*of_claim, mean, low, high, len(by_seed), over, by_seed, expected, claim.paper)


def _verdict(claim: Claim, low: float, high: float) -> Verdict:
    # Neither inside nor outside: the interval crosses the line. Without an interval (nan) all comparisons are false,
    # and seeds that are all on the line itself tell nothing.
    inside, outside = {
        "above": (low > claim.than, low < claim.than and high <= claim.than),
        "below": (high < claim.than, high > claim.than and low >= claim.than),
        "near": (
            claim.than - claim.margin <= low and high <= claim.than + claim.margin,
            low > claim.than + claim.margin or high < claim.than - claim.margin,
        ),
    }[claim.expect]
    return Verdict.HOLDS if inside else Verdict.DOES_NOT_HOLD if outside else Verdict.CANNOT_TELL


def student_t(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean of independent training runs and its 95 % Student-t interval; ``nan`` ends for fewer than two."""
    known = np.asarray(values, float)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan"), float("nan")
    from scipy.special import stdtrit  # light, and only once there is something to say

    half = float(stdtrit(len(known) - 1, (1 + LEVEL) / 2)) * known.std(ddof=1) / np.sqrt(len(known))
    mean = round(float(known.mean()), 12)
    return mean, round(float(mean - half), 9), round(float(mean + half), 9)


def resampled(values: Sequence[float] | np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Mean over questions and its 95 % percentile interval of a bootstrap over questions."""
    known = np.asarray(values, float)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan"), float("nan")
    counts = np.random.default_rng(seed).multinomial(len(known), np.full(len(known), 1 / len(known)), size=draws)
    low, high = np.quantile(counts @ known / len(known), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(known.mean()), 12), round(float(low), 9), round(float(high), 9)


def _at(arm: str, name: str, rows: Sequence[Row], newest: bool) -> dict[int, Any]:
    found: dict[int, Row] = {}
    for row in rows:
        if row["arm"] == arm and row.get(name) is not None:
            best = found.get(row["seed"])
            if best is None or (row["step"] > best["step"]) == newest:
                found[row["seed"]] = row
    return {seed: row[name] for seed, row in found.items()}


def last(arm: str, name: str) -> PerSeed:
    """A column's value in the arm's row of the highest step that has it."""
    return lambda rows: _at(arm, name, rows, newest=True)


def first(arm: str, name: str) -> PerSeed:
    """A column's value in the arm's row of the lowest step that has it."""
    return lambda rows: _at(arm, name, rows, newest=False)


def minus(left: PerSeed, right: PerSeed) -> PerSeed:
    """The paired difference, for seeds that have both."""

    def difference(rows: Sequence[Row]) -> dict[int, Any]:
        a, b = left(rows), right(rows)
        return {seed: (np.asarray(a[seed], float) - np.asarray(b[seed], float)).tolist() for seed in a if seed in b}

    return difference


def ahead(arm: str, other: str, name: str = "accuracy") -> PerSeed:
    """How far an arm ends above another one in a column."""
    return minus(last(arm, name), last(other, name))


def grown(arm: str, name: str) -> PerSeed:
    """What an arm's number has grown by, from its first row to its last; a seed with one row has not been trained."""
    change = minus(last(arm, name), first(arm, name))

    def per_seed(rows: Sequence[Row]) -> dict[int, Any]:
        steps: dict[int, set[Any]] = {}
        for row in rows:
            if row["arm"] == arm and row.get(name) is not None:
                steps.setdefault(row["seed"], set()).add(row["step"])
        return {seed: value for seed, value in change(rows).items() if len(steps[seed]) > 1}

    return per_seed


@dataclass(frozen=True)
class Figure:
    """Curves of a study's rows: a column over another one, for each arm the mean and the range over seeds.

    Args:
        title: Short.
        x: A column, such as ``step``; ``arm`` sets the arms side by side with their last rows.
        y: A column, or several for a panel each.
        arms: Which arms, in this order; ``None`` for all.
        caption: What is shown.
        x_label: With the unit; empty for the column's name.
        y_label: With the unit; empty for the column's name. With several columns each panel is named by its own.
    """

    title: str
    x: str
    y: str | tuple[str, ...]
    arms: tuple[str, ...] | None = None
    caption: str = ""
    x_label: str = ""
    y_label: str = ""
