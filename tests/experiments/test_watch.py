"""The live view shows runs that are still being written, including a last line that is incomplete."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
from rich.console import Console

from experiments.watch import curve, run_view, runs_view, tail, transitions_line, view
from rl import rollout_metrics, trainer  # noqa: F401  declare what runs log
from rl.tracking import Tracker
from tests.conftest import ROOT
from tests.helpers import episode


@pytest.fixture
def folder(tmp_path):
    tracker = Tracker(tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, {"optim/lr": 1e-3, "policy/loss": float(step), "rollout/accuracy_t2": 0.1 * step})
        tracker.episodes(step, [episode((0.0, 1.0)), episode((1.0, 0.0)), episode((0.0, 0.0), task_id="[bold]b")])
    tracker.log(3, {f"eval/validation/{name}": 0.5 for name in ("accuracy_t1", "accuracy_t2", "delta")})
    tracker.close()
    (tmp_path / "config.yaml").touch()
    return tmp_path


def shown(view):
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view)
    return console.export_text()


def test_a_run_is_shown_with_its_newest_numbers_and_episodes(folder):
    text = shown(run_view(folder, 2))
    assert "step 3" in text
    assert "running, or interrupted" in text
    assert "policy/loss" in text
    assert "▁▄█" in text or "▁▅█" in text
    assert "validation at step 3: acc@t1 50.0 %, acc@t2 50.0 %, delta +50.0 points" in text
    assert "transitions of 3 kept episodes of step 3: i->c 1  c->i 1  c->c 0  i->i 1" in text
    assert "[bold]b" in text  # the text of a task must not be read as markup
    (folder / "result.json").touch()
    assert "finished" in shown(run_view(folder, 0))


def test_transitions_compare_the_first_with_the_second_attempt_as_the_rates_do():
    kept = [{"step": 1, **asdict(episode(rewards))} for rewards in ((0.0, 1.0, 0.0), (1.0,), (0.0, 0.0, 1.0))]
    assert "i->c 1  c->i 0  c->c 1  i->i 1" in str(transitions_line(kept))


def test_half_a_line_is_not_read(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "policy/lo')
    assert [row["step"] for row in tail(folder / "metrics.jsonl")] == [1, 2, 3, 3]
    assert [row["step"] for row in tail(folder / "metrics.jsonl", 150)] == [3]  # reads the last 150 bytes
    assert tail(folder / "nothing.jsonl") == []


def test_curves():
    assert curve([0.0, 0.5, 1.0]) in ("▁▄█", "▁▅█")
    assert curve([1.0, None, 1.0]) == "▁ ▁"
    assert curve([]) == ""


def test_an_empty_run_and_a_comparison(tmp_path):
    (tmp_path / "config.yaml").touch()
    text = shown(run_view(tmp_path, 3))
    assert "no step yet" in text
    assert "no episodes yet" in text
    done = tmp_path / "arms" / "score" / "seed_1"
    done.mkdir(parents=True)
    tracker = Tracker(done)
    rates = {f"eval/validation/{name}": 0.25 for name in ("accuracy_t1", "accuracy_t2", "delta")}
    tracker.log(0, rates | {"rollout/episodes": 1024.0})
    tracker.close()
    (done / "result.json").write_text(json.dumps({}))
    crashed = tmp_path / "arms" / "star" / "seed_0"
    crashed.mkdir(parents=True)
    going = tmp_path / "arms" / "star" / "seed_1"
    going.mkdir()
    (going / "progress.json").write_text('{"what": "training", "share": 0.4, "metrics": {}}')
    (crashed / "error.txt").touch()
    text = shown(runs_view(tmp_path))
    assert "score/1" in text
    assert "1024" in text
    assert "crashed" in text
    assert "training 40%" in text


def test_the_runs_of_a_sweep_are_lines_that_say_what_they_are(tmp_path):
    for number in (2, 10):
        job = tmp_path / str(number)
        job.mkdir()
        (job / "config.yaml").write_text(f"{{seed: {number}, algorithm: {{name: SCoRe, optim: {{lr: {number}e-4}}}}}}")
    (tmp_path / "10" / "result.json").write_text("{}")
    (tmp_path / "2" / "policy").mkdir()
    text = shown(view(tmp_path, 3))
    first, second = [line for line in text.splitlines() if "SCoRe" in line]
    assert "2  SCoRe, algorithm.optim.lr=0.0002, seed 2" in first
    assert "running, or interrupted" in first
    assert "10  SCoRe, algorithm.optim.lr=0.001, seed 10" in second
    assert "finished" in second


def test_the_command_prints_once_and_names_what_is_missing(folder):
    command = [sys.executable, "-m", "experiments.watch"]
    done = subprocess.run([*command, f"run={folder}", "once=true"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "policy/loss" in done.stdout
    missing = subprocess.run([*command, "run=nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert missing.returncode == 2
    assert "there is no such folder" in missing.stdout
    (folder / "empty").mkdir()
    nothing = subprocess.run([*command, f"run={folder}/empty"], cwd=ROOT, capture_output=True, text=True)
    assert nothing.returncode == 2
    assert "there is no run in it" in nothing.stdout.replace("\n", " ")
