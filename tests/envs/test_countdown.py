"""Countdown: values are exact, each given number may be used once, and no text of the policy runs as code."""

import time
from dataclasses import replace
from fractions import Fraction

import pytest

import envs
from envs import Split, Task
from envs.tasks.countdown import Countdown, compute, plain
from rewards import Verdict

TASK = Task("x", "?", "", {"numbers": [3, 4, 5], "target": 23})


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (r"\boxed{4*5+3}", Verdict.CORRECT),
        (r"\boxed{3 + 4 \times 5}", Verdict.CORRECT),
        (r"\boxed{3 + 4 \cdot 5 = 23}", Verdict.CORRECT),
        (r"\boxed{3 + 4*5 = 24}", Verdict.WRONG),
        (r"\boxed{23}", Verdict.WRONG),  # the target itself is not one of the given numbers
        (r"\boxed{4*5+3+0}", Verdict.WRONG),  # 0 was not given
        (r"\boxed{4*5+3*4/4}", Verdict.WRONG),  # uses 4 three times
        (r"\boxed{3+20}", Verdict.WRONG),
        (r"\boxed{35-4*3}", Verdict.WRONG),  # 3 and 5 may not be joined to 35
        (r"\boxed{-3+4*5}", Verdict.WRONG),
        (r"\boxed{4*5+3} or \boxed{3+4*5}", Verdict.AMBIGUOUS),
        ("4*5+3", Verdict.NO_ANSWER),
    ],
)
def test_verdicts(response, verdict):
    assert Countdown().verify(TASK, response).verdict is verdict


@pytest.mark.parametrize("form", ["sentence", "answer_line", "hash", "tagged", ["boxed", "answer_line"]])
def test_every_form_takes_the_solution(form):
    taskset = Countdown(answer_form=form)
    solved = replace(TASK, gold="3 + 4 * 5")
    assert taskset.verify(TASK, taskset.gold_response(solved)).verdict is Verdict.CORRECT
    assert taskset.verify(TASK, "no answer").verdict is Verdict.NO_ANSWER
    with pytest.raises(ValueError, match="answer_form=sentense: unknown; did you mean 'sentence'"):
        Countdown(answer_form="sentense")


def test_values_are_exact():
    assert compute("8/(3-8/3)") == (Fraction(24), [8, 3, 8, 3])  # floats would give 23.99999999999999
    assert compute(plain(r"\frac{\frac{8}{2}}{3}")) == (Fraction(4, 3), [8, 2, 3])
    assert compute("1/0") is None


@pytest.mark.parametrize(
    "text",
    ["9**9**9**9", "__import__('os').getcwd()", "(" * 5000, "1" + "+1" * 5000, "lambda: 3", "3 if 1 else 4", "1e9"],
)
def test_hostile_expressions_are_no_expressions_and_take_no_time(text):
    began = time.process_time()
    assert compute(plain(text)) is None
    assert time.process_time() - began < 0.5


def test_tasks_lie_within_their_limits_and_have_a_solution():
    taskset = Countdown(n_numbers=[3], max_number=20, max_target=30, n_train=50, n_validation=10, n_test=20)
    for task in taskset.load(Split.TEST):
        assert len(task.info["numbers"]) == 3
        assert max(task.info["numbers"]) <= 20
        assert 1 <= task.info["target"] <= 30
        assert taskset.verify(task, taskset.gold_response(task)).verdict is Verdict.CORRECT
    with pytest.raises(ValueError, match="n_numbers"):
        envs.make("errata/countdown-v1", options={"n_numbers": [1]})
