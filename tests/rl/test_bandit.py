"""Whether a policy learns: two-attempt bandits with the real shaping, credit and loss; the policy is a table of logits.

These tests take seconds and show that credit reaches the right turn, which a check of a formula cannot show.
"""

import pytest
import torch

from rl.config import AlgorithmConfig, CriticConfig, StageConfig
from rl.kl import KLS
from rl.losses import clipped_pg_loss, value_loss
from tests.helpers import batch, credit, loss_inputs, named

SCORE = named(
    StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.0, 0.0]),
    StageConfig(reward_weights=[0.0, 1.0], progress_alpha=3.0, kl_coefs=[0.0, 0.0]),
)
SECOND_ONLY = named(StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.0, 0.0]))


def train(algorithm, pays=None, steps=60, n=64):
    """Trains on two turns of two arms each, with a value per turn; returns P(arm 1) of each turn and the values.

    Args:
        algorithm: Algorithm whose stages and credit assignment are used.
        pays: Function from arms ``[n, 2]`` to rewards ``[n, 2]``; ``None`` pays 1 for arm 1 at both turns.
        steps: Number of optimiser steps.
        n: Number of episodes per step.
    """
    stages = list(algorithm.stages.values())
    logits = torch.zeros(2, 2, requires_grad=True)
    values = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logits, values], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        stage = stages[step * len(stages) // steps]
        logprobs_KA = logits.log_softmax(-1)
        arms = torch.stack([torch.multinomial(row.exp().detach(), n, True, generator=generator) for row in logprobs_KA])
        rewards = (arms.T == 1).float() if pays is None else pays(arms.T)
        rows = batch(rewards.tolist(), group_ids=[i // 8 for i in range(n)])
        old_values = torch.cat([torch.zeros(n, 1), values.detach().expand(n, 2)], dim=1)
        advantages_BT, returns_BT = credit(rows, algorithm, stage, old_values)
        sampled = torch.stack([logprobs_KA[k, arms[k]] for k in range(2)], dim=1)
        logprobs = torch.cat([torch.zeros(n, 1), sampled], dim=1)
        weights = rows.response_mask / n
        mask = rows.response_mask
        stats, scored = loss_inputs(logprobs, logprobs.detach(), advantages_BT, rows.turn_ids)
        out = clipped_pg_loss(stats, scored, weights, clip_low=0.2, clip_high=0.2)
        now = torch.cat([torch.zeros(n, 1), values.expand(n, 2)], dim=1)
        critic = value_loss(now, old_values, returns_BT, mask, weights, clip=0.0)
        optimizer.zero_grad()
        (out.loss + critic.loss).backward()
        optimizer.step()
    return logits.softmax(-1)[:, 1].tolist(), values.tolist()


def ppo(advantage, **changes):
    critic = CriticConfig("separate")
    return AlgorithmConfig(name="x", advantage=advantage, critic=critic, group_size=1, stages=SECOND_ONLY, **changes)


def test_a_two_attempt_bandit_learns_to_correct():
    (first, second), _ = train(AlgorithmConfig(name="score", stages=SCORE))
    assert second > 0.95  # the reward and the bonus taught attempt 2
    assert first == pytest.approx(0.5, abs=0.02)  # attempt 1 has weight 0 and turn_gamma 0: it must not move


def test_turn_gamma_passes_credit_back():
    leaky = AlgorithmConfig(name="x", stages=SECOND_ONLY, advantage_options={"turn_gamma": 1.0})
    (first, _), _ = train(leaky)
    # Attempt 2's reward does not depend on attempt 1 here: credit flows back, but as noise, not as learning.
    assert first != 0.5


def test_a_negative_bonus_teaches_not_to_correct():
    wrong_sign = StageConfig(reward_weights=[0.0, 0.0], progress_alpha=-3.0, kl_coefs=[0.0, 0.0])
    (_, second), _ = train(AlgorithmConfig(name="x", stages=named(wrong_sign)))
    assert second < 0.05


def only_if_the_first_was_right(arms):
    """Rewards turn 2 for the arm that turn 1 chose, whatever turn 2 chooses itself."""
    return torch.stack([torch.zeros(len(arms)), (arms[:, 0] == 1).float()], dim=1)


@pytest.mark.parametrize("advantage", ["gae", "turn_gae"])
def test_ppo_credits_the_first_turn_for_what_the_second_one_earns(advantage):
    (first, second), _ = train(ppo(advantage, advantage_options={"turn_gamma": 1.0}), only_if_the_first_was_right)
    assert first > 0.95
    assert second == pytest.approx(0.5, abs=0.25)  # its own choice earns nothing, so it may only drift


@pytest.mark.parametrize("advantage", ["gae", "turn_gae"])
def test_ppo_without_turn_gamma_leaves_the_first_turn_alone(advantage):
    (first, _), _ = train(ppo(advantage), only_if_the_first_was_right)
    assert first == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("advantage", ["gae", "turn_gae"])
def test_ppo_learns_the_second_turn_and_its_value(advantage):
    (_, second), values = train(ppo(advantage, advantage_options={"turn_gamma": 1.0}), steps=150)
    assert second > 0.95
    assert values == pytest.approx([1.0, 1.0], abs=0.1)  # turn 2 is worth 1, and so is turn 1, which leads to it


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "reinforce", "reinforce_pp"])
def test_every_baseline_learns_both_turns(advantage):
    both = named(StageConfig(reward_weights=[1.0, 1.0], kl_coefs=[0.0, 0.0]))
    (first, second), _ = train(AlgorithmConfig(name="x", advantage=advantage, stages=both))
    assert min(first, second) > 0.95


def kl_at_the_end(estimator, coef=0.5, steps=400, n=256):
    """KL(policy || reference) of an eight-armed bandit: after training on reward minus KL, and at the exact optimum."""
    reward = torch.linspace(0, 2, 8)
    reference = torch.linspace(1, -1, 8).log_softmax(-1)
    optimum = (reference + reward / coef).log_softmax(-1)
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    turns = torch.zeros(n, 1, dtype=torch.long)
    for _ in range(steps):
        policy = logits.log_softmax(-1)
        arms = torch.multinomial(policy.exp().detach(), n, True, generator=generator)
        logprobs, old = policy[arms][:, None], policy[arms][:, None].detach()
        stats, scored = loss_inputs(logprobs, old, (reward[arms] - reward[arms].mean())[:, None], turns)
        stats = stats._replace(distribution=policy.expand(n, -1))
        known = stats._replace(logprobs=reference[arms][:, None], distribution=reference.expand(n, -1))
        loss = clipped_pg_loss(stats, scored, torch.full((n, 1), 1 / n), clip_low=0.2, clip_high=0.2).loss
        kl = KLS[estimator](stats, known, old, turns >= 0).mean()
        optimizer.zero_grad()
        (loss + coef * kl).backward()
        optimizer.step()
    final = logits.detach().log_softmax(-1)
    return [float((p.exp() * (p - reference)).sum()) for p in (final, optimum)]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_a_kl_penalty_ends_at_its_optimum(estimator):
    found, optimum = kl_at_the_end(estimator)
    assert found == pytest.approx(optimum, rel=0.1)


@pytest.mark.parametrize("estimator", ["k1_published", "k3_published"])
def test_a_published_penalty_ends_elsewhere(estimator):
    found, optimum = kl_at_the_end(estimator)
    assert found > 1.3 * optimum
