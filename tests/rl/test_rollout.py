"""Rollouts with scripted engines: prompts are exact token by token, and failures become values of their episodes."""

import pytest

import envs
from envs import StopReason, Task
from rewards import Score, Verdict
from rl.analysis.rows import EvalRow
from rl.backends.distributed import Distributed
from rl.rendering import Renderer
from rl.rollout import EpisodePlan, Rollout, complete
from rl.rollout_metrics import rollout_metrics, to_groups
from rl.types import Finish, Request
from tests.engine_scripted import ScriptedEngine
from tests.helpers import episode


class Tasks:
    def load(self, split):
        return [Task("t0", "1 2", "7"), Task("t1", "3 4", "8")]

    def verify(self, task, response):
        if response == ": 9":
            raise RuntimeError("the verifier broke")
        return Score.of(response == f": {task.gold}", response)

    def gold_response(self, task):
        return f": {task.gold}"


@pytest.fixture
def play(modchain):
    _, tokenizer, renderer = modchain

    def run(script, n=1, limits=(3, 7), context=64, attempts=2):
        engine = ScriptedEngine(script, tokenizer.encode, renderer.end_id)
        make = lambda: envs.SelfCorrectEnv(Tasks(), prompts="toy-v1", attempts=attempts)  # noqa: E731
        rollout = Rollout(engine, renderer, make, limits, context)
        plans = [EpisodePlan(Tasks().load("train")[i % 2], i, 100 + i) for i in range(n)]
        return rollout.run(plans, 1.0), engine

    return run


def test_second_prompt_extends_the_first(play, modchain):
    (episode,), engine = play([": 1", ": 7"])
    first, second = episode.turns
    assert [turn.reward for turn in episode.turns] == [0.0, 1.0]
    assert [turn.score.verdict for turn in episode.turns] == [Verdict.WRONG, Verdict.CORRECT]
    seen = first.prompt_ids + first.action_ids
    assert second.prompt_ids[: len(seen)] == seen
    assert modchain[1].decode(second.prompt_ids[len(seen) :]) == "<|user|> check <|assistant|>"
    assert engine.requests[1].prompt_ids == second.prompt_ids
    assert engine.requests[0].seed != engine.requests[1].seed
    assert (episode.terminated, episode.stop_reason) == (True, StopReason.ATTEMPTS_USED)


def test_episodes_come_back_in_the_order_of_the_plans(play):
    episodes, _ = play([": 1", ": 2", ": 7", ": 8"], n=2)
    assert [episode.task_id for episode in episodes] == ["t0", "t1"]
    assert [episode.turns[1].reward for episode in episodes] == [1.0, 1.0]


def test_a_cut_off_turn_goes_on_and_is_marked(play):
    (episode,), _ = play(["1 2 3 4", ": 7"])
    assert [turn.finish for turn in episode.turns] == [Finish.LENGTH, Finish.STOP]
    assert episode.turns[0].text == "1 2 3"


def test_a_crash_of_the_verifier_is_an_error_not_a_reward(play):
    (episode,), _ = play([": 1", ": 9"])
    assert episode.stop_reason is StopReason.ENV_ERROR
    assert episode.truncated
    assert "the verifier broke" in episode.error
    assert len(episode.turns) == 1
    assert EvalRow.of(episode, "a", 0, "greedy", 0, 2).broken_by == episode.error  # the row gives the reason


def test_answers_are_cut_to_the_room_that_is_left_and_an_episode_without_room_ends_with_what_it_has(play):
    (whole,), engine = play([": 1", ": 7"])
    first, second = engine.requests
    starts = [len(request.prompt_ids) for request in engine.requests]
    # Contexts that are one token too short for the limit of the second answer, then for that of the first.
    (less,), engine = play([": 1", ": 7"], context=starts[1] + second.max_new_tokens - 1)
    assert [r.max_new_tokens for r in engine.requests] == [first.max_new_tokens, second.max_new_tokens - 1]
    assert less == whole
    (cut,), _ = play([": 1 2 3", ": 7"], context=starts[0] + 2)
    assert (cut.turns[0].finish, len(cut.turns[0].action_ids)) == (Finish.LENGTH, 2)
    # No room for a second attempt: the first one counts and is trained on.
    (early,), _ = play([": 1", ": 7"], context=starts[1])
    assert (early.stop_reason, early.terminated, early.failed) == (StopReason.CONTEXT_FULL, True, False)
    assert early.turns == whole.turns[:1]
    # No room for a first attempt: the episode has failed.
    (none,), _ = play([": 1", ": 7"], context=starts[0])
    assert (none.stop_reason, none.failed, none.turns) == (StopReason.CONTEXT_FULL, True, ())


def test_the_idle_engine_is_reported():
    class Idle(ScriptedEngine):
        pending = 0

        def step(self):
            return []

    with pytest.raises(RuntimeError, match="idle"):
        complete(Idle([], list, 0), [Request(0, (1,), 1, 1.0, 0)])


def test_metrics_leave_failed_episodes_out(play):
    episodes, _ = play([": 1", ": 2", ": 9", ": 8"], n=2)
    metrics = rollout_metrics(episodes, 2, Distributed(cpu=True))
    assert len(to_groups(episodes)) == 2
    assert metrics["rollout/accuracy_t2"] == 1.0  # of the verified episode alone
    assert metrics["reward/raw_t1"] == 0.0


def test_transitions_are_those_between_the_first_two_attempts_as_in_the_rates():
    episodes = [episode((0.0, 1.0, 0.0)), episode((1.0, 1.0, 0.0), group_id=1)]
    metrics = rollout_metrics(episodes, 3, Distributed(cpu=True))
    assert (metrics["data/i_to_c"], metrics["data/c_to_i"]) == (0.5, 0.0)


def test_a_chat_templates_text_is_what_the_policy_reads(modchain):
    renderer: Renderer = modchain[2]
    ids = renderer.opening([envs.Message("user", "3 +4 _ _ _ _")])
    assert renderer.tokenizer.decode(ids) == "<|user|> 3 +4 _ _ _ _ <|assistant|>"


def test_a_streaming_engine_decodes_while_others_are_verified(modchain):
    """A streaming engine continues to decode while slow verifiers run, and samples the same as without streaming."""
    import threading
    import time

    _, tokenizer, renderer = modchain
    log, lock = [], threading.Lock()

    class Slow(Tasks):
        verifies_elsewhere = True

        def verify(self, task, response):
            time.sleep(0.05)
            with lock:
                log.append("verified")
            return super().verify(task, response)

    class Streaming(ScriptedEngine):
        streams = True

        def step(self):
            with lock:
                log.append("step")
            return super().step()

    def run(engine_class):
        def script(request):
            return f": {(request.seed >> 3) % 9}"

        engine = engine_class(script, tokenizer.encode, renderer.end_id)
        rollout = Rollout(engine, renderer, lambda: envs.SelfCorrectEnv(Slow(), prompts="toy-v1"), (3, 7), 64)
        plans = [EpisodePlan(Tasks().load("train")[i % 2], i, 100 + i) for i in range(8)]
        return rollout.run(plans, 1.0)

    streamed = run(Streaming)
    assert "step" in log[log.index("verified") :], "the engine went on after the first verdict"
    assert log[:4] == ["step"] * 4, "and before it"
    assert streamed == run(ScriptedEngine)
