"""The benchmarks against TRL run to their end on the embedded model; speed needs a quiet machine and is not tested."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TINY = [
    *(
        "experiment=none",
        f"model.path={ROOT}/models/modchain",
        "algorithm=grpo",
        "algorithm.group_size=4",
        "training.tasks_per_step=4",
        "threads=1",
    ),
    *("env.options.n_train=64", "env.options.n_validation=10", "env.options.n_test=10", "training.max_sampler_gap=0"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_step", "rollout"])
def test_both_sides_are_measured_on_the_same_work(name, tmp_path):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--steps", "2", *TINY]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ours / TRL, tokens per second" in done.stdout
    results = json.loads((tmp_path / "runs" / "benchmarks" / f"{name}.json").read_text())["results"]
    for side in ("ours", "trl"):
        assert results[side]["seconds_per_step"] > 0
        # 16 episodes of two turns with at most three and seven tokens.
        assert 16 * 2 <= results[side]["sampled_tokens_per_step"] <= 16 * 10
        assert results[side]["peak_memory_gib"] > 0.1
