"""Any text environment can be sampled and trained on, and what it raises becomes an error of its episode."""

import asyncio
import sys
from dataclasses import replace

import gymnasium
import numpy
import pytest

import envs
from envs import Message, StopReason, Task
from envs.self_correct import ResponseSpace
from rewards import Score, Verdict
from rl.batching import to_rollout_batch
from rl.rollout import EpisodePlan, Rollout
from tests.engine_scripted import ScriptedEngine
from tests.helpers import build_trainer, log_step, modchain_config


class Echo(gymnasium.Env):
    """A third-party environment: shows two digits, pays for each that the action contains, ends after two steps."""

    observation_space = action_space = ResponseSpace()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.digits = [str(digit) for digit in self.np_random.integers(0, 10, 2)]
        self.n_steps = 0
        return " ".join(self.digits), {}

    def step(self, action):
        self.n_steps += 1
        return "again", sum(digit in action for digit in self.digits) - 0.5, self.n_steps == 2, False, {}


class Session(Echo):
    """An environment that holds a server's session from ``reset`` to ``close``; about half of its episodes raise."""

    single_use = True
    held, most = 0, 0

    def reset(self, *, seed=None, options=None):
        Session.held += 1
        Session.most = max(Session.most, Session.held)
        return super().reset(seed=seed)

    def step(self, action):
        if self.digits[0] in "02468":
            raise OSError("gone")
        return super().step(action)

    def close(self):
        Session.held -= 1


class Endless(Echo):
    def step(self, action):
        return "again", 0.25, False, False, {}


gymnasium.register("TestEcho-v0", entry_point=Echo)
gymnasium.register("TestSession-v0", entry_point=Session, max_episode_steps=1)
gymnasium.register("TestEndless-v0", entry_point=Endless, max_episode_steps=3)


@pytest.fixture
def play(modchain):
    _, tokenizer, renderer = modchain

    def run(make, script, tasks, contexts=64):
        engine = ScriptedEngine(script, tokenizer.encode, renderer.end_id)
        rollout = Rollout(engine, renderer, make, (3, 7), contexts)
        return rollout.run([EpisodePlan(task, i, i) for i, task in enumerate(tasks)], 1.0), tokenizer

    return run


def seeds(*values):
    return [Task(f"seed-{seed}", "", "", seed=seed) for seed in values]


def test_a_wrapped_environment_of_ours_is_played_like_a_bare_one(play):
    options = {"n_train": 5, "n_validation": 2, "n_test": 2}
    tasks = envs.make_taskset("errata/modchain-v1", options).load("train")
    script = lambda request: f": {request.seed % 10}"  # noqa: E731
    wrapped, _ = play(lambda: gymnasium.make("errata/modchain-v1", options=options), script, tasks)
    bare, _ = play(lambda: envs.make("errata/modchain-v1", options=options), script, tasks)
    assert wrapped == bare
    assert {episode.stop_reason for episode in bare} == {StopReason.ATTEMPTS_USED}


def test_a_foreign_environment_is_played(play):
    (one, other), tokenizer = play(lambda: gymnasium.make("TestEcho-v0"), lambda _: ": 4", seeds(3, 4))
    digits = gymnasium.make("TestEcho-v0").reset(seed=3)[0]
    assert tokenizer.decode(one.turns[0].prompt_ids) == f"<|user|> {digits} <|assistant|>"
    assert one.turns[0].prompt_ids != other.turns[0].prompt_ids
    assert [turn.reward for turn in one.turns] == [digits.split().count("4") - 0.5] * 2
    assert [turn.score for turn in one.turns] == [None, None]
    assert (one.stop_reason, one.terminated, one.failed) == (StopReason.ENDED, True, False)


def test_what_an_episode_holds_of_a_server_is_given_back_at_its_end(play):
    for _ in range(2):
        episodes, _ = play(lambda: gymnasium.make("TestSession-v0"), lambda request: "1", seeds(*range(8)))
        assert 0 < sum(one.failed for one in episodes) < 8
        assert (Session.held, Session.most) == (0, 8)


def test_an_environments_own_limit_of_steps_is_no_failure(play):
    (episode,), _ = play(lambda: gymnasium.make("TestEndless-v0"), lambda _: ": 4", seeds(3))
    assert (len(episode.turns), episode.stop_reason) == (3, StopReason.TIME_LIMIT)
    assert (episode.truncated, episode.failed) == (True, False)
    assert to_rollout_batch([episode], 0, 3).rewards.tolist() == [[0.25] * 3]


@pytest.mark.parametrize("env_id", ["TestEcho-v0", "errata/modchain-v1"])
@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")  # gymnasium warns of a space of all strings
def test_a_train_step_in_an_environment_that_is_made_by_id(env_id):
    cfg = modchain_config(episodes=32, tasks_per_step=4)
    sizes = {"train": 12, "validation": 3, "test": 4}
    ours = env_id.startswith("errata")
    options = {f"n_{split}": n for split, n in sizes.items()} if ours else {}
    cfg.env = replace(cfg.env, id=env_id, prompts=None, attempts=2, options=options)
    if not ours:
        cfg.env = replace(cfg.env, seeds=sizes)
    trainer, bench = build_trainer(cfg)
    assert [len(bench.tasks(split)) for split in envs.Split] == [12, 3, 4]
    metrics, episodes = log_step(trainer)
    assert len(episodes) == 16
    assert metrics["rollout/failed_fraction"] == 0.0
    assert metrics["optim/grad_norm"] > 0.0
    assert len({task.id for split in envs.Split for task in bench.tasks(split)}) == 19


class Broken(Echo):
    """An environment that raises, or returns what it must not, at the place that ``where`` names."""

    def __init__(self, where):
        self.where = where
        if where == "make":
            raise OSError("no licence")

    def reset(self, *, seed=None, options=None):
        if self.where == "reset" and seed == 4:
            raise ValueError("no such state")
        observation, info = super().reset(seed=seed)
        return (7 if self.where == "observation" else observation), info

    def step(self, action):
        if self.where == "step":
            raise KeyError("lost")
        if self.where == "exit":
            sys.exit(3)
        if self.where == "cancelled":
            raise asyncio.CancelledError
        reward = {"nan": float("nan"), "nothing": None}.get(self.where, 1.0)
        info = {"score": Score(0.0, Verdict.ERROR, reason="down")} if self.where == "verifier" else {}
        info |= {"role": 7} if self.where == "role" else {}
        limits = {
            "no limit": None,
            "limit of text": "8",
            "limit of 0": 0,
            "limit below 0": -1,
            "a yes": True,
            "numpy": numpy.int64(2),
        }
        info |= {"max_new_tokens": limits[self.where]} if self.where in limits else {}
        info |= {"stop_reason": "tired"} if self.where == "reason" else {}
        info |= {"error": None} if self.where == "no_words" else {}
        again = {"number": 7, "list": [1, 2], "empty": [Message("user", None)]}.get(self.where, "again")  # type: ignore
        return again if self.where != "none" else None, reward, False, self.where == "verifier", info


@pytest.mark.parametrize(
    ("where", "n_failed", "message"),
    [
        ("make", 3, "no licence"),
        ("reset", 1, "no such state"),
        ("observation", 3, "reset:"),
        ("step", 3, "lost"),
        ("nan", 3, "finite"),
        ("nothing", 3, "step:"),
        ("verifier", 3, "down"),
        ("role", 3, "must be a string"),
        ("no limit", 0, ""),
        ("numpy", 0, ""),
        ("limit of text", 3, "must be a positive int, got '8'"),
        ("limit of 0", 3, "must be a positive int, got 0"),
        ("limit below 0", 3, "must be a positive int, got -1"),
        ("a yes", 3, "must be a positive int, got True"),
        ("exit", 3, "step: SystemExit(3)"),
        ("cancelled", 3, "step: CancelledError"),
        ("reason", 3, "tired"),
        ("no_words", 3, "None"),
        ("number", 3, "step: TypeError"),
        ("list", 3, "an observation is a string, or Messages"),
        ("empty", 3, "content=None"),
        ("none", 3, "step: TypeError"),
    ],
)
def test_what_an_environment_raises_ends_its_episode_and_nothing_else(play, where, n_failed, message):
    made = []

    def make():
        made.append(Broken(where))
        return gymnasium.wrappers.TimeLimit(made[-1], 2)

    episodes, _ = play(make, lambda _: ": 4", seeds(3, 4, 5))
    failed = [episode for episode in episodes if episode.failed]
    assert len(failed) == n_failed
    for episode in failed:
        assert episode.stop_reason is StopReason.ENV_ERROR
        assert message in episode.error


@pytest.mark.parametrize("elsewhere", [False, True])
def test_ctrl_c_in_an_environment_is_the_users(play, elsewhere):
    class Interrupted(Echo):
        verifies_elsewhere = elsewhere

        def step(self, action):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(Interrupted, lambda _: ": 4", seeds(3))


@envs.FEEDBACK.register("test_exits")
def exiting_feedback(task, response, score, prompts):
    sys.exit(1)


@envs.FEEDBACK.register("test_broken")
def broken_feedback(task, response, score, prompts):
    raise LookupError("no words")


@pytest.mark.parametrize(("name", "said"), [("test_broken", "no words"), ("test_exits", "SystemExit(1)")])
def test_feedback_that_raises_is_an_error_of_its_episode(play, name, said):
    options = {"n_train": 2, "n_validation": 1, "n_test": 1}
    make = lambda: envs.make("errata/modchain-v1", options=options, feedback=name)  # noqa: E731
    (episode,), _ = play(make, lambda _: ": 4", envs.make_taskset("errata/modchain-v1", options).load("train")[:1])
    assert episode.stop_reason is StopReason.ENV_ERROR
    assert said in episode.error


class Duel:
    """An environment in which a proposer writes a digit and a solver answers, twice, in separate conversations."""

    def reset(self, *, seed=None, options=None):
        self.n_steps = 0
        return (Message("user", "1"),), {"role": "proposer"}

    def step(self, action):
        self.n_steps += 1
        role = "solver" if self.n_steps % 2 else "proposer"
        return (Message("user", action if role == "solver" else "right"),), self.n_steps, self.n_steps == 4, False, {
            "role": role
        }  # fmt: skip


def test_every_role_has_a_conversation_and_a_row_of_its_own(play):
    script = iter([": 5", ": 6", ": 7", ": 8"])
    (episode,), tokenizer = play(Duel, lambda _: next(script), [Task("t", "", "")])
    assert [turn.role for turn in episode.turns] == ["proposer", "solver"] * 2
    assert [tokenizer.decode(turn.prompt_ids) for turn in episode.turns] == [
        "<|user|> 1 <|assistant|>",
        "<|user|> : 5 <|assistant|>",
        "<|user|> 1 <|assistant|> : 5 <|end|> <|user|> right <|assistant|>",
        "<|user|> : 5 <|assistant|> : 6 <|end|> <|user|> : 7 <|assistant|>",
    ]
    rows = to_rollout_batch([episode, replace(episode, group_id=1)], 0, 2)
    assert rows.rewards.tolist() == [[1.0, 3.0], [2.0, 4.0]] * 2
    assert rows.n_turns.tolist() == [2] * 4
    assert len(set(rows.group_ids.tolist())) == 4  # roles are never compared with each other
