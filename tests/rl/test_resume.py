"""Interrupted and resumed is uninterrupted, bit for bit, wherever the interruption falls."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from experiments.online import OnlineRun
from rl.backends.distributed import Distributed
from rl.checkpoint import Checkpoints, Identity, ResumeError, hash_tasks
from rl.config import (
    AlgorithmConfig,
    CriticConfig,
    StageConfig,
    TermConfig,
)
from rl.tracking import read_jsonl
from tests.conftest import ROOT
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


class StopHereError(Exception):
    """What an interruption is here."""


def config(algorithm, **training):
    cfg = modchain_config(algorithm=algorithm, lr=3e-3, schedule="linear")
    cfg.training.tasks_per_step = 16 // algorithm.group_size
    cfg.training.episodes = 6 * 16
    cfg.training.validate_every = 2
    for name, value in training.items():
        setattr(cfg.training, name, value)
    return cfg


def quiet(*_):
    """Nobody is told."""


def play(cfg, folder, stop_after=None):
    """Runs to the end, or until so many checkpoints are written; returns the weights or None."""
    run = OnlineRun(cfg, folder, quiet, Distributed(cpu=True))
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


@pytest.mark.parametrize("algorithm", [SCORE, PPO, DAPO, OFFLINE], ids=lambda a: a.name)
def test_every_checkpoint_leads_to_the_same_weights(algorithm, tmp_path):
    """6 steps are 6 steps with an interruption after any checkpoint: between steps, between two optimiser steps of one
    rollout batch, between stages."""
    cfg = config(algorithm, save_every=1, save_every_updates=1)
    expected, written = play(cfg, tmp_path / "whole")
    assert expected is not None
    metrics = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert len(written) >= 6
    for n in range(1, len(written)):
        folder = tmp_path / f"cut_{n}"
        nothing, _ = play(cfg, folder, stop_after=n)
        assert nothing is None
        resumed, rest = play(cfg, folder)
        assert len(rest) == len(written) - n
        assert torch.equal(resumed, expected), f"after checkpoint {written[n - 1]}"
        again = read_jsonl(folder / "metrics.jsonl")
        assert [without_times(row) for row in again] == [without_times(row) for row in metrics]


def without_times(row):
    return {name: v for name, v in row.items() if not name.startswith(("time/", "system/"))}


def test_checkpoints_fall_inside_batches_and_between_stages(tmp_path):
    """So that the test above tests what it says."""
    _, written = play(config(SCORE, save_every=1, save_every_updates=1), tmp_path)
    steps = [tuple(map(int, name.split("_"))) for name in written]
    assert (0, 1) in steps  # after the first of two optimiser steps of the first batch
    assert (3, 6) in steps  # after the last step of stage I


def test_the_test_can_fail(tmp_path):
    """Another seed gives other weights: equality is not for free."""
    first, _ = play(config(SCORE), tmp_path / "a")
    second, _ = play(replace(config(SCORE), seed=1), tmp_path / "b")
    assert not torch.equal(first, second)


def test_the_best_policy_survives_an_interruption(tmp_path):
    cfg = config(SCORE, select="best", save_every=1)
    play(cfg, tmp_path, stop_after=4)
    run = OnlineRun(cfg, tmp_path, quiet, Distributed(cpu=True))
    assert run.resumed
    best = dict(run._best)
    run.train()
    assert run.load_best()["accuracy"] >= best["accuracy"]


def test_only_the_last_checkpoints_are_kept(tmp_path):
    _, written = play(config(SCORE, save_every=1, keep_last=3), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == written[-3:]


def test_a_changed_config_or_other_data_is_refused_by_name(tmp_path):
    cfg = config(SCORE, save_every=1)
    play(cfg, tmp_path, stop_after=1)
    changed = config(SCORE, save_every=1)
    changed.algorithm.optim.lr = 1e-2
    with pytest.raises(ResumeError, match=r"changed: algorithm\.optim\.lr \(was 0\.003, is 0\.01\)"):
        OnlineRun(changed, tmp_path, quiet, Distributed(cpu=True))
    allowed = config(SCORE, save_every=2)
    allowed.evaluation.n_tasks = 5
    OnlineRun(allowed, tmp_path, quiet, Distributed(cpu=True))
    run = OnlineRun(cfg, tmp_path, quiet, Distributed(cpu=True))
    fewer = run.bench.taskset.load("train")[:-1]
    other = Identity.of(cfg, fewer, 1)
    with pytest.raises(ResumeError, match="training tasks are not those"):
        Checkpoints(tmp_path, other, 2, Distributed(cpu=True)).load()
    with pytest.raises(ResumeError, match="2 processes and cannot go on with 1"):
        Identity.of(cfg, fewer, 1).refuse({"config": other.config, "data": other.data, "n_processes": 2})


def test_task_hashes_see_the_content_and_the_order():
    from envs import Task

    a, b = Task("1", "x", "1"), Task("2", "y", "2")
    assert hash_tasks([a, b]) == hash_tasks([Task("1", "x", "1"), b])
    assert len({hash_tasks([a, b]), hash_tasks([b, a]), hash_tasks([a]), hash_tasks([a, replace(b, gold="3")])}) == 4


def test_half_a_checkpoint_is_none(tmp_path):
    """A folder that was being written when the process died has another name, and is never loaded."""
    cfg = config(SCORE, save_every=1)
    play(cfg, tmp_path, stop_after=2)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    newest.rename(newest.with_name(f".{newest.name}"))
    (newest.with_name(f".{newest.name}") / "meta.json").unlink()
    assert OnlineRun(cfg, tmp_path, quiet, Distributed(cpu=True)).trainer.step == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_end_in_the_same_weights(tmp_path):
    """``kill -9`` at 20 random moments of a run, each time resumed with ``resume=auto``: the final policy is the
    uninterrupted one, byte for byte."""
    script = tmp_path / "run.py"
    script.write_text(_SCRIPT.format(root=str(ROOT)))
    whole = tmp_path / "whole"
    subprocess.run([sys.executable, str(script), str(whole)], check=True, cwd=ROOT)
    rng, kills, folder = random.Random(0), 0, tmp_path / "killed"
    for _ in range(200):
        process = subprocess.Popen([sys.executable, str(script), str(folder)], cwd=ROOT, start_new_session=True)
        if kills < 20:
            started = folder / "started"
            started.unlink(missing_ok=True)
            while not started.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.4))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
        process.wait()
        if (folder / "done").exists():
            break
    assert kills == 20
    for name in ("model.safetensors",):
        assert (folder / "policy" / name).read_bytes() == (whole / "policy" / name).read_bytes()
    lines = [[without_times(row) for row in read_jsonl(path / "metrics.jsonl")] for path in (whole, folder)]
    assert lines[0] == lines[1]


_SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.rl.test_resume import SCORE, config, quiet
from experiments.online import OnlineRun
from rl.backends.distributed import Distributed
from rl.checkpoint import save_policy
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
cfg = config(SCORE, save_every=1, save_every_updates=1, episodes=200 * 16)
run = OnlineRun(cfg, folder, quiet, Distributed(cpu=True))
(folder / "started").touch()
run.train()
save_policy(folder / "policy", run.bench.model, run.bench.tokenizer)
(folder / "done").touch()
"""
