"""From shaped rewards to advantages: pure functions of tensors. A row is an episode, a column a turn."""

import torch
from torch import Tensor


def returns_to_go(rewards_BK: Tensor, turn_gamma: float) -> Tensor:
    """``G[k] = r[k] + turn_gamma * G[k+1]``, shape ``[B, K]``.

    ``turn_gamma=0`` credits a turn with its own reward only (SCoRe, arXiv 2409.12917, appendix A.4).
    """
    out, later = torch.empty_like(rewards_BK), torch.zeros_like(rewards_BK[:, 0])
    for k in reversed(range(rewards_BK.shape[1])):
        later = rewards_BK[:, k] + turn_gamma * later
        out[:, k] = later
    return out


def leave_one_out(returns_BK: Tensor, group_ids_B: Tensor) -> Tensor:
    """RLOO: each return minus the mean return, at the same turn, of the *other* episodes of its group.

    ``A[i] = R[i] - sum_{j != i} R[j] / (n - 1)`` (Ahmadian et al., arXiv 2402.14740, section 3). The mean is over all
    episodes of the group; one that ended early counts with the return 0 that it has there.

    Returns:
        ``[B, K]``.

    Raises:
        ValueError: If a group has a single episode: it has no others to be compared with.
    """
    groups, index = torch.unique(group_ids_B, return_inverse=True)
    counts = torch.bincount(index, minlength=len(groups))
    if (counts < 2).any():
        lonely = groups[counts < 2].tolist()
        raise ValueError(f"groups {lonely[:5]} have one episode: leave-one-out needs at least 2 per task")
    totals = torch.zeros(len(groups), returns_BK.shape[1], dtype=returns_BK.dtype, device=returns_BK.device)
    totals.index_add_(0, index, returns_BK)
    others = (totals[index] - returns_BK) / (counts[index] - 1)[:, None]
    return returns_BK - others


def batch_mean(returns_BK: Tensor) -> Tensor:
    """REINFORCE with the batch mean per turn as the baseline: ``A[i, k] = R[i, k] - mean_j R[j, k]``, ``[B, K]``."""
    return returns_BK - returns_BK.mean(0, keepdim=True)


def to_tokens(values_BK: Tensor, turn_ids_BT: Tensor) -> Tensor:
    """Every response token gets its turn's value; everything else 0. ``[B, T]``."""
    values_BT = values_BK.gather(1, turn_ids_BT.clamp(min=0))
    return torch.where(turn_ids_BT >= 0, values_BT, 0.0)
