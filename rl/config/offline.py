"""The schema of an offline method."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rl.config.checks import check_numbers, refuse, refuse_idle
from rl.config.optim import OptimConfig


@dataclass
class OfflineConfig:
    """An offline method: sample, keep by rule, fine-tune on what is kept.

    Args:
        name: Name of the method, shown in tables.
        rule: Which episodes are kept for training: a name in :data:`rl.offline.KEEP_RULES`.
        rule_options: Options of the rule.
        iterations: Rounds of sampling from the current model, each followed by fine-tuning.
        restart: Every round fine-tunes the *base* model, as STaR does to avoid overfitting; otherwise the current
            model.
        group_size: Episodes per task and round.
        temperature: Sampling temperature of the episodes.
        epochs: Passes over the kept rows in each round.
        batch_size: Rows per optimiser step.
        optim: Settings of the optimiser, the same in every round.
        beta: For rules that keep preference pairs: strength with which DPO holds the policy to its starting model.
        conversations: File or folder of existing conversations that are trained on instead of sampled ones, in one
            round (:mod:`rl.recorded`).
    """

    name: str = MISSING
    rule: str = MISSING
    rule_options: dict[str, Any] = field(default_factory=dict)
    iterations: int = 1
    restart: bool = True
    group_size: int = 8
    temperature: float = 1.0
    epochs: int = 3
    batch_size: int = 512
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(schedule="linear"))
    beta: float = 0.1
    conversations: str = ""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "offline",
            positive="iterations group_size temperature epochs batch_size beta",
        )
        refuse(
            bool(self.conversations) and self.iterations > 1,
            "offline.conversations: recorded conversations are the same in every round; set offline.iterations=1",
        )
        if self.rule == MISSING:
            return
        from rl.offline import KEEP_RULES  # imports torch, which the bare schema does not need

        KEEP_RULES.options(self.rule, self.rule_options)
        rounds = KEEP_RULES.fact(self.rule, "rounds")
        refuse(
            rounds is not None and self.iterations > rounds,
            f"offline.iterations={self.iterations}: {self.rule} builds on the base's own attempts; set {rounds}",
        )
        if not KEEP_RULES.fact(self.rule, "preferences"):
            refuse_idle(self, "offline", "beta", f"offline.rule={self.rule} keeps no preferences")
