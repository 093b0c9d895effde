"""From the raw reward of each attempt to the reward that each attempt's tokens are trained on."""

from collections.abc import Sequence
from typing import TypeVar

Number = TypeVar("Number")
"""A float, or any array type with arithmetic: the same code shapes one episode or a batch of columns."""


def shape_rewards(rewards: Sequence[Number], weights: Sequence[float], progress_alpha: float) -> list[Number]:
    """Weights each attempt's reward and adds the progress bonus.

    ``shaped[k] = weights[k] * rewards[k] + progress_alpha * (rewards[k] - rewards[k-1])`` (no bonus on attempt 0).
    With binary rewards, weight 1 and alpha 10 the second attempt is paid +11 for wrong->right, +1 for right->right,
    0 for wrong->wrong and -10 for right->wrong (SCoRe, arXiv 2409.12917, section 5.2).

    Args:
        rewards: Raw reward per attempt, K entries.
        weights: Weight per attempt, K entries.
        progress_alpha: Bonus per unit of improvement over the attempt before.

    Raises:
        ValueError: If there are more attempts than weights.
    """
    if len(rewards) > len(weights):
        raise ValueError(f"{len(rewards)} attempts but only {len(weights)} reward weights: give one per attempt")
    shaped = []
    for k, reward in enumerate(rewards):
        value = weights[k] * reward  # type: ignore[operator]
        if k > 0:
            value = value + progress_alpha * (reward - rewards[k - 1])  # type: ignore[operator]
        shaped.append(value)
    return shaped
