"""The benchmark for GPUs also runs on a machine without a GPU, and continues where TRL, time or memory is lacking."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu import GROUP, SIZES
from benchmarks.train_step import ShortageError, Side, SideError, split_arguments
from tests.conftest import ROOT


def run(folder, *arguments, path=str(ROOT)):
    command = [sys.executable, "-m", "benchmarks.gpu", "size=smoke", "threads=1", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    stored = json.loads((folder / "runs" / "benchmarks" / "gpu.json").read_text())
    return done, stored, (folder / "runs" / "benchmarks" / "gpu.md").read_text()


@pytest.mark.slow(30)
def test_every_row_is_measured_on_the_same_work(tmp_path):
    done, stored, table = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    size = SIZES["smoke"]
    most = 2 * size.tasks * GROUP * size.new_tokens
    assert [one["row"]["side"] for one in stored["results"]] == ["ours", "trl", "ours"]
    for one in stored["results"]:
        # The measured step must not have the short token limit of the warm-up. A full step samples fewer tokens than
        # the most possible only because one word in 512 ends an answer early.
        assert 0.8 * most < one["found"]["sampled_tokens_per_step"] <= most
        assert one["found"]["update_tokens_per_second"] > 0
        assert one["found"]["peak_memory_gib"] > 0.1
    assert "GPU tests: skipped: no GPU" in table
    assert table.count("| smoke |") == 3


@pytest.mark.slow
def test_without_trl_and_time_the_rest_is_measured(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['trl'] = None\n")
    done, stored, table = run(tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["skipped"] for one in stored["results"]] == ["", *["skipped: TRL is not installed"] * 2]
    assert stored["results"][0]["found"]["tokens_per_second"] > 0
    assert table.count("skipped: TRL is not installed") == 2


@pytest.mark.slow
def test_no_time_and_a_mistake_are_told_apart(tmp_path):
    done, stored, table = run(tmp_path, "--minutes", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert table.count("skipped: no time left") == len(stored["results"])
    side = Side("benchmarks.train_step", "ours", ["experiment=none", "algorithm.group_sizes=4"])
    with side, pytest.raises(SideError, match="group_size") as caught:
        side.step()
    assert not isinstance(caught.value, ShortageError)


@pytest.mark.parametrize("words", [["--minutes"], ["--minutes", "ten"], ["--smoke"], ["--smoke", "size=smoke"]])
def test_what_cannot_be_understood_is_said_in_a_sentence(words):
    with pytest.raises(SystemExit, match=r"^--(minutes.*give it a number|smoke: unknown; use one of --steps)"):
        split_arguments(words)


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        ("raise MemoryError('CUDA out of memory. Tried to allocate 2 GiB')", "out of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory"),
        ("import time; time.sleep(60)", "stopped after 2 s"),
    ],
)
def test_what_there_is_too_little_of_is_named(program, cause, tmp_path, monkeypatch):
    (tmp_path / "short.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Side("short", "ours", []) as side, pytest.raises(ShortageError, match=cause):
        side.step(2.0 if "sleep" in program else 60.0)
