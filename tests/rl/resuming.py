"""Helpers for tests that interrupt small runs and resume them."""

import errno
import os
from dataclasses import replace

import torch

from experiments.arms import run_offline
from experiments.online import OnlineRun
from experiments.stopping import Stopping
from rl.backends.distributed import Distributed
from rl.config import (
    AlgorithmConfig,
    BudgetConfig,
    CriticConfig,
    EvalConfig,
    OfflineConfig,
    SFTConfig,
    StageConfig,
    TermConfig,
)
from rl.tracking import read_jsonl
from rl.trainer import Trainer
from tests.helpers import modchain_config, named

SCORE = AlgorithmConfig(
    name="score",
    group_size=4,
    minibatches=2,
    stages=named(
        StageConfig(reward_weights=[0.0, 1.0], kl_coefs=[0.3, 0.03], kl_balance=1.0),
        StageConfig(progress_alpha=3.0, kl_coefs=[0.03, 0.03], reference="previous", keep_optimizer=True),
    ),
)
PPO = AlgorithmConfig(
    name="ppo",
    group_size=2,
    advantage="gae",
    critic=CriticConfig("separate", warmup_steps=1),
    epochs=2,
    advantage_options={"turn_gamma": 1.0, "lam": 0.95},
    whiten=True,
    terms={"entropy": TermConfig(weight=0.01)},
)
DAPO = AlgorithmConfig(name="dapo", group_size=4, advantage="grpo", loss="cispo", dynamic_sampling=2, minibatches=2)
OFFLINE = AlgorithmConfig(
    name="offline", group_size=4, stages=named(StageConfig(offline_first_attempts=0.5, kl_targets=[0.1, 0.1]))
)
SIMPLE = AlgorithmConfig(name="simple", group_size=4)
TWICE = AlgorithmConfig(name="twice", group_size=4, epochs=2)


class StopHereError(Exception):
    """Raised to interrupt a run."""


def config(algorithm, **training):
    cfg = modchain_config(algorithm=algorithm, lr=3e-3, schedule="linear")
    cfg.training.tasks_per_step = 16 // algorithm.group_size
    cfg.training.episodes = 6 * 16
    cfg.training.validate_every = 2
    for name, value in training.items():
        setattr(cfg.training, name, value)
    return cfg


def quiet(*_):
    """A progress report that goes nowhere."""


def online(cfg, folder):
    folder.mkdir(parents=True, exist_ok=True)
    distributed = Distributed(cpu=True)
    return OnlineRun(cfg, folder, quiet, distributed, Stopping(folder, distributed))


def play(cfg, folder, stop_after=None):
    """Runs to the end, or until ``stop_after`` checkpoints are written.

    Returns:
        The final weights of policy and critic, ``None`` if the run was stopped; and the names of the checkpoints that
        it wrote.
    """
    run = online(cfg, folder)
    save, written = run._checkpoints.save, []

    def counting(*args):
        save(*args)
        written.append(args[0])
        if len(written) == stop_after:
            raise StopHereError

    run._checkpoints.save = counting
    try:
        run.train()
    except StopHereError:
        return None, written
    parts = [run.bench.model, run.trainer.learner._bare_critic]
    weights = [p.detach().clone().flatten() for part in parts if part is not None for p in part.parameters()]
    return torch.cat(weights), written


def without_times(row):
    return {name: v for name, v in row.items() if not name.startswith(("time/", "system/"))}


def offline(folder, rule="star", report=quiet, **model):
    cfg = SFTConfig(
        name="sft",
        threads=1,
        model=replace(modchain_config().model, **model),
        env=modchain_config().env,
        offline=OfflineConfig(
            name=rule, rule="star", iterations=3, rule_options={"keep_right_to_right": True}, restart=False
        ),
        training=BudgetConfig(episodes=3 * 64, keep_episodes=2),
        evaluation=EvalConfig(samples_per_task=0, n_tasks=5),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return run_offline(cfg, folder, report)


def in_step(monkeypatch, step, do):
    """Calls ``do`` within the given training step, before it samples."""
    sample = Trainer._sample

    def sampled(self, stage):
        if self.step == step:
            do()
        return sample(self, stage)

    monkeypatch.setattr(Trainer, "_sample", sampled)


def made(folder):
    folder.mkdir(parents=True)
    return folder


def assert_same_run(one, other):
    for name in ("policy/model.safetensors", "rows.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    metrics = [[without_times(row) for row in read_jsonl(path / "metrics.jsonl")] for path in (one, other)]
    assert metrics[0] == metrics[1]


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
