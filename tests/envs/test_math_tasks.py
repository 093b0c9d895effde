"""GSM8K and MATH: sizes of the splits, golds that are graded as correct, and no question in two splits."""

import json

import pytest

import envs
from envs import Split
from envs.splits import normalise_question
from rewards import Verdict
from tests.conftest import ROOT
from tests.rewards.math_rows_styles import STYLES

DATA = ROOT.parent / "shared" / "data"


def make(name, **options):
    path = DATA if name == "math" else DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not at {path}")
    return envs.make(f"errata/{name}-v1", options={"path": str(path)} | options).taskset


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
            # Thousands of golds are graded quickly, because the steps before sympy decide all of them.
            assert taskset.verify(task, taskset.gold_response(task)).verdict is Verdict.CORRECT, task


@pytest.mark.parametrize("name", ["gsm8k", "math"])
@pytest.mark.parametrize(
    "form", ["boxed", "sentence", "answer_line", "hash", ["boxed", "hash", "sentence", "answer_line"]]
)
def test_golds_pay_in_the_styles_of_five_families(name, form):
    taskset = make(name, answer_form=form)
    paid, refused = 0, []
    for task in taskset.load(Split.TEST):
        for style in [
            text
            for known, texts in STYLES.items()
            if known == form or isinstance(form, list)
            for text in texts.values()
        ]:
            response = style % " ".join(task.gold.split())
            if taskset.verify(task, response).verdict is Verdict.CORRECT:
                paid += 1
            else:
                refused.append((task.gold, response))
    assert len(refused) < 0.005 * paid, refused[:5]


def _write_gsm8k(folder, answer):
    for name in ("train", "test"):
        rows = [{"question": f"{name} {i}?", "answer": answer} for i in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"path": str(folder)}


def test_options_are_checked_when_the_environment_is_made(tmp_path):
    options = _write_gsm8k(tmp_path, "#### 7")
    with pytest.raises(ValueError, match="answer_form=boxxed: unknown; did you mean 'boxed'"):
        envs.make("errata/gsm8k-v1", options=options | {"answer_form": "boxxed"})
    with pytest.raises(ValueError, match=r"env.options.reasoning: '</think>' is no pair"):
        envs.make("errata/gsm8k-v1", options=options | {"reasoning": ["</think>"]})
    taskset = envs.make("errata/gsm8k-v1", options=options | {"reasoning": [["<draft>", "</draft>"]]}).taskset
    task = taskset.load(Split.TEST)[0]
    assert taskset.verify(task, "<draft>\\boxed{8}</draft>\\boxed{7}").value == 1.0
    assert taskset.verify(task, "<draft>\\boxed{7}").verdict is Verdict.NO_ANSWER
    assert taskset.verify(task, "</think>\\boxed{7}").value == 1.0


def test_golds_are_read_when_they_load(tmp_path, caplog):
    number = envs.make("errata/gsm8k-v1", options=_write_gsm8k(tmp_path, 7)).taskset
    assert number.load(Split.TEST)[0].gold == "7"
    for gold in (None, 7.5, ["7"], {"gold": 7}):
        taskset = envs.make("errata/gsm8k-v1", options=_write_gsm8k(tmp_path, gold)).taskset
        with pytest.raises(ValueError, match=r"test.jsonl, row 1: the answer must be text, got"):
            taskset.load(Split.TEST)
    taskset = envs.make("errata/gsm8k-v1", options=_write_gsm8k(tmp_path, "\\uparrow")).taskset
    task = taskset.load(Split.TEST)[0]
    assert "20 of 20 golds cannot be read" in caplog.text
    assert taskset.verify(task, "\\boxed{3}").verdict is Verdict.ERROR
    assert taskset.verify(task, "\\boxed{\\uparrow}").verdict is Verdict.CORRECT


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
