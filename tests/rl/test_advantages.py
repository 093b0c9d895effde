"""Shaped rewards, returns and advantages against numbers that a reader can check by hand."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch

from rl.advantages import (
    ADVANTAGES,
    Estimator,
    advantages,
    has_gradient,
    just_here,
    returns_to_go,
    returns_vary,
    shaped_rewards,
    whiten_turns,
)
from rl.batching import first_of_turns, sum_of_turns, to_tokens, turn_starts
from rl.budget import stage_spans
from rl.config import AlgorithmConfig, CriticConfig, StageConfig
from tests.helpers import batch, credit, episode, named

SCORE_1 = StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.3, 0.03])
SCORE_2 = StageConfig(reward_weights=[1.0, 1.0], progress_alpha=10.0, kl_coefs=[0.03, 0.03])


def test_returns_to_go_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    assert returns_to_go(rewards, 0.0).tolist() == [[1.0, 2.0, 4.0]]
    assert returns_to_go(rewards, 0.5).tolist() == [[3.0, 4.0, 4.0]]  # 1 + (2 + 4/2)/2 = 3


def baseline(name, rows, sum_over=just_here, **options):
    """Advantages ``[B, K]`` of an estimator without a critic; with ``turn_gamma=0`` returns equal rewards."""
    found = ADVANTAGES[name](rows.rewards, torch.zeros(rows.turn_ids.shape), rows, sum_over, turn_gamma=0.0, **options)
    return found[:, 1:]


def test_leave_one_out_by_hand():
    # Group 0 has returns 1, 0, 0: 1 - 0 = 1, 0 - 1/2, 0 - 1/2. Group 7 has returns 1, 1: no difference, no gradient.
    got = baseline("rloo", batch([[1.0], [0.0], [0.0], [1.0], [1.0]], [0, 0, 0, 7, 7]))
    assert got.squeeze(1).tolist() == [1.0, -0.5, -0.5, 0.0, 0.0]


@pytest.mark.parametrize(("name", "options"), [("rloo", {}), ("grpo", {"scale": True})])
def test_who_is_compared_with_nobody_has_no_advantage(name, options):
    """A return with no other to compare has advantage 0, as when a role has spoken in only one episode of its task.

    Whole groups of one episode are refused by the config.
    """
    got = baseline(name, batch([[1.0], [0.0], [1.0]], [0, 0, 7]), **options)
    assert got[:2, 0].tolist() == pytest.approx([1.0, -1.0] if name == "rloo" else [0.7071, -0.7071], abs=2e-4)
    assert got[2].item() == 0.0


def test_group_normalised_by_hand():
    # Returns 1, 0 have mean 1/2 and, with n - 1, standard deviation sqrt(1/2): (1 - 1/2) / 0.7071 = 0.7071.
    got = baseline("grpo", batch([[1.0], [0.0]]), scale=True)
    assert got.squeeze(1).tolist() == pytest.approx([0.7071, -0.7071], abs=2e-4)
    assert baseline("grpo", batch([[1.0], [0.0]]), scale=False).squeeze(1).tolist() == [0.5, -0.5]


def test_batch_baselines_by_hand():
    rows = batch([[1.0, 0.0], [0.0, 0.0]])
    assert baseline("reinforce", rows).tolist() == [[0.5, 0.0], [-0.5, 0.0]]
    got = baseline("reinforce_pp", rows)
    assert got[:, 0].tolist() == pytest.approx([0.7071, -0.7071], abs=2e-4)
    assert got[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["reinforce", "reinforce_pp"])
def test_batch_baselines_count_the_other_processes_too(name):
    """Batch baselines use the episodes of all processes, so two with one episode each agree with one that has both."""
    rows = batch([[1.0], [0.0]])
    whole = baseline(name, rows)
    for mine, other in ((0, 1), (1, 0)):
        sums = iter([torch.tensor(2.0), rows.rewards.double().sum(0), torch.tensor([0.5])])
        got = baseline(name, rows.rows([mine]), lambda _, sums=sums: next(sums))
        assert got.item() == pytest.approx(whole[mine].item())
        assert got.item() == pytest.approx(-whole[other].item())


def test_an_episode_that_ended_early_counts_in_the_baseline_of_later_turns():
    # Turn 2 has returns 1 and, in the episode that ended after turn 1, 0: 1 - 0 and 0 - 1. A baseline over the
    # remaining episode alone would have nothing to compare it with.
    rewards = batch([[0.0, 1.0], [1.0, 0.0]], n_turns=[2, 1])
    got, _ = credit(rewards, AlgorithmConfig(name="x"), StageConfig())
    assert got[0].tolist() == [0.0, -1.0, 1.0]
    assert got[1].tolist() == [0.0, 1.0, 0.0]  # this episode has no token of turn 2 to train


def test_baselines_stay_unbiased_when_the_policy_decides_how_long_an_episode_is():
    """The expected gradient equals the exact gradient if the policy decides when an episode ends.

    The test enumerates every group of two episodes. Turn 1: continue with probability p (reward 0.3) or stop
    (reward 0). Turn 2, if reached: right with probability q (reward 1). A baseline over only the episodes that reached
    turn 2 would reward continuing; see verl's issue 7244.
    """
    theta = torch.tensor([0.2, -0.4], dtype=torch.float64, requires_grad=True)
    p, q = torch.sigmoid(theta)
    outcomes = [  # rewards, turns, probability
        ((0.0, 0.0), 1, 1 - p),
        ((0.3, 1.0), 2, p * q),
        ((0.3, 0.0), 2, p * (1 - q)),
    ]
    value = sum(prob * sum(rewards) for rewards, _, prob in outcomes)
    (exact,) = torch.autograd.grad(value, theta, retain_graph=True)
    algorithm = AlgorithmConfig(name="x", group_size=2, advantage_options={"turn_gamma": 1.0})
    surrogate = torch.zeros((), dtype=torch.float64)
    for a, b in product(range(3), repeat=2):
        rows = batch([outcomes[a][0], outcomes[b][0]], n_turns=[outcomes[a][1], outcomes[b][1]])
        weights, _ = credit(rows, algorithm, StageConfig())
        for row, which in enumerate((a, b)):
            first = torch.log(1 - p) if which == 0 else torch.log(p)
            second = [torch.zeros(()), torch.log(q), torch.log(1 - q)][which]
            chance = (outcomes[a][2] * outcomes[b][2]).detach()
            surrogate = surrogate + chance * (weights[row, 1] * first + weights[row, 2] * second) / 2
    (estimated,) = torch.autograd.grad(surrogate, theta)
    torch.testing.assert_close(estimated, exact, atol=1e-6, rtol=0)


def test_to_tokens_and_back():
    values, turns = torch.tensor([[5.0, 7.0]]), torch.tensor([[-1, 0, 0, -1, 1]])
    spread = to_tokens(values, turns)
    assert spread.tolist() == [[0.0, 5.0, 5.0, 0.0, 7.0]]
    assert turn_starts(turns).tolist() == [[False, True, False, False, True]]
    assert first_of_turns(spread, turns, 3).tolist() == [[5.0, 7.0, 0.0]]


def test_two_turns_without_a_prompt_between_them_are_two_turns():
    assert turn_starts(torch.tensor([[0, 0, 1, 1]])).tolist() == [[True, False, True, False]]


def gae(rewards, values, turns, **kwargs):
    defaults = {"gamma": 1.0, "lam": 1.0, "turn_gamma": 1.0, "turn_lam": 1.0}
    rows = SimpleNamespace(turn_ids=torch.tensor([turns]))
    options = defaults | kwargs
    return ADVANTAGES["gae"](torch.tensor([rewards]), torch.tensor([values]), rows, just_here, **options)[0].tolist()


def test_gae_over_tokens_by_hand():
    # one turn of two tokens, reward 1, values 0.5 and 0.25, gamma = lam = 1/2:
    # A2 = 1 - 0.25 = 0.75;  A1 = 0 + 0.25/2 - 0.5 + 0.75/4 = -0.1875
    assert gae([1.0], [0.5, 0.25], [0, 0], gamma=0.5, lam=0.5) == [-0.1875, 0.75]


def test_gae_skips_prompt_tokens_between_turns():
    # Two turns of one token with two prompt tokens between them, which are skipped without discount.
    got = gae([1.0, 1.0], [0.0, 9.0, 9.0, 0.5], [0, -1, -1, 1], gamma=0.1, lam=0.1, turn_gamma=0.5, turn_lam=1.0)
    # A(2) = 1 - 0.5 = 0.5;  A(1) = 1 + 0.5 * 0.5 - 0 + 0.5 * 0.5 = 1.5
    assert got == [1.5, 0.0, 0.0, 0.5]


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    # returns: turn 2: 4, 4; turn 1: 1 + 4 = 5, 5
    assert gae([1.0, 4.0], [1.0, 2.0, 3.0, 0.5], [0, 0, 1, 1]) == [4.0, 3.0, 1.0, 3.5]


def test_turn_gamma_zero_makes_every_turn_an_episode():
    assert gae([1.0, 4.0], [1.0, 2.0, 3.0, 0.5], [0, 0, 1, 1], turn_gamma=0.0) == [0.0, -1.0, 1.0, 3.5]


def test_gae_over_turns_by_hand():
    # values 0.5, 0.25, turn_gamma = turn_lam = 1/2: A2 = 1 - 0.25 = 0.75; A1 = 0 + 0.125 - 0.5 + 0.1875 = -0.1875
    rows = batch([[0.0, 1.0], [1.0, 0.0]], n_turns=[2, 1])
    values = torch.tensor([[0.0, 0.5, 0.25], [0.0, 0.5, 0.0]])
    got = ADVANTAGES["turn_gae"](rows.rewards, values, rows, just_here, turn_gamma=0.5, turn_lam=0.5)
    assert got[:, 1:].tolist() == [[-0.1875, 0.75], [0.5, 0.0]]


@pytest.mark.parametrize("estimator", ["gae", "turn_gae"])
def test_returns_are_what_a_value_should_have_been(estimator):
    algorithm = AlgorithmConfig(
        name="x",
        advantage=estimator,
        advantage_options={"turn_gamma": 1.0},
        critic=CriticConfig("shared"),
        group_size=1,
    )
    rows = batch([[1.0, 4.0]], tokens_per_turn=2)
    values = torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.5]])
    got, returns = credit(rows, algorithm, StageConfig(), values)
    starts = turn_starts(rows.turn_ids)
    assert returns[starts].tolist() == [5.0, 4.0]
    expected = [0.0, 4.0, 3.0, 1.0, 3.5] if estimator == "gae" else [0.0, 4.0, 4.0, 1.0, 1.0]
    assert got.tolist() == [expected]


def test_whitening_looks_at_one_turn_at_a_time():
    advantages = torch.tensor([[0.0, 1.0, 100.0], [0.0, 3.0, 100.0]])
    turns = torch.tensor([[-1, 0, 1], [-1, 0, 1]])
    got = whiten_turns(advantages, turns, [True, True])
    assert got[:, 1].tolist() == pytest.approx([-0.7071, 0.7071], abs=1e-3)  # mean 2, deviation sqrt(2)
    assert got[:, 2].tolist() == [0.0, 0.0]  # all equal, so no signal
    assert got[:, 0].tolist() == [0.0, 0.0]


def test_whitening_leaves_turns_alone_whose_returns_do_not_differ():
    """If a turn's returns are equal, its advantages are only critic errors, which whitening would amplify."""
    advantages, turns = torch.tensor([[0.001, 1.0], [0.003, 3.0]]), torch.tensor([[0, 1], [0, 1]])
    got = whiten_turns(advantages, turns, [False, True])
    assert got[:, 0].tolist() == advantages[:, 0].tolist()
    returns = torch.tensor([[0.3, 0.3, 0.0]] * 9 + [[0.3, 0.3 + 1e-6, 0.0]])
    assert returns_vary(returns, torch.ones(10, 3, dtype=torch.bool)) == [False, True, False]


@pytest.mark.parametrize("advantage", ["gae", "turn_gae"])
def test_a_tie_among_the_few_who_played_a_turn_is_not_whitened(advantage):
    """The return 0 of an episode that ended before a turn is no difference, or critic errors would be whitened."""
    algorithm = AlgorithmConfig(name="x", advantage=advantage, critic=CriticConfig("shared"), whiten=True)
    rows = batch([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], n_turns=[1, 1, 2, 2])
    values = torch.where(rows.response_mask, torch.linspace(0.99, 1.01, 12).view(4, 3), 0.0)
    got, _ = credit(rows, algorithm, StageConfig(), values)
    assert got[rows.turn_ids == 1].abs().max() < 0.02  # the critic's errors, not amplified
    assert got[rows.turn_ids == 0].abs().max() > 0.5


def test_a_tie_among_those_who_played_is_the_same_on_several_processes():
    """Rows that did not play a turn, such as all rows of a second process, do not make the turn's returns differ."""
    returns, played = torch.tensor([[0.5], [0.5], [0.0], [0.0]]), torch.tensor([[True], [True], [False], [False]])
    assert returns_vary(returns, played) == [False]
    assert returns_vary(returns, torch.ones_like(played)) == [True]
    assert returns_vary(returns, torch.zeros_like(played)) == [False]


@pytest.mark.parametrize("advantage", ["gae", "turn_gae"])
@pytest.mark.parametrize(("turn_gamma", "paid"), [(0.0, False), (0.9, True)])
def test_a_critic_pays_no_turn_that_nothing_pays(advantage, turn_gamma, paid):
    """PPO's stage I gives first attempts advantage 0 whatever the critic predicts, unless ``turn_gamma`` is above 0."""
    critic, options = CriticConfig("shared"), {"turn_gamma": turn_gamma}
    algorithm = AlgorithmConfig(name="x", advantage=advantage, advantage_options=options, critic=critic, whiten=True)
    rows = batch([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], tokens_per_turn=2)
    values = torch.where(rows.response_mask, torch.linspace(-1, 1, 20).view(4, 5), 0.0)
    got, returns = credit(rows, algorithm, SCORE_1, values)
    assert (got[rows.turn_ids == 0] != 0).any() == paid
    assert (got[rows.turn_ids == 1] != 0).any()
    starts = turn_starts(rows.turn_ids) & (rows.turn_ids == 0)
    assert turn_gamma or returns[starts].abs().max() < 1e-6  # the critic still learns that an unpaid turn is worth 0


def test_a_bonus_pays_a_turn_without_a_reward_of_its_own():
    rows = batch([[0.0, 1.0], [1.0, 1.0]])
    stage = StageConfig(reward_weights=[0.0, 0.0], progress_alpha=1.0, kl_coefs=[0.0, 0.0])
    got, _ = credit(rows, AlgorithmConfig(name="x"), stage)
    assert (got[rows.turn_ids == 0] == 0).all()
    assert (got[rows.turn_ids == 1] != 0).all()


@pytest.mark.parametrize("reward", [0.1, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("advantage", ["rloo", "grpo", "reinforce", "reinforce_pp"])
def test_a_tie_on_partial_credit_is_no_signal(advantage, whiten, reward):
    """Equal partial rewards give advantages of exactly 0, though their mean may differ from them in the last bit."""
    rows = batch([[reward, reward]] * 14, group_ids=[0] * 7 + [1] * 7)
    got, _ = credit(rows, AlgorithmConfig(name="x", advantage=advantage, whiten=whiten), StageConfig())
    assert (got == 0).all()


def test_a_kl_in_the_reward_is_taken_off_its_turn():
    rows = batch([[1.0, 1.0], [1.0, 1.0]], tokens_per_turn=2)
    costs = sum_of_turns(torch.tensor([[0.0, 0.1, 0.2, 0.0, 0.0], [0.0] * 5]), rows.turn_ids, 2)
    assert costs.tolist() == [[pytest.approx(0.3), 0.0], [0.0, 0.0]]
    stage = AlgorithmConfig(name="x").resolve(StageConfig())
    got, _ = advantages(rows, torch.zeros(2, 5), stage, Estimator.of(stage), False, just_here, costs)
    assert got[rows.turn_ids == 0].tolist() == pytest.approx([-0.3, -0.3, 0.3, 0.3])
    assert (got[rows.turn_ids == 1] == 0).all()


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("advantage", ["gae", "turn_gae"])
@pytest.mark.parametrize("coef", [0.0, 0.1])
def test_a_kl_in_the_reward_pays_the_turns_that_it_weighs_and_no_other(advantage, coef, whiten):
    """First attempts without a reward are trained only if their KL coefficient is not 0, not by critic errors alone."""
    stage = StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[coef, 0.03], advantage_options={"turn_gamma": 0.0})
    stage = AlgorithmConfig(name="x", advantage=advantage, critic=CriticConfig("shared")).resolve(stage)
    rows = batch([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], tokens_per_turn=2)
    values = torch.where(rows.response_mask, torch.linspace(-1, 1, 20).view(4, 5), 0.0)
    costs = torch.tensor([[coef, 0.03]]) * torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    got, _ = advantages(rows, values, stage, Estimator.of(stage), whiten, just_here, costs)
    assert (got[rows.turn_ids == 0] != 0).any() == (coef != 0)
    assert (got[rows.turn_ids == 1] != 0).any()


def test_dynamic_sampling_does_not_look_at_failed_episodes():
    """A failed episode is no difference: the other two have equal rewards, so the group has no gradient."""
    assert not has_gradient([episode((0.0, 1.0)), episode((0.0, 1.0)), episode((1.0, 0.0), error="x")], SCORE_2)


def test_stage_one_gives_first_attempts_no_reward_gradient():
    rows = batch([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], tokens_per_turn=2)
    for advantage in ("rloo", "grpo", "reinforce", "reinforce_pp"):
        got, _ = credit(rows, AlgorithmConfig(name="x", advantage=advantage, stages=named(SCORE_1)), SCORE_1)
        assert (got[rows.turn_ids == 0] == 0).all()
        assert (got[rows.turn_ids == 1] != 0).all()


def test_the_progress_bonus_reaches_the_second_attempt_only():
    rows = batch([[0.0, 1.0], [1.0, 1.0]])
    assert shaped_rewards(rows.rewards, rows.n_turns, SCORE_2).tolist() == [[0.0, 11.0], [1.0, 1.0]]
    got, _ = credit(rows, AlgorithmConfig(name="x", stages=named(SCORE_2)), SCORE_2)
    assert got.tolist() == [[0.0, -1.0, 10.0], [0.0, 1.0, -10.0]]


def test_no_bonus_past_the_last_turn():
    assert shaped_rewards(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), SCORE_2).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("rewards", "shaped"),
    [((0.0, 1.0), 11.0), ((1.0, 1.0), 1.0), ((0.0, 0.0), 0.0), ((1.0, 0.0), -10.0)],
)
def test_the_papers_four_transitions_with_alpha_10(rewards, shaped):
    # r2 + 10 (r2 - r1): wrong->right 1 + 10, right->right 1, wrong->wrong 0, right->wrong 0 - 10
    assert shaped_rewards(torch.tensor([rewards]), torch.tensor([2]), SCORE_2).tolist() == [[rewards[0], shaped]]


def test_stage_one_pays_the_second_attempt_only():
    assert shaped_rewards(torch.ones(1, 2), torch.tensor([2]), SCORE_1).tolist() == [[0.0, 1.0]]


def test_more_attempts_than_weights_is_an_error():
    with pytest.raises(ValueError, match="one per attempt"):
        shaped_rewards(torch.ones(1, 3), torch.tensor([3]), SCORE_2)


def test_reinforce_needs_no_groups():
    algorithm = AlgorithmConfig(name="x", advantage="reinforce", group_size=1)
    got, _ = credit(
        batch([[1.0], [0.0]], group_ids=[0, 1]), algorithm, StageConfig(reward_weights=[1.0], kl_coefs=[0.0])
    )
    assert got.tolist() == [[0.0, 0.5], [0.0, -0.5]]


def test_dynamic_sampling_looks_at_every_turn():
    same, first_differs = [episode((0.0, 1.0)), episode((0.0, 1.0))], [episode((1.0, 1.0)), episode((0.0, 1.0))]
    assert not has_gradient(same, SCORE_2)
    assert has_gradient(first_differs, SCORE_2)
    assert not has_gradient(first_differs, SCORE_1)  # the first attempt is not paid in stage I


def test_stages_share_the_steps():
    assert stage_spans([1.0, 3.0], 8) == [(0, 2), (2, 8)]
    assert stage_spans([1.0, 1.0, 1.0], 10) == [(0, 3), (3, 7), (7, 10)]
    assert stage_spans([1.0, 9.0], 1) == [(0, 0), (0, 1)]  # too short for a step of the first stage
