"""The contract, over every registered environment; and broken environments, to see that it can fail."""

import itertools
import json

import pytest

import envs
from envs import Task
from envs.checker import ContractError, check_env
from rewards import Score, Verdict
from tests.conftest import ROOT

_counter = itertools.count()


DATA = ROOT.parent / "shared" / "data"
FILES = {f"errata/{name}-v1": DATA / name for name in ("humaneval", "mbpp", "gsm8k")} | {"errata/math-v1": DATA}
"""Task sets that read a file which is not in the repository."""


@pytest.mark.parametrize("env_id", envs.specs())
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


class CannotTell(Good):
    def verify(self, task, response):
        return Score(0.0, Verdict.ERROR)


class RepeatsIds(Good):
    def load(self, split):
        return [Task("same", f"{split} {i}", str(i)) for i in range(3)]


@pytest.mark.parametrize(
    ("taskset", "message"),
    [
        (LeakingSplits, "share the question"),
        (PaysForNothing, "empty response"),
        (RefusesGold, "gold response"),
        (Moody, "random state"),
        (CannotTell, "is an error"),
        (RepeatsIds, "repeats a task id"),
    ],
)
def test_a_broken_environment_is_caught(taskset, message, monkeypatch):
    env_id = f"broken/{taskset.__name__}-v1"
    envs.register(env_id, taskset, prompts="toy-v1")
    with pytest.raises(ContractError, match=message):
        check_env(env_id)


def test_a_good_environment_passes():
    envs.register("good/good-v1", Good, prompts="toy-v1")
    said = check_env("good/good-v1")
    assert "3 train, 3 validation, 3 test" in said
    assert "'train 0'" in said
