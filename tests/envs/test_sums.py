"""``sums``: feedback states by how much an answer misses, and a demonstrated correction follows from that number."""

import random

import pytest

from envs import Split, Task, make
from envs.tasks.sums import Sums, corrected, slipped
from rewards import Verdict


def asked(question):
    return Task(question, question, str(sum(map(int, question.split(" + ")))))


@pytest.mark.parametrize(
    ("question", "response", "value", "observation"),
    [
        ("48 + 83", "131", 1.0, "Right. Once more."),
        ("48 + 83", "121", 0.0, "Too small by 10."),
        ("48 + 83", "134", 0.0, "Too large by 3."),
        ("48 + 83", "121 + 10 = 131", 1.0, "Right. Once more."),
        ("48 + 83", "131 or 121", 0.0, "Too small by 10."),
        ("48 + 83", "0131", 1.0, "Right. Once more."),
        ("48 + 83", "-131", 0.0, "Too small by 262."),
        ("48 + 83", "I do not know", 0.0, "No number found. Reply with a number only."),
    ],
)
def test_the_last_number_counts_and_the_miss_is_told(question, response, value, observation):
    score = Sums().verify(asked(question), response)
    assert (score.value, score.observation) == (value, observation)


def test_no_observation_of_a_wrong_answer_names_the_sum():
    env, rng = Sums(n_train=200), random.Random(0)
    for task in env.load(Split.TRAIN):
        wrong = slipped(task, rng)
        score = env.verify(task, wrong)
        assert score.verdict is Verdict.WRONG
        assert task.gold not in score.observation.rstrip(".").split()
        assert env.verify(task, corrected(task, wrong)).value == 1.0


def test_ten_thousand_digits_are_wrong_and_raise_nothing():
    task = asked("10 + 10")
    assert Sums().verify(task, "9" * 10_000).verdict is Verdict.WRONG


def test_a_sum_and_its_mirror_image_are_the_same_task():
    found = {}
    for split in Split:
        for task in Sums(n_train=1500, n_validation=150, n_test=400).load(split):
            numbers = tuple(sorted(task.question.split(" + ")))
            assert numbers not in found, (task.question, split, found[numbers])
            found[numbers] = split


def test_the_episode_says_the_miss_between_attempts():
    env = make("errata/sums-v1")
    (opening,), _ = env.reset(options={"task": asked("48 + 83")})
    assert opening.content == "48 + 83 = ?"
    (request,), *_ = env.step("121")
    assert request.content == "Too small by 10."


@pytest.mark.parametrize("options", [{"n_terms": 1}, {"low": 9, "high": 3}, {"low": -1}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match="needs n_terms >= 2"):
        Sums(**options)


@pytest.mark.parametrize(
    ("response", "before", "after"),
    [
        ("141", "", ""),
        ("131 + 10 = 141", "131 + 10 = ", ""),
        ("It is 141.", "It is ", "."),
        ("1", "", ""),
        ("-5", "", ""),
    ],
)
def test_another_attempt_differs_in_its_last_number_alone(response, before, after):
    sums = Sums(n_train=10, n_validation=5, n_test=5)
    (task, *_) = sums.load(Split.TEST)
    found = {sums.other_attempt(task, response, random.Random(seed)) for seed in range(50)}
    assert len(found) > 3
    assert response not in found
    for other in found:
        assert other.startswith(before)
        assert other.endswith(after)
        assert int(other.removeprefix(before).removesuffix(after)) > 0
    assert sums.other_attempt(task, "no idea", random.Random(0)) is None
