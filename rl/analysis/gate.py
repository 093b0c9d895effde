"""What can be told of a signal before a model is trained on it: how often it is right, and what to expect (the gate).

The generation-verification gap (Song et al., arXiv 2412.02674): how much better a model's answers become when it picks
among several of its own by its own verification. Filtering self-improvement can teach no more than this difference.
The same is read of every other signal that pays, picks or labels what a model has written.
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
"""A gain below this counts as none: malformed answers that a filter drops give as much."""
QUESTIONS = 400
"""On how many questions of its training a signal is read beforehand; a few dozen put a coin anywhere from .4 to .6."""


def signal_accuracy(reward_NK: np.ndarray, truth_NK: np.ndarray) -> float:
    """How right a signal is, in all studies: of pairs of answers to a question, one truly better, the share it tells.

    A pair that the signal does not tell apart counts half. So the truth has 1, while .5 is what a coin has, and what
    calls all answers alike, however many of them are right: that teaches nothing.

    Args:
        reward_NK: What K answers to each of N questions earn.
        truth_NK: What they are worth; ``nan`` for those that nothing is compared with.

    Returns:
        In [0, 1]; ``nan`` if the truth tells no two answers to a question apart.
    """
    reward, truth = np.asarray(reward_NK, float), np.asarray(truth_NK, float)
    above = truth[:, :, None] > truth[:, None]  # every pair once, the better answer first
    told = np.sign(reward[:, :, None] - reward[:, None])
    return float((told[above] + 1).mean() / 2) if above.any() else float("nan")


def share(true_N: np.ndarray) -> float:
    """Of true ones; ``nan`` for none at all."""
    return float(true_N.mean()) if len(true_N) else float("nan")


def mean_told(values: Sequence[float]) -> float:
    """Mean of the values that are numbers, such as of the batches in which a signal could be held against the truth."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def gaps(right_NK: np.ndarray, scores_NK: np.ndarray) -> np.ndarray:
    """``[N]`` accuracy of the best-scored of K answers, ties averaged, minus the mean accuracy of all K."""
    right = np.asarray(right_NK, float)
    # Ties are averaged: picking the first of equal scores would favour whatever was sampled first.
    best = scores_NK >= scores_NK.max(1, keepdims=True)
    return (right * best).sum(1) / best.sum(1) - right.mean(1)


@dataclass(frozen=True)
class Gate:
    """What the gap predicts.

    Args:
        gap: Mean over questions.
        low: Lower end of its 95 % bootstrap interval over questions.
        high: Upper end.
        n: Questions.
    """

    gap: float
    low: float
    high: float
    n: int

    @classmethod
    def read(cls, right_NK: np.ndarray, scores_NK: np.ndarray) -> "Gate":
        """Measures the gap on held-out questions, before training.

        Args:
            right_NK: Whether each of K sampled answers to N questions is right.
            scores_NK: The model's own verification of the same answers; higher is better.
        """
        found = gaps(right_NK, scores_NK)
        return cls(*resampled(found), len(found))

    @classmethod
    def of_texts(cls, learned_M: np.ndarray, own_N: np.ndarray) -> "Gate":
        """The same where a filter or other labels, and no choice among answers to one question, make what is learned.

        Args:
            learned_M: Whether each text that is going to be learned is right.
            own_N: Whether each text that the model writes without them is.
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
        """Columns of a study's row that set the prediction beside what training brought.

        Args:
            gain: Held-out accuracy after training on the signal minus before; ``None`` where nothing was
                trained (too few answers passed, say). Such a prediction was not tested: it is no hit and no miss. Nor
                is one of a gate that had nothing to read.
            cell: What was trained, in words.
            kind: Whose signal it was: ``self``, ``oracle``, ``control`` or ``indirect`` (:mod:`rl.analysis.thesis`).
        """
        read = {"gate_cell": cell, "gate_gap": self.gap, "gate_low": self.low, "gate_high": self.high}
        read |= {"gate_kind": kind}
        hit = None if gain is None or np.isnan(self.gap) else self.expects == (gain > GAIN_ABOVE)
        return read | {"gate_expects": self.expects, "gate_gain": gain, "gate_hit": hit}


def with_outcome(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows with a prediction of the gate and an outcome to hold it against."""
    return [row for row in rows if row.get("gate_cell") is not None and row.get("gate_hit") is not None]


def record(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], str]:
    """Every prediction and its hit or miss, if it was tested: header, cells, and a sentence that counts the tested."""
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
        said += f" {more} not tested: nothing was trained, or read."
    if compared:
        gained = sum(bool(row["gate_hit"]) == bool(row["gate_expects"]) for row in compared)
        said += (
            f" One that is always open would have been right in {gained} of {n}, one that never opens in {n - gained}."
        )
    of_kinds = {kind: [row["gate_hit"] for row in compared if _kind(row) == kind] for kind in map(_kind, compared)}
    if len(of_kinds) > 1:
        each = ", ".join(f"{kind} {sum(hit)} of {len(hit)}" for kind, hit in of_kinds.items())
        said += f" By whose signal it was: {each}."
    return header, cells, said


def _percent(value: float | None) -> str:
    # Stored, what is not a number is None: of nothing there is no gap.
    return "-" if value is None or np.isnan(value) else percent(value, signed=True)


def _kind(row: Mapping[str, Any]) -> str:
    return str(row.get("gate_kind") or "self")
