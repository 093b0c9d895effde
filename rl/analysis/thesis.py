"""The sentence that the studies are read for, computed from their rows.

The sentence: *self-generated data works precisely when the generation stays anchored to a verifiable reality.* A study
says which of its arms are trained on a signal of the model's own making, which on the truth and which on none, how far
each signal agreed with the truth before training, and what training gained on held-out questions. Over all studies that
makes one point for each arm and seed, and one line for each system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl.analysis.claims import DRAWS, LEVEL, PerSeed, Row, Verdict, first, grown, student_t

KINDS = ("self", "oracle", "control")


@dataclass(frozen=True)
class Trained:
    """An arm as the thesis reads it.

    Args:
        arm: Its name in the rows.
        kind: What tells it which texts to learn. ``self``: the model, by its verdicts or by what a copy of it learns
            from them; or nothing does, and it learns its own texts as they are. ``oracle``: a checker of each, or they
            are real data. ``control``: what knows neither, such as a coin, the form alone, or a judge made to err.
        gain: What training brought on held-out questions, as a share in [-1, 1].
        reward_accuracy: How often the signal is right before training, in [0, 1]: the share of rewards, labels or
            ordered pairs that are the true ones; a number where it is known, such as a coin's. ``None`` for an oracle,
            which is right by definition, and for an arm whose signal was not measured, which is then no point.
    """

    arm: str
    kind: str
    gain: PerSeed
    reward_accuracy: PerSeed | float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"thesis, arm {self.arm}: kind={self.kind}; use {', '.join(KINDS)}")


def trained(kind: str, *arms: str, gain: str = "accuracy", signal: str = "reward_accuracy") -> tuple[Trained, ...]:
    """Arms that gain what a column grows by, and whose signal, unless it is an oracle's, is told by their first row.

    Args:
        kind: Of all of them.
        *arms: Their names.
        gain: The column of held-out questions.
        signal: The column that says how often the signal is right.
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
    """

    system: str
    signal: str
    anchor: str
    anchored: bool
    headline: str
    arms: tuple[Trained, ...]
    measure: str = "held-out accuracy"

    def __post_init__(self) -> None:
        if self.headline not in [one.arm for one in self.arms]:
            raise ValueError(f"thesis, {self.system}: headline={self.headline} is none of its arms")


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
    """

    study: str
    thesis: Thesis
    mean: float
    low: float
    high: float
    by_seed: Mapping[int, float]
    oracle: float
    claims: Mapping[str, str]

    @property
    def standing(self) -> str:
        """How many claims hold, and the names of those that do not."""
        failed = [name for name, verdict in self.claims.items() if verdict == Verdict.DOES_NOT_HOLD]
        held = sum(verdict == Verdict.HOLDS for verdict in self.claims.values())
        return f"{held} of {len(self.claims)} hold" + (f"; not: {', '.join(failed)}" if failed else "")

    @property
    def verdict(self) -> Verdict:
        """Whether the sentence holds of this system: it works if it is anchored, and does not if it is not."""
        works, fails = self.low > 0, self.high <= 0
        if not (works or fails):
            return Verdict.CANNOT_TELL
        return Verdict.HOLDS if works == self.thesis.anchored else Verdict.DOES_NOT_HOLD


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
    return Line(study, thesis, *student_t(list(gains.values())), gains, mean, claims)


def rank_correlation(found: Sequence[Point], seed: int = 0) -> tuple[float, float, float]:
    """Spearman's correlation of gain with reward accuracy, and its 95 % interval.

    The arms and seeds of a study share its task and are no independent points, so the bootstrap draws whole studies.

    Returns:
        ``nan`` where it is not defined: no two different values on an axis, and no interval below three studies.
    """
    of_study: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        of_study.setdefault(one.study, []).append((one.reward_accuracy, one.gain))
    groups = [np.array(values) for _, values in sorted(of_study.items())]
    if not groups:
        return float("nan"), float("nan"), float("nan")
    rho = _spearman(np.concatenate(groups))
    if len(groups) < 3:  # two studies give three different draws, which are no interval
        return rho, float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(groups), (DRAWS, len(groups)))
    drawn = np.array([_spearman(np.concatenate([groups[i] for i in pick])) for pick in picks])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return rho, round(float(low), 9), round(float(high), 9)


def _spearman(pairs_N2: np.ndarray) -> float:
    from scipy.stats import rankdata

    x, y = (rankdata(column) for column in pairs_N2.T)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return round(float(np.corrcoef(x, y)[0, 1]), 12)


def sentence(
    lines: Sequence[Line], correlation: tuple[float, float, float], of_own: tuple[float, float, float], n_points: int
) -> str:
    """What the studies say of the thesis.

    Args:
        lines: A line for each system.
        correlation: Of self-reward arms and controls; an oracle's signal is right by definition.
        of_own: Of self-reward arms alone.
        n_points: Arms and seeds behind the first.
    """
    names = {verdict: [one.thesis.system for one in lines if one.verdict is verdict] for verdict in Verdict}
    for_it, against, open_ = (names[v] for v in (Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.CANNOT_TELL))
    if against:
        said = "It does not hold as worded"
    elif for_it and not open_ and of_own[1] > 0:
        said = "It holds"
    else:
        said = "It cannot be told"
    fits, contradicts = "fits" if len(for_it) == 1 else "fit", "contradicts" if len(against) == 1 else "contradict"
    told = f"{said}: of {len(lines)} systems {len(for_it)} {fits} it, {len(against)} {contradicts} it{_listed(against)}"
    told += f", and {len(open_)} cannot be told{_listed(open_)}."
    if np.isnan(correlation[0]):
        return f"{told} There is no rank correlation of gain with reward accuracy to speak of."
    told += f" Over {n_points} arms and seeds that are not paid by the truth the gain {_direction(correlation)}"
    told += f" with the accuracy of the signal before training (rank correlation {_shown(correlation)})"
    return f"{told}; among self-reward arms alone it {_direction(of_own)} ({_shown(of_own)})."


def _direction(correlation: tuple[float, float, float]) -> str:
    return "rises" if correlation[1] > 0 else "falls" if correlation[2] < 0 else "cannot be told to rise or fall"


def _shown(correlation: tuple[float, float, float]) -> str:
    rho, low, high = correlation
    return "undefined" if np.isnan(rho) else f"{rho:+.2f} [{low:+.2f}, {high:+.2f}]"


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
