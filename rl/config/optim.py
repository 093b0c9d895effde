"""The schema of the optimiser, the same for online and offline methods."""

from dataclasses import dataclass, field

from rl.config.checks import check_numbers, refuse, refuse_unknown


@dataclass
class OptimConfig:
    """AdamW, and how an optimiser step is split into micro-batches.

    Args:
        lr: Peak learning rate.
        betas: The two beta coefficients of AdamW.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Gradients with a larger norm are scaled down to this norm.
        schedule: Learning-rate schedule within a stage or a round: ``constant``, or ``linear`` or ``cosine`` decay
            to 0.
        warmup_steps: Optimiser steps of linear warm-up at the start of a stage or a round.
        micro_batch_tokens: Tokens per forward pass, padding included. Changes memory and speed, never the gradient.
        gradient_checkpointing: Recompute a layer's activations in the backward pass instead of keeping them in memory.
        mixed_precision: ``no``, or ``bf16`` for bfloat16 forward and backward passes with float32 weights.
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
        refuse(len(self.betas) != 2 or max(self.betas) >= 1, f"optim.betas={self.betas}: give two numbers below 1")
        refuse_unknown(self.schedule, ("constant", "linear", "cosine"), "optim.schedule")
        refuse_unknown(self.mixed_precision, ("no", "bf16"), "optim.mixed_precision")
