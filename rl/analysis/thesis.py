"""The thesis that the studies test, evaluated from their rows.

The thesis: *self-generated data works precisely when the generation stays anchored to a verifiable reality.* A study
says which of its arms are trained on a signal that the model makes itself, which on the truth and which on neither, how
accurate each signal was before training, and what training gained on held-out questions. Over all studies this gives
one point for each arm and seed, and one line for each system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rewards.wording import counted
from rl.analysis.claims import DRAWS, LEVEL, PerSeed, Row, Verdict, first, grown, minus, student_t
from rl.analysis.printing import fixed

KINDS = ("self", "oracle", "control", "indirect")
Interval = tuple[float, float, float]
"""A value and the lower and upper end of its 95 % interval; ``nan`` where not defined."""


@dataclass(frozen=True)
class Trained:
    """An arm of a study, with what the thesis needs to know about it.

    Args:
        arm: Name of the arm in the rows.
        kind: What decides which texts the arm learns. ``self``: the model, by its own verdicts or by what a copy of the
            model learns from the texts; or nothing, so that the model learns all of its own texts. ``oracle``: a
            checker of each text, or the texts are real data. ``control``: neither the model nor the truth, such as a
            coin flip or the form alone. ``indirect``: the truth indirectly, such as a checker with deliberate errors,
            or how much learning from a text raises the accuracy on questions with known answers.
        gain: Gain of training on held-out questions, as a share in [-1, 1].
        reward_accuracy: Accuracy of the signal before training on the training questions, in [0, 1]:
            :func:`rl.analysis.gate.signal_accuracy`, which is .5 for a coin flip; or, where texts are learned without a
            reward, ``text_accuracy``, the share of the texts to be learned that are right. A number if it is known
            without measurement, as for a coin flip. ``None`` for an oracle, which is right by definition, and for an
            arm whose signal was not measured; such an arm gives no point.
    """

    arm: str
    kind: str
    gain: PerSeed
    reward_accuracy: PerSeed | float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"thesis, arm {self.arm}: kind={self.kind}; use {', '.join(KINDS)}")


REWARD, TEXTS = "reward_accuracy", "text_accuracy"
"""Columns with a signal's accuracy: over pairs of answers (.5 for a coin flip), or as the share of right texts."""


def trained(kind: str, *arms: str, gain: str = "accuracy", signal: str = REWARD) -> tuple[Trained, ...]:
    """Arms whose gain is the growth of a column and whose signal accuracy is read from their first row.

    The accuracy of an oracle is not read, since it is 1 by definition.

    Args:
        kind: Kind of all these arms.
        *arms: Names of the arms.
        gain: Column with the accuracy on held-out questions.
        signal: Column with the accuracy of the signal: :data:`REWARD` or :data:`TEXTS`.
    """
    return tuple(Trained(arm, kind, grown(arm, gain), None if kind == "oracle" else first(arm, signal)) for arm in arms)


@dataclass(frozen=True)
class Thesis:
    """A study, with what the thesis needs to know about it; given as ``THESIS`` in the study's module.

    Args:
        system: Name of the published system.
        signal: What the model learns from, in words.
        anchor: What outside the model ties the signal to the truth, in words.
        anchored: Whether there is such an anchor.
        headline: Name of the arm that reproduces the published system.
        arms: The headline arm and the arms to compare with it.
        measure: Name of the measure in which gains are given.
        without: Name of the arm that lacks what is studied; empty if there is none. If the headline arm gains no more
            than this arm, the gain comes from what both arms have in common.
        also: Other measures of the headline arm's gain, by name.
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
        """Kind of the arm with this name, one of :data:`KINDS`."""
        return next(one.kind for one in self.arms if one.arm == arm)

    def __post_init__(self) -> None:
        names = [one.arm for one in self.arms]
        for name, arm in (("headline", self.headline), ("without", self.without or self.headline)):
            if arm not in names:
                raise ValueError(f"thesis, {self.system}: {name}={arm} is none of its arms")


@dataclass(frozen=True)
class Point:
    """Gain and signal accuracy of one arm with one seed."""

    study: str
    arm: str
    kind: str
    seed: int
    reward_accuracy: float
    gain: float


@dataclass(frozen=True)
class Line:
    """Results of one system, as a line of the table.

    Args:
        study: Name of the study.
        thesis: The study's description for the thesis.
        mean: Gain of the headline arm, mean over seeds; ``nan`` without data.
        low: Lower end of the gain's 95 % Student-t interval.
        high: Upper end of the interval.
        by_seed: The gain of each seed.
        oracle: Mean gain of the first oracle arm other than the headline arm; ``nan`` if there is none.
        claims: Verdicts of the study's claims by name.
        also: Other measures of the headline arm's gain by name, each with its interval over seeds.
        without: Gain of the arm that lacks what is studied, and the headline arm's gain minus this gain, each with its
            interval; ``None`` if there is no such arm.
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
        """Text with the number of claims that hold and the names of the claims that do not."""
        failed = [name for name, verdict in self.claims.items() if verdict == Verdict.DOES_NOT_HOLD]
        held = sum(verdict == Verdict.HOLDS for verdict in self.claims.values())
        return f"{held} of {len(self.claims)} hold" + (f"; not: {', '.join(failed)}" if failed else "")

    @property
    def verdict(self) -> Verdict:
        """Whether the thesis holds for this system: an anchored system improves, an unanchored one does not."""
        return judged(self.thesis.anchored, self.low, self.high)

    @property
    def remarks(self) -> list[str]:
        """Remarks beside the verdict: other measures of the gain, and the comparison with the ``without`` arm."""
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
"""How the verdict on the thesis is worded for a single system."""


def judged(anchored: bool, low: float, high: float) -> Verdict:
    """The verdict that an interval of gains gives on the thesis.

    The verdict is ``cannot tell`` if the interval has values on both sides of 0, starts at 0, or is ``nan``. An
    interval that starts below 0 and ends at 0 counts as no gain.
    """
    works, fails = low > 0, low < 0 and high <= 0
    if not (works or fails):
        return Verdict.CANNOT_TELL
    return Verdict.HOLDS if works == anchored else Verdict.DOES_NOT_HOLD


def known(per_seed: PerSeed, rows: Sequence[Row]) -> dict[int, float]:
    """The value of each seed, averaged if there is one for each question; seeds without a number are left out."""
    found = {int(seed): float(np.mean(value)) for seed, value in per_seed(rows).items() if value is not None}
    return {seed: value for seed, value in sorted(found.items()) if not np.isnan(value)}


def points(study: str, thesis: Thesis, rows: Sequence[Row]) -> list[Point]:
    """The points of a study's arms; an oracle without a measured accuracy has accuracy 1."""
    found = []
    for one in thesis.arms:
        gains = known(one.gain, rows)
        told = 1.0 if one.reward_accuracy is None and one.kind == "oracle" else one.reward_accuracy
        accuracy = known(told, rows) if callable(told) else {} if told is None else dict.fromkeys(gains, told)
        found += [Point(study, one.arm, one.kind, s, accuracy[s], gain) for s, gain in gains.items() if s in accuracy]
    return found


def line(study: str, thesis: Thesis, rows: Sequence[Row], claims: Mapping[str, str]) -> Line:
    """The line of a system, from its study's rows and the verdicts on its study's claims, by name."""
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
        mean: Mean correlation over studies.
        low: Lower end of the mean's 95 % Student-t interval over studies; ``nan`` for fewer than three studies.
        high: Upper end of the interval.
        by_study: Correlation of each study, without studies in which gain or accuracy is constant.
    """

    mean: float
    low: float
    high: float
    by_study: Mapping[str, float]


def within_studies(found: Sequence[Point]) -> Within:
    """Spearman's correlation within each study, averaged over studies.

    Gains are comparable within a study, but not between studies: a student's accuracy minus its teacher's is below zero
    even with the best signal, and a start at 5 % has more to gain than a start at 60 %.
    """
    told = {study: _spearman(pairs_N2) for study, pairs_N2 in _of_studies(found).items()}
    by_study = {study: rho for study, rho in told.items() if not np.isnan(rho)}
    mean, low, high = student_t(list(by_study.values()))
    return Within(mean, *((low, high) if len(by_study) > 2 else (float("nan"), float("nan"))), by_study)


def pooled(found: Sequence[Point], seed: int = 0) -> Interval:
    """Spearman's correlation of gain with reward accuracy over all points at once, and its 95 % interval.

    This correlation mixes effects within studies with differences between the scales of their gains (see
    :func:`within_studies`). The arms and seeds of a study share a task and are not independent, so the bootstrap
    resamples whole studies.

    Returns:
        Correlation and interval; all ``nan`` if gain or accuracy is constant, and a ``nan`` interval for fewer than
        three studies.
    """
    groups = list(_of_studies(found).values())
    rho = _spearman(np.concatenate(groups)) if groups else float("nan")
    if np.isnan(rho) or len(groups) < 3:  # two studies have only three different resamples, too few for an interval
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
    """The text that sums up what the studies say about the thesis.

    Args:
        lines: One line for each system.
        within: Correlations of all arms except oracles, whose signal is right by definition.
        of_own: Correlations of self-reward arms alone.
        all_at_once: Pooled correlation of all points of ``within``.
        n_points: Number of these points.
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
    """Formats a value with its interval in brackets; says ``no interval`` or ``undefined`` where either is ``nan``."""
    value, *ends = (fixed(one, digits, signed=True) for one in interval)
    if np.isnan(interval[0]):
        return "undefined"
    return f"{value}, no interval" if np.isnan(interval[1]) else f"{value} [{', '.join(ends)}]"


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
