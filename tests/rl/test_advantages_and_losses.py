"""Pure functions, with numbers that a reader can check by hand."""

import math

import pytest
import torch

from rl.advantages import batch_mean, leave_one_out, returns_to_go, to_tokens
from rl.algorithms import advantages, shaped_rewards, stage_at
from rl.config import AlgorithmConfig, Baseline, StageConfig
from rl.kl import KLEstimator, full_kl, sampled_kl
from rl.losses import clipped_pg_loss, importance_weights, kl_penalty, masked_sum
from tests.helpers import batch

SCORE_1 = StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.3, 0.03])
SCORE_2 = StageConfig(reward_weights=[1.0, 1.0], progress_alpha=10.0, kl_coefs=[0.03, 0.03])


def test_returns_to_go_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    assert returns_to_go(rewards, 0.0).tolist() == [[1.0, 2.0, 4.0]]
    assert returns_to_go(rewards, 0.5).tolist() == [[3.0, 4.0, 4.0]]  # 1 + (2 + 4/2)/2 = 3


def test_leave_one_out_by_hand():
    # group 0: returns 1, 0, 0: 1 - 0 = 1, 0 - 1/2, 0 - 1/2.  group 7: 1, 1: no difference, no gradient
    returns = torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]])
    got = leave_one_out(returns, torch.tensor([0, 0, 0, 7, 7]))
    assert got.squeeze(1).tolist() == [1.0, -0.5, -0.5, 0.0, 0.0]


def test_leave_one_out_refuses_a_group_of_one():
    with pytest.raises(ValueError, match=r"groups \[7\]"):
        leave_one_out(torch.zeros(3, 1), torch.tensor([0, 0, 7]))


def test_an_episode_that_ended_early_counts_in_the_baseline_of_later_turns():
    # turn 2: returns 1 and (ended after turn 1) 0: 1 - 0 and 0 - 1, not a baseline over the single survivor
    rewards = batch([[0.0, 1.0], [1.0, 0.0]], n_turns=[2, 1])
    got, _ = advantages(rewards, AlgorithmConfig(name="x"), StageConfig())
    assert got[0].tolist() == [0.0, -1.0, 1.0]
    assert got[1].tolist() == [0.0, 1.0, 0.0]  # no token of turn 2, so nothing to train there


def test_batch_mean():
    assert batch_mean(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [[0.5, 0.0], [-0.5, 0.0]]


def test_to_tokens():
    values, turns = torch.tensor([[5.0, 7.0]]), torch.tensor([[-1, 0, 0, -1, 1]])
    assert to_tokens(values, turns).tolist() == [[0.0, 5.0, 5.0, 0.0, 7.0]]


def test_stage_one_gives_first_attempts_no_reward_gradient():
    rows = batch([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], tokens_per_turn=2)
    got, _ = advantages(rows, AlgorithmConfig(name="x", stages=[SCORE_1]), SCORE_1)
    assert (got[rows.turn_ids == 0] == 0).all()
    assert (got[rows.turn_ids == 1] != 0).all()


def test_the_progress_bonus_reaches_the_second_attempt_only():
    rows = batch([[0.0, 1.0], [1.0, 1.0]])
    assert shaped_rewards(rows, SCORE_2).tolist() == [[0.0, 11.0], [1.0, 1.0]]
    got, _ = advantages(rows, AlgorithmConfig(name="x", stages=[SCORE_2]), SCORE_2)
    assert got.tolist() == [[0.0, -1.0, 10.0], [0.0, 1.0, -10.0]]


def test_no_bonus_past_the_last_turn():
    assert shaped_rewards(batch([[1.0, 0.0]], n_turns=[1]), SCORE_2).tolist() == [[1.0, 0.0]]


def test_reinforce_needs_no_groups():
    algorithm = AlgorithmConfig(name="x", baseline=Baseline.BATCH_MEAN, group_size=1)
    got, _ = advantages(
        batch([[1.0], [0.0]], group_ids=[0, 1]), algorithm, StageConfig(reward_weights=[1.0], kl_coefs=[0.0])
    )
    assert got.tolist() == [[0.0, 0.5], [0.0, -0.5]]


def test_stages_share_the_steps():
    two = AlgorithmConfig(name="x", stages=[StageConfig(share=1.0), StageConfig(share=3.0)])
    assert [stage_at(two, step, 8)[0] for step in range(8)] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert stage_at(two, 2, 8) == (1, 2, 8)
    with pytest.raises(ValueError, match="not in a run"):
        stage_at(two, 8, 8)


def test_clipped_loss_by_hand():
    # rho = 1 and 2, advantage 1: -min(1, 1) = -1 and -min(2, 1.2) = -1.2, over 2 tokens: -1.1
    logprobs = torch.tensor([[0.0, math.log(2)]])
    ones = torch.ones(1, 2)
    out = clipped_pg_loss(logprobs, torch.zeros(1, 2), ones, ones.bool(), clip_low=0.2, clip_high=0.2, normaliser=2.0)
    assert out.loss.item() == pytest.approx(-1.1)
    assert out.metrics["policy/clip_fraction"].value == 0.5
    assert out.metrics["policy/ratio"].value == pytest.approx(1.5)


def test_a_negative_advantage_is_clipped_from_below():
    # rho = 0.5, A = -1: -min(-0.5, 0.8 * -1) = 0.8
    out = clipped_pg_loss(
        torch.tensor([[math.log(0.5)]]),
        torch.zeros(1, 1),
        -torch.ones(1, 1),
        torch.ones(1, 1, dtype=torch.bool),
        clip_low=0.2,
        clip_high=0.2,
        normaliser=1.0,
    )
    assert out.loss.item() == pytest.approx(0.8)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_garbage_under_the_mask_reaches_neither_value_nor_gradient(garbage):
    mask = torch.tensor([[False, True]])
    logprobs = torch.tensor([[garbage, -0.5]], requires_grad=True)
    other = torch.tensor([[garbage, -0.5]])
    out = clipped_pg_loss(logprobs, other, torch.ones(1, 2), mask, clip_low=0.2, clip_high=0.2, normaliser=1.0)
    kl = sampled_kl(logprobs, other, mask, KLEstimator.K3)
    penalty = kl_penalty(kl, torch.tensor([[-1, 0]]), mask, coefs=(1.0,), normaliser=1.0)
    (out.loss + penalty.loss).backward()
    assert torch.isfinite(out.loss)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.0, -1.0]]


def test_an_empty_mask_is_a_loss_of_zero():
    none = torch.zeros(1, 2, dtype=torch.bool)
    zeros = torch.zeros(1, 2)
    assert clipped_pg_loss(zeros, zeros, zeros, none, clip_low=0.2, clip_high=0.2, normaliser=1.0).loss.item() == 0.0
    assert masked_sum(torch.full((1, 2), float("nan")), none).item() == 0.0


def test_kl_estimators_by_hand():
    # policy 1/2, reference 1/4 at the sampled token: r = 1/2
    log_p, log_ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    mask = torch.tensor([True])
    expected = {KLEstimator.K1: math.log(2), KLEstimator.K2: math.log(2) ** 2 / 2, KLEstimator.K3: math.log(2) - 0.5}
    for estimator, value in expected.items():
        assert sampled_kl(log_p, log_ref, mask, estimator).item() == pytest.approx(value)
    with pytest.raises(ValueError, match="needs distributions"):
        sampled_kl(log_p, log_ref, mask, KLEstimator.FULL)


def test_full_kl_is_the_expectation_of_k1():
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert full_kl(p.log(), q.log()).item() == pytest.approx(by_hand)


def test_kl_has_a_weight_per_turn():
    kl, turns = torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[-1, 0, 1]])
    out = kl_penalty(kl, turns, turns >= 0, coefs=(10.0, 1.0), normaliser=1.0)
    assert out.loss.item() == 23.0
    assert out.metrics["policy/kl_ref_t1"].value == 2.0
    assert out.metrics["policy/kl_ref_t2"].value == 3.0


def test_importance_weights_by_hand():
    # ratios trainer / sampler: 2, 1/2, 4 on the response; the first token is a prompt's
    old = torch.tensor([[9.0, 2.0, 0.5, 4.0]]).log()
    sampler = torch.tensor([[1.0, 1.0, 1.0, 1.0]]).log()
    mask = torch.tensor([[False, True, True, True]])
    weights, metrics = importance_weights(old, sampler, mask, per_sequence=False, cap=3.0)
    assert weights.tolist() == [[1.0, 2.0, 0.5, 3.0]]  # 4 is cut to 3
    assert metrics["policy/importance_capped"].value == pytest.approx(1 / 3)
    assert metrics["policy/importance_weight"].value == pytest.approx(5.5 / 3)
    # the whole episode: 2 * 1/2 * 4 = 4
    weights, _ = importance_weights(old, sampler, mask, per_sequence=True, cap=10.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 4.0, 4.0, 4.0]]))
    weights, _ = importance_weights(old, sampler, mask, per_sequence=True, cap=3.0)
    assert weights.tolist() == [[1.0, 3.0, 3.0, 3.0]]


def test_importance_weights_ignore_garbage_off_the_response():
    old = torch.tensor([[float("nan"), 0.0]])
    mask = torch.tensor([[False, True]])
    for per_sequence in (False, True):
        weights, _ = importance_weights(old, torch.zeros(1, 2), mask, per_sequence=per_sequence, cap=2.0)
        assert weights.tolist() == [[1.0, 1.0]]
