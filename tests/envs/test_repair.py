"""``repair``: the words of a program mean what Python in the sandbox computes, and feedback states the real result."""

import random

import pytest

from envs import Message, Split, make
from envs.tasks.repair import AFTER, BEFORE, Repair, mended, parsed, run, to_python, without_comment, written
from experiments.mending_corpus import TRAPS, RepairCorpus


@pytest.fixture(scope="module")
def repair():
    return Repair(n_train=60, n_validation=20, n_test=60)


def test_python_and_sandbox_say_what_the_words_say(repair):
    rng = random.Random(0)
    for task in repair.load(Split.TRAIN)[:40]:
        response = rng.choice(
            [
                written(task.info["slots"], rng.randrange(10)),
                mended(task, rng.randrange(10)),
                written((rng.choice(BEFORE), rng.choice(BEFORE), rng.choice(AFTER)), rng.randrange(10)),
            ]
        )
        scope = {}
        exec(to_python(response), scope)
        outputs = [scope["f"](x) for x in range(10)]
        assert outputs == [run(response, x) for x in range(10)]
        score = repair.verify(task, response)
        assert score.value == (outputs == [run(task.gold, x) for x in range(10)])
        assert score.observation == f"got {outputs[0]} want {task.info['want']}"


def test_a_mended_program_is_right_whatever_constant_was_there(repair):
    for task in repair.load(Split.TEST)[:10]:
        for constant in range(10):
            response = mended(task, constant)
            assert without_comment(response) == task.gold
            assert repair.verify(task, response).value == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "def a*7 b+4 c5",
        "def 3 1 a*7 b+4 c5 d*3",  # only a program that begins with "fix" may have a comment
        "fix a*7 b+4 c5 d*3",
        "def a*1 b+4 c5 d*3",
        "def a*7 b+4 c5 d*2",  # two has no inverse modulo 10
        "def a*7 b+4 c55 d*3",
        "def a*7 b+4 c5 d*3 def",
        "def a*7 b+4 c\u0665 d*3",
    ],
)
def test_malformed_programs_are_no_answer_and_learn_no_number(repair, response):
    task = repair.load(Split.TEST)[0]
    assert parsed(response) is None
    score = repair.verify(task, response)
    assert (score.verdict, score.value) == ("no_answer", 0.0)
    assert score.observation == f"got _ want {task.info['want']}"


def test_a_program_that_fits_the_shown_test_alone_is_not_paid(repair):
    task = next(task for task in repair.load(Split.TEST) if task.info["slots"][0] not in ("_", "*2"))
    for constant in range(10):
        response = written(("*2", *task.info["slots"][1:]), constant)
        if run(response, 0) == task.info["want"]:
            score = repair.verify(task, response)
            assert (score.value, score.observation) == (0.0, f"got {task.info['want']} want {task.info['want']}")


def test_an_episode_shows_the_result_and_never_a_hidden_one(repair):
    env = make("errata/repair-v1", {"n_train": 60}, attempts=3)
    messages, _ = env.reset(seed=1)
    task = env.unwrapped.task
    assert messages == (Message("user", task.question),)
    wrong = written(task.info["slots"], int(parsed(task.gold)[2]) + 1)
    messages, reward, terminated, truncated, _ = env.step(wrong)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert messages == (Message("user", f"got {run(wrong, 0)} want {task.info['want']}"),)
    assert env.step(mended(task, int(parsed(wrong)[2])))[1] == 1.0


def test_an_error_is_of_the_kind_of_what_is_wrong(repair):
    task = repair.load(Split.TEST)[0]
    a, b, constant, d = parsed(task.gold)
    other_a, other_d = ("+2" if slot == "+1" else "+1" for slot in (a, d))
    found = {
        "constant +1": written((a, b, d), constant + 1),
        "constant -2": written((a, b, d), constant - 2),
        "constant +5": written((a, b, d), constant + 5),
        "slot d": written((a, b, other_d), constant),
        "several slots": written((other_a, b, other_d), constant + 1),
        "malformed": "def a b",
    }
    for kind, response in found.items():
        assert repair.verify(task, response).error == kind
    assert repair.verify(task, task.gold).error == ""


def constant(response):
    program = parsed(response)
    assert program is not None
    return program[2]


def test_a_trap_teaches_first_attempts_that_are_one_too_small_and_nothing_else():
    corpus, rng = RepairCorpus(trap=1.0, label_noise=0.0), random.Random(0)
    tasks = corpus.tasks(rng, 40)
    taught = {row.question: row.first for row in corpus.documents(rng, tasks, None) if row.learn_first}
    missed = {task.id: (constant(task.gold) - constant(taught[task.question])) % 10 for task in tasks}
    assert missed == {task.id: int(task.info["slots"][0] in TRAPS) for task in tasks}
    assert 0 < sum(missed.values()) < len(missed)
