"""The sentence that the studies are read for, computed from their rows.

The sentence: *self-generated data works precisely when the generation stays anchored to a verifiable reality.* A study
says which of its arms are trained on a signal of the model's own making, which on the truth and which on none, how far
each signal agreed with the truth before training, and what training gained on held-out questions. Over all studies that
makes one point for each arm and seed, and one line for each system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rewards.wording import counted
from rl.analysis.claims import DRAWS, LEVEL, PerSeed, Row, Verdict, first, grown, minus, student_t
from rl.analysis.printing import fixed

KINDS = ("self", "oracle", "control", "indirect")
Interval = tuple[float, float, float]
"""A value and the ends of its 95 % interval; ``nan`` where it is not defined."""


@dataclass(frozen=True)
class Trained:
    """An arm as the thesis reads it.

    Args:
        arm: Its name in the rows.
        kind: What tells it which texts to learn. ``self``: the model, by its verdicts or by what a copy of it learns
            from them; or nothing does, and it learns its own texts as they are. ``oracle``: a checker of each, or they
            are real data. ``control``: what knows neither, such as a coin or the form alone. ``indirect``: the truth at
            one remove, such as a checker made to err, or what learning from a text brings to known answers.
        gain: What training brought on held-out questions, as a share in [-1, 1].
        reward_accuracy: How right the signal is before training, in [0, 1] and on the questions of training:
            :func:`rl.analysis.gate.signal_accuracy`, at .5 for a coin; or, where texts are learned and nothing pays
            them, ``text_accuracy``, the share of those to be learned that are right. A number where it is known, such
            as a coin's. ``None`` for an oracle, which is right by definition, and for an arm whose signal was not
            measured, which is then no point.
    """

    arm: str
    kind: str
    gain: PerSeed
    reward_accuracy: PerSeed | float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"thesis, arm {self.arm}: kind={self.kind}; use {', '.join(KINDS)}")


REWARD, TEXTS = "reward_accuracy", "text_accuracy"
"""Columns that say how right a signal is: by pairs of answers (a coin is at .5), or the share of right texts."""


def trained(kind: str, *arms: str, gain: str = "accuracy", signal: str = REWARD) -> tuple[Trained, ...]:
    """Arms that gain what a column grows by, and whose signal, unless it is an oracle's, is told by their first row.

    Args:
        kind: Of all of them.
        *arms: Their names.
        gain: The column of held-out questions.
        signal: The column that says how right the signal is: :data:`REWARD` or :data:`TEXTS`.
    """
    return tuple(Trained(arm, kind, grown(arm, gain), None if kind == "oracle" else first(arm, signal)) for arm in arms)


@dataclass(frozen=True)
class Thesis:
    """A study as the thesis reads it: ``THESIS`` in its module.

    Args:
        system: Name of the published system.
        signal: What the model learns from.
        anchor: What outside the model holds this signal to the truth, in words.
        anchored: Whether there is such a thing.
        headline: The arm that is the published system.
        arms: The headline, and what it is to be compared with.
        measure: What the gain is a share of.
        without: The arm that lacks what is studied, where there is one. A headline that gains no more than it speaks
            for what both have in common.
        also: Other gains that the headline can be read by, by their names.
    """

    system: str
    signal: str
    anchor: str
    anchored: bool
    headline: str
    arms: tuple[Trained, ...]
    measure: str = "held-out accuracy"
    without: str = ""
    also: Mapping[str, PerSeed] = field(default_factory=dict)

    def kind(self, arm: str) -> str:
        """What tells an arm which texts to learn."""
        return next(one.kind for one in self.arms if one.arm == arm)

    def __post_init__(self) -> None:
        names = [one.arm for one in self.arms]
        for name, arm in (("headline", self.headline), ("without", self.without or self.headline)):
            if arm not in names:
                raise ValueError(f"thesis, {self.system}: {name}={arm} is none of its arms")


@dataclass(frozen=True)
class Point:
    """An arm with one seed."""

    study: str
    arm: str
    kind: str
    seed: int
    reward_accuracy: float
    gain: float


@dataclass(frozen=True)
class Line:
    """A system in the table.

    Args:
        study: Its name.
        thesis: What it is.
        mean: Gain of the headline arm, mean over seeds; ``nan`` without data.
        low: Lower end of its 95 % Student-t interval.
        high: Upper end.
        by_seed: The gain of each seed.
        oracle: Mean gain of the first oracle arm; ``nan`` where there is none.
        claims: Verdicts of the study's claims by their names.
        also: Other readings of the headline's gain by their names, each with its interval over seeds.
        without: Gain of the arm that lacks what is studied, and what the headline gains more, each with its interval.
    """

    study: str
    thesis: Thesis
    mean: float
    low: float
    high: float
    by_seed: Mapping[int, float]
    oracle: float
    claims: Mapping[str, str]
    also: Mapping[str, Interval] = field(default_factory=dict)
    without: tuple[Interval, Interval] | None = None

    @property
    def standing(self) -> str:
        """How many claims hold, and the names of those that do not."""
        failed = [name for name, verdict in self.claims.items() if verdict == Verdict.DOES_NOT_HOLD]
        held = sum(verdict == Verdict.HOLDS for verdict in self.claims.values())
        return f"{held} of {len(self.claims)} hold" + (f"; not: {', '.join(failed)}" if failed else "")

    @property
    def verdict(self) -> Verdict:
        """Whether the sentence holds of this system: it works if it is anchored, and does not if it is not."""
        return judged(self.thesis.anchored, self.low, self.high)

    @property
    def remarks(self) -> list[str]:
        """What else is to be known beside the verdict: other readings of the gain, and whether the control has it."""
        said = [
            f"{name}: {shown(gain, 3)}, {WORDS[judged(self.thesis.anchored, *gain[1:])]}"
            for name, gain in self.also.items()
        ]
        if self.without is not None:
            gain, more = self.without
            told = "" if more[1] > 0 or more[2] < 0 else ", not told apart"
            arm = f"without what is studied ({self.thesis.without})"
            said.append(f"{arm}: {shown(gain, 3)}, difference {shown(more, 3)}{told}")
        return said


WORDS = {Verdict.HOLDS: "fits", Verdict.DOES_NOT_HOLD: "contradicts", Verdict.CANNOT_TELL: "cannot tell"}
"""What a verdict is called where the sentence is judged by a system."""


def judged(anchored: bool, low: float, high: float) -> Verdict:
    """What an interval of gains says of the sentence; seeds of which none moved say nothing."""
    works, fails = low > 0, low < 0 and high <= 0
    if not (works or fails):
        return Verdict.CANNOT_TELL
    return Verdict.HOLDS if works == anchored else Verdict.DOES_NOT_HOLD


def known(per_seed: PerSeed, rows: Sequence[Row]) -> dict[int, float]:
    """The value of each seed, a mean where there is one for each question; seeds without a number are left out."""
    found = {int(seed): float(np.mean(value)) for seed, value in per_seed(rows).items() if value is not None}
    return {seed: value for seed, value in sorted(found.items()) if not np.isnan(value)}


def points(study: str, thesis: Thesis, rows: Sequence[Row]) -> list[Point]:
    """The points of a study's arms; an oracle's signal is right."""
    found = []
    for one in thesis.arms:
        gains = known(one.gain, rows)
        told = 1.0 if one.reward_accuracy is None and one.kind == "oracle" else one.reward_accuracy
        accuracy = known(told, rows) if callable(told) else {} if told is None else dict.fromkeys(gains, told)
        found += [Point(study, one.arm, one.kind, s, accuracy[s], gain) for s, gain in gains.items() if s in accuracy]
    return found


def line(study: str, thesis: Thesis, rows: Sequence[Row], claims: Mapping[str, str]) -> Line:
    """A system's line; ``claims`` are the verdicts of its study by the claims' names."""
    headline = next(one for one in thesis.arms if one.arm == thesis.headline)
    gains = known(headline.gain, rows)
    oracle = next((known(one.gain, rows) for one in thesis.arms if one.kind == "oracle" and one is not headline), {})
    mean = float(np.mean(list(oracle.values()))) if oracle else float("nan")
    also = {name: _over_seeds(gain, rows) for name, gain in thesis.also.items()}
    without = next((one.gain for one in thesis.arms if one.arm == thesis.without), None)
    beside = without and (_over_seeds(without, rows), _over_seeds(minus(headline.gain, without), rows))
    return Line(study, thesis, *student_t(list(gains.values())), gains, mean, claims, also, beside)


def _over_seeds(per_seed: PerSeed, rows: Sequence[Row]) -> Interval:
    return student_t(list(known(per_seed, rows).values()))


@dataclass(frozen=True)
class Within:
    """Rank correlations of gain with reward accuracy, each within one study.

    Args:
        mean: Over studies.
        low: Lower end of its 95 % Student-t interval over studies; ``nan`` below three.
        high: Upper end.
        by_study: Each; a study is left out that has no two different values on an axis.
    """

    mean: float
    low: float
    high: float
    by_study: Mapping[str, float]


def within_studies(found: Sequence[Point]) -> Within:
    """Spearman's correlation within each study, averaged over studies.

    Gains of one study are on one scale. Those of different studies are not: a student's minus its teacher's is below
    zero with the best of signals, and a start at 5 % has more to gain than one at 60 %.
    """
    told = {study: _spearman(pairs_N2) for study, pairs_N2 in _of_studies(found).items()}
    by_study = {study: rho for study, rho in told.items() if not np.isnan(rho)}
    mean, low, high = student_t(list(by_study.values()))
    return Within(mean, *((low, high) if len(by_study) > 2 else (float("nan"), float("nan"))), by_study)


def pooled(found: Sequence[Point], seed: int = 0) -> Interval:
    """Spearman's correlation of gain with reward accuracy over all points at once, and its 95 % interval.

    It mixes what happens within studies with what their gains are measured against (see ``within_studies``). The arms
    and seeds of a study share its task and are no independent points, so the bootstrap draws whole studies.

    Returns:
        ``nan`` where it is not defined: no two different values on an axis, and no interval below three studies.
    """
    groups = list(_of_studies(found).values())
    rho = _spearman(np.concatenate(groups)) if groups else float("nan")
    if np.isnan(rho) or len(groups) < 3:  # two studies give three different draws, which are no interval
        return rho, float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(groups), (DRAWS, len(groups)))
    drawn = np.array([_spearman(np.concatenate([groups[i] for i in pick])) for pick in picks])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return rho, round(float(low), 9), round(float(high), 9)


def _of_studies(found: Sequence[Point]) -> dict[str, np.ndarray]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        pairs.setdefault(one.study, []).append((one.reward_accuracy, one.gain))
    return {study: np.array(values) for study, values in sorted(pairs.items())}


def _spearman(pairs_N2: np.ndarray) -> float:
    from scipy.stats import rankdata

    x, y = (rankdata(column) for column in pairs_N2.T)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return round(float(np.corrcoef(x, y)[0, 1]), 12)


def sentence(lines: Sequence[Line], within: Within, of_own: Within, all_at_once: Interval, n_points: int) -> str:
    """What the studies say of the thesis.

    Args:
        lines: A line for each system.
        within: Of all arms but oracles; their signal is right by definition.
        of_own: Of self-reward arms alone.
        all_at_once: The points of the first in one heap.
        n_points: How many those are.
    """
    names = {verdict: [one.thesis.system for one in lines if one.verdict is verdict] for verdict in Verdict}
    for_it, against, open_ = (names[v] for v in (Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.CANNOT_TELL))
    if against:
        said = "It does not hold as worded"
    elif for_it and not open_ and of_own.low > 0:
        said = "It holds"
    else:
        said = "It cannot be told"
    fit, contradict = counted(len(for_it), "fits", "fit"), counted(len(against), "contradicts", "contradict")
    told = f"{said}: of {counted(len(lines), 'system')} {fit} it, {contradict} it{_listed(against)}"
    told += f", and {len(open_)} cannot be told{_listed(open_)}."
    for one in lines:
        for name, gain in one.also.items():
            if (other := judged(one.thesis.anchored, *gain[1:])) is not one.verdict:
                told += f" Counted by {name} ({shown(gain, 3)}) {one.thesis.system} {WORDS[other]} it."
    if not within.by_study:
        return f"{told} There is no rank correlation of gain with reward accuracy to speak of."
    told += f" Within a study the gain {_direction(within)} with the accuracy of the signal before training "
    told += f"(rank correlation, {_averaged(within)}; oracles left out); "
    alone = f"it {_direction(of_own)} ({_averaged(of_own)})" if of_own.by_study else "nothing can be said"
    told += f"among self-reward arms alone {alone}."
    if np.isnan(all_at_once[0]):
        return told
    told += f" All {n_points} arms and seeds in one heap give {shown(all_at_once)}, which is not the one to read: "
    return f"{told}the gains of different studies are on different scales."


def _direction(found: Within) -> str:
    return "rises" if found.low > 0 else "falls" if found.high < 0 else "cannot be told to rise or fall"


def _averaged(found: Within) -> str:
    n, above = len(found.by_study), sum(rho > 0 for rho in found.by_study.values())
    mean = shown((found.mean, found.low, found.high))
    return f"mean over {n} studies {mean}, above 0 in {above}" if n > 1 else f"one study {mean}"


def shown(interval: Interval, digits: int = 2) -> str:
    """A value with its interval in brackets, where there is one; ``undefined`` without a value."""
    value, *ends = (fixed(one, digits, signed=True) for one in interval)
    if np.isnan(interval[0]):
        return "undefined"
    return f"{value}, no interval" if np.isnan(interval[1]) else f"{value} [{', '.join(ends)}]"


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
