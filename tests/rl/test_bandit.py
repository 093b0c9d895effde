"""Does it learn? A two-attempt bandit with production shaping, baseline and loss; the policy is a table of logits."""

import pytest
import torch

from rl.algorithms import advantages
from rl.config import AlgorithmConfig, StageConfig
from rl.losses import clipped_pg_loss
from tests.helpers import batch

SCORE = [
    StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.0, 0.0]),
    StageConfig(reward_weights=[0.0, 1.0], progress_alpha=3.0, kl_coefs=[0.0, 0.0]),
]


def train(algorithm, steps=60, n=64):
    """Arm 1 of two is right, at both attempts; returns P(right) per attempt."""
    logits = torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        stage = algorithm.stages[step * len(algorithm.stages) // steps]
        logprobs_KA = logits.log_softmax(-1)
        actions = torch.stack(
            [torch.multinomial(row.exp().detach(), n, True, generator=generator) for row in logprobs_KA]
        )
        rows = batch((actions.T == 1).float().tolist(), group_ids=[i // 8 for i in range(n)])
        advantages_BT, _ = advantages(rows, algorithm, stage)
        sampled = torch.stack([logprobs_KA[k, actions[k]] for k in range(2)], dim=1)
        logprobs = torch.cat([torch.zeros(n, 1), sampled], dim=1)
        out = clipped_pg_loss(
            logprobs, logprobs.detach(), advantages_BT, rows.response_mask, clip_low=0.2, clip_high=0.2, normaliser=n
        )
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    return logits.softmax(-1)[:, 1].tolist()


def test_a_two_attempt_bandit_learns_to_correct():
    first, second = train(AlgorithmConfig(name="score", stages=SCORE))
    assert second > 0.95  # the reward and the bonus taught attempt 2
    assert first == pytest.approx(0.5, abs=0.02)  # attempt 1 has weight 0 and turn_gamma 0: it must not move


def test_turn_gamma_passes_credit_back():
    leaky = AlgorithmConfig(
        name="x", stages=[StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.0, 0.0])], turn_gamma=1.0
    )
    first, _ = train(leaky)
    # Attempt 2's reward does not depend on attempt 1 here: credit flows back, but as noise, not as learning.
    assert first != 0.5


def test_a_negative_bonus_teaches_not_to_correct():
    wrong_sign = StageConfig(reward_weights=[0.0, 0.0], progress_alpha=-3.0, kl_coefs=[0.0, 0.0])
    _, second = train(AlgorithmConfig(name="x", stages=[wrong_sign]))
    assert second < 0.05
