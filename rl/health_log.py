"""The metrics that a run has logged so far, as the checks of :mod:`rl.health` read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VALIDATION = "eval/validation/"


@dataclass
class History:
    """What a run has logged so far, as input for its checks.

    Args:
        group_sizes: Number of episodes of a task that are compared with each other, by stage.
        steps: Metrics of the training steps, the newest last.
        validations: Metrics of the validations, the newest last.
        progress: Spent fraction of the budget.
    """

    group_sizes: Sequence[int] = (1,)
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    validations: list[Mapping[str, Any]] = field(default_factory=list)
    progress: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a line of ``metrics.jsonl``."""
        # Steps and validations share the file; each kind is recognised by a metric that only this kind has.
        if "optim/lr" in row:
            self.steps.append(row)
        elif f"{VALIDATION}n" in row:
            self.validations.append(row)

    @property
    def stage(self) -> list[Mapping[str, Any]]:
        """The steps of the current stage only, since gradient norms of stages with another loss are not comparable."""
        here = self.steps[-1].get("stage") if self.steps else None
        return [step for step in self.steps if step.get("stage") == here]

    @property
    def group_size(self) -> int:
        """Number of episodes of a task that are compared with each other in the current stage."""
        stage = int(self.steps[-1].get("stage") or 0) if self.steps else 0
        return self.group_sizes[min(stage, len(self.group_sizes) - 1)]

    def mean(self, name: str, n: int) -> float | None:
        """A metric's mean over the last ``n`` steps; ``None`` if there are fewer steps or none of them has a value."""
        return mean(self.steps[-n:], name) if len(self.steps) >= n else None

    def attempts(self, name: str, n: int) -> list[tuple[int, float]]:
        """Pairs of attempt and mean over the last ``n`` steps, for a metric that is logged for each attempt."""
        found = ((k, self.mean(f"{name}_t{k}", n)) for k in range(1, self.n_attempts + 1))
        return [(k, value) for k, value in found if value is not None]

    def trained(self, name: str, n: int) -> float | None:
        """Mean of a rate over the last ``n`` validations of a trained policy; ``None`` without one that has a value.

        The first validation is not among them: it measures the base. Runs of offline methods log only validations.
        """
        return mean(self.validations[1:][-n:], VALIDATION + name)

    def accuracies(self, n: int) -> list[tuple[float, float]]:
        """For every attempt its accuracy in the first step and its mean over the last ``n``.

        A run without steps has the accuracy in the base's validation and the mean over the last ``n`` after it.
        """
        if self.steps:
            prefix, first, last = "rollout/", self.steps[:1], self.steps[-n:] if len(self.steps) > n else []
        else:
            prefix, first, last = VALIDATION, self.validations[:1], self.validations[1:][-n:]
        names = [f"{prefix}accuracy_t{k}" for k in range(1, _n_attempts(first) + 1)]
        pairs = [(mean(first, name), mean(last, name)) for name in names]
        return [(before, after) for before, after in pairs if before is not None and after is not None]

    @property
    def n_attempts(self) -> int:
        """Largest number of attempts for which the newest step has metrics."""
        return _n_attempts(self.steps)

    def validated(self, name: str) -> float | None:
        """A rate of the newest validation; ``None`` if it is missing or ``nan``."""
        value = self.validations[-1].get(VALIDATION + name) if self.validations else None
        return value if value is not None and value == value else None


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a metric over the rows that have a value for it; ``None`` if no row has one."""
    # nan (a mean over nothing) is unequal to itself; in metrics.jsonl it is null.
    values = [value for row in rows if (value := row.get(name)) is not None and value == value]
    return sum(values) / len(values) if values else None


def _n_attempts(rows: Sequence[Mapping[str, Any]]) -> int:
    known = (name.rpartition("_t")[2] for name in (rows[-1] if rows else ()) if "/accuracy_t" in name)
    return max(map(int, known), default=0)
