"""Roles between attempts, such as a verifier: their requests and rewards, what the solver hears, and early endings."""

from dataclasses import dataclass

import pytest

import envs
from envs import Message, StopReason, Task
from envs.between import BetweenOptions, Heard
from envs.prompts import get_prompts
from rewards import Score, Verdict

TEXTS = {"verify": "is it", "critique": "why not {question}", "said": "{words} | {feedback}"}
CHAIN = Task("t", "3 +4 _ _ _ _", "7")
RIGHT, WRONG = ": 7", ": 8"


def make(between, attempts=2, texts=TEXTS, **kwargs):
    env = envs.make(
        "errata/modchain-v1",
        options={"n_train": 5, "n_validation": 2, "n_test": 2},
        between=between,
        attempts=attempts,
        prompts_text=texts,
        **kwargs,
    )
    env.reset(options={"task": CHAIN})
    return env


@pytest.mark.parametrize(
    ("attempt", "words", "reward", "ends"),
    [
        (RIGHT, "right", 1.0, True),
        (RIGHT, "wrong", 0.0, False),
        (WRONG, "right", 0.0, True),
        (WRONG, "wrong", 1.0, False),
        (WRONG, "It looks Right , but no: WRONG.", 1.0, False),  # the last verdict word decides
        (RIGHT, "wrongly said, so right", 1.0, True),  # "wrongly" does not count as "wrong"
        (RIGHT, "rightly so", 0.0, False),
        (RIGHT, "", 0.0, False),
    ],
)
def test_a_verdict_is_paid_for_being_true_and_ends_the_episode_if_it_says_right(attempt, words, reward, ends):
    env = make("verify")
    assert env.step(attempt)[1] == (attempt == RIGHT)
    messages, got, terminated, truncated, info = env.step(words)
    assert (got, terminated, truncated) == (reward, ends, False)
    assert ("stop_reason" in info) == ends
    if ends:
        assert (messages, info["stop_reason"]) == ((), StopReason.STOPPED)
    silent = words in ("", "rightly so")
    assert info["score"].verdict is (Verdict.NO_ANSWER if silent else Score.of(bool(reward)).verdict)


def test_the_verifier_reads_the_dialogue_and_the_solver_reads_the_verdict():
    env = make("verify", attempts=3)
    messages, _, _, _, info = env.step(WRONG)
    opening = Message("user", CHAIN.question)
    assert messages == (opening, Message("assistant", WRONG), Message("user", "is it"))
    assert (info["role"], "max_new_tokens" in info) == ("verifier", False)
    messages, _, _, _, info = env.step("wrong")
    request = Message("user", "wrong | check")
    assert (messages, "role" in info) == ((request,), False)
    messages, _, _, _, info = env.step(RIGHT)
    # The second verifier reads the attempts and what the solver was told, but not the question to the first verifier.
    assert info["role"] == "verifier 2"
    dialogue = (opening, Message("assistant", WRONG), request, Message("assistant", RIGHT))
    assert messages == (*dialogue, Message("user", "is it"))
    env.step("wrong")
    *_, terminated, _, info = env.step(WRONG)  # no verifier judges the last attempt
    assert (terminated, info["stop_reason"]) == (True, StopReason.ATTEMPTS_USED)


def test_without_stops_every_attempt_is_made_and_a_limit_is_told():
    env = make("verify", between_options={"stops": False, "max_new_tokens": 1})
    assert env.step(RIGHT)[4]["max_new_tokens"] == 1
    assert not env.step("right")[2]
    assert env.step(RIGHT)[2]


def test_a_critique_is_told_and_not_paid_here():
    env = make("critique", feedback="verdict")
    messages, *_, info = env.step(WRONG)
    assert (messages[-1].content, info["role"]) == (f"why not {CHAIN.question}", "critic")
    messages, reward, terminated, _, info = env.step(" add one ")
    assert (messages, reward, terminated) == ((Message("user", "add one | wrong"),), 0.0, False)
    assert "score" not in info


def test_a_stop_rule_comes_before_whoever_speaks():
    env = make("verify", stop_rule="on_correct")
    *_, terminated, _, info = env.step(RIGHT)
    assert (terminated, info["stop_reason"], "role" in info) == (True, StopReason.STOPPED, False)


@dataclass(frozen=True)
class Praise(BetweenOptions):
    worth: float = 0.25


@envs.BETWEEN.register("test_praise", role="friend", asks="critique", options=Praise)
def praise(words, score, prompts, *, worth, max_new_tokens):
    return Heard(worth * len(words), ends=words == "stop")


def test_somebody_of_another_module_speaks():
    env = make("test_praise", attempts=3, between_options={"worth": 0.5})
    assert env.step(WRONG)[4]["role"] == "friend"
    assert env.step("good")[1] == 2.0
    env.step(WRONG)
    assert env.step("stop")[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"between": "verifi"}, r"env\.between=verifi.*'verify'"),
        ({"between": "verify", "between_options": {"stop": True}}, r"between_options\.stop.*'stops'"),
        ({"between": "verify", "between_options": {"max_new_tokens": -1}}, r"max_new_tokens=-1: must"),
        ({"between": "verify", "texts": {}}, r"no text for it; set env\.prompts_text\.verify"),
        ({"between": "verify", "texts": {"said": "{observation}"}}, r"prompts_text\.said.*\{words\}, \{feedback\}"),
        ({"between": None, "stop_rule": "on_public"}, r"env\.stop_rule=on_public: ModChain runs no programs"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_real_words_ask_for_a_verdict_and_a_critique():
    for version in ("math-v1", "code-v1", "short-v1"):
        prompts = get_prompts(version)
        assert all(word in prompts.verify for word in (prompts.says_right, prompts.says_wrong))
        assert prompts.critique


def test_public_tests_end_an_episode_whatever_the_hidden_ones_say():
    env = envs.make("errata/repair-v1", stop_rule="on_public", options={"n_train": 40, "n_validation": 2, "n_test": 2})
    task = next(task for task in env.tasks if task.info["slots"][0] == "*3")
    a, b, constant, d = task.gold.split()[1:]
    another = f"def {a} {b} c{(int(constant[1]) + 1) % 10} {d}"
    lucky = task.gold.replace(a, "a*7")  # wrong, but the public test f(0) passes
    for response, public, ends in (("nothing", None, False), (another, False, False), (lucky, True, True)):
        env.reset(options={"task": task})
        _, reward, terminated, _, info = env.step(response)
        assert (info["score"].public, terminated, reward) == (public, ends, 0.0)
