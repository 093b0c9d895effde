"""GSM8K and MATH: sizes, golds, splits."""

import pytest

import envs
from envs import Split
from envs.splits import normalise_question
from rewards import Verdict
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data"


def make(name):
    path = DATA if name == "math" else DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not at {path}")
    return envs.make(f"errata/{name}-v1", options={"path": str(path)}).taskset


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gsm8k", {Split.TEST: (1319, 1319), Split.VALIDATION: (650, 850), Split.TRAIN: (6600, 6850)}),
        ("math", {Split.TEST: (500, 500), Split.VALIDATION: (4300, 4500), Split.TRAIN: (7450, 7500)}),
    ],
)
def test_sizes_and_golds(name, sizes):
    taskset = make(name)
    seen = {}
    for split, (least, most) in sizes.items():
        tasks = taskset.load(split)
        assert least <= len(tasks) <= most, (split, len(tasks))
        for task in tasks:
            assert seen.setdefault(normalise_question(task.question), split) == split
            assert task.gold.strip()
            # Thousands of golds: the steps before sympy decide all of them.
            assert taskset.verify(task, taskset.gold_response(task)).verdict is Verdict.CORRECT, task


def test_gsm8k_wants_the_integer():
    taskset = make("gsm8k")
    task = taskset.load(Split.TEST)[0]
    assert taskset.verify(task, f"\\boxed{{{task.gold} dollars}}").value == 1.0
    assert taskset.verify(task, f"\\boxed{{{int(task.gold) + 1}}}").value == 0.0
    assert taskset.verify(task, f"It is {task.gold}.").verdict is Verdict.NO_ANSWER


def test_math_keeps_the_level_for_tables():
    assert make("math").load(Split.TEST)[0].info["level"] in "12345"


def test_a_missing_folder_names_the_option(tmp_path):
    for name in ("gsm8k", "math"):
        with pytest.raises(FileNotFoundError, match=r"env\.options\.path="):
            envs.make(f"errata/{name}-v1", options={"path": str(tmp_path)}).reset(seed=0)
