"""The schema of an offline method."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from rl.config.checks import check_numbers, refuse
from rl.config.optim import OptimConfig


class Rule(Enum):
    """Which traces an offline method keeps."""

    STAR = "star"
    """Own two-attempt traces that end right."""
    PAIR = "pair"
    """A wrong first attempt paired with another, right first attempt at the same task as the second."""
    RELABEL = "relabel"
    """Every state that was visited, answered by a right attempt at the same task."""
    VERIFY = "verify"
    """A judgement of the first attempt in words, then its repetition if it was right and a right one if not."""
    DPO = "dpo"
    """Pairs: a right attempt preferred to the policy's own wrong second one, after the same first attempt."""


@dataclass
class OfflineConfig:
    """An offline method: sample, keep by rule, fine-tune on what is kept.

    Args:
        name: Shown in tables.
        rule: Which traces are kept.
        keep_right_to_right: Also keep traces whose first attempt was right already (the paper's D+).
        iterations: Rounds of sampling from the current model, each followed by fine-tuning.
        restart: Every round fine-tunes the *base*, as STaR does, so as not to overfit; otherwise the current model.
        pairs_per_task: For ``pair``: at most this many (wrong, right) pairs per task, and as many (right, right). For
            ``relabel``: at most this many states of each turn and task. For ``verify``: at most this many wrong and as
            many right first attempts per task. For ``dpo``: at most this many pairs per task.
        group_size: Episodes per task and round.
        temperature: Of the sampled episodes.
        epochs: Passes over the kept rows.
        batch_size: Rows per optimiser step.
        optim: The optimiser of every round.
        beta: For ``dpo``: how strongly it is held to the model that it starts from.
        says_right: For ``verify``: what is written before a first attempt that was right is repeated.
        says_wrong: For ``verify``: what is written before a wrong one is replaced.
    """

    name: str = MISSING
    rule: Rule = MISSING
    keep_right_to_right: bool = False
    iterations: int = 1
    restart: bool = True
    pairs_per_task: int = 8
    group_size: int = 8
    temperature: float = 1.0
    epochs: int = 3
    batch_size: int = 512
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(schedule="linear"))
    beta: float = 0.1
    says_right: str = "The solution above is correct.\n"
    says_wrong: str = "The solution above is not correct.\n"

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "offline",
            positive="iterations pairs_per_task group_size temperature epochs batch_size beta",
        )
        refuse(
            self.rule is Rule.PAIR and self.iterations > 1,
            "offline.iterations: pair fine-tuning builds on the base's first attempts, so it takes 1 iteration",
        )
