"""Cached verdicts are found by what was run and shared by processes; what a machine may have caused is not kept."""

import multiprocessing
import sqlite3
from dataclasses import replace

import pytest

from rewards import Score, Verdict
from rewards.asserts import Case
from rewards.code import FunctionTests, ScriptTests, score_program
from rewards.comparison import COMPARISONS
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
        ("x = 1\n", "t", "s", 2),  # a traceback shows the lines of the text and their numbers
        ("x = 2", "t", "s", 2),
        ("x = 1", "other", "s", 2),
        ("x = 1", "t", "other", 2),
        ("x = = 1", "t", "s", 2),
    ],
)
def test_the_program_its_tests_and_its_limits_are_the_key(tmp_path, program, tests, settings, n_runs):
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


def _a_folder(path):
    path.mkdir()


def _below_a_file(path):
    path.parent.rmdir()
    path.parent.write_text("")


def _full(path):
    VerdictCache(path).score("y = 1", "t", "s", counted()[0])
    with sqlite3.connect(path) as file:  # a trigger stands for a disk without room: reading works, writing fails
        file.execute("CREATE TRIGGER full BEFORE INSERT ON verdicts BEGIN SELECT RAISE(FAIL, 'disk is full'); END")


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b"garbage" * 1000), _a_folder, _below_a_file, _full],
    ids=lambda f: f.__name__,
)
def test_a_file_that_cannot_be_used_costs_no_score(tmp_path, caplog, spoil):
    path = tmp_path / "cache" / "verdicts.sqlite"
    path.parent.mkdir()
    spoil(path)
    cache = VerdictCache(path)
    run, calls = counted()
    assert [cache.score(program, "t", "s", run) for program in ("x = 1", "x = 2", "x = 1")] == [RIGHT] * 3
    assert len(calls) == 3
    (warning,) = caplog.messages
    assert str(path) in warning
    assert "sandbox.cache=false" in warning


@COMPARISONS.register("test_never")
def never(options):
    return lambda expected, actual, _: False


def test_what_another_module_compares_is_run_each_time(tmp_path):
    """The code of such a comparison may have changed since a verdict was stored; a function's repr is an address."""

    def within(tolerance):
        return lambda expected, actual, _: abs(float(expected) - float(actual)) <= tolerance

    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    found = [
        score_program("print(8)", ScriptTests(hidden=(("", "7"),), compare=how), cache=cache).verdict
        for how in (within(2.0), within(0.1), within(2.0), "test_never", "lines", "lines")
    ]
    assert found == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT, *[Verdict.WRONG] * 3]
    assert cache.counts == {"read": 1, "run": 1}


def test_feedback_shows_the_lines_of_the_program_that_was_written(tmp_path):
    cache, tests = VerdictCache(tmp_path / "verdicts.sqlite"), FunctionTests((Case("f", (0,), 7),))
    program = "def f(x):\n    return 7 // x"
    for text in (program, f"# again\n\n{program}"):
        alone, cached = (score_program(text, tests, cache=one) for one in (None, cache))
        assert "ZeroDivisionError" in alone.observation
        assert (cached.observation, cached.answer, cached.key) == (alone.observation, alone.answer, alone.key)


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
