"""Many runs at once survive kills, damaged files and a full disk; ``python -m benchmarks.soak`` is the large test."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow(40)
def test_killed_damaged_and_short_of_disk_runs_end_like_undisturbed_ones(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--size", "ci", "--folder", str(tmp_path / "soak")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["different"] == []
    assert outcome["finished"] == outcome["runs"]
    assert outcome["fallbacks"] >= 1
    assert {"damage", "no space left"} <= outcome["events"].keys()
