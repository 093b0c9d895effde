"""From shaped rewards to advantages: pure functions of tensors. A row is an episode, a column a turn.

A baseline is computed for each turn over *all* compared episodes; an episode that ended before that turn counts with
return 0. So which episodes enter a baseline does not depend on their lengths, and an episode cannot gain by ending
early or by continuing; a test enumerates a small environment to check this.

An estimator of :data:`ADVANTAGES` gets the shaped rewards ``[B, K]``, a critic's values ``[B, T]`` (0 without a
critic), this process's whole rollout batch and a function that sums tensors over processes. It returns advantages
``[B, T]``, 0 off the response. The target of a critic's value is the advantage plus the value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rewards import Lookup
from rewards.wording import counted
from rl.batching import first_of_turns, to_tokens
from rl.config import StageConfig
from rl.config.checks import check_numbers
from rl.types import Episode, RolloutBatch

ADVANTAGES: Lookup[Callable[..., Tensor]] = Lookup("algorithm.advantage")
"""``(rewards_BK, values_BT, batch, sum_over, **options) -> [B, T]``. ``groups=True`` declares that episodes of a task
are compared with each other; ``values="tokens"`` or ``"turns"`` that a critic is needed, with a value per token or per
turn; ``raw=True`` that the estimator reads the batch's raw rewards, so that turns of weight 0 are trained too."""

STD_EPSILON = 1e-4
"""Added to a standard deviation before division, as in TRL's GRPO."""

SumOver = Callable[[Tensor], Tensor]
"""Sums a tensor over the processes of a run, so that batch statistics are those of the whole batch."""


def just_here(x: Tensor) -> Tensor:
    """The sum over a single process: ``x`` itself."""
    return x


class Estimator(NamedTuple):
    """An estimator with its options, looked up once per stage.

    Args:
        estimate: An entry of :data:`ADVANTAGES` with its options bound.
        turn_gamma: Discount over turns; 1, so that later rewards count fully, for an estimator without this option.
        groups: Whether the estimator compares the episodes of a task with each other.
        values: What a critic predicts values for: ``tokens``, ``turns``, or empty for no critic.
        raw: Whether the estimator reads raw rewards.
    """

    estimate: Callable[..., Tensor]
    turn_gamma: float
    groups: bool
    values: str
    raw: bool

    @classmethod
    def of(cls, stage: StageConfig) -> "Estimator":
        """The estimator of a resolved stage."""
        name, given = stage.advantage, stage.advantage_options
        turn_gamma = getattr(ADVANTAGES.options(name, given), "turn_gamma", 1.0)
        groups, values, raw = (ADVANTAGES.fact(name, fact) for fact in ("groups", "values", "raw"))
        return cls(ADVANTAGES.bind(name, given), turn_gamma, bool(groups), values or "", bool(raw))


def shaped_rewards(rewards_BK: Tensor, n_turns_B: Tensor, stage: StageConfig) -> Tensor:
    """``[B, K]`` rewards after weights and progress bonus: the rewards from which advantages are computed.

    ``shaped[k] = weights[k] * rewards[k] + progress_alpha * (rewards[k] - rewards[k-1])``, without a bonus at the first
    turn. With binary rewards, weight 1 and alpha 10 the second attempt is paid +11 for wrong->right, +1 for
    right->right, 0 for wrong->wrong and -10 for right->wrong (SCoRe, arXiv 2409.12917, section 5.2).

    Args:
        rewards_BK: Raw rewards.
        n_turns_B: Number of turns played; shaped rewards past the last turn are 0.
        stage: Reward weights and size of the bonus.

    Raises:
        ValueError: If there are more turns than weights.
    """
    n_columns, weights = rewards_BK.shape[1], rewards_BK.new_tensor(stage.reward_weights)
    if n_columns > len(weights):
        raise ValueError(
            f"{counted(n_columns, 'attempt')} but only {counted(len(weights), 'reward weight')}: give one per attempt"
        )
    # The bonus compares raw rewards, so that a first attempt of weight 0 (SCoRe's stage I) still is what the second one
    # is measured against. The later turn gets the bonus; with turn_gamma > 0 a bad first attempt would profit from it.
    shaped = rewards_BK * weights[:n_columns]
    shaped[:, 1:] = shaped[:, 1:] + stage.progress_alpha * (rewards_BK[:, 1:] - rewards_BK[:, :-1])
    # Rewards past an episode's end are 0; the bonus would treat that as a drop and penalise the end of the episode.
    played = torch.arange(n_columns, device=n_turns_B.device) < n_turns_B[:, None]
    return torch.where(played, shaped, 0.0)


def advantages(
    batch: RolloutBatch,
    values: Tensor,
    stage: StageConfig,
    estimator: Estimator,
    whiten: bool,
    sum_over: SumOver,
    costs_BK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Token advantages of a whole rollout batch and the targets of the critic's values; both ``[B, T]``.

    Rewards are shaped, then discounted over turns, then compared with a baseline or a critic. A turn is compared only
    with the *same* turn of other episodes. A turn that no reward reaches, neither its own nor a later one, has
    advantage exactly 0, whatever the critic predicts.

    Args:
        batch: The whole rollout batch of this process.
        values: ``[B, T]`` values of the critic; 0 without a critic.
        stage: Reward weights, size of the progress bonus and KL coefficients.
        estimator: Estimator of the stage.
        whiten: Whether to whiten each turn's advantages if its returns vary among the episodes that sampled the turn.
        sum_over: Sums tensors over processes.
        costs_BK: Costs to subtract from each turn's shaped reward, such as a KL; ``None`` for no costs.
    """
    rewards_BK = shaped_rewards(batch.rewards, batch.n_turns, stage)
    if costs_BK is not None:
        rewards_BK = rewards_BK - costs_BK
    n_columns = rewards_BK.shape[1]
    # Compute the critic's targets before masking and whitening below, so that they are returns in units of reward.
    advantages_BT = estimator.estimate(rewards_BK, values, batch, sum_over)
    returns_BT = torch.where(batch.response_mask, advantages_BT + values, 0.0)
    # Zero the advantages of turns that no reward can reach, such as first attempts of weight 0: there they would be the
    # critic's errors alone. A KL in the reward reaches turns with a coefficient; raw estimators do not read weights.
    if not estimator.raw:
        paid = [weight != 0 for weight in stage.reward_weights[:n_columns]]
        paid = [own or (k > 0 and stage.progress_alpha != 0) for k, own in enumerate(paid)]
        if costs_BK is not None:
            paid = [own or coef != 0 for own, coef in zip(paid, stage.kl_coefs, strict=False)]
        reached = [any(paid[k:] if estimator.turn_gamma else paid[k : k + 1]) for k in range(n_columns)]
        unpaid_BT = to_tokens(torch.tensor([[not one for one in reached]]).expand_as(rewards_BK), batch.turn_ids)
        advantages_BT = torch.where(unpaid_BT, 0.0, advantages_BT)
    if whiten:
        # Whether returns vary is judged on the rewards that the estimator reads, and only over rows that sampled the
        # turn: the return 0 of an episode that ended earlier must not make a tie among the others look like variation.
        compared_BK = batch.rewards if estimator.raw else rewards_BK
        played_BK = torch.stack([(batch.turn_ids == k).any(1) for k in range(n_columns)], 1)
        varies = returns_vary(returns_to_go(compared_BK, estimator.turn_gamma), played_BK, sum_over)
        advantages_BT = whiten_turns(advantages_BT, batch.turn_ids, varies, sum_over)
    return advantages_BT, returns_BT


def has_gradient(group: Sequence[Episode], stage: StageConfig) -> bool:
    """Whether shaped rewards differ within a group at *any* turn, so that comparing its episodes gives a gradient.

    Checking only the last turn would discard groups that differ at the first one, and the other way round. Failed and
    masked episodes are ignored, because they are not trained on.
    """
    compared = [episode for episode in group if not (episode.failed or episode.masked)]
    for role in {turn.role for episode in compared for turn in episode.turns}:
        # A masked turn is not compared; a given turn is, because it enters the baseline too.
        spoken = [
            [(turn, turn.trained or k < episode.given) for k, turn in enumerate(episode.turns) if turn.role == role]
            for episode in compared
        ]
        turns = [of_one for of_one in spoken if of_one]
        # An episode that ended earlier has return 0 at the missing turns, which the others may not have.
        if len({len(of_one) for of_one in turns}) != 1:
            return True
        rewards = torch.tensor([[turn.reward for turn, _ in of_one] for of_one in turns], dtype=torch.float64)
        paid = shaped_rewards(rewards, torch.tensor([len(turns[0])]), stage)
        # If no turn of a column counts, highest is -inf and lowest is inf, so the column shows no difference.
        counts = torch.tensor([[counts for _, counts in of_one] for of_one in turns])
        highest, lowest = torch.where(counts, paid, -torch.inf).amax(0), torch.where(counts, paid, torch.inf).amin(0)
        if bool((highest > lowest).any()):
            return True
    return False


@dataclass(frozen=True)
class Discount:
    """Credit assignment over turns.

    Args:
        turn_gamma: Discount over turns; 0 credits a turn with its own reward only (SCoRe, arXiv 2409.12917, A.4).
    """

    turn_gamma: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.advantage_options", fraction="turn_gamma")


@dataclass(frozen=True)
class GroupScale(Discount):
    """GRPO's options.

    Args:
        scale: Whether to divide by the group's standard deviation; if false, the advantage is Dr. GRPO's.
    """

    scale: bool = True


@dataclass(frozen=True)
class TurnLambda(Discount):
    """Generalised advantage estimation over turns.

    Args:
        turn_lam: Lambda of generalised advantage estimation, over turns.
    """

    turn_lam: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.advantage_options", fraction="turn_gamma turn_lam")


@dataclass(frozen=True)
class TokenLambda(TurnLambda):
    """Generalised advantage estimation over the tokens of a turn, then over turns.

    Args:
        gamma: Discount over the tokens of a turn.
        lam: Lambda of generalised advantage estimation, over the tokens of a turn.
    """

    gamma: float = 1.0
    lam: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "algorithm.advantage_options", fraction="turn_gamma turn_lam gamma lam")


@ADVANTAGES.register("rloo", options=Discount, groups=True)
def rloo(rewards_BK: Tensor, values_BT: Tensor, batch: RolloutBatch, sum_over: SumOver, *, turn_gamma: float) -> Tensor:
    """Leave-one-out: return minus the mean return of the other episodes of the task (arXiv 2402.14740).

    ``A[i] = R[i] - sum_{j != i} R[j] / (n - 1)`` at the same turn (Ahmadian et al., section 3); unbiased. The advantage
    is 0 if there is no other episode to compare with.
    """
    returns_BK = returns_to_go(rewards_BK, turn_gamma)
    means, counts, _, tied = _group_moments(returns_BK, batch)
    # The mean of the others is the group's sum minus the episode's own return, divided by n - 1. An episode that is
    # alone counts as tied, so there the clamp only avoids a division by 0.
    others = (means * counts - returns_BK) / (counts - 1).clamp(min=1)
    return to_tokens(torch.where(tied, 0.0, returns_BK - others), batch.turn_ids)


@ADVANTAGES.register("grpo", options=GroupScale, groups=True)
def grpo(
    rewards_BK: Tensor, values_BT: Tensor, batch: RolloutBatch, sum_over: SumOver, *, turn_gamma: float, scale: bool
) -> Tensor:
    """Returns normalised by their group's mean and standard deviation (arXiv 2402.03300); ``scale=false``: Dr. GRPO.

    ``A[i] = (R[i] - mean) / (std + 1e-4)`` at the same turn, with n - 1 in the deviation (Shao et al., equation 3).
    Dividing gives more weight to groups that are nearly always right or wrong, and cancels the size of a progress
    bonus; Dr. GRPO (arXiv 2503.20783, section 3.2) does not divide.
    """
    returns_BK = returns_to_go(rewards_BK, turn_gamma)
    means, _, stds, tied = _group_moments(returns_BK, batch)
    centred = torch.where(tied, 0.0, returns_BK - means)
    return to_tokens(centred / (stds + STD_EPSILON) if scale else centred, batch.turn_ids)


@ADVANTAGES.register("reinforce", options=Discount)
def reinforce(
    rewards_BK: Tensor, values_BT: Tensor, batch: RolloutBatch, sum_over: SumOver, *, turn_gamma: float
) -> Tensor:
    """Return minus the batch's mean return at the same turn; needs no groups and no critic."""
    returns_BK = returns_to_go(rewards_BK, turn_gamma)
    mean, _ = _batch_moments(returns_BK, batch, sum_over)
    return to_tokens(returns_BK - mean, batch.turn_ids)


@ADVANTAGES.register("reinforce_pp", options=Discount)
def reinforce_pp(
    rewards_BK: Tensor, values_BT: Tensor, batch: RolloutBatch, sum_over: SumOver, *, turn_gamma: float
) -> Tensor:
    """Returns normalised by the batch's mean and standard deviation at the same turn (REINFORCE++, arXiv 2501.03262).

    The whole batch is the baseline, so no groups are needed, and a task that is almost always right does not have its
    noise amplified (Hu et al., section 3). The KL stays in the loss here; the paper puts it into the reward.
    """
    returns_BK = returns_to_go(rewards_BK, turn_gamma)
    mean, std = _batch_moments(returns_BK, batch, sum_over)
    return to_tokens((returns_BK - mean) / (std + STD_EPSILON), batch.turn_ids)


@ADVANTAGES.register("gae", options=TokenLambda, values="tokens")
def gae(
    rewards_BK: Tensor,
    values_BT: Tensor,
    batch: RolloutBatch,
    sum_over: SumOver,
    *,
    gamma: float,
    lam: float,
    turn_gamma: float,
    turn_lam: float,
) -> Tensor:
    """Generalised advantage estimation with a critic's value per token, over the tokens of a turn and over turns.

    ``A[t] = r[t] + g V[t+1] - V[t] + g l A[t+1]`` (Schulman et al., arXiv 1506.02438, equation 16), where t+1 is the
    next *response* token: prompt tokens between turns are not actions and are skipped. Within a turn ``g, l`` are
    ``gamma, lam`` and r is 0; at a turn's last token they are ``turn_gamma, turn_lam`` and r is the turn's reward. With
    ``turn_gamma=0`` every turn is treated as a separate episode.
    """
    # Loop backwards over all rows at once. ``value``, ``advantage`` and ``next_turn`` belong to the next *response*
    # token of each row; prompt tokens leave the three unchanged and so are skipped.
    out, turn_ids_BT = torch.zeros_like(values_BT), batch.turn_ids
    value, advantage = torch.zeros_like(values_BT[:, 0]), torch.zeros_like(values_BT[:, 0])
    next_turn = torch.full_like(turn_ids_BT[:, 0], -1)
    for t in reversed(range(values_BT.shape[1])):
        turn = turn_ids_BT[:, t]
        acts = turn >= 0
        # The last token of a turn: the next response token belongs to another turn, or there is none (-1).
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


@ADVANTAGES.register("turn_gae", options=TurnLambda, values="turns")
def turn_gae(
    rewards_BK: Tensor,
    values_BT: Tensor,
    batch: RolloutBatch,
    sum_over: SumOver,
    *,
    turn_gamma: float,
    turn_lam: float,
) -> Tensor:
    """Generalised advantage estimation with a critic's value per turn: the whole turn is one action.

    ``A[k] = r[k] + turn_gamma V[k+1] - V[k] + turn_gamma turn_lam A[k+1]``: one value per turn, read at the last prompt
    token, and one advantage for all tokens of the turn (RLEF, arXiv 2410.02089, section 2.3).
    """
    # A turn's value stands at its first token: entry t of ``values_BT`` is the value of the state before token t.
    out, values_BK = torch.zeros_like(rewards_BK), first_of_turns(values_BT, batch.turn_ids, rewards_BK.shape[1])
    value, advantage = torch.zeros_like(rewards_BK[:, 0]), torch.zeros_like(rewards_BK[:, 0])
    for k in reversed(range(rewards_BK.shape[1])):
        played = batch.n_turns > k  # past an episode's end value and advantage are 0
        here = rewards_BK[:, k] + turn_gamma * value - values_BK[:, k] + turn_gamma * turn_lam * advantage
        advantage = torch.where(played, here, 0.0)
        value = torch.where(played, values_BK[:, k], 0.0)
        out[:, k] = advantage
    return to_tokens(out, batch.turn_ids)


@ADVANTAGES.register("imitation", raw=True)
def imitation(rewards_BK: Tensor, values_BT: Tensor, batch: RolloutBatch, sum_over: SumOver) -> Tensor:
    """STaR's rule on the policy's own samples: 1 on an episode's last attempt if its raw reward is at least 1, else 0.

    A policy gradient with these advantages is the gradient of the log-likelihood of filtered samples: STaR's objective,
    on policy (arXiv 2203.14465, section 3, equation 2; ablated in SCoRe's stage II by arXiv 2409.12917, Table 4).
    Reward weights and progress bonus are ignored.
    """
    columns = torch.arange(batch.rewards.shape[1], device=batch.rewards.device)
    is_last = columns == batch.n_turns[:, None] - 1
    return to_tokens((is_last & (batch.rewards >= 1.0)).to(batch.rewards.dtype), batch.turn_ids)


def returns_to_go(rewards_BK: Tensor, turn_gamma: float) -> Tensor:
    """Discounted returns over turns: ``G[k] = r[k] + turn_gamma * G[k+1]``, shape ``[B, K]``.

    ``turn_gamma=0`` credits a turn with its own reward only (SCoRe, arXiv 2409.12917, appendix A.4).
    """
    out, later = torch.empty_like(rewards_BK), torch.zeros_like(rewards_BK[:, 0])
    for k in reversed(range(rewards_BK.shape[1])):
        later = rewards_BK[:, k] + turn_gamma * later
        out[:, k] = later
    return out


def _group_moments(returns_BK: Tensor, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, number and standard deviation of the compared returns of each row's group, and whether all are equal.

    Equal returns need a separate case: their computed mean may differ from them in the last bit, and dividing by the
    standard deviation would turn this rounding error into a signal. A return with no other to compare counts as tied
    too, as when a role has spoken in only one episode of its task.

    Returns:
        Mean, number, standard deviation (with n - 1) and ``tied`` (bool), each ``[B, K]``.
    """
    # A row of ``table`` is a group; ``[index]`` gives every row of the batch its group's result: [G, K] -> [B, K].
    groups, index = torch.unique(batch.group_ids, return_inverse=True)
    table = torch.zeros(len(groups), returns_BK.shape[1], dtype=returns_BK.dtype, device=returns_BK.device)
    compared_BK = batch.compared
    weights = compared_BK.to(returns_BK.dtype)
    n = table.index_add(0, index, weights)[index]
    means = table.index_add(0, index, returns_BK * weights)[index] / n.clamp(min=1)
    # Sum squared distances from the mean in a second pass: E[x^2] - E[x]^2 loses precision if returns are nearly equal.
    squares = table.index_add(0, index, ((returns_BK - means) * weights).square())[index]
    # Returns that are not compared must not become a group's minimum or maximum.
    rows, off = index[:, None].expand_as(returns_BK), float("inf")
    low, high = torch.where(compared_BK, returns_BK, off), torch.where(compared_BK, returns_BK, -off)
    lowest = table.scatter_reduce(0, rows, low, "amin", include_self=False)[index]
    highest = table.scatter_reduce(0, rows, high, "amax", include_self=False)[index]
    tied = (lowest >= highest) | ~compared_BK
    return means, n, (squares / (n - 1).clamp(min=1)).sqrt(), tied


def _batch_moments(returns_BK: Tensor, batch: RolloutBatch, sum_over: SumOver) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the compared returns of all processes at each turn; ``[K]`` each."""
    # The order of summation depends on the number of processes; double precision keeps the difference below float32's.
    weights = batch.compared.double()
    n = sum_over(weights.sum(0)).clamp(min=1)
    mean = sum_over((returns_BK.double() * weights).sum(0)) / n
    squares = sum_over(((returns_BK.double() - mean) * weights).square().sum(0))
    return mean.to(returns_BK.dtype), (squares / (n - 1).clamp(min=1)).sqrt().to(returns_BK.dtype)


def returns_vary(returns_BK: Tensor, played_BK: Tensor, sum_over: SumOver = just_here) -> list[bool]:
    """Whether each turn's returns differ, beyond rounding, among the rows of all processes that sampled the turn."""
    weights, returns_BK = played_BK.double(), returns_BK.double()
    n = sum_over(weights.sum(0)).clamp(min=1)
    mean = sum_over((returns_BK * weights).sum(0)) / n
    deviation = (sum_over(((returns_BK - mean) * weights).square().sum(0)) / n).sqrt()
    # The computed mean of equal numbers may differ from them in the last bit, a relative error of about 1e-16.
    return (deviation > 1e-12 * (1.0 + mean.abs())).tolist()


def whiten_turns(
    advantages_BT: Tensor, turn_ids_BT: Tensor, varies: Sequence[bool], sum_over: SumOver = just_here
) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the tokens of each turn index; ``[B, T]``.

    Each turn is whitened separately (as in PAG's role normalisation, arXiv 2506.10406), so that large advantages of
    rare second attempts do not drown the first attempts' signal.

    Args:
        advantages_BT: ``[B, T]`` advantages, 0 off the response.
        turn_ids_BT: ``[B, T]`` turn indices, -1 off the response.
        varies: Whether each turn's returns differ. If not, its advantages are only errors of the critic and are not
            whitened, which would amplify them.
        sum_over: Sums tensors over processes.
    """
    out = advantages_BT.clone()
    for k, scaled in enumerate(varies):
        of_turn = turn_ids_BT == k
        values = advantages_BT[of_turn].double()
        n, total = sum_over(torch.stack([torch.tensor(float(len(values)), dtype=torch.float64), values.sum()]))
        mean = total / n.clamp(min=1)
        variance = sum_over((values - mean).square().sum()) / (n - 1).clamp(min=1)
        if scaled:
            out[of_turn] = ((values - mean) / (variance.sqrt() + STD_EPSILON)).to(out.dtype)
    return out
