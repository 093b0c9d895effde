"""The schema of an arm's optimiser, online and offline alike."""

from dataclasses import dataclass, field

from rl.config.checks import check_numbers, refuse, refuse_unknown


@dataclass
class OptimConfig:
    """AdamW, and how a step is cut into pieces.

    Args:
        lr: Peak learning rate.
        betas: AdamW's.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm.
        schedule: ``constant``, or ``linear`` or ``cosine`` to 0; within a stage or a round.
        warmup_steps: Linear warm-up at the start of a stage or a round.
        micro_batch_tokens: Padded tokens per forward pass. Changes memory and speed, never the gradient.
        gradient_checkpointing: Compute a layer's activations again in the backward pass instead of keeping them.
        mixed_precision: ``no``, or ``bf16`` for forward and backward passes with float32 weights.
    """

    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: str = "constant"
    warmup_steps: int = 0
    micro_batch_tokens: int = 32768
    gradient_checkpointing: bool = False
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "optim",
            positive="lr max_grad_norm micro_batch_tokens",
            not_negative="weight_decay warmup_steps",
            fraction="betas",
        )
        refuse(len(self.betas) != 2 or max(self.betas) >= 1, f"optim.betas={self.betas}: AdamW takes two below 1")
        refuse_unknown(self.schedule, ("constant", "linear", "cosine"), "optim.schedule")
        refuse_unknown(self.mixed_precision, ("no", "bf16"), "optim.mixed_precision")
