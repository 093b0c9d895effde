"""What stops a run (non-finite numbers, signals, a full disk, damaged checkpoints), and that finished work is kept."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.folders import is_complete
from experiments.online import run_online
from experiments.stopping import Preempted
from rl.checkpoint import ResumeError
from rl.learner import Learner
from rl.offline import OfflineTrainer
from rl.tracking import read_jsonl
from rl.types import RunStoppedError
from tests.rl.resuming import (
    SCORE,
    SIMPLE,
    TWICE,
    assert_same_run,
    config,
    full_disk,
    in_step,
    made,
    offline,
    online,
    play,
    quiet,
)


def spoil(monkeypatch, field, value, at):
    """Sets a field of the scored rows to ``value`` on the response, at optimiser step number ``at``."""
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
    with pytest.raises(RunStoppedError, match="not saved: 1 tensor holds numbers that are not finite"):
        run._save()
    run._tracker.close()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_finishes_the_optimiser_step_and_saves(number, tmp_path, monkeypatch):
    """A signal saves even if no checkpoints are configured; the resumed run trains on the rest of the rollout batch."""
    cfg = config(TWICE)
    run_online(cfg, made(tmp_path / "whole"), quiet)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        in_step(patch, 2, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Preempted, match=f"continue with resume={tmp_path / 'cut'}"):
            run_online(cfg, made(tmp_path / "cut"), quiet)
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["000002_00000005"]
    assert not (tmp_path / "cut" / "policy_interrupted").exists()
    run_online(cfg, tmp_path / "cut", quiet)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_signal_before_the_first_step_ends_the_run_and_nothing_is_left_that_a_resume_would_miss(tmp_path):
    cfg = config(SIMPLE, save_every=4)
    run_online(cfg, made(tmp_path / "whole"), quiet)
    seen = []

    def signalled(what, share, metrics):
        seen.append(what)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="continue with resume"):
        run_online(cfg, made(tmp_path / "cut"), signalled)
    assert set(seen) == {"validation"}
    assert not (tmp_path / "cut" / "checkpoints").exists()
    run_online(cfg, tmp_path / "cut", quiet)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_signal_during_the_evaluation_costs_no_training(tmp_path):
    cfg = config(SIMPLE, save_every=4)
    run_online(cfg, made(tmp_path / "whole"), quiet)

    def signalled(what, share, metrics):
        if what == "evaluating":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
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

    with pytest.raises(Preempted):
        offline(tmp_path / "cut", report=signalled)
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["000001"]
    offline(tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


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
        with pytest.raises(
            RunStoppedError, match=r"^no space left on the disk of .*; make room.*continue with resume="
        ):
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


def test_half_a_checkpoint_is_none(tmp_path):
    """A checkpoint that was being written when the process died still has its temporary name and is never loaded."""
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
