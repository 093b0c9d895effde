import gymnasium
import pytest

import envs
from envs import Message, StopReason
from rewards import Verdict


def make(**kwargs):
    return envs.make("errata/modchain-v1", options={"n_train": 20, "n_validation": 5, "n_test": 5}, **kwargs)


def wrong_answer(env):
    return f": {(int(env.task.gold) + 1) % 10}"


def test_two_attempts_and_the_same_words_after_right_and_wrong():
    env = make()
    requests = []
    for response in (env.taskset.gold_response, lambda _: wrong_answer(env)):
        env.reset(seed=1)
        messages, reward, terminated, truncated, info = env.step(response(env.task))
        assert not terminated
        assert not truncated
        assert "stop_reason" not in info
        requests.append((messages, reward))
    (after_right, right), (after_wrong, wrong) = requests
    assert (right, wrong) == (1.0, 0.0)
    assert after_right == after_wrong == (Message("user", "check"),)  # intrinsic: nothing leaks
    messages, reward, terminated, _, info = env.step(env.taskset.gold_response(env.task))
    assert (messages, reward, terminated, info["stop_reason"]) == ((), 1.0, True, StopReason.ATTEMPTS_USED)


def test_verdict_feedback_tells():
    env = make(feedback="verdict")
    env.reset(seed=1)
    assert env.step(env.taskset.gold_response(env.task))[0][0].content == "right"
    env.reset(seed=1)
    assert env.step(wrong_answer(env))[0][0].content == "wrong"


def test_a_task_sets_own_feedback_is_used():
    env = make(feedback="verdict")
    env.taskset.feedback = lambda task, response, score: f"{response} was {score.verdict}"
    env.reset(seed=1)
    assert env.step("nonsense")[0][0].content == "nonsense was no_answer"


def test_stop_on_correct():
    env = make(stop_on_correct=True, attempts=3)
    env.reset(seed=1)
    *_, terminated, _, info = env.step(env.taskset.gold_response(env.task))
    assert terminated
    assert info["stop_reason"] is StopReason.SOLVED


def test_stepping_past_the_end_is_an_error():
    env = make(attempts=1)
    env.reset(seed=0)
    env.step(": 1")
    with pytest.raises(RuntimeError, match="episode is over"):
        env.step(": 1")


def test_task_before_reset_is_an_error():
    with pytest.raises(RuntimeError, match="reset"):
        _ = make().task


def test_gymnasium_make_works():
    env = gymnasium.make("errata/modchain-v1")
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert env.unwrapped.task.question in observation[0].content


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (": 4", Verdict.CORRECT),
        (": 5", Verdict.WRONG),
        ("4", Verdict.NO_ANSWER),
        (": 4 4", Verdict.NO_ANSWER),
        ("# 7 1 4 4 4", Verdict.CORRECT),
        ("# 1 1 1 1 4", Verdict.CORRECT),  # the answer is graded, not the way to it
        ("# 7 1 4 4", Verdict.NO_ANSWER),
        ("# 7 1 4 4 4 5", Verdict.NO_ANSWER),
        (": \u0664", Verdict.NO_ANSWER),  # an Arabic-Indic 4 is not in the accepted form
        ("", Verdict.NO_ANSWER),
    ],
)
def test_modchain_verifier(response, verdict):
    env = make()
    task = envs.Task("x", "3 +4 *3 +3 _ _", "4")
    assert env.taskset.verify(task, response).verdict is verdict


def test_modchain_arithmetic():
    # 3 +4 = 7, 7 *7 = 49 -> 9, set to 2, 2 + 5 = 7, nothing
    from envs.tasks.modchain import worked_response

    assert worked_response("3 +4 *7 =2 +5 _") == "# 7 9 2 7 7"


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("0999", Verdict.CORRECT),
        ("999", Verdict.NO_ANSWER),
        ("0998", Verdict.WRONG),
        ("0999 0999", Verdict.NO_ANSWER),
    ],
)
def test_addition_verifier(response, verdict):
    env = envs.make("errata/addition-v1", options={"n_train": 5, "n_validation": 5, "n_test": 5})
    assert env.taskset.verify(envs.Task("x", "123+876", "0999"), response).verdict is verdict


def test_reasoning_gym_pays_nothing_for_text_that_contains_the_answer():
    env = envs.make("errata/reasoning_gym-v1", options={"n_train": 5, "n_validation": 2, "n_test": 2})
    env.reset(seed=0)
    score = env.taskset.verify(env.task, f"<answer>{env.task.gold} 1 2 3</answer>")
    assert (score.value, score.verdict) == (0.0, Verdict.WRONG)
    assert env.taskset.verify(env.task, "<answer>1</answer><answer>2</answer>").verdict is Verdict.AMBIGUOUS
