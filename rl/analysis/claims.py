"""Claims: a sentence of a paper, a statistic over training seeds with its interval, and the verdict on the sentence.

Rows hold what a study measured: mappings with ``arm``, ``seed``, ``step`` and numbers. A claim reads one value per seed
(or one per seed and question) from the rows and knows nothing else of the study, so that rows that contradict the
sentence give the contrary verdict.
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
"""Function from rows to one value per seed, or one per seed and question; seeds without a value are left out."""

LEVEL = 0.95
DRAWS = 2_000


class Verdict(StrEnum):
    """What the interval of a claim's statistic says about the claim's sentence."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    CANNOT_TELL = "cannot tell"
    NOT_MEASURED = "not measured"


EXPECTATIONS = ("above", "below", "near")


@dataclass(frozen=True)
class Claim:
    """A sentence, and the statistic and threshold that decide whether the sentence holds.

    Args:
        name: Short name of the claim in tables, in lower case.
        sentence: The claim in its paper's terms, worded as if it held.
        per_seed: Function that gives the statistic of each seed.
        expect: ``above`` or ``below``: the claim holds if the whole interval lies on that side of ``than``. ``near``:
            it holds if the whole interval lies within ``margin`` of ``than``. It does not hold if the whole interval
            lies outside.
        than: Value with which the statistic is compared.
        margin: Largest distance from ``than`` that counts as ``near``.
        paper: The published result with its source; empty if there is none.
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
    """A claim with the result that was measured for it.

    Args:
        name: Name of the claim.
        sentence: Sentence of the claim.
        verdict: What the interval says about the sentence.
        mean: Mean over seeds; ``nan`` without data.
        low: Lower end of the 95 % interval; ``nan`` if there is no interval.
        high: Upper end of the interval.
        n_seeds: Number of seeds with a value.
        over: What the interval was computed over: ``seeds``, or ``questions`` if there is only one seed.
        by_seed: The value of each seed.
        expected: What the claim expects, such as ``above 0``.
        paper: The published result.
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
        """Mean, interval and the value of every seed, as text."""
        seeds = ", ".join(f"{seed}: {fixed(value, 3, signed=True)}" for seed, value in self.by_seed.items())
        interval = f"[{fixed(self.low, 3, signed=True)}, {fixed(self.high, 3, signed=True)}]"
        of = counted(self.n_seeds, "seed")
        return (
            f"{fixed(self.mean, 3, signed=True)} {interval} over {of if self.over == 'seeds' else self.over} ({seeds})"
        )

    @property
    def line(self) -> str:
        """Verdict, sentence and numbers in one line of text."""
        measured = f"; measured {self.numbers}" if self.by_seed else ""
        return f"{self.verdict}: {self.sentence} Expected {self.expected}{measured}."

    def to_json(self) -> dict[str, Any]:
        """The finding as a dictionary of JSON types; ``nan`` becomes ``None``."""
        plain = {key: None if value != value else value for key, value in asdict(self).items()}
        plain["by_seed"] = {str(seed): None if one != one else one for seed, one in self.by_seed.items()}
        return plain


def judge(claim: Claim, rows: Sequence[Row]) -> Finding:
    """Computes a claim's statistic and interval from the rows, and the verdict.

    The verdict is ``cannot tell`` if there is no interval, as for one seed with a single value, and ``not measured`` if
    no seed has a value, as for an arm that is not run at this size of the study.
    """
    # With several seeds the interval is over seeds, because only training runs are independent. A single run with a
    # value for each question still tells something about other questions, so its interval is over questions.
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
    # An interval that is neither inside nor outside crosses the threshold, and nothing can be told. The same holds
    # without an interval, since comparisons with nan are false, and if all seeds lie exactly on the threshold.
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
    """Mean of independent training runs and its 95 % Student-t interval; the ends are ``nan`` for fewer than two."""
    known = np.asarray(values, float)
    if len(known) < 2:
        return (float(known[0]) if len(known) else float("nan")), float("nan"), float("nan")
    from scipy.special import stdtrit  # imported here, so that importing this module stays fast

    half = float(stdtrit(len(known) - 1, (1 + LEVEL) / 2)) * known.std(ddof=1) / np.sqrt(len(known))
    mean = round(float(known.mean()), 12)
    return mean, round(float(mean - half), 9), round(float(mean + half), 9)


def resampled(values: Sequence[float] | np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Mean over questions and its 95 % percentile interval from a bootstrap over questions."""
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
    """The statistic that reads a column from the arm's last row with a value, by step, for each seed."""
    return lambda rows: _at(arm, name, rows, newest=True)


def first(arm: str, name: str) -> PerSeed:
    """The statistic that reads a column from the arm's first row with a value, by step, for each seed."""
    return lambda rows: _at(arm, name, rows, newest=False)


def minus(left: PerSeed, right: PerSeed) -> PerSeed:
    """The statistic ``left - right`` of each seed that has both values."""

    def difference(rows: Sequence[Row]) -> dict[int, Any]:
        a, b = left(rows), right(rows)
        return {seed: (np.asarray(a[seed], float) - np.asarray(b[seed], float)).tolist() for seed in a if seed in b}

    return difference


def ahead(arm: str, other: str, name: str = "accuracy") -> PerSeed:
    """The statistic that compares two arms at the end of training: last value of ``arm`` minus that of ``other``."""
    return minus(last(arm, name), last(other, name))


def grown(arm: str, name: str) -> PerSeed:
    """The statistic that tells how much an arm's column has grown from its first row to its last.

    A seed with rows of only one step has not been trained and is left out.
    """
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
    """A figure of a study's rows: one column over another, with the mean and the range over seeds of each arm.

    Args:
        title: Short title.
        x: Column of the horizontal axis, such as ``step``; ``arm`` shows the last rows of the arms side by side.
        y: Column of the vertical axis; several columns give one panel each.
        arms: Arms to show, in this order; ``None`` for all.
        caption: Text that says what the figure shows.
        x_label: Label with the unit; empty for the column's name.
        y_label: Label with the unit; empty for the column's name. With several columns each panel has its column's
            name.
    """

    title: str
    x: str
    y: str | tuple[str, ...]
    arms: tuple[str, ...] | None = None
    caption: str = ""
    x_label: str = ""
    y_label: str = ""
