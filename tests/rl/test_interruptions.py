"""However a run is interrupted, and wherever: its work is kept, one sentence gives the reason, it resumes exactly."""

import importlib
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.arms import run_base
from experiments.folders import is_complete
from experiments.online import run_online
from experiments.stopping import Preempted
from rl import learner
from rl.backends.weights import write_tensors
from rl.checkpoint import ResumeError, checkpoint_names, save_policy
from rl.config import AlgorithmConfig, CriticConfig, LoraConfig, TrackingConfig
from rl.losses import value_loss
from rl.tracking import read_jsonl
from rl.trainer import Trainer
from rl.types import RunStoppedError
from rl.workbench import Workbench
from tests.conftest import ROOT
from tests.rl.resuming import SIMPLE, assert_same_run, config, full_disk, made, online, play, quiet

SHOWN = TrackingConfig(["tensorboard"], conversations=1, conversations_every=1)


def a_run(**changes):
    cfg = config(SIMPLE, save_every=1, episodes=3 * 16)
    return replace(cfg, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_online(a_run(), made(folder), quiet)
    return folder


def at_call(monkeypatch, where, call, do):
    """Calls ``do`` before the given call of a function and before all later calls; ``where`` is the function's path."""
    place, _, name = where.rpartition(".")
    try:
        owner = importlib.import_module(place)
    except ModuleNotFoundError:
        module, _, kind = place.rpartition(".")
        owner = getattr(importlib.import_module(module), kind)
    original, calls = getattr(owner, name), []

    def called(*args, **kwargs):
        calls.append(1)
        if len(calls) >= call:
            do()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def signalled():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("where", "call", "times"),
    [
        ("experiments.arms.play", 1, 1),  # the validation before the first step
        ("experiments.arms.play", 2, 1),
        ("experiments.arms.play", 2, 2),
        ("rl.checkpoint.write_tensors", 2, 1),
        ("rl.checkpoint.write_tensors", 3, 3),  # the checkpoint of the last step
        ("rl.checkpoint.save_pretrained", 1, 1),  # only the policy is left to be written
    ],
)
def test_a_signal_costs_nothing_wherever_it_falls(where, call, times, whole, tmp_path, monkeypatch):
    folder = made(tmp_path / "run")
    with monkeypatch.context() as patch:
        at_call(patch, where, call, lambda: [signalled() for _ in range(times)])
        stopped = False
        try:
            run_online(a_run(), folder, quiet)
        except Preempted:
            stopped = True
    assert is_complete(folder) != stopped, "it ends by itself only where nothing was left to stop"
    # Before the first step there is nothing to save.
    assert (folder / "checkpoints").exists() == ((where, call) != ("experiments.arms.play", 1))
    run_online(a_run(), folder, quiet)
    assert_same_run(folder, whole)


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("rl.tracking.write_text", 1),  # the run's identity
        ("rl.tracking.write_json", 2),  # metrics.json
        ("rl.tracking.Tracker.episodes", 2),
        ("rl.tracking.Tracker.conversations", 2),
        ("rl.tracking.JsonLines.close", 1),
        ("rl.backends.trackers.Trackers.log", 3),
        ("rl.backends.trackers.Trackers.table", 2),
        ("experiments.arms.write_jsonl", 1),  # the evaluation rows
        ("experiments.arms.write_jsonl", 2),  # the evaluation tasks
    ],
)
def test_a_full_disk_is_one_sentence_at_any_file(where, call, whole, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    cfg, folder = a_run(tracking=SHOWN), made(tmp_path / "run")
    with monkeypatch.context() as patch:
        at_call(patch, where, call, full_disk)
        with pytest.raises(
            RunStoppedError, match=r"^no space left on the disk of .*; make room, then continue with resume="
        ):
            run_online(cfg, folder, quiet)
    assert [path.name for path in folder.rglob(".*") if path.name != ".metadata"] == []
    run_online(cfg, folder, quiet)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("kind", ["separate", "shared"])
@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_a_critics_loss_that_is_no_number_is_no_step(kind, nonfinite, tmp_path, monkeypatch):
    algorithm = AlgorithmConfig(name="ppo", group_size=4, advantage="gae", critic=CriticConfig(kind))
    cfg, calls = config(algorithm, save_every=1, nonfinite=nonfinite, validate_every=0, episodes=4 * 16), []

    def spoilt(*args, **kwargs):
        calls.append(1)
        out = value_loss(*args, **kwargs)
        return replace(out, loss=out.loss * float("nan")) if len(calls) == 3 else out

    monkeypatch.setattr(learner, "value_loss", spoilt)
    if nonfinite == "stop":
        with pytest.raises(RunStoppedError, match=r"not finite before an optimiser step: critic/loss \(nan\)"):
            play(cfg, tmp_path)
        assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "000002_00000002"
        return
    weights, _ = play(cfg, tmp_path)
    assert bool(weights.isfinite().all())
    rows = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "policy/loss" in row]
    assert [row["optim/skipped"] for row in rows] == [0, 0, 1, 0]


@pytest.fixture
def listens():
    """Makes this process react to Ctrl-C, which is ignored if the tests run as a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_a_checkpoint_is_written_waits_for_it(whole, tmp_path, monkeypatch, listens):
    folder = made(tmp_path / "run")
    with monkeypatch.context() as patch:
        at_call(patch, "rl.checkpoint.write_tensors", 1, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            run_online(a_run(), folder, quiet)
    assert checkpoint_names(folder / "checkpoints") == ["000001_00000001"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run_online(a_run(), folder, quiet)
    assert_same_run(folder, whole)


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "do"),
    [
        ("torch.distributed.checkpoint.FileSystemWriter.write_data", interrupted),  # torch wraps what is raised there
        ("torch.distributed.checkpoint.FileSystemWriter.write_data", lambda: ctrl_c(2)),
        ("rl.checkpoint.torch.save", lambda: ctrl_c(2)),
    ],
)
def test_an_interrupt_within_the_writer_is_one_and_leaves_no_half_checkpoint(
    where, do, whole, tmp_path, monkeypatch, listens
):
    folder = made(tmp_path / "run")
    with monkeypatch.context() as patch:
        at_call(patch, where, 1, do)
        with pytest.raises(KeyboardInterrupt):
            run_online(a_run(), folder, quiet)
    assert not list((folder / "checkpoints").iterdir())
    run_online(a_run(), folder, quiet)
    assert_same_run(folder, whole)


def test_what_fails_within_torchs_writer_is_raised_itself(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "/there")

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", refused)
    with pytest.raises(PermissionError, match="/there"):
        write_tensors({"a": torch.ones(2)}, tmp_path, 1)


def poison(model):
    with torch.no_grad():
        list(model.parameters())[-1].fill_(float("nan"))


def test_a_policy_of_no_numbers_is_neither_evaluated_nor_kept(tmp_path, monkeypatch):
    """Greedy answers of a policy with NaN weights would all be the same token, whose rates would look like a result."""
    build = Workbench.build

    def poisoned(*args):
        bench = build(*args)
        poison(bench.model)
        return bench

    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "build", staticmethod(poisoned))
        with pytest.raises(RunStoppedError, match=r"^greedy: \d+ answers have log-probs that are not finite"):
            run_base(a_run(), made(tmp_path / "base"), quiet)
        assert not list((tmp_path / "base").iterdir())
    bench = build(a_run())
    save_policy(tmp_path / "policy", bench.model, bench.tokenizer)
    before = (tmp_path / "policy" / "model.safetensors").read_bytes()
    poison(bench.model)
    with pytest.raises(RunStoppedError, match=r"policy is not written: 1 tensor holds .*not finite"):
        save_policy(tmp_path / "policy", bench.model, bench.tokenizer)
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_weights_that_are_lost_on_the_way_stop_the_run_before_its_evaluation(nonfinite, tmp_path, monkeypatch):
    """With ``nonfinite=skip`` every later step would be skipped, and the evaluation would use NaN weights."""
    sample = Trainer._sample

    def spoilt(self, stage):
        if self.step == 1:
            poison(self._model)
        return sample(self, stage)

    monkeypatch.setattr(Trainer, "_sample", spoilt)
    cfg = a_run()
    cfg.training = replace(cfg.training, nonfinite=nonfinite, save_every=0, validate_every=0)
    with pytest.raises(RunStoppedError, match="not finite"):
        run_online(cfg, made(tmp_path / "run"), quiet)
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "policy_interrupted").exists()
    assert not (tmp_path / "run" / "policy").exists()


def test_adapters_go_on_with_their_own_base_only(tmp_path):
    """Checkpoints of adapters do not hold the base, so another base under the same path would go unnoticed."""
    cfg = a_run()
    cfg.model.path, cfg.model.lora = str(tmp_path / "base"), LoraConfig(rank=2)
    shutil.copytree(ROOT / "models" / "modchain", cfg.model.path)
    play(cfg, tmp_path / "run", stop_after=1)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    changed = {name: tensor + 0.01 for name, tensor in weights.items()}
    save_file(changed, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ResumeError, match=r"files that it names have changed: model file model\.safetensors"):
        online(cfg, tmp_path / "run")
    cfg.model.path = str(ROOT / "models" / "modchain")
    cfg.model.lora = LoraConfig(rank=4)
    with pytest.raises(ResumeError, match=r"model\.lora\.rank \(was 2, is 4\)"):
        online(cfg, tmp_path / "run")
    cfg.model.lora = LoraConfig(rank=2)
    run = online(cfg, tmp_path / "run")
    run._tracker.close()
    assert run.trainer.step == 1
