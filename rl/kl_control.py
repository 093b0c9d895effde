"""How strong the KL penalty of each turn is: fixed, held to a target, or in balance with the policy loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rl.config import StageConfig

RATE = 0.1
"""How fast a coefficient follows its target: with the largest error, 2 % per step."""
MAX_ERROR = 0.2
"""A step's relative error is cut to this, so that one odd batch cannot change a coefficient much."""
BALANCE_RATE = 0.1
"""Part of the way that a balanced coefficient goes per step."""
MAX_FACTOR = 100.0
"""An adaptive coefficient stays within this factor of its start."""


@dataclass(slots=True)
class KLControl:
    """The KL coefficients of a stage.

    With ``kl_targets``, ``coef[k] *= 1 + 0.1 clip(KL[k] / target[k] - 1, -0.2, 0.2)`` per step (the proportional
    controller of Ziegler et al., arXiv 1909.08593, section 2.2). With ``kl_balance``, the first turn's coefficient
    moves a tenth of the way towards ``balance * sum_{k>0} |A[k]| / KL[0]``. SCoRe (arXiv 2409.12917, section 5.1)
    mentions a beta2 that balances the first attempt's KL with the second attempt's policy loss, without a formula.
    This one is ours; it takes |advantage|, because a loss of centred advantages is 0 whatever its gradient.

    Args:
        stage: Where the coefficients start and what they adapt to.
        coefs: Their present values.
    """

    stage: StageConfig
    coefs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coefs = self.coefs or list(self.stage.kl_coefs)

    def update(self, metrics: Mapping[str, float]) -> None:
        """Adapts to what a step measured: ``policy/kl_ref_t<k>`` and ``policy/abs_advantage_t<k>``."""
        if self.stage.kl_targets:
            for k, target in enumerate(self.stage.kl_targets):
                error = metrics[f"policy/kl_ref_t{k + 1}"] / target - 1.0
                if math.isnan(error):  # nobody sampled this turn: it was replayed, or episodes ended before
                    continue
                self._set(k, self.coefs[k] * (1.0 + RATE * max(-MAX_ERROR, min(MAX_ERROR, error))))
        elif self.stage.kl_balance:
            later = sum(metrics[f"policy/abs_advantage_t{k + 1}"] for k in range(1, len(self.coefs)))
            wanted = self.stage.kl_balance * later / max(metrics["policy/kl_ref_t1"], 1e-6)
            if not math.isnan(wanted):
                self._set(0, self.coefs[0] + BALANCE_RATE * (wanted - self.coefs[0]))

    def _set(self, k: int, value: float) -> None:
        start = self.stage.kl_coefs[k]
        self.coefs[k] = min(max(value, start / MAX_FACTOR), start * MAX_FACTOR)
