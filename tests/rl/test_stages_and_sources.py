"""Parts of a training step: stages, references, replaced groups, and first attempts that the base sampled."""

from dataclasses import replace

import pytest
import torch

from envs import Split
from rl.config import AlgorithmConfig, CriticConfig, StageConfig
from rl.types import RunStoppedError
from tests.helpers import build_trainer, log_step, modchain_config, named

BASE, PREVIOUS = "base", "previous"


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run_to_the_end(trainer):
    steps = []
    while not trainer.is_done:
        steps.append(log_step(trainer))
    return steps


def three_turn():
    return AlgorithmConfig(
        name="three",
        group_size=4,
        stages=named(
            StageConfig(attempts=2, reward_weights=[0.0, 1.0], kl_coefs=[0.3, 0.03]),
            StageConfig(attempts=3, reward_weights=[0.0, 0.0, 1.0], kl_coefs=[0.3, 0.3, 0.03], reference=PREVIOUS),
            StageConfig(attempts=3, reward_weights=[1.0] * 3, progress_alpha=3.0, kl_coefs=[0.03] * 3),
        ),
    )


def test_the_three_turn_variant_plays_two_then_three_attempts():
    cfg = modchain_config(algorithm=three_turn(), episodes=6 * 32)
    cfg.env.attempts = 3
    trainer, _ = build_trainer(cfg)
    steps = run_to_the_end(trainer)
    assert [{len(e.turns) for e in episodes} for _, episodes in steps] == [{2}, {2}, {3}, {3}, {3}, {3}]
    assert [metrics["stage"] for metrics, _ in steps] == [0, 0, 1, 1, 2, 2]
    assert "reward/raw_t3" in steps[2][0]


def test_a_stage_is_held_to_the_reference_that_it_names():
    """A stage with ``reference=previous`` starts at a KL of 0; with ``base`` it starts at the KL reached so far."""
    for reference in (PREVIOUS, BASE):
        stages = named(StageConfig(kl_coefs=[0.01, 0.01]), StageConfig(kl_coefs=[0.3, 0.3], reference=reference))
        cfg = modchain_config(
            algorithm=AlgorithmConfig(name="x", group_size=4, stages=stages), episodes=6 * 32, lr=1e-2
        )
        trainer, _ = build_trainer(cfg)
        kl = [metrics["policy/kl_ref_t1"] for metrics, _ in run_to_the_end(trainer)]
        assert kl[0] == pytest.approx(0.0, abs=1e-6)
        assert kl[2] > 1e-4
        assert kl[3] == pytest.approx(0.0, abs=1e-6) if reference is PREVIOUS else kl[3] > 1e-4
        assert kl[5] > 1e-4


def test_a_stage_starts_with_a_fresh_optimiser_unless_it_keeps_it():
    for keep in (False, True):
        stages = named(StageConfig(), StageConfig(keep_optimizer=keep))
        cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, stages=stages), episodes=4 * 32)
        trainer, _ = build_trainer(cfg)
        run_to_the_end(trainer)
        (steps,) = {int(state["step"]) for state in trainer.learner._optimizer.state.values()}
        assert steps == (4 if keep else 2)


def test_adapters_cannot_be_held_to_an_earlier_stage():
    from rl.config import LoraConfig

    stages = named(StageConfig(), StageConfig(reference=PREVIOUS))
    cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, stages=stages))
    cfg.model.lora = LoraConfig(rank=2)
    with pytest.raises(ValueError, match=r"reference=previous needs full tuning"):
        build_trainer(cfg)


def test_offline_groups_read_one_attempt_of_the_base_and_learn_the_second():
    stage = StageConfig(offline_first_attempts=0.5)
    cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, stages=named(stage)), episodes=3 * 32)
    trainer, bench = build_trainer(cfg)
    (metrics, episodes), *_ = run_to_the_end(trainer)
    groups = {}
    for episode in episodes:
        groups.setdefault(episode.group_id, []).append(episode)
    reading = [group for group in groups.values() if group[0].given]
    assert 0 < len(reading) < len(groups)
    assert metrics["group/offline_first_fraction"] == len(reading) / len(groups)
    for group in reading:
        assert len({episode.turns[0].action_ids for episode in group}) == 1
        assert not any(not episode.turns[1].trained for episode in group)
        first, second = group[0].turns
        assert second.prompt_ids[: len(first.prompt_ids) + len(first.action_ids)] == first.prompt_ids + first.action_ids
    n_tasks = len(bench.tasks(Split.TRAIN))
    sampled = sum(len(t.action_ids) for e in episodes for t in e.sampled)
    assert trainer.totals.sampled_tokens > sampled + n_tasks  # the base's attempts are counted too


def test_dynamic_sampling_replaces_groups_without_a_gradient_within_the_budget():
    plain = AlgorithmConfig(name="x", group_size=4)
    results = {}
    for rounds in (0, 3):
        cfg = modchain_config(algorithm=replace(plain, dynamic_sampling=rounds), episodes=40 * 32)
        trainer, _ = build_trainer(cfg)
        metrics, episodes = log_step(trainer)
        results[rounds] = metrics
        assert len(episodes) == 32
        assert trainer.totals.episodes == 32 + 4 * metrics["group/resampled"]
        assert len({episode.group_id for episode in episodes}) == 8
    assert results[0]["group/mixed_fraction"] < 1.0
    assert results[3]["group/mixed_fraction"] > results[0]["group/mixed_fraction"]
    assert results[3]["group/resampled"] > 0
    cfg = modchain_config(algorithm=replace(plain, dynamic_sampling=3), episodes=8 * 32)
    trainer, _ = build_trainer(cfg)
    steps = run_to_the_end(trainer)
    assert len(steps) < 8
    assert trainer.totals.episodes <= 8 * 32


def test_a_critic_warms_up_before_the_policy_moves():
    algorithm = AlgorithmConfig(
        name="x",
        advantage="gae",
        group_size=4,
        critic=CriticConfig("separate", warmup_steps=2),
        stages=named(StageConfig(kl_coefs=[0.1, 0.1], kl_targets=[0.1, 0.1])),
    )
    trainer, bench = build_trainer(modchain_config(algorithm=algorithm, episodes=4 * 32))
    before = weights(bench.model)
    first, _ = log_step(trainer)
    trainer.train_step()
    assert torch.equal(weights(bench.model), before)
    assert first["critic/loss"] > 0
    assert trainer.learner.control.coefs == [0.1, 0.1]  # a KL of 0 during warm-up must not adapt the coefficients
    trainer.train_step()
    assert trainer.learner.control.coefs != [0.1, 0.1]
    assert not torch.equal(weights(bench.model), before)


@pytest.mark.parametrize(
    "critic", [CriticConfig("separate", warmup_steps=2), CriticConfig("shared", True, warmup_steps=2)]
)
def test_a_policy_rests_during_warm_up_whatever_the_weight_decay(critic):
    algorithm = AlgorithmConfig(name="x", advantage="gae", group_size=4, critic=critic)
    trainer, bench = build_trainer(modchain_config(algorithm=algorithm, episodes=3 * 32, weight_decay=0.1))
    before = weights(bench.model)
    for _ in range(2):
        trainer.train_step()
    assert torch.equal(weights(bench.model), before)
    trainer.train_step()
    assert not torch.equal(weights(bench.model), before)


def test_a_schedule_ends_where_the_budget_does_when_groups_are_replaced():
    cfg = modchain_config(
        algorithm=AlgorithmConfig(name="x", group_size=4, dynamic_sampling=3), episodes=16 * 32, schedule="linear"
    )
    trainer, _ = build_trainer(cfg)
    rates = [metrics["optim/lr"] for metrics, _ in run_to_the_end(trainer)]
    assert len(rates) < 12  # replaced groups count towards the budget
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3
    assert rates[-1] < 0.25e-3  # the last batch begins with at most a quarter of the budget left


def test_kl_may_be_taken_off_the_reward():
    """With ``kl_in_reward`` the KL acts through the advantages instead of the loss, and it is still measured."""
    seen = {}
    for where in (False, True):
        stages = named(StageConfig(kl_coefs=[1.0, 1.0]))
        algorithm = AlgorithmConfig(name="x", group_size=4, stages=stages, kl="k1", kl_in_reward=where)
        trainer, bench = build_trainer(modchain_config(algorithm=algorithm, episodes=4 * 32, lr=1e-2))
        metrics = [metrics for metrics, _ in run_to_the_end(trainer)]
        assert metrics[-1]["policy/kl_ref_t1"] > 0
        seen[where] = weights(bench.model)
    assert not torch.equal(seen[False], seen[True])


@pytest.mark.parametrize(
    ("advantage", "kind"),
    [
        ("gae", "shared"),
        ("turn_gae", "separate"),
        pytest.param("gae", "separate", marks=pytest.mark.soak),
        pytest.param("turn_gae", "shared", marks=pytest.mark.soak),
    ],
)
def test_a_critic_learns_to_predict(advantage, kind):
    """Trained with the real policy, a critic's values rise from 0 to the level of the returns and stay there."""
    critic = CriticConfig(kind, coef=1.0)
    algorithm = AlgorithmConfig(name="x", advantage=advantage, group_size=4, critic=critic, epochs=4)
    trainer, _ = build_trainer(modchain_config(algorithm=algorithm, episodes=20 * 128, tasks_per_step=32, lr=1e-3))
    explained = [metrics["critic/explained_variance"] for metrics, _ in run_to_the_end(trainer)]
    assert explained[0] < -0.3  # values of 0, returns of about a third
    assert sum(explained[-5:]) / 5 > -0.1


def test_stale_weights_stop_the_run():
    trainer, bench = build_trainer(modchain_config(episodes=96))
    bench.engine.load_weights = lambda named, version: None  # the engine gets no new weights
    trainer.train_step()
    with pytest.raises(RunStoppedError, match=r"version 0 of the weights, but the trainer is at version 1"):
        trainer.train_step()
    assert bench.engine.policy_version == 0


def test_an_episode_that_ends_with_the_attempt_it_read_is_not_stale():
    """An episode that ends with a right first attempt of the base sampled nothing, so its version must not matter."""
    stage = StageConfig(offline_first_attempts=1.0)
    cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4, stages=named(stage)), episodes=3 * 32)
    cfg.env.stop_rule = "on_correct"
    trainer, _ = build_trainer(cfg)
    steps = run_to_the_end(trainer)
    assert len(steps) == 3
    assert any(len(episode.turns) == 1 for _, episodes in steps[1:] for episode in episodes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlgorithmConfig(name="x", advantage="gae"), r"advantage=gae needs values"),
        (lambda: AlgorithmConfig(name="x", critic=CriticConfig("shared")), r"advantage=rloo uses no values"),
        (lambda: AlgorithmConfig(name="x", dynamic_sampling=1, advantage="reinforce", group_size=1), "least 2"),
        (lambda: AlgorithmConfig(name="x", stages=named(StageConfig(reference=PREVIOUS))), "no stage before it"),
        (lambda: CriticConfig("shared", warmup_steps=1), "rewrite the policy"),
        (lambda: StageConfig(kl_targets=[0.1]), "one positive target per turn"),
        (lambda: StageConfig(kl_coefs=[0.0, 0.1], kl_targets=[0.1, 0.1]), "a coefficient of 0 would stay 0"),
        (lambda: StageConfig(kl_balance=1.0, kl_coefs=[0.0, 0.1]), "positive kl_coefs"),
        (lambda: StageConfig(offline_first_attempts=1.5), r"must be in \[0, 1\]"),
        (lambda: AlgorithmConfig(name="x", loss_options={"clip_low": 0.0}), "clip_low"),
    ],
)  # fmt: skip
def test_what_cannot_work_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_minibatches_than_episodes_are_refused():
    algorithm = AlgorithmConfig(name="x", group_size=4, minibatches=100)
    with pytest.raises(ValueError, match=r"minibatches=100: a batch of 32 episodes on 1 process is too small"):
        build_trainer(modchain_config(algorithm=algorithm))


def test_choosing_the_best_policy_needs_validation():
    from rl.config import TrainingConfig

    with pytest.raises(ValueError, match="select=best"):
        TrainingConfig(select="best", validate_every=0)
