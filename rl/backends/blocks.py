"""Sampling, supervised learning and policy gradients with a small model on plain tensors of token ids.

All prompts of a call have the same number of tokens, so nothing is padded on the left. An experiment on a tiny language
therefore needs neither requests nor a renderer. The advantage estimators are those of the online training loop.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from transformers import DynamicCache

from rewards.wording import counted
from rl.advantages import ADVANTAGES
from rl.types import RolloutBatch

Learned = tuple[Tensor, Tensor]
"""Token ids ``[B, T]`` and a mask of the tokens that are trained on, ``[B, T]`` bool."""


def learn_last(ids_BT: Tensor | np.ndarray, k: int) -> Learned:
    """Marks the last k tokens of every row as trained on, such as the answer after a question."""
    rows_BT = torch.as_tensor(ids_BT)
    if not 0 < k < rows_BT.shape[1]:
        raise ValueError(
            f"learn_last: k={k}: use 1 to {rows_BT.shape[1] - 1} for rows of {counted(rows_BT.shape[1], 'token')}"
        )
    learned_BT = torch.zeros(rows_BT.shape, dtype=torch.bool)
    learned_BT[:, -k:] = True
    return rows_BT, learned_BT


def held_out(rows_NC: np.ndarray) -> np.ndarray:
    """Selects about a fifth of all rows of ids as held out, ``[N]`` bool, by a hash of the row alone."""
    return rows_NC @ 37 ** np.arange(rows_NC.shape[1]) % 101 % 5 == 0


@torch.no_grad()
def sample(
    model: Any,
    prompts_BP: Tensor,
    n_new: int,
    temperature: float,
    generator: torch.Generator,
    end_id: int = -1,
    pad_id: int = 0,
) -> Tensor:
    """Samples tokens ``[B, n_new]``, greedily at temperature 0; ``pad_id`` fills a row after its first ``end_id``."""
    # The first pass reads the prompts and each further pass the tokens just sampled. Since all prompts have the same
    # length, no mask is needed.
    cache, ids = DynamicCache(), prompts_BP
    done, out = torch.zeros(len(prompts_BP), dtype=torch.bool), []
    for _ in range(n_new):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        if temperature:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        token = torch.where(done, pad_id, token)
        done = done | (token == end_id)
        out.append(token)
        ids = token[:, None]
    return torch.stack(out, 1)


def next_logprobs(model: Any, ids_BT: Tensor) -> Tensor:
    """Log-probabilities of the token that follows each row, ``[B, V]``."""
    return log_softmax(model(input_ids=ids_BT, use_cache=False, logits_to_keep=1).logits[:, -1], -1)


def token_losses(model: Any, ids_BT: Tensor, learned_BT: Tensor) -> Tensor:
    """Cross-entropy in nats of the N tokens that are trained on, ``[N]``, in row-major order."""
    # Logits at t predict the token at t + 1, so inputs drop their last column and targets their first.
    logits = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    kept = learned_BT[:, 1:]
    return cross_entropy(logits[kept], ids_BT[:, 1:][kept], reduction="none")


def divergence(model: Any, reference: Any, ids_BT: Tensor, learned_BT: Tensor) -> Tensor:
    """Half the squared log-ratio in nats, averaged over the tokens that are trained on (k2 of :mod:`rl.kl`).

    If the current policy has sampled these tokens, the gradient is that of KL(policy || reference).
    """
    with torch.no_grad():
        before = token_losses(reference, ids_BT, learned_BT)
    return (token_losses(model, ids_BT, learned_BT) - before).square().mean() / 2


def adam(model: Any, lr: float) -> torch.optim.Optimizer:
    """AdamW with settings for small models; weight decay 0.01."""
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)


def take_step(model: Any, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Takes one optimiser step; the gradient's norm is clipped at 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def fit(
    model: Any,
    batches: Callable[[int], Sequence[Learned]],
    steps: int,
    lr: float,
    until: Callable[[int], bool] | None = None,
    warmup: int = 50,
) -> int:
    """Trains a model in place by supervised learning; the learning rate decays linearly to a twentieth of its peak.

    Args:
        model: A causal language model.
        batches: Function from the step's number to its rows, one pair for each row length.
        steps: Number of steps of the schedule.
        lr: Peak learning rate.
        until: Called with the step's number before each step; training stops if it returns true. Useful for a skill
            that appears suddenly at a time that depends on the seed, so that no fixed number of steps is right.
        warmup: Steps of linear warm-up.

    Returns:
        The number of steps taken.
    """
    optimizer = adam(model, lr)
    for step in range(steps):
        if until is not None and until(step):
            return step
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup) * (1 - 0.95 * step / steps)
        # Take one mean over the tokens of all row lengths: a mean of means would give tokens of short rows more weight.
        losses = [token_losses(model, ids, learned) for ids, learned in batches(step)]
        take_step(model, optimizer, torch.cat(losses).mean())
    return steps


def as_batch(
    prompts_BP: Tensor, actions_BN: Tensor, rewards_B: Tensor, groups_B: Tensor, compared_B: Tensor | None = None
) -> RolloutBatch:
    """Packs one-turn episodes into the batch that advantage estimators read.

    Args:
        prompts_BP: Token ids of the prompts, all of one length.
        actions_BN: Token ids of the answers; id 0 is padding.
        rewards_B: Rewards of the episodes.
        groups_B: Group id of each episode; episodes of a group are compared with each other.
        compared_B: False where the reward carries no information; such an episode enters no baseline and is not trained
            on.
    """
    ids = torch.cat([prompts_BP, actions_BN], 1)
    compared = torch.ones(len(ids), dtype=torch.bool) if compared_B is None else compared_B
    prompt = torch.zeros_like(prompts_BP, dtype=torch.bool)
    sampled = torch.cat([prompt, (actions_BN != 0) & compared[:, None]], 1)
    return RolloutBatch(
        input_ids=ids,
        attention_mask=torch.cat([~prompt, actions_BN != 0], 1),
        response_mask=sampled,
        turn_ids=torch.where(sampled, 0, -1),
        sampler_logprobs=torch.zeros(ids.shape),
        rewards=rewards_B[:, None].float(),
        n_turns=torch.ones(len(ids), dtype=torch.long),
        group_ids=groups_B,
        compared=compared[:, None],
    )


def policy_loss(model: Any, batch: RolloutBatch, advantage: str = "rloo", **options: Any) -> tuple[Tensor, Tensor]:
    """REINFORCE loss on samples of the current policy, and the policy's entropy at the sampled tokens.

    Args:
        model: The policy that sampled the batch.
        batch: See :func:`as_batch`.
        advantage: Name of an estimator without a critic in :data:`rl.advantages.ADVANTAGES`.
        **options: Options of the estimator.

    Returns:
        Mean over episodes of the mean over an episode's tokens (GRPO's 1/|o|), and the entropy in nats per token.
    """
    estimator = ADVANTAGES.bind(advantage, options)
    # There is no critic, so values are 0, and only one process, so the sum over processes is the identity. Entry t is
    # about token t, which the logits at t - 1 predict, so advantages, mask and ids are shifted by one.
    advantages = estimator(batch.rewards, torch.zeros(batch.input_ids.shape), batch, lambda total: total)[:, 1:]
    mask, ids = batch.response_mask[:, 1:], batch.input_ids
    logprobs = log_softmax(model(input_ids=ids[:, :-1], use_cache=False).logits[mask], -1)
    chosen = logprobs.gather(1, ids[:, 1:][mask][:, None])[:, 0]
    # Every episode has the same weight, whatever its length, split equally over its tokens.
    weights = (1.0 / mask.sum(1, keepdim=True).clamp(min=1)).expand(mask.shape)[mask] / len(ids)
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach().mean()
    return -(chosen * advantages[mask] * weights).sum(), entropy
