"""Interrupted and resumed is uninterrupted, bit for bit, wherever the interruption falls."""

import errno
import os
import random
import shutil
import signal
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from experiments.arms import run_offline
from experiments.folders import is_complete
from experiments.online import OnlineRun, run_online
from experiments.stopping import EXIT_PREEMPTED, Stopping
from rl.backends.distributed import Distributed
from rl.checkpoint import Identity, ResumeError, hash_tasks, save_policy
from rl.config import (
    AlgorithmConfig,
    BudgetConfig,
    CriticConfig,
    EvalConfig,
    LoraConfig,
    OfflineConfig,
    SFTConfig,
    StageConfig,
    TermConfig,
)
from rl.learner import Learner
from rl.offline import OfflineTrainer
from rl.tracking import read_jsonl
from rl.trainer import Trainer
from rl.types import RunStoppedError
from rl.workbench import content_of
from tests import programs
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

TWICE = AlgorithmConfig(name="twice", group_size=4, epochs=2)


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


def online(cfg, folder):
    folder.mkdir(parents=True, exist_ok=True)
    distributed = Distributed(cpu=True)
    return OnlineRun(cfg, folder, quiet, distributed, Stopping(folder, distributed))


def play(cfg, folder, stop_after=None):
    """Runs to the end, or until so many checkpoints are written; returns the weights or None."""
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


@pytest.mark.parametrize(
    "algorithm",
    [DAPO, *(pytest.param(one, marks=pytest.mark.slow) for one in (SCORE, PPO, OFFLINE))],
    ids=lambda one: one.name,
)
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


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    play(config(TWICE), tmp_path / "run", stop_after=1)
    names = [path.name for path in synced]
    assert {"rank_0.pt", "meta.json", "checkpoints"} <= set(names), names
    assert max(names.index("rank_0.pt"), names.index("meta.json")) < names.index("checkpoints")


def test_the_test_can_fail(tmp_path):
    """Another seed gives other weights: equality is not for free."""
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


def test_only_the_last_checkpoints_are_kept(tmp_path):
    _, written = play(config(SCORE, save_every=1, keep_last=3), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == written[-3:]


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
SIMPLE = AlgorithmConfig(name="simple", group_size=4)


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
    with pytest.raises(ResumeError, match="stretches over it"):
        Identity.of(changed(deepcopy(cfg), "training.episodes", 960), "train").refuse(stored)


def test_validation_may_not_change_where_it_chooses_the_policy():
    cfg = changed(constant(SIMPLE), "training.select", "best")
    stored = Identity.of(cfg, "train")
    with pytest.raises(ResumeError, match=r"training\.validate_every"):
        Identity.of(changed(deepcopy(cfg), "training.validate_every", 1), "train").refuse(stored)


def test_more_episodes_go_on_where_the_run_was(tmp_path):
    """Six steps and then six more are twelve."""
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
    cfg.model.path = str(ROOT / "models" / "modchain")  # the same model elsewhere is the same model
    Identity.of(cfg, "train", content_of(cfg)).refuse(stored)
    other = replace(stored, content=stored.content | {"training tasks": "others"})
    with pytest.raises(ResumeError, match="training tasks"):
        Identity.of(cfg, "train", content_of(cfg)).refuse(other)


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


def spoil(monkeypatch, field, value, at):
    """Makes one number of the scored rows wrong, at one optimiser step."""
    update, calls = Learner.update, []

    def spoilt(self, train, *args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            tensor = getattr(train, field).clone()
            tensor[train.rollout.response_mask] = value
            train = replace(train, **{field: tensor})
        return update(self, train, *args, **kwargs)

    monkeypatch.setattr(Learner, "update", spoilt)


@pytest.mark.parametrize(("field", "value"), [("advantages", float("nan")), ("advantages", float("inf"))])
def test_a_step_that_is_not_finite_stops_the_run_and_is_no_checkpoint(field, value, tmp_path, monkeypatch):
    cfg = config(SIMPLE, save_every=1)
    spoil(monkeypatch, field, value, at=3)
    with pytest.raises(RunStoppedError, match=rf"not finite before an optimiser step: {field}, policy/loss"):
        play(cfg, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["000001_00000001", "000002_00000002"]
    saved = load_file(tmp_path / "policy_interrupted" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in saved.values())


def test_a_step_that_is_not_finite_can_be_left_out_and_is_counted(tmp_path, monkeypatch):
    cfg = config(SIMPLE, nonfinite="skip", validate_every=0)
    spoil(monkeypatch, "advantages", float("nan"), at=3)
    weights, _ = play(cfg, tmp_path)
    assert bool(weights.isfinite().all())
    steps = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "policy/loss" in row]
    assert [row["optim/skipped"] for row in steps] == [0, 0, 1, 0, 0, 0]


def test_fine_tuning_stops_before_a_step_that_is_not_finite(tmp_path, monkeypatch):
    train_round = OfflineTrainer.train_round

    def spoilt(self, episodes):
        if self.round == 1:
            with torch.no_grad():
                list(self._model.parameters())[-1].fill_(float("nan"))
        return train_round(self, episodes)

    monkeypatch.setattr(OfflineTrainer, "train_round", spoilt)
    with pytest.raises(RunStoppedError, match="step 1: the gradient is not finite, and the step was not taken"):
        offline(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = online(config(SIMPLE, save_every=1), tmp_path)
    run.trainer.train_step()
    with torch.no_grad():
        next(run.bench.model.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(RunStoppedError, match="not saved: 1 tensors hold numbers that are not finite"):
        run._save()
    run._tracker.close()
    assert not (tmp_path / "checkpoints").exists()


def in_step(monkeypatch, step, do):
    """Does something in the middle of a training step."""
    sample = Trainer._sample

    def sampled(self, stage):
        if self.step == step:
            do()
        return sample(self, stage)

    monkeypatch.setattr(Trainer, "_sample", sampled)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_finishes_the_optimiser_step_and_saves(number, tmp_path, monkeypatch, capsys):
    """Even if no checkpoints were asked for; and what is left of the rollout batch is trained on afterwards."""
    cfg = config(TWICE)
    run_online(cfg, made(tmp_path / "whole"), quiet)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        in_step(patch, 2, lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as caught:
            run_online(cfg, made(tmp_path / "cut"), quiet)
    assert caught.value.code == EXIT_PREEMPTED == 75
    assert f"go on with resume={tmp_path / 'cut'}" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["000002_00000005"]
    assert not (tmp_path / "cut" / "policy_interrupted").exists()
    run_online(cfg, tmp_path / "cut", quiet)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_signal_during_the_evaluation_costs_no_training(tmp_path):
    cfg = config(SIMPLE, save_every=4)
    run_online(cfg, made(tmp_path / "whole"), quiet)

    def signalled(what, share, metrics):
        if what == "evaluating":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        run_online(cfg, made(tmp_path / "cut"), signalled)
    steps = []
    run_online(cfg, tmp_path / "cut", lambda what, *_: steps.append(what))
    assert "training" not in steps
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_signal_ends_an_offline_arm_between_rounds_that_are_kept(tmp_path):
    offline(tmp_path / "whole")

    def signalled(what, share, metrics):
        if what == "sampling" and share > 0.5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        offline(tmp_path / "cut", report=signalled)
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["000001"]
    offline(tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


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


def full_disk_of_a_library(*_args, **_kwargs):
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_disk_of_torch(*_args, **_kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("rl.checkpoint.write_tensors", full_disk),
        ("rl.backends.weights.checkpoint.save", full_disk_of_torch),
        ("rl.checkpoint.torch.save", full_disk),
        ("rl.checkpoint.write_json", full_disk),
        ("rl.checkpoint.save_pretrained", full_disk_of_a_library),
        ("rl.tracking.JsonLines.write", full_disk),
        ("experiments.arms.write_json", full_disk),
    ],
    ids=["tensors", "archive", "state", "meta", "policy", "metrics", "result"],
)
def test_a_full_disk_is_one_sentence_leaves_nothing_half_written_and_the_run_goes_on(
    where, what, tmp_path, monkeypatch
):
    cfg = config(SIMPLE, save_every=1)
    run_online(cfg, made(tmp_path / "whole"), quiet)
    with monkeypatch.context() as patch:
        in_step(patch, 2, lambda: patch.setattr(where, what))
        with pytest.raises(RunStoppedError, match=r"^no space left on the disk of .*; make room.*go on with resume="):
            run_online(cfg, made(tmp_path / "cut"), quiet)
    left = [path.name for path in (tmp_path / "cut").rglob(".*")]
    assert [name for name in left if name != ".metadata"] == []
    run_online(cfg, tmp_path / "cut", quiet)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_policy_that_has_no_room_costs_no_rows(tmp_path, monkeypatch):
    cfg = config(SIMPLE, save_every=1)
    monkeypatch.setattr("rl.checkpoint.save_pretrained", full_disk)
    with pytest.raises(RunStoppedError):
        run_online(cfg, made(tmp_path / "run"), quiet)
    assert (tmp_path / "run" / "rows.jsonl").exists()
    assert (tmp_path / "run" / "result.json").exists()
    assert not is_complete(tmp_path / "run")


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
    assert online(cfg, tmp_path).trainer.step == 1


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink], ids=["cut", "flipped", "gone"])
@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "rank_0.pt", "meta.json"])
def test_a_damaged_checkpoint_is_passed_over(file, harm, tmp_path):
    cfg = config(SIMPLE, save_every=1)
    play(cfg, tmp_path, stop_after=2)
    harm(sorted((tmp_path / "checkpoints").iterdir())[-1] / file)
    with pytest.warns(UserWarning, match=rf"checkpoint 000002_00000002 is damaged \({file}\)"):
        run = online(cfg, tmp_path)
    run._tracker.close()
    assert run.trainer.step == 1


def test_no_whole_checkpoint_at_all_is_an_error(tmp_path):
    cfg = config(SIMPLE, save_every=1)
    play(cfg, tmp_path, stop_after=1)
    cut(tmp_path / "checkpoints" / "000001_00000001" / "rank_0.pt")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ResumeError, match="all checkpoints"):
        online(cfg, tmp_path)


@pytest.mark.slow(80)
def test_twenty_kills_end_in_the_same_weights(tmp_path):
    """``kill -9`` at 20 random moments of a run, each time resumed with ``resume=auto``: the final policy is the
    uninterrupted one, byte for byte."""
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
            for _ in range(rng.randrange(3)):  # checkpoints, not seconds: the run must not end before its kills
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
