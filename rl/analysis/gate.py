"""The gate in front of self-improvement: what training on one's own verdicts may be expected to bring, before training.

The generation-verification gap (Song et al., arXiv 2412.02674): how much better a model's answers become when it picks
among several of its own by its own verification. Filtering self-improvement can teach no more than this difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.analysis.claims import resampled
from rl.analysis.printing import percent

OPEN_ABOVE = 0.05
"""The gate opens if the lower end of the gap's interval is above this."""
GAIN_ABOVE = 0.03
"""A gain below this counts as none: malformed answers that a filter drops give as much."""


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

    @property
    def expects(self) -> bool:
        """Whether training on one's own verdicts is expected to help."""
        return self.low > OPEN_ABOVE

    def __str__(self) -> str:
        ends = f"{percent(self.low, signed=True)}, {percent(self.high, signed=True)}"
        what = "expect improvement" if self.expects else "do not expect improvement"
        return f"gate: gap {percent(self.gap, signed=True)} points [{ends}], {self.n} questions: {what}"

    def outcome(self, gain: float | None, cell: str) -> dict[str, Any]:
        """Columns of a study's row that set the prediction beside what training brought.

        Args:
            gain: Held-out accuracy after training on one's own verdicts minus before; ``None`` where nothing was
                trained (too few answers passed, say). Such a prediction was not tested: it is no hit and no miss.
            cell: What was trained, in words.
        """
        read = {"gate_cell": cell, "gate_gap": self.gap, "gate_low": self.low, "gate_high": self.high}
        hit = None if gain is None else self.expects == (gain > GAIN_ABOVE)
        return read | {"gate_expects": self.expects, "gate_gain": gain, "gate_hit": hit}


def with_outcome(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows with a prediction of the gate and an outcome to hold it against."""
    return [row for row in rows if row.get("gate_cell") is not None and row.get("gate_hit") is not None]


def record(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], str]:
    """Every prediction and its hit or miss, if it was tested: header, cells, and a sentence that counts the tested."""
    header = ["what was trained", "seed", "gap", "95 % interval", "gate", "gain", "prediction"]
    known = [row for row in rows if row.get("gate_cell") is not None]
    cells = [
        [
            *(str(row["gate_cell"]), str(row["seed"]), percent(row["gate_gap"], signed=True)),
            f"{percent(row['gate_low'], signed=True)}, {percent(row['gate_high'], signed=True)}",
            "expect improvement" if row["gate_expects"] else "do not expect it",
            *(
                ("nothing was trained", "not tested")
                if row.get("gate_hit") is None
                else (percent(row["gate_gain"], signed=True), "hit" if row["gate_hit"] else "miss")
            ),
        ]
        for row in known
    ]
    compared = with_outcome(known)
    hits, untested = sum(row["gate_hit"] for row in compared), len(known) - len(compared)
    said = f"The gate was right in {hits} of {len(compared)} trainings." if compared else "No prediction was tested."
    if untested:
        said += f" {untested} more of its readings were not tested: nothing was trained."
    if compared:
        gained = sum(bool(row["gate_hit"]) == bool(row["gate_expects"]) for row in compared)
        said += f" One that is always open would have been right in {gained} of {len(compared)}."
    return header, cells, said
