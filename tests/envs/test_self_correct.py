import re
from dataclasses import dataclass

import gymnasium
import pytest

import envs
from envs import Message, StopReason
from rewards import Score, Verdict
from rewards.answers import candidates
from rewards.math import score_math


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
    assert after_right == after_wrong == (Message("user", "check"),)  # the request must not reveal the verdict
    messages, reward, terminated, _, info = env.step(env.taskset.gold_response(env.task))
    assert (messages, reward, terminated, info["stop_reason"]) == ((), 1.0, True, StopReason.ATTEMPTS_USED)


def test_verdict_feedback_tells():
    env = make(feedback="verdict")
    env.reset(seed=1)
    assert env.step(env.taskset.gold_response(env.task))[0][0].content == "right"
    env.reset(seed=1)
    assert env.step(wrong_answer(env))[0][0].content == "wrong"


@dataclass(frozen=True)
class Shout:
    mark: str


@envs.FEEDBACK.register("test_shout", options=Shout)
def shout(task, response, score, prompts, *, mark):
    return f"{response} was {score.verdict}{mark}"


@envs.STOP_RULES.register("test_after_a_refusal")
def after_a_refusal(scores):
    return scores[-1].verdict is Verdict.NO_ANSWER


def test_feedback_and_stop_rule_of_another_module():
    env = make(feedback="test_shout", feedback_options={"mark": "!"}, stop_rule="test_after_a_refusal", attempts=9)
    env.reset(seed=1)
    assert env.step(": 0")[0][0].content in (": 0 was correct!", ": 0 was wrong!")
    *_, terminated, _, info = env.step("nonsense")
    assert (terminated, info["stop_reason"]) == (True, StopReason.STOPPED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedback": "verdikt"}, r"env\.feedback=verdikt.*'verdict'"),
        ({"stop_rule": "oncorrect"}, r"env\.stop_rule=oncorrect.*'on_correct'"),
        ({"prompts": "toy-v7"}, r"env\.prompts=toy-v7.*'toy-v1'"),
        ({"feedback": "test_shout", "feedback_options": {"marc": "!"}}, r"feedback_options\.marc.*'mark'"),
        ({"feedback": "test_shout"}, r"feedback_options\.mark.*needs a value"),
        ({"stop_rule_options": {"after": 2}}, r"stop_rule_options\.after"),
        ({"prompts_text": {"retri": "x"}}, r"prompts_text\.retri.*'retry'"),
        ({"prompts_text": {"retry": "{observation}"}}, r"prompts_text\.retry"),
        ({"prompts_text": {"system": "{"}}, r"prompts_text\.system"),
        ({"feedback": "execution"}, "runs no programs"),
    ],
)
def test_an_unknown_name_says_nothing_it_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_stop_rules_see_the_scores_so_far():
    env = make(stop_rule="on_correct", attempts=3)
    env.reset(seed=1)
    assert not env.step(wrong_answer(env))[2]
    *_, terminated, _, info = env.step(env.taskset.gold_response(env.task))
    assert (terminated, info["stop_reason"]) == (True, StopReason.STOPPED)
    env = make(stop_rule="on_repeat", attempts=4)
    env.reset(seed=1)
    assert [env.step(text)[2] for text in (": 1", ": 2", ": 2")] == [False, False, True]


def test_single_texts_are_replaced_the_system_prompt_among_them():
    env = make(prompts_text={"system": "Think of {question}.", "retry": "{question} again"})
    messages, _ = env.reset(seed=1)
    question = env.task.question
    assert messages == (Message("system", f"Think of {question}."), Message("user", question))
    assert env.step(": 1")[0] == (Message("user", f"{question} again"),)


def test_an_authors_choice_holds_unless_another_is_given():
    envs.register("test/choice-v1", envs.ENVIRONMENTS["errata/modchain-v1"][0], attempts=5, prompts="sum-v1")
    assert envs.make("test/choice-v1").attempts == 5
    assert envs.make("test/choice-v1", attempts=None).attempts == 5
    assert envs.make("test/choice-v1", attempts=1).attempts == 1
    assert envs.settings("test/choice-v1", {"attempts": None, "prompts": None, "feedback": "verdict"}) == {
        "attempts": 5,
        "prompts": "sum-v1",
        "feedback": "verdict",
    }
    modchain = envs.ENVIRONMENTS["errata/modchain-v1"][0]
    envs.register("test/shouts-v1", modchain, feedback="test_shout", feedback_options={"mark": "?"}, prompts="toy-v1")
    assert envs.settings("test/shouts-v1", {"feedback": None, "feedback_options": None})["feedback_options"] == {
        "mark": "?"
    }
    envs.make("test/shouts-v1", feedback="none")  # drops the options too, which belong to the author's function
    with pytest.raises(TypeError, match="did you mean 'attempts'"):
        envs.register("test/typo-v1", object, atempts=5)


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


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("observed", ["same", "different"])
def test_gymnasium_makes_vectors(mode, observed):
    vector = gymnasium.make_vec(
        "errata/modchain-v1", num_envs=2, vectorization_mode=mode, vector_kwargs={"observation_mode": observed}
    )
    try:
        observations, _ = vector.reset(seed=[3, 4])
        for seed, messages in zip((3, 4), observations, strict=True):
            assert messages == gymnasium.make("errata/modchain-v1").reset(seed=seed)[0]
        observations, rewards, *_ = vector.step((": 1", ": 2"))
        assert observations == ((Message("user", "check"),),) * 2
        assert set(rewards) <= {0.0, 1.0}
        assert vector.action_space.contains(vector.action_space.sample())
    finally:
        vector.close()


def test_a_conversation_that_does_not_fit_the_shared_memory_says_so():
    from gymnasium.vector.utils import write_to_shared_memory

    with pytest.raises(ValueError, match=r"does not fit.*'shared_memory': False"):
        write_to_shared_memory(
            envs.make("errata/modchain-v1").observation_space, 0, (Message("user", "é" * 50_000),), b""
        )


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: make(split="tset"), "split=tset: unknown; did you mean 'test'.*Known: train, validation, test"),
        (lambda: make(fedback="none"), "no argument 'fedback'; did you mean 'feedback'"),
        (lambda: make(n_train=50), r"but its task set has: options=\{'n_train': 50\}"),
        (lambda: gymnasium.make("errata/modchain-v1", n_train=50), r"options=\{'n_train': 50\}"),
        (lambda: make(render_mode="human"), "render_mode=human: use ansi"),
        (lambda: make().reset(options={"tsk": 1}), r"reset\(options=.*did you mean 'task'"),
        (lambda: make().reset(options={"task": "1"}), "takes an envs.Task, got '1'"),
        (lambda: make().reset(options={"task": envs.Task("seed-3", "x", "", seed=3)}), "'seed-3' is a seed for an env"),
        (lambda: make().reset(options=["task"]), r"reset\(options=\['task'\]\): a mapping is needed"),
        (lambda: envs.make("errata/modchain-v1", options=[1]), r"options=\[1\]: a mapping is needed"),
        (lambda: make(attempts="2"), "attempts='2': a whole number is needed here"),
        (lambda: make(attempts=True), "attempts=True: a whole number is needed here"),
        (lambda: make().taskset.load("trian"), "split=trian.*did you mean 'train'"),
        (lambda: envs.Task("a", "b", 3), "task a: the gold must be text, got 3"),
        (lambda: envs.Task("a", None, "3"), "task a: the question must be text, got None"),
        (lambda: Score(1.0, "corect"), "verdict=corect: unknown; did you mean 'correct'"),
        (lambda: candidates("x", None), "form=None: name a form, as 'boxed', or several"),
        (lambda: candidates("x", [None]), r"form=\[None\]: name a form"),
        (lambda: score_math("x", gold="2", form=3), "form=3: name a form"),
        (lambda: score_math("x", gold="2", form=None), "form=None: name a form"),
        (lambda: envs.make(None), "an environment's id is a text, as 'errata/repair-v1', not None"),
        (lambda: envs.make(envs), "an environment's id is a text, as 'errata/repair-v1', not <module"),
        (lambda: envs.make("repair"), "env.id=repair: unknown; did you mean 'errata/repair-v1'"),
        (lambda: envs.make("Sums"), "env.id=Sums: unknown; did you mean 'errata/sums-v1'"),
        (lambda: envs.make_taskset(3, {}), "an environment's id is a text"),
    ],
)
def test_a_mistake_in_the_call_is_one_sentence(act, message):
    with pytest.raises((ValueError, TypeError), match=message):
        act()


@pytest.mark.parametrize(("own", "other"), [("repair", "mend"), ("repair", "modchain"), ("mend", "sums")])
def test_a_task_that_cannot_be_verified_here_is_called_that(own, other):
    env, task = envs.make(f"errata/{own}-v1"), envs.make(f"errata/{other}-v1").tasks[0]
    env.reset(options={"task": task})
    with pytest.raises(ValueError, match=rf"task {re.escape(repr(task.id))} has no '.*so it is no task of this env"):
        env.step(env.taskset.gold_response(env.tasks[0]))


def test_an_error_of_the_verifier_stays_that_error(monkeypatch):
    env = make()
    env.reset(seed=1)
    monkeypatch.setattr(env.taskset, "verify", lambda task, response: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        env.step("x")
    env.reset(options={"task": envs.Task("mine", "3 +4 _ _ _ _", "7", {"n_steps": 1})})
    with pytest.raises(KeyError, match="missing"):
        env.step("x")


def test_a_task_of_ones_own_making_is_played():
    env = make()
    env.reset(options={"task": envs.Task("mine", "3 +4 _ _ _ _", "7")})
    assert env.step(": 7")[1] == 1.0


@pytest.mark.parametrize("action", [None, 5, {"content": "x"}])
@pytest.mark.parametrize("env_id", ["errata/modchain-v1", "errata/repair-v1"])
def test_an_action_is_a_text_of_an_episode_that_was_begun(env_id, action):
    env = envs.make(env_id, options={"n_train": 2, "n_validation": 1, "n_test": 1})
    with pytest.raises(RuntimeError, match="no episode was begun"):
        env.step("x")
    env.reset(seed=1)
    with pytest.raises(TypeError, match="a response must be text, got"):
        env.step(action)
    env.step("x")  # the refused action has not ended the episode


def test_names_do_where_enums_are():
    assert Score(1.0, "correct") == Score(1.0, Verdict.CORRECT)
    assert make(split="test").tasks == make(split=envs.Split.TEST).tasks == tuple(make().taskset.load("test"))


def test_gymnasium_renders():
    env = gymnasium.make("errata/modchain-v1", render_mode="ansi")
    env.reset(seed=3)
    env.step(": 1")
    assert env.render().splitlines()[1:] == ["assistant: : 1", "user: check"]


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (": 4", Verdict.CORRECT),
        (": 5", Verdict.WRONG),
        ("4", Verdict.NO_ANSWER),
        (": 4 4", Verdict.NO_ANSWER),
        ("# 7 1 4 4 4", Verdict.CORRECT),
        ("# 1 1 1 1 4", Verdict.CORRECT),  # only the answer is graded, not the steps
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
    # Modulo 10: 3 + 4 = 7, 7 * 7 = 49 -> 9, set to 2, 2 + 5 = 7, and an empty step.
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
