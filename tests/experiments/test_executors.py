"""Executors run jobs in processes of their own: devices, crashes, retries, and the same rows with every executor."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from hydra import compose as compose_config
from hydra import initialize_config_dir
from rich.console import Console

from experiments import slots
from experiments.cli import CONFIGS, UserError, register_schemas, typed
from experiments.compare import compare, grow, plan, run_jobs
from experiments.executors import EXECUTORS, LocalOptions, start_job
from experiments.jobs import Job
from experiments.progress import Display
from rewards import UnknownNameError
from rl.config import EnvConfig, ModelConfig, RunConfig
from tests.conftest import ROOT
from tests.experiments import made_up_arms, says_its_rank

PLUGIN = made_up_arms.__name__


@pytest.fixture
def make_jobs(tmp_path):
    """Builds jobs of an arm from a plugin module, one for each action in ``doings``."""
    env, model = EnvConfig(name="x", id="errata/modchain-v1"), ModelConfig(path=str(ROOT / "models" / "modchain"))
    config = RunConfig(name="x", env=env, model=model, plugins=[PLUGIN])

    def make(*doings):
        folders = [tmp_path / "arms" / f"arm{i}" / "seed_0" for i in range(len(doings))]
        return [
            Job.make("made_up", f"arm{i}", 0, config, folder, {"does": what})
            for i, (folder, what) in enumerate(zip(folders, doings, strict=True))
        ]

    return make


def run(jobs, name="local", retries=0, **options):
    executor = EXECUTORS[name](EXECUTORS.options(name, options), jobs[0].folder.parents[2])
    try:
        with Display(Console(), one_run=False) as display:
            return run_jobs(jobs, executor, display, retries)
    finally:
        executor.stop()


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, {"0", "1"}),  # two slots with one GPU each
        ({"jobs_per_gpu": 2}, {"0", "1"}),
        ({"gpus": ["1"], "jobs_per_gpu": 2}, {"1"}),
        ({"gpus": []}, {""}),
    ],
)
def test_each_job_sees_its_own_of_two_made_up_gpus(options, seen, make_jobs, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    jobs = make_jobs("meet", "meet")
    assert run(jobs, workers=2, **options) == {}
    assert {(job.folder / "devices").read_text() for job in jobs} == seen


@pytest.mark.slow
def test_ray_gives_each_task_a_gpu_of_its_own(make_jobs, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    jobs = make_jobs("meet", "meet")
    assert run(jobs, "ray", gpus_per_job=1, init={"num_cpus": 2, "num_gpus": 2}) == {}
    assert {(job.folder / "devices").read_text() for job in jobs} == {"0", "1"}


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")

    def slots(**options):
        return LocalOptions(**options).slots()

    assert slots(gpus=["0", "1", "2", "3", "4"], gpus_per_job=2) == [["0", "1"], ["2", "3"]]
    assert slots(gpus=["0", "1"], jobs_per_gpu=2) == [["0"], ["1"], ["0"], ["1"]]
    assert slots(gpus=["0", "1"], workers=1) == [["0"]]
    assert slots(gpus=[], workers=3) == [[], [], []]
    with pytest.raises(ValueError, match="gpus_per_job=4: there are 2 GPUs here"):
        slots(gpus=["0", "1"], gpus_per_job=4)
    with pytest.raises(ValueError, match="there is no GPU 7 here, only 0, 1, 2, 3, 4"):
        slots(gpus=["0", "7"])


def test_a_job_of_several_gpus_is_started_by_accelerate(make_jobs, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: commands.append(command))
    (job,) = make_jobs("nothing")
    job.write()
    start_job(job.folder, n_gpus=4)
    (job.folder / "job.json").write_text((job.folder / "job.json").read_text().replace("made_up", "online"))
    start_job(job.folder, n_gpus=4)
    alone, launched = commands
    assert "--num_processes=4" not in alone  # a made_up arm never trains in several processes
    assert alone[1:] == ["-m", "experiments.job", str(job.folder)]
    assert launched[2] == "accelerate.commands.launch"
    assert launched[-3:] == ["--module", "experiments.job", str(job.folder)]
    assert "--num_processes=4" in launched


def test_a_job_that_dies_leaves_the_others_alone_and_is_finished_later(make_jobs):
    jobs = make_jobs("nothing", "die", "raise")
    failed = run(jobs, workers=2)
    assert set(failed) == {"arm1/0", "arm2/0"}
    assert "SIGKILL" in failed["arm1/0"]
    assert "RuntimeError: not this time" in failed["arm2/0"]
    assert [job.is_done for job in jobs] == [True, False, False]
    assert jobs[0].progress() == {"what": "nothing", "share": 0.5, "metrics": {}}
    assert run([job for job in jobs if not job.is_done]) == {}
    assert all(job.is_done and not job.error for job in jobs)


@pytest.mark.parametrize(("name", "options"), [("local", {"workers": 1}), ("submitit", {"cluster": "local"})])
def test_a_job_that_dies_is_tried_again_on_request(name, options, make_jobs):
    assert run(make_jobs("die"), name, retries=1, **options) == {}


def test_an_executor_that_is_stopped_leaves_no_process(make_jobs):
    jobs = make_jobs("sleep", "sleep", "nothing")
    for job in jobs:
        job.write()
    executor = EXECUTORS["local"](LocalOptions(workers=2), jobs[0].folder)
    tasks = executor.submit([job.folder for job in jobs])
    while not all((job.folder / "devices").exists() for job in jobs[:2]):
        assert not any(job.error for job in jobs)  # a job that crashed at its start would make this loop endless
        time.sleep(0.05)
    executor.stop()
    assert all(task.done() for task in tasks)
    assert not jobs[2].is_done  # it was still queued and must not be started now
    assert not processes_of(jobs[0].folder.parents[2])


def processes_of(folder):
    """Processes that name a folder or write into it: a job that was forked has the command of its parent."""
    found = []
    for process in psutil.process_iter(["cmdline", "open_files"]):
        written = [one.path for one in process.info["open_files"] or ()]
        if any(str(folder) in one for one in (*(process.info["cmdline"] or ()), *written)):
            found.append(process)
    return found


SMALL = [
    *("env.options.n_train=32", "env.options.n_validation=6", "env.options.n_test=8", "threads=1", "cross=4"),
    *("training.episodes=64", "training.tasks_per_step=4", "include=[score]", "seeds=[0]", "arms.star.iterations=1"),
    *("evaluation={samples_per_task: 1, controls: false, max_attempts: 0, fixed_first: 0}", "evaluation.transfer={}"),
]


@pytest.mark.slow(60)
@pytest.mark.timeout(900)
def test_every_executor_gives_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.report.write_report", lambda *_: None)  # slow, and not compared here
    register_schemas()
    rows = {}
    for name, options in (("local", {}), ("submitit", {"cluster": "local"}), ("ray", {"init": {"num_cpus": 2}})):
        folder = tmp_path / name
        with initialize_config_dir(CONFIGS, version_base=None):
            cfg = typed(compose_config("compare", [*SMALL, f"executor={name}"]))
        compare(replace(cfg, executor_options=options), folder)
        paths = [*folder.glob("arms/*/*/rows.jsonl"), *folder.glob("cross/*/cross.json")]
        rows[name] = {str(path.relative_to(folder)): path.read_text() for path in paths}
        assert len(rows[name]) == 3  # base, SCoRe, and the table of who corrects whom
        assert not processes_of(folder)
    assert rows["submitit"] == rows["local"]
    assert rows["ray"] == rows["local"]


@pytest.mark.slow
def test_resuming_finishes_a_killed_job_and_takes_further_arms_and_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.report.write_report", lambda *_: None)

    register_schemas()

    def run(**changes):
        with initialize_config_dir(CONFIGS, version_base=None):
            cfg = typed(compose_config("compare", SMALL))
        arms = {"a": {"kind": "made_up", "does": "die"}, "b": {"kind": "made_up"}}
        cfg = replace(cfg, arms=arms, plugins=[PLUGIN], cross=0, **changes)
        compare(grow(cfg, tmp_path), tmp_path)

    def done():
        return {str(path.parent.relative_to(tmp_path / "arms")) for path in tmp_path.glob("arms/*/*/result.json")}

    with pytest.raises(UserError, match="1 job crashed: a/0"):
        run(include=["a", "b"], seeds=[0])
    assert done() == {"b/seed_0", "base/seed_0"}
    before = (tmp_path / "arms" / "b" / "seed_0" / "result.json").stat().st_mtime_ns
    with pytest.raises(UserError, match="1 job crashed: a/1"):  # the added seed dies at its own first try
        run(include=["b"], seeds=[1])
    assert done() == {"a/seed_0", "b/seed_0", "b/seed_1", "base/seed_0"}
    run(include=["b"], seeds=[1])
    assert done() == {"a/seed_0", "a/seed_1", "b/seed_0", "b/seed_1", "base/seed_0"}
    assert (tmp_path / "arms" / "b" / "seed_0" / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(tmp_path):
    mine = [
        "include=[mine]",
        f"plugins=[{PLUGIN}]",
        "arms.mine={kind: made_up, does: sleep}",
        "executor_options.workers=1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.compare", f"runs_dir={tmp_path}", *SMALL, *mine],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while process.poll() is None and not list(tmp_path.glob("compare/*/arms/mine/*/devices")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    (folder,) = (tmp_path / "compare").iterdir()
    assert process.returncode == 130, output
    assert f"continue with the same command and resume={folder}" in output.replace("\n", "")
    assert not processes_of(folder)
    assert (folder / "arms" / "base" / "seed_0" / "result.json").exists()


def online_job(folder, *more):
    """A small run of SCoRe, long enough to be interrupted: 32 tasks, 64 optimiser steps, a checkpoint after each."""
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        changes = ["training.episodes=2048", "training.save_every=1", "cross=0", "training.validate_every=0"]
        cfg = typed(compose_config("compare", [*SMALL, *changes, *more]))
    return next(job for job in plan(cfg, folder) if job.arm.name == "score")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    job = online_job(tmp_path_factory.mktemp("undisturbed"))
    assert run([job], workers=1, threads=1) == {}
    return {name: (job.folder / name).read_bytes() for name in ("rows.jsonl", "policy/model.safetensors")}


@pytest.mark.slow
def test_a_job_of_two_devices_trains_in_two_processes(undisturbed, tmp_path, monkeypatch):
    """A job with two devices is one run that two processes share; as the GPUs are made up, the processes use gloo."""
    (tmp_path / "ranks").mkdir()
    monkeypatch.setenv("TEST_RANKS", str(tmp_path / "ranks"))
    monkeypatch.setattr("experiments.executors.visible_gpus", lambda: ["0", "1"])
    job = online_job(tmp_path, f"plugins=[{says_its_rank.__name__}]")
    assert run([job], gpus=["0", "1"], gpus_per_job=2, threads=1) == {}, (job.folder / "job.log").read_text()
    assert {path.name for path in (tmp_path / "ranks").iterdir()} == {"0 of 2", "1 of 2"}
    rows = (job.folder / "rows.jsonl").read_text().splitlines()
    assert len(rows) == len(undisturbed["rows.jsonl"].splitlines())  # no task is evaluated by both processes
    assert json.loads((job.folder / "result.json").read_text())["totals"]["episodes"] == 2048
    assert not processes_of(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["signal to the job", "signal to submitit"])
def test_a_preempted_job_is_queued_again_and_ends_with_the_same_numbers(way, undisturbed, tmp_path):
    job = online_job(tmp_path)
    executor = EXECUTORS["submitit"](EXECUTORS.options("submitit", {"cluster": "local", "cpus_per_job": 1}), tmp_path)
    sent = []

    class Watching(Display):
        def reporter(self, who):
            def report(what, share, metrics):
                if what == "training" and not sent:
                    process = next(one for one in processes_of(job.folder) if "experiments.job" in one.cmdline())
                    if way == "signal to submitit":  # as Slurm does with --signal
                        process.parent().send_signal(signal.SIGUSR2)
                    else:
                        process.send_signal(signal.SIGUSR1)
                    sent.append(share)

            return report

    try:
        failed = run_jobs([job], executor, Watching(Console(), one_run=False), retries=int(way == "signal to the job"))
    finally:
        executor.stop()
    assert failed == {}
    assert 0.0 < sent[0] < 1.0
    assert "stopped by a signal" in (job.folder / "job.log").read_text()
    assert {name: (job.folder / name).read_bytes() for name in undisturbed} == undisturbed


def test_an_unknown_executor_or_option_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'submitit'"):
        EXECUTORS.options("submitt", {})
    with pytest.raises(ValueError, match=r"executor_options.wokers: local has no such option; did you mean 'workers'"):
        EXECUTORS.options("local", {"wokers": 3})


def test_a_slot_whose_process_says_something_else_ends_and_starts_anew(make_jobs, monkeypatch):
    jobs, real, started = make_jobs("nothing", "nothing"), slots.start, []

    def start(command, folder, env=None, **streams):
        started.append(command)
        if len(started) > 1:
            return real(command, folder, env, **streams)
        talks = [sys.executable, "-c", "import time; print('loading ...', flush=True); time.sleep(600)"]
        return subprocess.Popen(talks, text=True, **streams)

    monkeypatch.setattr(slots, "start", start)
    failed = run(jobs, workers=1)
    assert set(failed) == {"arm0/0"}
    assert jobs[1].is_done
