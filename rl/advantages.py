"""From shaped rewards to advantages: pure functions of tensors. A row is an episode, a column a turn.

Baselines look at one turn at a time and at *all* episodes that they compare, also those that ended earlier, with the
return 0 that they have there. So a baseline never depends on what the episode itself did, and an episode cannot earn
anything by ending early or going on; there is a test that enumerates a small environment.
"""

from collections.abc import Callable

import torch
from torch import Tensor

STD_EPSILON = 1e-4
"""Added to a standard deviation before division, as in TRL's GRPO."""

SumOver = Callable[[Tensor], Tensor]
"""Adds a tensor up over the processes of a run, so that batch statistics are those of the whole batch."""


def just_here(x: Tensor) -> Tensor:
    """The sum over one process."""
    return x


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

    ``A[i] = R[i] - sum_{j != i} R[j] / (n - 1)`` (Ahmadian et al., arXiv 2402.14740, section 3). Unbiased.

    Returns:
        ``[B, K]``.

    Raises:
        ValueError: If a group has a single episode: it has no others to be compared with.
    """
    means, counts, _ = _group_moments(returns_BK, group_ids_B)
    others = (means * counts - returns_BK) / (counts - 1)
    return returns_BK - others


def imitation(rewards_BK: Tensor, n_turns_B: Tensor) -> Tensor:
    """``[B, K]``: 1 on the last attempt of an episode that ends right (raw reward 1), 0 elsewhere.

    A policy gradient with these is the gradient of the log-likelihood of filtered samples: STaR's objective, on policy
    (arXiv 2203.14465, section 3, equation 2; ablated in SCoRe's stage II by arXiv 2409.12917, Table 4).
    """
    columns = torch.arange(rewards_BK.shape[1], device=rewards_BK.device)
    is_last = columns == n_turns_B[:, None] - 1
    return (is_last & (rewards_BK >= 1.0)).to(rewards_BK.dtype)


def group_normalised(returns_BK: Tensor, group_ids_B: Tensor, scale: bool = True) -> Tensor:
    """GRPO: ``A[i] = (R[i] - mean) / (std + 1e-4)`` over the group, turn by turn; ``[B, K]``.

    The standard deviation divides by n - 1 (Shao et al., arXiv 2402.03300, equation 3). Dividing makes groups that
    are nearly always right or wrong weigh more, and cancels the size of a progress bonus; ``scale=False`` is Dr.
    GRPO's advantage (arXiv 2503.20783, section 3.2).

    Raises:
        ValueError: If a group has a single episode.
    """
    means, _, stds = _group_moments(returns_BK, group_ids_B)
    centred = returns_BK - means
    return centred / (stds + STD_EPSILON) if scale else centred


def _group_moments(returns_BK: Tensor, group_ids_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, number of episodes and standard deviation of every row's group: ``[B, K]``, ``[B, 1]``, ``[B, K]``."""
    groups, index = torch.unique(group_ids_B, return_inverse=True)
    counts = torch.bincount(index, minlength=len(groups))
    if (counts < 2).any():
        lonely = groups[counts < 2].tolist()
        raise ValueError(f"groups {lonely[:5]} have one episode: a group baseline needs at least 2 per task")
    table = torch.zeros(len(groups), returns_BK.shape[1], dtype=returns_BK.dtype, device=returns_BK.device)
    n = counts[index][:, None].to(returns_BK.dtype)
    means = table.index_add(0, index, returns_BK)[index] / n
    squares = table.index_add(0, index, (returns_BK - means).square())[index]
    return means, n, (squares / (n - 1)).sqrt()


def batch_mean(returns_BK: Tensor, sum_over: SumOver = just_here) -> Tensor:
    """REINFORCE with the batch mean per turn as the baseline: ``A[i, k] = R[i, k] - mean_j R[j, k]``, ``[B, K]``."""
    mean, _ = _batch_moments(returns_BK, sum_over)
    return returns_BK - mean


def batch_normalised(returns_BK: Tensor, sum_over: SumOver = just_here) -> Tensor:
    """REINFORCE++: returns minus the batch mean, over the batch standard deviation, turn by turn; ``[B, K]``.

    Hu et al., arXiv 2501.03262, section 3: the whole batch is the baseline, so no groups are needed, and a task that
    is always right does not blow up its own noise. The KL stays in the loss here; the paper puts it into the reward.
    """
    mean, std = _batch_moments(returns_BK, sum_over)
    return (returns_BK - mean) / (std + STD_EPSILON)


def _batch_moments(returns_BK: Tensor, sum_over: SumOver) -> tuple[Tensor, Tensor]:
    n = sum_over(torch.tensor(float(len(returns_BK)), dtype=torch.float64))
    mean = sum_over(returns_BK.double().sum(0)) / n
    squares = sum_over((returns_BK.double() - mean).square().sum(0))
    return mean.to(returns_BK.dtype), (squares / (n - 1).clamp(min=1)).sqrt().to(returns_BK.dtype)


def gae_over_tokens(
    rewards_BK: Tensor,
    values_BT: Tensor,
    turn_ids_BT: Tensor,
    *,
    gamma: float,
    lam: float,
    turn_gamma: float,
    turn_lam: float,
) -> Tensor:
    """Generalised advantage estimation over the tokens of a turn, then over turns; ``[B, T]``, 0 off the response.

    ``A[t] = r[t] + g V[t+1] - V[t] + g l A[t+1]`` (Schulman et al., arXiv 1506.02438, equation 16), where t+1 is the
    next *response* token: prompt tokens between turns are no actions and are skipped. Within a turn ``g, l`` are
    ``gamma, lam`` and r is 0; at a turn's last token they are ``turn_gamma, turn_lam`` and r is the turn's reward. With
    ``turn_gamma=0`` every turn is an episode of its own.

    Args:
        rewards_BK: Shaped reward of every turn.
        values_BT: Value before each response token.
        turn_ids_BT: -1 off the response.
        gamma: Discount per token.
        lam: Lambda per token.
        turn_gamma: Discount per turn.
        turn_lam: Lambda per turn.
    """
    out = torch.zeros_like(values_BT)
    value, advantage = torch.zeros_like(values_BT[:, 0]), torch.zeros_like(values_BT[:, 0])
    next_turn = torch.full_like(turn_ids_BT[:, 0], -1)
    for t in reversed(range(values_BT.shape[1])):
        turn = turn_ids_BT[:, t]
        acts = turn >= 0
        ends = acts & (turn != next_turn)
        reward = torch.where(ends, rewards_BK.gather(1, turn.clamp(min=0)[:, None]).squeeze(1), 0.0)
        discount = torch.where(ends, turn_gamma, gamma)
        decay = discount * torch.where(ends, turn_lam, lam)
        here = reward + discount * value - values_BT[:, t] + decay * advantage
        out[:, t] = torch.where(acts, here, 0.0)
        advantage = torch.where(acts, here, advantage)
        value = torch.where(acts, values_BT[:, t], value)
        next_turn = torch.where(acts, turn, next_turn)
    return out


def gae_over_turns(
    rewards_BK: Tensor, values_BK: Tensor, n_turns_B: Tensor, *, turn_gamma: float, turn_lam: float
) -> Tensor:
    """Generalised advantage estimation with a turn as the action; ``[B, K]``, 0 past the last turn.

    ``A[k] = r[k] + turn_gamma V[k+1] - V[k] + turn_gamma turn_lam A[k+1]``: one value per turn, read at the last prompt
    token, and one advantage for all its tokens (RLEF, arXiv 2410.02089, section 2.3).

    Args:
        rewards_BK: Shaped reward of every turn.
        values_BK: Value before each turn.
        n_turns_B: Turns played.
        turn_gamma: Discount per turn.
        turn_lam: Lambda per turn.
    """
    out = torch.zeros_like(rewards_BK)
    value, advantage = torch.zeros_like(rewards_BK[:, 0]), torch.zeros_like(rewards_BK[:, 0])
    for k in reversed(range(rewards_BK.shape[1])):
        played = n_turns_B > k
        here = rewards_BK[:, k] + turn_gamma * value - values_BK[:, k] + turn_gamma * turn_lam * advantage
        advantage = torch.where(played, here, 0.0)
        value = torch.where(played, values_BK[:, k], 0.0)
        out[:, k] = advantage
    return out


def whiten_turns(advantages_BT: Tensor, turn_ids_BT: Tensor, n_columns: int, sum_over: SumOver = just_here) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the tokens of each turn index; ``[B, T]``.

    Turn by turn (as PAG's role normalisation, arXiv 2506.10406), so that a rare and dear second attempt does not drown
    the first one's signal. A turn whose advantages do not vary at all gets 0.
    """
    out = torch.zeros_like(advantages_BT)
    for k in range(n_columns):
        of_turn = turn_ids_BT == k
        values = advantages_BT[of_turn].double()
        n, total = sum_over(torch.stack([torch.tensor(float(len(values)), dtype=torch.float64), values.sum()]))
        mean = total / n.clamp(min=1)
        variance = sum_over((values - mean).square().sum()) / (n - 1).clamp(min=1)
        out[of_turn] = ((values - mean) / (variance.sqrt() + STD_EPSILON)).to(out.dtype)
    return out


def to_tokens(values_BK: Tensor, turn_ids_BT: Tensor) -> Tensor:
    """Every response token gets its turn's value; everything else 0. ``[B, T]``."""
    values_BT = values_BK.gather(1, turn_ids_BT.clamp(min=0))
    return torch.where(turn_ids_BT >= 0, values_BT, 0.0)


def turn_starts(turn_ids_BT: Tensor) -> Tensor:
    """``[B, T]`` bool: True at the first token of every turn."""
    before = torch.cat([torch.full_like(turn_ids_BT[:, :1], -1), turn_ids_BT[:, :-1]], dim=1)
    return (turn_ids_BT >= 0) & (turn_ids_BT != before)


def first_of_turns(values_BT: Tensor, turn_ids_BT: Tensor, n_columns: int) -> Tensor:
    """Every turn's value at its first token, ``[B, K]``; 0 for turns that were not played."""
    starts = turn_starts(turn_ids_BT)
    out = torch.zeros(len(values_BT), n_columns + 1, dtype=values_BT.dtype, device=values_BT.device)
    column = torch.where(starts, turn_ids_BT, n_columns)  # everything but a turn's start goes into a spare column
    return out.scatter(1, column, values_BT)[:, :n_columns]
