"""Rewards that need the whole group: what a turn is paid, when it is masked, and how training uses both."""

from dataclasses import replace

import pytest
import torch

from envs import StopReason
from rewards import Score, Verdict
from rl.config import AlgorithmConfig, StageConfig
from rl.group_rewards import GROUP_REWARDS, apply_group_reward
from rl.rollout_metrics import describe, token_advantages
from rl.types import Group
from tests.helpers import batch, build_trainer, credit, episode, log_step, modchain_config, turn


def answering(*answers, role="solver"):
    """An episode with one turn per answer; ``None`` is a turn without an answer."""
    one = episode([0.0] * len(answers))
    turns = [
        replace(old, role=role, score=Score(0.0, Verdict.NO_ANSWER if answer is None else Verdict.WRONG, answer))
        for old, answer in zip(one.turns, answers, strict=True)
    ]
    return replace(one, turns=tuple(turns))


def paid(name, group, **options):
    made = apply_group_reward(GROUP_REWARDS.bind(name, options), Group(0, tuple(group)))
    return [[turn.reward if turn.trained else None for turn in one.turns] for one in made.episodes]


@pytest.mark.parametrize(
    ("name", "options", "answers", "expected"),
    [
        ("majority", {}, ["7", "7", "3", None], [1.0, 1.0, 0.0, 0.0]),
        ("majority", {}, [None, None, None], [None, None, None]),
        ("majority", {}, ["3", "7", "3", "7"], [1.0, 0.0, 1.0, 0.0]),  # a tie goes to the answer that was seen first
        ("majority", {"least": 0.75}, ["7", "7", "3", None], [None] * 4),
        ("majority", {"least": 0.5}, ["7", "7", "3", None], [1.0, 1.0, 0.0, 0.0]),
        ("agreement", {}, ["7", "7", "3", None], [0.5, 0.5, 0.0, 0.0]),
        ("agreement", {}, ["7", None], [None, None]),
        ("agreement", {}, ["7", "7", "7"], [1.0, 1.0, 1.0]),
    ],
)
def test_who_is_paid(name, options, answers, expected):
    assert paid(name, [answering(answer) for answer in answers], **options) == [[value] for value in expected]


def test_turns_are_compared_with_the_same_turn_and_role_and_failures_with_nothing():
    group = [answering("1", "2"), answering("1", "3"), answering("4", "2"), episode((0.0, 1.0), error="down")]
    assert paid("majority", group) == [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    roles = [answering("1"), answering("1"), answering("2", role="judge")]
    assert paid("agreement", roles) == [[1.0], [1.0], [None]]


ATTEMPTS = {"right": ("7", True), "wrong": ("3", False), "other": ("4", False), "none": (None, False)}


def attempting(*kinds):
    """An episode with one attempt of each given kind of ``ATTEMPTS``."""
    one = answering(*(ATTEMPTS[kind][0] for kind in kinds))
    scores = [Score.of(ATTEMPTS[kind][1], ATTEMPTS[kind][0]) for kind in kinds]
    return replace(one, turns=tuple(replace(t, score=score) for t, score in zip(one.turns, scores, strict=True)))


@pytest.mark.parametrize(
    ("options", "kinds", "expected"),
    [
        ({}, ("wrong", "right"), [0.0, 1.0]),
        ({}, ("right", "wrong"), [0.0, 0.0]),  # the last attempt is paid, not the best
        ({"wrong": -0.5, "no_answer": -1.0}, ("none", "wrong"), [0.0, -0.5]),
        ({"wrong": -0.5, "no_answer": -1.0}, ("wrong", "none"), [0.0, -1.0]),
        ({"wrong": -1.0, "no_answer": -1.0, "malformed": -0.2}, ("none", "wrong", "none"), [-0.2, 0.0, -1.2]),
        ({"decay": 0.5}, ("wrong", "other", "right"), [0.0, 0.0, 0.25]),
        ({"repeats": 0.3}, ("wrong", "wrong", "right"), [0.0, 0.0, 1.0 - 0.3 / 3]),
        ({"repeats": 0.3}, ("none", "wrong", "none"), [0.0, 0.0, -0.3 / 3]),
    ],
)
def test_how_an_episode_ends_is_paid_on_its_last_attempt(options, kinds, expected):
    (got,) = paid("outcome", [attempting(*kinds)], **options)
    assert got == pytest.approx(expected)


def talking(*, critics, attempts):
    """An episode of attempts with critics' turns between them; its turn k has reward k."""
    roles = [role for k in range(max(critics, attempts)) for role in ("solver", f"critic {k}")][: critics + attempts]
    one = episode([float(k) for k in range(len(roles))])
    return replace(one, turns=tuple(replace(t, role=role) for t, role in zip(one.turns, roles, strict=True)))


def test_a_critic_is_paid_what_the_next_attempt_earns_and_the_outcome_is_the_solvers():
    assert paid("critic", [talking(critics=2, attempts=3)]) == [[0.0, 2.0, 2.0, 4.0, 4.0]]
    assert paid("critic", [talking(critics=1, attempts=1)]) == [[0.0, None]]  # no attempt follows the critic
    assert paid("outcome", [talking(critics=1, attempts=2)], wrong=-1.0) == [[0.0, 1.0, 1.0]]


def test_a_turn_that_was_given_is_left_as_it_is():
    given = answering("1", "2")
    given = replace(given, given=1, turns=(replace(given.turns[0], trained=False, reward=0.25), given.turns[1]))
    made = GROUP_REWARDS["agreement"](Group(0, (given, given)))
    assert [turn.reward for turn in made.episodes[0].turns] == [0.25, 1.0]
    assert not made.episodes[0].turns[0].trained


def test_a_group_reward_that_raises_fails_its_episodes_only():
    def broken(group):
        raise ZeroDivisionError("no votes")

    made = apply_group_reward(broken, Group(0, (answering("1"), answering("2"))))
    assert all(one.failed and one.stop_reason is StopReason.ENV_ERROR for one in made.episodes)
    assert "no votes" in made.episodes[0].error


@GROUP_REWARDS.register("test_every_other")
def every_other(group):
    """Pays each episode of an even group its place in the group; masks all turns of odd groups."""
    silent = group.group_id % 2 == 1
    episodes = [
        replace(one, turns=tuple(replace(t, reward=0.0 if silent else place, trained=not silent) for t in one.turns))
        for place, one in enumerate(group.episodes)
    ]
    return replace(group, episodes=tuple(episodes))


def test_a_step_trains_on_what_is_paid_and_says_what_is_masked():
    cfg = modchain_config(episodes=64, tasks_per_step=4)
    cfg.env.group_reward = "test_every_other"
    trainer, _ = build_trainer(cfg)
    step = trainer.train_step()
    metrics, episodes = describe(step, trainer._distributed), step.episodes
    assert metrics["rollout/masked_fraction"] == 0.5
    assert sum(not turn.trained for one in episodes for turn in one.turns) == sum(
        len(one.turns) for one in episodes if one.group_id % 2
    )
    assert metrics["reward/raw_t1"] == 1.5  # mean of the places 0 to 3 in the paid groups
    assert 0.0 <= metrics["rollout/accuracy_t1"] <= 1.0  # still from the verifier's verdicts on all episodes
    assert token_advantages(step, cfg.training.keep_episodes).keys() == {
        i for i, one in enumerate(episodes[: cfg.training.keep_episodes]) if one.group_id % 2 == 0
    }


def test_dynamic_sampling_looks_at_the_groups_as_they_are_paid():
    cfg = modchain_config(episodes=256, tasks_per_step=4)
    cfg.env.group_reward, cfg.algorithm.dynamic_sampling = "test_every_other", 8
    trainer, _ = build_trainer(cfg)
    metrics, episodes = log_step(trainer)
    assert metrics["group/resampled"] > 0
    assert metrics["rollout/masked_fraction"] == 0.0
    assert {one.group_id % 2 for one in episodes} == {0}


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "reinforce", "reinforce_pp"])
def test_a_masked_turn_is_no_part_of_any_baseline(advantage):
    """Whatever the reward of a masked turn, the other turns have the advantages that they have without it."""
    rows = batch([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    masked = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    algorithm, stage = AlgorithmConfig(name="x"), StageConfig(advantage=advantage)

    def second_turns(noise):
        part = replace(rows, rewards=torch.where(masked, rows.rewards, noise), compared=masked)
        return credit(part, algorithm, stage)[0][[0, 1, 3], 2]

    alone = credit(rows.rows([0, 1, 3]), algorithm, stage)[0][:, 2]
    torch.testing.assert_close(second_turns(0.0), alone)
    torch.testing.assert_close(second_turns(9.0), alone)
    first = credit(rows, algorithm, stage)[0][:, 1]
    torch.testing.assert_close(credit(replace(rows, compared=masked), algorithm, stage)[0][:, 1], first)


def test_a_turn_that_is_compared_with_nobody_has_no_advantage():
    only = torch.tensor([[True], [False], [False]])
    rows = replace(batch([[1.0], [0.0], [0.0]]), compared=only)
    for advantage in ("rloo", "grpo"):
        stage = StageConfig(advantage=advantage, reward_weights=[1.0], kl_coefs=[0.0])
        assert credit(rows, AlgorithmConfig(name="x"), stage)[0].abs().sum() == 0.0


def test_rewards_are_any_finite_numbers():
    assert turn(reward=-3.5).reward == -3.5
    with pytest.raises(ValueError, match="finite"):
        replace(turn(), reward=float("nan"))


def test_an_unknown_group_reward_is_refused_before_anything_is_sampled():
    cfg = modchain_config()
    cfg.env.group_reward = "majorty"
    with pytest.raises(ValueError, match=r"env\.group_reward=majorty.*'majority'"):
        cfg.env.settled()
    cfg.env.group_reward, cfg.env.group_reward_options = "majority", {"leest": 0.5}
    with pytest.raises(ValueError, match=r"group_reward_options\.leest.*'least'"):
        cfg.env.settled()
