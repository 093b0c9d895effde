"""Every registered environment keeps the contract, and ``check_env`` refuses environments that break it."""

import itertools
import json

import pytest

import envs
from envs import Task
from envs.checker import ContractError, check_env
from envs.tasks.verifiers_package import score_of
from rewards import Score, Verdict
from tests.conftest import ROOT

_counter = itertools.count()


DATA = ROOT.parent / "shared" / "data"
FILES = {f"errata/{name}-v1": DATA / name for name in ("humaneval", "mbpp", "gsm8k")} | {"errata/math-v1": DATA}
"""Environments whose tasks are read from files outside the repository, with the paths of these files."""


# The tasks of errata/verifiers-v1 are in a package that users install themselves; tests/interop tests it.
@pytest.mark.parametrize("env_id", [one for one in envs.specs() if one != "errata/verifiers-v1"])
def test_env_contract(env_id, tmp_path):
    if env_id == "errata/rows-v1":
        rows = [json.dumps({"question": f"{i} + 1?", "answer": i + 1}) for i in range(100)]
        (tmp_path / "my.jsonl").write_text("\n".join(rows))
        check_env(env_id, options={"path": str(tmp_path / "my.jsonl")})
    elif env_id not in FILES:
        check_env(env_id)
    elif not FILES[env_id].exists():
        pytest.skip(f"its data are not at {FILES[env_id]}")
    else:
        check_env(env_id, options={"path": str(FILES[env_id])})


@pytest.mark.parametrize(
    ("dataset", "params"),
    [("chain_sum", {"min_terms": 2, "max_terms": 2}), ("spell_backward", {}), ("gcd", {}), ("leg_counting", {})],
)
def test_reasoning_gym_data_sets_keep_the_contract(dataset, params):
    options = {"dataset": dataset, "params": params, "n_train": 40, "n_validation": 10, "n_test": 20}
    check_env("errata/reasoning_gym-v1", options=options)


class Good:
    def load(self, split):
        return [Task(f"{split}-{i}", f"{split} {i}", str(i)) for i in range(3)]

    def verify(self, task, response):
        return Score.of(response == task.gold) if response else Score(0.0, Verdict.NO_ANSWER)

    def gold_response(self, task):
        return task.gold


class LeakingSplits(Good):
    def load(self, split):
        return [Task(f"{split}-{i}", f"Question  {i}", str(i)) for i in range(3)]


class PaysForNothing(Good):
    def verify(self, task, response):
        return Score.of(response == task.gold or not response)


class RefusesGold(Good):
    def verify(self, task, response):
        return Score(0.0, Verdict.NO_ANSWER)


class Moody(Good):
    def load(self, split):
        return [Task(f"{split}-{next(_counter)}", f"{split} {next(_counter)}", "1")]


class BrokenOffNowAndThen(Good):
    def verify(self, task, response):
        return Score(0.0, Verdict.TIMEOUT, reason="timeout") if next(_counter) % 2 else super().verify(task, response)


class CannotTell(Good):
    def verify(self, task, response):
        return Score(0.0, Verdict.ERROR)


class RepeatsIds(Good):
    def load(self, split):
        return [Task("same", f"{split} {i}", str(i)) for i in range(3)]


class PaysHalf(Good):
    def verify(self, task, response):
        return super().verify(task, response) if response in ("", task.gold) else Score(0.5, Verdict.WRONG)


class PaysTheWrong(Good):
    def verify(self, task, response):
        return Score(float(bool(response)), Verdict.CORRECT if response == task.gold else Verdict.WRONG)


class HalfRight(Good):
    def verify(self, task, response):
        return Score(1.0 if response == task.gold else 0.5 * bool(response), Verdict.CORRECT)


class TwoAnswers(Good):
    def load(self, split):
        return [Task(f"{split}-{i}", f"{split}?", str(i)) for i in range(3)]


class Raises(Good):
    def verify(self, task, response):
        return Score.of(int(response) == int(task.gold))


@pytest.mark.parametrize(
    ("taskset", "message"),
    [
        (PaysHalf, r"is wrong and worth 0\.5.*partial_credit = True"),
        (PaysTheWrong, r"is wrong and worth 1\.0"),
        (HalfRight, r"empty response|is correct and worth"),
        (TwoAnswers, "train-0 and train-1 ask the same.*'0', '1'"),
        (Raises, "step raises after ''.*invalid literal"),
        (LeakingSplits, "share the question"),
        (PaysForNothing, "empty response"),
        (RefusesGold, "gold response"),
        (Moody, "random state"),
        (BrokenOffNowAndThen, r"two different steps, \d\.0 \w+ ?\w* and then \d\.0 \w+ ?\w*, in train-\d"),
        (CannotTell, "is an error"),
        (RepeatsIds, "repeats a task id"),
    ],
)
def test_a_broken_environment_is_caught(taskset, message, monkeypatch):
    env_id = f"broken/{taskset.__name__}-v1"
    envs.register(env_id, taskset, prompts="toy-v1")
    with pytest.raises(ContractError, match=message):
        check_env(env_id)


def test_partial_credit_is_declared():
    envs.register("good/part-v1", type("Part", (PaysHalf,), {"partial_credit": True}), prompts="toy-v1")
    check_env("good/part-v1")


@envs.FEEDBACK.register("test_says_none")
def says_none(task, response, score, prompts):
    return None


@envs.FEEDBACK.register("test_says_nothing")
def says_nothing(task, response, score, prompts):
    return ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedback": "test_says_none"}, "env.feedback=test_says_none returned None; it must return a text"),
        ({"feedback": "test_says_nothing"}, "must be Messages with a text"),
        ({"prompts": "math-v1"}, r"the prompts ask for \\boxed, which verify does not read: it wants '0'"),
        ({"prompts": "short-v1"}, "the prompts ask for <answer>"),
        ({"prompts": "code-v1"}, "the prompts ask for ```python"),
        ({"prompts_text": {"retry": "State it as #### answer"}}, "the prompts ask for ####"),
    ],
)
def test_words_that_mislead_the_policy_are_caught(changes, message):
    envs.register("good/words-v1", Good, prompts="toy-v1")
    with pytest.raises(ContractError, match=message):
        check_env("good/words-v1", **changes)


def test_words_that_the_model_has_no_token_for_are_caught(modchain):
    options = {"n_train": 20, "n_validation": 5, "n_test": 5}
    check_env("errata/modchain-v1", tokenizer=modchain[1], options=options)
    for changes in ({"prompts_text": {"retry": "check that"}}, {"prompts_text": {"task": "that {question}"}}):
        with pytest.raises(ContractError, match=r"no token for 'that', so the policy is shown token"):
            check_env("errata/modchain-v1", tokenizer=modchain[1], options=options, **changes)


def test_roles_between_attempts_are_played_too():
    envs.register("good/between-v1", Good, prompts="math-v1", between="verify", prompts_text={"task": "{question}"})
    with pytest.raises(ContractError, match="boxed"):  # the request for a second attempt still asks for a box
        check_env("good/between-v1")
    check_env("good/between-v1", prompts_text={"task": "{question}", "retry": "again"})


class Few(Good):
    def load(self, split):
        return super().load(split)[:3] if split != "validation" else []


def test_what_few_tasks_cannot_do_is_said(capsys):
    envs.register("good/few-v1", Few, prompts="toy-v1")
    check_env("good/few-v1")
    said = capsys.readouterr().out
    assert "3 training tasks are soon memorised" in said
    assert "no validation tasks: runs need training.validate_every=0" in said
    assert "with 3 test tasks a rate near 50 % is known within 57 points only" in said


def test_a_good_environment_passes_and_is_told_so(capsys):
    envs.register("good/good-v1", Good, prompts="toy-v1")
    check_env("good/good-v1")
    said = capsys.readouterr().out
    assert "good/good-v1 keeps the contract" in said
    assert "3 train, 3 validation, 3 test" in said
    assert "'train 0'" in said


@pytest.mark.parametrize(
    ("reward", "right", "value"),
    [(1.0, 1.0, 1.0), (0.7 + 0.2 + 0.1, 1.0, 1.0), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0), (0.4, 0.5, 0.4), (3.0, 0.5, 1.0)],
)
def test_a_sum_of_rewards_and_its_verdict_say_the_same(reward, right, value):
    score = score_of(reward, right, "said")
    assert score.value == value
    assert (score.verdict is Verdict.CORRECT) == (value == 1.0)


@pytest.mark.parametrize("right", [0.0, -1.0, 1.5])
def test_every_answer_may_be_wrong_or_right(right):
    with pytest.raises(ValueError, match=r"env\.options\.right="):
        envs.make("errata/verifiers-v1", options={"name": "any", "right": right})
