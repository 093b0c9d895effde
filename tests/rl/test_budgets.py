"""Runs end with their budget of sampled episodes, sampled tokens or optimiser steps; probes fix first attempts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from envs import Split
from rl.budget import smallest_budget, steps_of_stages
from rl.config import AlgorithmConfig, OfflineConfig, SFTConfig, StageConfig, TrainingConfig
from rl.evaluate import first_turns, second_attempts
from rl.offline import OfflineTrainer
from rl.types import RunStoppedError
from rl.workbench import Workbench
from tests.helpers import build_trainer, log_step, modchain_config, named
from tests.helpers import episode as an_episode


def run(trainer):
    stages = []
    while not trainer.is_done:
        stages.append(int(log_step(trainer)[0]["stage"]))
    return stages


TWO_STAGES = AlgorithmConfig(
    name="two",
    group_size=4,
    stages=named(StageConfig(reward_weights=[0.0, 1.0]), StageConfig(reward_weights=[1.0, 1.0])),
    minibatches=2,
)


def test_a_budget_of_optimiser_steps():
    cfg = modchain_config(algorithm=TWO_STAGES)
    cfg.training = TrainingConfig(updates=8, tasks_per_step=4)
    trainer, _ = build_trainer(cfg)
    assert run(trainer) == [0, 0, 1, 1]  # two optimiser steps per batch
    assert trainer.totals.updates == trainer.n_updates == 8
    assert trainer.totals.episodes == 4 * 16
    assert trainer.totals.responses == 2 * 4 * 16
    assert trainer.progress == 1.0


def test_a_budget_of_tokens_ends_with_the_batch_that_reaches_it():
    cfg = modchain_config(algorithm=TWO_STAGES)
    cfg.training = TrainingConfig(tokens=1000, tasks_per_step=4)
    trainer, _ = build_trainer(cfg)
    stages = run(trainer)
    per_batch = trainer.totals.sampled_tokens / len(stages)
    assert 1000 <= trainer.totals.sampled_tokens < 1000 + 1.5 * per_batch
    assert stages == sorted(stages)
    assert set(stages) == {0, 1}
    assert abs(stages.count(0) - stages.count(1)) <= 1  # each stage gets half of the tokens


def test_a_budget_of_tokens_knows_no_decay():
    cfg = modchain_config(schedule="linear")
    cfg.training = TrainingConfig(tokens=1000, tasks_per_step=4)
    with pytest.raises(ValueError, match=r"optim\.schedule=constant"):
        build_trainer(cfg)


def test_a_budget_below_the_first_batch_is_refused_before_anything_is_sampled():
    large = replace(TWO_STAGES, minibatches=1, stages=named(StageConfig(group_size=16)))
    with pytest.raises(
        ValueError, match=r"training\.episodes=96: .*stages\.stage1, samples 128 .*training\.episodes=128,"
    ):
        build_trainer(modchain_config(algorithm=large, episodes=96))
    trainer, _ = build_trainer(modchain_config(algorithm=large, episodes=128))
    assert run(trainer) == [0]


def test_a_run_has_one_budget():
    with pytest.raises(ValueError, match="one budget"):
        TrainingConfig(tokens=5, updates=5)


def offline(training, **options):
    cfg = modchain_config()
    fields = {name: getattr(cfg, name) for name in ("threads", "model", "env", "engine", "evaluation")}
    method = OfflineConfig(
        name="x", rule="star", rule_options={"keep_right_to_right": True}, iterations=2, group_size=4, **options
    )
    config = SFTConfig(name="test", seed=0, offline=method, training=training, **fields)
    bench = Workbench.build(config)
    tasks, rollout = bench.tasks(Split.TRAIN), bench.rollout(Split.TRAIN)
    return OfflineTrainer(config, bench.model, bench.tokenizer, rollout, tasks, bench.publish, lambda *_: None)


@pytest.mark.slow
def test_offline_budgets():
    trainer = offline(TrainingConfig(episodes=64, updates=6), batch_size=8)
    for _ in range(2):
        trainer.train_round(trainer.collect())
    assert trainer.totals.updates == 6
    assert trainer.totals.episodes == 64
    trainer = offline(TrainingConfig(tokens=2000))
    tokens = [sum(len(turn.action_ids) for e in trainer.collect() for turn in e.turns) for _ in range(2)]
    assert all(1000 <= n < 1000 + 16 * 4 * 10 for n in tokens)  # a round overdraws by less than 16 groups of 4 episodes
    with pytest.raises(ValueError, match=r"training.updates=1: x has .*=2 rounds; give at least .*=2"):
        offline(TrainingConfig(updates=1))


def test_a_budget_of_tokens_that_nothing_spends_ends_the_run(monkeypatch):
    """If every episode fails before its first token, no token budget is ever spent, so sampling would never end."""
    trainer = offline(TrainingConfig(tokens=2000))
    broken = SimpleNamespace(
        run=lambda plans, temperature: [an_episode((), error="the sandbox is gone") for _ in plans]
    )
    monkeypatch.setattr(trainer, "_rollout", broken)
    with pytest.raises(RunStoppedError, match=r"64 episodes.*training\.tokens=2000 .*First error: the sandbox is gone"):
        trainer.collect()


def test_a_probe_reads_the_attempts_that_it_was_given():
    cfg = modchain_config()
    _, bench = build_trainer(replace(cfg))
    tasks = bench.tasks(Split.TRAIN)[:8]
    firsts = first_turns(bench.rollout(Split.TRAIN, 1), tasks)
    assert len(firsts) == 8
    for (task, turn), episode in zip(firsts, second_attempts(bench.rollout(Split.TRAIN, 2), firsts), strict=True):
        assert episode.task_id == task.id
        assert (episode.given, episode.turns[0].trained) == (1, False)
        assert episode.turns[0].action_ids == turn.action_ids
        assert episode.turns[1].trained


@pytest.mark.parametrize("share", [1.0, 0.5, 0.07, 0.0001])
def test_the_smallest_budget_of_every_stage(share):
    stages = {"one": StageConfig(share=share), "two": StageConfig(share=1.0, group_size=8)}
    cfg = modchain_config(tasks_per_step=2, algorithm=AlgorithmConfig(name="x", group_size=4, stages=stages))
    n = smallest_budget(cfg, all) // 8
    assert all(steps_of_stages(cfg, n))
    assert not all(steps_of_stages(cfg, n - 1))
