"""A run that is interrupted anywhere and resumed ends like an uninterrupted run, bit for bit."""

import os
import random
import shutil
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from rl.checkpoint import Identity, ResumeError, hash_tasks, save_policy
from rl.config import (
    LoraConfig,
)
from rl.offline import OfflineTrainer
from rl.tracking import read_jsonl
from rl.workbench import content_of
from tests import programs
from tests.conftest import ROOT
from tests.rl.resuming import (
    DAPO,
    OFFLINE,
    PPO,
    SCORE,
    SIMPLE,
    TWICE,
    StopHereError,
    config,
    offline,
    online,
    play,
    without_times,
)


@pytest.mark.parametrize(
    "algorithm",
    [DAPO, *(pytest.param(one, marks=pytest.mark.slow) for one in (SCORE, PPO, OFFLINE))],
    ids=lambda one: one.name,
)
def test_every_checkpoint_leads_to_the_same_weights(algorithm, tmp_path):
    """A run resumed from any checkpoint ends with the weights and metrics of an uninterrupted run.

    Checkpoints fall between steps, between two optimiser steps of one rollout batch, and between stages.
    """
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


def test_checkpoints_fall_inside_batches_and_between_stages(tmp_path):
    """Some checkpoints do fall inside a batch and between stages, so that the test above covers these cases."""
    _, written = play(config(SCORE, save_every=1, save_every_updates=1), tmp_path)
    steps = [tuple(map(int, name.split("_"))) for name in written]
    assert (0, 1) in steps  # after the first of two optimiser steps of the first batch
    assert (3, 6) in steps  # after the last step of stage I


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    play(config(TWICE), tmp_path / "run", stop_after=1)
    names = [path.name for path in synced]
    assert {"rank_0.pt", "meta.json", "checkpoints"} <= set(names), names
    assert max(names.index("rank_0.pt"), names.index("meta.json")) < names.index("checkpoints")


def test_the_test_can_fail(tmp_path):
    """Another seed gives other weights, so equal weights in the other tests mean something."""
    first, _ = play(config(SCORE), tmp_path / "a")
    second, _ = play(replace(config(SCORE), seed=1), tmp_path / "b")
    assert not torch.equal(first, second)


def test_the_best_policy_survives_an_interruption(tmp_path):
    cfg = config(SCORE, select="best", save_every=1)
    play(cfg, tmp_path, stop_after=4)
    run = online(cfg, tmp_path)
    assert run.resumed
    best = dict(run._best)
    run.train()
    assert run.load_best()["accuracy"] >= best["accuracy"]


def test_only_the_last_checkpoints_are_kept_and_nothing_else_is_counted(tmp_path):
    others = ["000000_00000000.old", "999999_99999999", "notes.txt", "zz_mine"]
    for name in others:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    for name in ("notes.txt", "999999_99999999"):  # a file is no checkpoint, whatever its name
        (tmp_path / "checkpoints" / name).rmdir()
        (tmp_path / "checkpoints" / name).write_text("mine")
    _, written = play(config(SCORE, save_every=1, keep_last=3), tmp_path)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()} - set(others)
    assert sorted(kept) == written[-3:]
    assert all((tmp_path / "checkpoints" / name).exists() for name in others)
    newest = online(config(SCORE, save_every=1, keep_last=3), tmp_path).trainer
    assert f"{newest.step:06d}_{newest.n_updates:08d}" == written[-1]


def test_a_changed_config_is_refused_by_name(tmp_path):
    cfg = config(SCORE, save_every=1)
    play(cfg, tmp_path, stop_after=1)
    changed = config(SCORE, save_every=1)
    changed.algorithm.optim.lr = 1e-2
    with pytest.raises(ResumeError, match=r"changed: algorithm\.optim\.lr \(was 0\.003, is 0\.01\)"):
        online(changed, tmp_path)


MAY_CHANGE = {
    "algorithm.optim.micro_batch_tokens": 77,
    "algorithm.optim.gradient_checkpointing": True,
    "engine.urls": ["http://b"],
    "engine.max_batch_size": 7,
    "engine.timeout_s": 5.0,
    "engine.gpu_memory_utilization": 0.7,
    "training.validate_every": 1,
    "training.save_every": 3,
    "training.keep_last": 5,
    "evaluation.n_tasks": 5,
    "threads": 2,
    "data_dir": "/elsewhere",
    "training.episodes": 960,
}
MUST_STAY = {
    "seed": 3,
    "algorithm.optim.lr": 1e-5,
    "algorithm.optim.max_grad_norm": 9.0,
    "algorithm.optim.mixed_precision": "bf16",
    "algorithm.group_size": 8,
    "env.attempts": 3,
    "env.max_new_tokens": [5],
    "env.options": {"n_train": 65},
    "engine.name": "vllm",
    "engine.dtype": "bfloat16",
    "model.dtype": "bfloat16",
    "model.context_length": 99,
    "training.tasks_per_step": 2,
    "training.episodes": 32,
}


def changed(cfg, key, value):
    node = cfg
    *path, last = key.split(".")
    for name in path:
        node = getattr(node, name)
    setattr(node, last, value)
    return cfg


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_what_decides_nothing_that_is_learned_may_change(key):
    stored = Identity.of(constant(SIMPLE), "train")
    Identity.of(changed(constant(SIMPLE), key, MAY_CHANGE[key]), "train").refuse(stored)


@pytest.mark.parametrize("key", MUST_STAY)
def test_what_decides_what_is_learned_may_not(key):
    stored = Identity.of(constant(SIMPLE), "train")
    with pytest.raises(ResumeError, match=key.replace(".", r"\.")):
        Identity.of(changed(constant(SIMPLE), key, MUST_STAY[key]), "train").refuse(stored)


def constant(algorithm):
    cfg = config(deepcopy(algorithm))
    cfg.algorithm.optim.schedule = "constant"
    return cfg


@pytest.mark.parametrize("algorithm", [SIMPLE, SCORE], ids=["a schedule", "stages"])
def test_a_budget_that_something_stretches_over_may_not_grow(algorithm):
    cfg = config(deepcopy(algorithm)) if algorithm is SIMPLE else constant(algorithm)
    stored = Identity.of(cfg, "train")
    with pytest.raises(ResumeError, match="no later stage depends on it"):
        Identity.of(changed(deepcopy(cfg), "training.episodes", 960), "train").refuse(stored)


def test_validation_may_not_change_where_it_chooses_the_policy():
    cfg = changed(constant(SIMPLE), "training.select", "best")
    stored = Identity.of(cfg, "train")
    with pytest.raises(ResumeError, match=r"training\.validate_every"):
        Identity.of(changed(deepcopy(cfg), "training.validate_every", 1), "train").refuse(stored)


def test_more_episodes_go_on_where_the_run_was(tmp_path):
    """A finished run of six steps that is given a budget of six more equals a run of twelve steps."""
    play(changed(constant(SIMPLE), "training.episodes", 192), tmp_path / "whole")
    whole = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    play(changed(constant(SIMPLE), "training.save_every", 1), tmp_path / "more")
    play(changed(changed(constant(SIMPLE), "training.episodes", 192), "training.save_every", 1), tmp_path / "more")
    assert [without_times(row) for row in read_jsonl(tmp_path / "more" / "metrics.jsonl")] == [
        without_times(row) for row in whole
    ]


def test_other_contents_behind_the_same_names_are_refused_by_name(tmp_path):
    cfg = config(SIMPLE)
    cfg.model.path = str(tmp_path / "model")
    shutil.copytree(ROOT / "models" / "modchain", cfg.model.path)
    template = tmp_path / "chat.jinja"
    template.write_text("one")
    cfg.model.chat_template = str(template)
    stored = Identity.of(cfg, "train", content_of(cfg))

    def refused():
        with pytest.raises(ResumeError) as caught:
            Identity.of(cfg, "train", content_of(cfg)).refuse(stored)
        return str(caught.value)

    template.write_text("two")
    assert "chat template" in refused()
    template.write_text("one")
    weights = Path(cfg.model.path) / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert "model file model.safetensors" in refused()
    weights.write_bytes(before)
    Identity.of(cfg, "train", content_of(cfg)).refuse(stored)
    cfg.model.path = str(ROOT / "models" / "modchain")  # the same files under another path are the same model
    Identity.of(cfg, "train", content_of(cfg)).refuse(stored)
    other = replace(stored, content=stored.content | {"training tasks": "others"})
    with pytest.raises(ResumeError, match="training tasks"):
        Identity.of(cfg, "train", content_of(cfg)).refuse(other)


def test_an_offline_arm_goes_on_with_the_round_that_it_was_in(tmp_path, monkeypatch):
    whole = offline(tmp_path / "whole")
    train_round = OfflineTrainer.train_round

    def killed(self, episodes):
        if self.round == 2:
            raise StopHereError
        return train_round(self, episodes)

    monkeypatch.setattr(OfflineTrainer, "train_round", killed)
    with pytest.raises(StopHereError):
        offline(tmp_path / "cut")
    played = []
    monkeypatch.setattr(OfflineTrainer, "train_round", lambda *args: played.append(1) or train_round(*args))
    again = offline(tmp_path / "cut")
    assert len(played) == 1  # of three rounds
    assert again.notes == whole.notes
    assert {**again.totals, "seconds": 0} == {**whole.totals, "seconds": 0}
    for name in ("policy/model.safetensors", "metrics.jsonl", "rounds.jsonl", "rows.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_checkpoints_of_adapters_do_not_hold_the_base(tmp_path):
    cfg = config(SIMPLE, save_every=1)
    cfg.model.lora = LoraConfig(rank=2)
    expected, written = play(cfg, tmp_path / "whole")
    play(cfg, tmp_path / "cut", stop_after=3)
    resumed, _ = play(cfg, tmp_path / "cut")
    assert torch.equal(resumed, expected)
    metadata = FileSystemReader(tmp_path / "whole" / "checkpoints" / written[-1]).read_metadata().state_dict_metadata
    names = [name for name in metadata if not name.startswith("optimizer.")]
    assert names
    assert all(".lora_" in name for name in names)


def test_task_hashes_see_the_content_and_the_order():
    from envs import Task

    a, b = Task("1", "x", "1"), Task("2", "y", "2")
    assert hash_tasks([a, b]) == hash_tasks([Task("1", "x", "1"), b])
    assert len({hash_tasks([a, b]), hash_tasks([b, a]), hash_tasks([a]), hash_tasks([a, replace(b, gold="3")])}) == 4


@pytest.mark.slow(80)
def test_twenty_kills_end_in_the_same_weights(tmp_path):
    """A run that is killed (``kill -9``) at 20 random moments and resumed each time ends with the same policy.

    Policy and metrics are compared with those of an uninterrupted run, the policy byte for byte.
    """
    whole = tmp_path / "whole"
    programs.start(long_run, whole).join()
    assert (whole / "done").exists()
    rng, kills, folder = random.Random(0), 0, tmp_path / "killed"
    for _ in range(200):
        process = programs.start(long_run, folder)
        if kills < 20:
            started = folder / "started"
            started.unlink(missing_ok=True)
            while not started.exists() and process.is_alive():
                time.sleep(0.01)
            for _ in range(rng.randrange(3)):  # count checkpoints, as the run could end before 20 kills
                seen = newest(folder)
                while newest(folder) == seen and process.is_alive():
                    time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.1))
            if process.is_alive():
                process.kill()
                kills += 1
        process.join()
        if (folder / "done").exists():
            break
    assert kills == 20
    for name in ("model.safetensors",):
        assert (folder / "policy" / name).read_bytes() == (whole / "policy" / name).read_bytes()
    lines = [[without_times(row) for row in read_jsonl(path / "metrics.jsonl")] for path in (whole, folder)]
    assert lines[0] == lines[1]


def newest(folder):
    return max((path.name for path in (folder / "checkpoints").glob("0*")), default="")


def long_run(folder):
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    cfg = config(SCORE, save_every=1, save_every_updates=1, episodes=80 * 16)
    run = online(cfg, folder)
    (folder / "started").touch()
    run.train()
    save_policy(folder / "policy", run.bench.model, run.bench.tokenizer)
    (folder / "done").touch()
