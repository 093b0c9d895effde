"""Cached verdicts are found by what was run, shared between processes, and not kept if the machine may be to blame."""

import multiprocessing
from dataclasses import replace

import pytest

from rewards import Score, Verdict
from rewards.asserts import Case
from rewards.code import FunctionTests, score_program
from rewards.sandbox import Ending, Outcome
from rewards.verdict_cache import VerdictCache

RIGHT = Score(1.0, Verdict.CORRECT, "x", "tests", "All pass.", "x")


def counted(score=RIGHT):
    calls = []

    def run():
        calls.append(1)
        return score

    return run, calls


def test_the_second_look_is_read_and_says_so(tmp_path):
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    run, calls = counted()
    assert cache.score("x = 1", "tests", "limits", run) == RIGHT
    assert cache.score("x = 1", "tests", "limits", run) == replace(RIGHT, reason="tests, cached")
    assert len(calls) == 1
    assert cache.counts == {"read": 1, "run": 1}


@pytest.mark.parametrize(
    ("program", "tests", "settings", "n_runs"),
    [
        ("x = 1", "t", "s", 1),
        ("x  =  1  # with a comment", "t", "s", 1),
        ("x = 2", "t", "s", 2),
        ("x = 1", "other", "s", 2),
        ("x = 1", "t", "other", 2),
        ("x = = 1", "t", "s", 2),  # the text is the key if it is not valid Python
    ],
)
def test_the_parsed_program_its_tests_and_its_limits_are_the_key(tmp_path, program, tests, settings, n_runs):
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    run, calls = counted()
    cache.score("x = 1", "t", "s", run)
    cache.score(program, tests, settings, run)
    assert len(calls) == n_runs


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT, Verdict.ERROR])
def test_what_a_machine_may_have_caused_is_not_kept(tmp_path, verdict):
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    run, calls = counted(Score(0.0, verdict, "x", "r"))
    for _ in range(2):
        cache.score("x = 1", "t", "s", run)
    assert len(calls) == 2


def _other_process(path, queue):
    run, calls = counted()
    score = VerdictCache(path).score("x = 1", "t", "s", run)
    queue.put((score.reason, len(calls)))


def test_other_processes_read_the_same_file(tmp_path):
    path = tmp_path / "verdicts.sqlite"
    VerdictCache(path).score("x = 1", "t", "s", counted()[0])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_other_process, args=(path, queue))
    process.start()
    assert queue.get(timeout=120) == ("tests, cached", 0)
    process.join()


class Answers:
    """A sandbox in which every call returns one value."""

    def __init__(self, settings, value):
        self.settings, self._value = settings, value

    def run(self, job, limits):
        return Outcome(Ending.FINISHED, ({"loaded": True}, {"value": self._value}))


def test_what_a_sandbox_allows_is_part_of_the_key(tmp_path):
    """A program that failed because a module was missing is run again in a sandbox that allows the module."""
    cache, tests = VerdictCache(tmp_path / "verdicts.sqlite"), FunctionTests(hidden=(Case("f", (), 4),))
    program = "import numpy\ndef f():\n    return int(numpy.sum([4]))"
    without, with_numpy = (Answers(("STRICT", 2**30, modules), x) for modules, x in (((), 0), (("numpy",), 4)))
    for sandbox, verdict in ((without, Verdict.WRONG), (with_numpy, Verdict.CORRECT), (without, Verdict.WRONG)):
        assert score_program(program, tests, cache=cache, sandbox=sandbox).verdict is verdict
    assert cache.counts == {"read": 1, "run": 2}


def test_a_program_is_run_once_in_the_sandbox(tmp_path):
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    tests = FunctionTests((Case("f", (1,), 2),), (Case("f", (2,), 3),))
    scores = [score_program("def f(x):\n    return x + 1", tests, cache=cache) for _ in range(2)]
    assert [score.verdict for score in scores] == [Verdict.CORRECT] * 2
    assert [score.reason for score in scores] == ["tests", "tests, cached"]
    assert score_program("def f(x):\n    return x", tests, cache=cache).verdict is Verdict.WRONG
