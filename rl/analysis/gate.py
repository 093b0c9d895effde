"""Measures a training signal before training: how often it is right, and whether to expect improvement (the gate).

The generation-verification gap (Song et al., arXiv 2412.02674) is the accuracy that a model gains when it picks among
several of its own answers by its own verification. Self-improvement by filtering can teach no more than this gap. The
gap is measured in the same way for every other signal that rewards, selects or labels a model's texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.wording import counted
from rl.analysis.claims import resampled
from rl.analysis.printing import percent

OPEN_ABOVE = 0.05
"""The gate opens if the lower end of the gap's interval is above this."""
GAIN_ABOVE = 0.03
"""A gain up to this counts as none: dropping malformed answers with a filter gains as much."""
QUESTIONS = 400
"""Number of training questions on which a signal is measured before training. With only a few dozen questions, the
measured accuracy of a coin flip varies between .4 and .6."""


def signal_accuracy(reward_NK: np.ndarray, truth_NK: np.ndarray) -> float:
    """Pairwise accuracy of a signal: how often it ranks the truly better of two answers to a question higher.

    A pair to which the signal gives equal rewards counts half. The true rewards therefore score 1; a coin flip scores
    .5, and so does a signal that rewards all answers alike, however many of them are right, because it teaches nothing.
    All studies use this measure.

    Args:
        reward_NK: Reward that the signal gives to each of K answers to N questions.
        truth_NK: True reward of the same answers; answers with ``nan`` are left out of all pairs.

    Returns:
        A value in [0, 1]; ``nan`` if no question has two answers with different true rewards.
    """
    reward, truth = np.asarray(reward_NK, float), np.asarray(truth_NK, float)
    above = truth[:, :, None] > truth[:, None]  # each pair counts once, with the better answer first
    told = np.sign(reward[:, :, None] - reward[:, None])
    return float((told[above] + 1).mean() / 2) if above.any() else float("nan")


def share(true_N: np.ndarray) -> float:
    """Share of true entries; ``nan`` for an empty array."""
    return float(true_N.mean()) if len(true_N) else float("nan")


def mean_told(values: Sequence[float]) -> float:
    """Mean of the values that are not ``nan``; ``nan`` if there is none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def gaps(right_NK: np.ndarray, scores_NK: np.ndarray) -> np.ndarray:
    """Accuracy of the best-scored of K answers, ties averaged, minus the mean accuracy of all K, ``[N]``."""
    right = np.asarray(right_NK, float)
    # Average over ties: picking the first of equal scores would favour whatever was sampled first.
    best = scores_NK >= scores_NK.max(1, keepdims=True)
    return (right * best).sum(1) / best.sum(1) - right.mean(1)


@dataclass(frozen=True)
class Gate:
    """A measured gap and its prediction: whether training on the signal will help.

    Args:
        gap: Mean gap over questions.
        low: Lower end of the gap's 95 % interval.
        high: Upper end of the interval.
        n: Number of questions, or of learned texts.
    """

    gap: float
    low: float
    high: float
    n: int

    @classmethod
    def read(cls, right_NK: np.ndarray, scores_NK: np.ndarray) -> "Gate":
        """Measures the gap on held-out questions before training, with a bootstrap interval over questions.

        Args:
            right_NK: Whether each of K sampled answers to N questions is right.
            scores_NK: The model's own verification scores of the same answers; higher is better.
        """
        found = gaps(right_NK, scores_NK)
        return cls(*resampled(found), len(found))

    @classmethod
    def of_texts(cls, learned_M: np.ndarray, own_N: np.ndarray) -> "Gate":
        """Measures the gap where a filter or labels decide what is learned, not a choice among answers to a question.

        The gap is a difference of two means, with a 95 % normal interval.

        Args:
            learned_M: Whether each text that will be trained on is right.
            own_N: Whether each text that the model writes by itself, without filter or labels, is right.
        """
        learned, own = np.asarray(learned_M, float), np.asarray(own_N, float)
        if not (len(learned) and len(own)):
            return cls(float("nan"), float("nan"), float("nan"), 0)
        gap = float(learned.mean() - own.mean())
        half = 1.96 * float(np.sqrt(learned.var() / len(learned) + own.var() / len(own)))
        return cls(round(gap, 12), round(gap - half, 9), round(gap + half, 9), len(learned))

    @property
    def expects(self) -> bool:
        """Whether training on the signal is expected to help."""
        return self.low > OPEN_ABOVE

    def __str__(self) -> str:
        ends = f"{percent(self.low, signed=True)}, {percent(self.high, signed=True)}"
        what = "expect improvement" if self.expects else "do not expect improvement"
        return f"gate: gap {percent(self.gap, signed=True)} points [{ends}], {counted(self.n, 'question')}: {what}"

    def outcome(self, gain: float | None, cell: str, kind: str = "self") -> dict[str, Any]:
        """Columns of a study's row that compare the gate's prediction with the result of training.

        A prediction is untested, neither hit nor miss, if nothing was trained or the gate had nothing to measure.

        Args:
            gain: Held-out accuracy after training on the signal minus before; ``None`` if nothing was trained, for
                example because too few answers passed the filter.
            cell: What was trained, in words.
            kind: Kind of the signal: ``self``, ``oracle``, ``control`` or ``indirect`` (:mod:`rl.analysis.thesis`).
        """
        read = {"gate_cell": cell, "gate_gap": self.gap, "gate_low": self.low, "gate_high": self.high}
        read |= {"gate_kind": kind}
        hit = None if gain is None or np.isnan(self.gap) else self.expects == (gain > GAIN_ABOVE)
        return read | {"gate_expects": self.expects, "gate_gain": gain, "gate_hit": hit}


def with_outcome(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows with a prediction of the gate that was tested by training."""
    return [row for row in rows if row.get("gate_cell") is not None and row.get("gate_hit") is not None]


def record(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], str]:
    """The table of all predictions with their outcomes: header, cells, and a sentence that counts hits."""
    header = ["what was trained", "signal", "seed", "gap", "95 % interval", "gate", "gain", "prediction"]
    known = [row for row in rows if row.get("gate_cell") is not None]
    cells = [
        [
            *(str(row["gate_cell"]), _kind(row), str(row["seed"]), _percent(row["gate_gap"])),
            f"{_percent(row['gate_low'])}, {_percent(row['gate_high'])}",
            "expect improvement" if row["gate_expects"] else "do not expect it",
            *(
                ("-", "not tested")
                if row.get("gate_hit") is None
                else (percent(row["gate_gain"], signed=True), "hit" if row["gate_hit"] else "miss")
            ),
        ]
        for row in known
    ]
    compared = with_outcome(known)
    hits, untested = sum(row["gate_hit"] for row in compared), len(known) - len(compared)
    n = len(compared)
    said = f"The gate was right in {hits} of {counted(n, 'training')}." if compared else "No prediction was tested."
    if untested:
        more = counted(untested, "more of its readings was", "more of its readings were")
        said += f" {more} not tested: nothing was trained, or the gate had nothing to measure."
    if compared:
        gained = sum(bool(row["gate_hit"]) == bool(row["gate_expects"]) for row in compared)
        said += (
            f" A gate that is always open would have been right in {gained} of {n}, one that never opens in "
            f"{n - gained}."
        )
    of_kinds = {kind: [row["gate_hit"] for row in compared if _kind(row) == kind] for kind in map(_kind, compared)}
    if len(of_kinds) > 1:
        each = ", ".join(f"{kind} {sum(hit)} of {len(hit)}" for kind, hit in of_kinds.items())
        said += f" By kind of signal: {each}."
    return header, cells, said


def _percent(value: float | None) -> str:
    # In stored rows nan is None.
    return "-" if value is None or np.isnan(value) else percent(value, signed=True)


def _kind(row: Mapping[str, Any]) -> str:
    return str(row.get("gate_kind") or "self")
