"""Run folders: no two runs share one, no process enters that of a live run, and only a matching run is resumed."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments import folders
from experiments.folders import Lock, LockedError, choose_folder, hold
from experiments.schema import StudyChoice, StudyConfig
from rl.checkpoint import Identity, ResumeError
from rl.config import RunConfig, SFTConfig
from rl.workbench import content_of
from tests.conftest import ROOT
from tests.helpers import modchain_config


@pytest.fixture(autouse=True)
def release():
    yield
    for lock in folders._held.values():
        lock.release()
    folders._held.clear()


def config(tmp_path, resume=None, seed=0, **optim):
    cfg = modchain_config(seed=seed, **optim)
    cfg.runs_dir, cfg.resume = str(tmp_path), resume
    return cfg


def choose(cfg, tmp_path, kind="train", **more):
    return choose_folder(cfg, kind, tmp_path / cfg.name, "now", **more)


def leave(folder):
    """Releases the folder's lock, as if the process of its run had ended."""
    folders._held.pop(folder.resolve()).release()
    return folder


def finish(folder):
    (folder / "result.json").touch()
    (folder / "policy").mkdir()
    (folder / "policy" / "config.json").touch()


def test_runs_that_start_at_once_have_folders_of_their_own(tmp_path):
    cfg = config(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: choose(cfg, tmp_path), range(64)))
    assert len(set(found)) == 64


def test_auto_goes_on_with_the_newest_of_the_same_identity_that_nobody_works_on(tmp_path):
    first, second = choose(config(tmp_path), tmp_path), choose(config(tmp_path), tmp_path)
    other_seed = leave(choose(config(tmp_path, seed=1), tmp_path))
    leave(choose(config(tmp_path, lr=0.5), tmp_path))
    auto = config(tmp_path, "auto")
    assert choose(auto, tmp_path).name == "now_4"  # both matching runs are alive
    leave(first)
    leave(second)
    assert choose(auto, tmp_path) == second
    assert choose(auto, tmp_path) == first
    assert choose(config(tmp_path, "auto", seed=1), tmp_path) == other_seed
    finish(leave(second))
    leave(first)
    assert choose(auto, tmp_path) == first
    cfg = config(tmp_path, "auto", seed=2)
    cfg.name = "elsewhere"
    assert choose(cfg, tmp_path) == tmp_path / "elsewhere" / "now"


def test_auto_passes_over_runs_on_other_data(tmp_path):
    cfg = config(tmp_path)
    folder = leave(choose(cfg, tmp_path))
    Identity.of(cfg, "train", content_of(cfg) | {"training tasks": "others"}).write(folder)
    assert choose(config(tmp_path, "auto"), tmp_path).name == "now_1"
    Identity.of(cfg, "train", content_of(cfg)).write(folder)
    assert choose(config(tmp_path, "auto"), tmp_path) == folder


def test_what_a_run_is_made_of_is_not_looked_for_in_the_whole_working_folder(tmp_path, monkeypatch):
    """Walking the working folder would raise, since other runs may remove their checkpoints at the same time."""

    def vanish(folder, pattern):
        raise FileNotFoundError(folder)

    cfg = config(tmp_path)
    monkeypatch.setattr(Path, "rglob", vanish)
    assert "training tasks" in content_of(cfg)


def named(tmp_path, folder, kind="train", **more):
    return choose(config(tmp_path, str(folder), **more), tmp_path, kind)


def test_a_folder_is_only_taken_if_it_holds_a_run_of_this_kind_and_config(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResumeError, match="no run of this program"):
        named(tmp_path, tmp_path / "empty")
    with pytest.raises(ResumeError, match="there is no such folder"):
        named(tmp_path, tmp_path / "nowhere")
    evaluation = leave(choose(RunConfig(name="evaluate", model=config(tmp_path).model), tmp_path, "evaluate"))
    with pytest.raises(ResumeError, match=r"run of experiments\.evaluate, which experiments\.train"):
        named(tmp_path, evaluation)
    sft = leave(choose(SFTConfig(name="sft", model=config(tmp_path).model), tmp_path, "sft"))
    with pytest.raises(ResumeError, match=r"run of experiments\.sft"):
        named(tmp_path, sft)
    folder = choose(config(tmp_path), tmp_path)
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        named(tmp_path, folder)
    leave(folder)
    with pytest.raises(ResumeError, match=r"optim\.lr"):  # even though there is no checkpoint yet
        named(tmp_path, folder, lr=0.5)
    with pytest.raises(ResumeError, match="seed"):
        named(tmp_path, folder, seed=5)
    assert leave(named(tmp_path, folder)) == folder
    finish(folder)
    with pytest.raises(ResumeError, match="the run in it is finished"):
        named(tmp_path, folder)


def test_a_name_that_is_no_runs_folder_is_refused_and_a_link_is_followed(tmp_path):
    run = leave(choose(config(tmp_path), tmp_path))
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (run / "checkpoints").mkdir()
    for name in ("file", "loop", "broken", f"{run}/checkpoints", f"{run}/identity.json"):
        with pytest.raises(ResumeError, match="there is no such folder, or no run of this program"):
            choose(config(tmp_path, str(tmp_path / name)), tmp_path)
    for kind in ("compare", "evaluate", "tune", "warm_start"):
        (tmp_path / kind).mkdir()
        Identity(kind, {"x": 1}).write(tmp_path / kind)
        with pytest.raises(
            ResumeError, match=rf"that is a run of experiments\.{kind}, which experiments\.train cannot"
        ):
            choose(config(tmp_path, str(tmp_path / kind)), tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "identity.json").write_text("{")
    with pytest.raises(ResumeError, match=r"identity\.json cannot be read"):
        choose(config(tmp_path, str(tmp_path / "half")), tmp_path)
    (tmp_path / "link").symlink_to(run)
    taken = choose(config(tmp_path, str(tmp_path / "link")), tmp_path)
    assert taken.resolve() == run.resolve()
    with pytest.raises(ResumeError, match="in use by"):
        choose(config(tmp_path, str(run)), tmp_path)


def test_a_sweep_goes_on_job_by_job(tmp_path):
    sweep = tmp_path / "test" / "then_multirun"
    jobs = [
        leave(choose_folder(config(tmp_path, seed=seed), "train", sweep, str(seed), sweep=True)) for seed in range(3)
    ]
    finish(jobs[0])
    for resume in ("auto", str(sweep)):
        for seed in range(3):
            cfg = config(tmp_path, resume, seed=seed)
            assert leave(choose_folder(cfg, "train", tmp_path / "test" / "now_multirun", "x", sweep=True)) == jobs[seed]
    one = leave(choose_folder(config(tmp_path, str(sweep), seed=1), "train", tmp_path, "x"))
    assert one == jobs[1]  # a single run finds its job in the folder of the sweep
    more = leave(choose_folder(config(tmp_path, str(sweep), seed=3), "train", tmp_path, "3", sweep=True))
    assert more == sweep / "3"  # an added seed gets a new folder in the sweep
    with pytest.raises(ResumeError, match="no run in it"):
        choose_folder(config(tmp_path, str(sweep), seed=4), "train", tmp_path, "x")


def test_a_sweep_of_studies_goes_on_study_by_study(tmp_path):
    sweep = tmp_path / "study" / "then_multirun"

    def job(name, number, resume=None, seeds=(10, 11), **more):
        cfg = StudyConfig(study=StudyChoice(name), seeds=list(seeds), runs_dir=str(tmp_path), resume=resume, **more)
        return leave(choose_folder(cfg, "study", sweep if resume is None else tmp_path / "now", number, sweep=True))

    first, second = job("collapse", "0"), job("skills", "1")
    for resume in ("auto", str(sweep)):
        assert job("collapse", "0", resume) == first
        assert job("skills", "1", resume, seeds=(10, 11, 12), executor_options={"workers": 1}) == second
    assert job("self_edits", "2", str(sweep)) == sweep / "2"  # a study that was not begun before
    assert job("skills", "1", "auto", size="smoke") == tmp_path / "now" / "1"  # another size is another study


def test_a_job_of_a_sweep_that_a_cluster_starts_again_goes_on_in_its_folder(tmp_path):
    def job(seed):
        return choose_folder(config(tmp_path, seed=seed), "train", tmp_path / "sweep", "0", sweep=True)

    first = job(0)
    other = leave(job(0))
    assert other.name == "0_1"  # a live first job means that this is another sweep, begun in the same second
    leave(first)
    assert leave(job(0)) == first
    assert leave(job(1)).name == "0_2"


def holder(folder):
    """Starts a process that holds the lock of the folder."""
    code = (
        f"import sys; from pathlib import Path; from experiments.folders import Lock; Lock(Path({str(folder)!r}));"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_holds_nothing_and_its_successor_everything(tmp_path):
    process = holder(tmp_path)
    with pytest.raises(LockedError, match=f"process {process.pid}"):
        Lock(tmp_path)
    process.kill()
    process.communicate()
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(Lock, tmp_path) for _ in range(16)]
    won = [one.result() for one in tries if not one.exception()]
    assert len(won) == 1
    won[0].release()
    assert not list(tmp_path.glob(".lock.*"))


def test_a_lock_of_another_machine_lives_by_its_heartbeat(tmp_path, monkeypatch):
    empty = tmp_path / ".lock.6"
    empty.touch()
    with pytest.raises(LockedError):
        Lock(tmp_path)
    os.utime(empty, (0, 0))
    Lock(tmp_path).release()
    path = tmp_path / ".lock.7"
    path.write_text(json.dumps({"place": "elsewhere", "pid": 1, "born": 0.0}))
    with pytest.raises(LockedError, match="elsewhere"):
        Lock(tmp_path)
    old = time.time() - 2 * folders.STALE_S
    os.utime(path, (old, old))
    lock = Lock(tmp_path)
    assert not lock.lost
    (tmp_path / f".lock.{lock._number + 1}").write_text("{}")  # as if another process took over while this one slept
    assert lock.lost
    lock.release()


def test_a_lock_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "BEAT_S", 0.01)
    lock = Lock(tmp_path)
    os.utime(lock._path, (0, 0))
    while lock._path.stat().st_mtime == 0:
        time.sleep(0.01)
    lock.release()


def test_holding_twice_is_holding_once(tmp_path):
    with hold(tmp_path) as outer:
        with hold(tmp_path) as inner:
            assert inner is outer
        with pytest.raises(LockedError):
            Lock(tmp_path)
    Lock(tmp_path).release()
