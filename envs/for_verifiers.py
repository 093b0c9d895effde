"""Exports environments to the package verifiers 0.4 (its v1 API), as a task set and an environment that plays attempts.

A module with two lines is a plug-in of verifiers: ``Questions, Attempts = to_verifiers(envs.make("errata/repair-v1"))``
and ``__all__ = ["Questions", "Attempts"]``.
"""

import asyncio
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from envs.base import Message
from envs.self_correct import SelfCorrectEnv


def to_verifiers(env: Any, reward: Callable[[Sequence[float]], float] = sum) -> tuple[type, type]:
    """The two classes that a plug-in of verifiers exports, made from an environment: task set and environment.

    The task set alone asks for one attempt; the environment plays all attempts, with the feedback of ``env`` between
    them. In both cases ``env`` gives the verdicts: it replays the model's texts in a trace to compute the reward.

    Args:
        env: An environment of a task set, from :func:`envs.make` or ``gymnasium.make``; the tasks of its split are
            loaded here.
        reward: Computes the reward of an episode from the rewards of its attempts, because verifiers has no rewards of
            single turns. The reward of each attempt is the metric ``attempt_1``, ``attempt_2``, ...

    Returns:
        Subclasses of ``verifiers.v1.Taskset`` and ``verifiers.v1.Env``.

    Raises:
        ImportError: If verifiers is not installed.
        TypeError: If the environment draws its own tasks.
        ValueError: If a role speaks between attempts.
    """
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    inner = single_conversation(env)
    tasks = {task.id: task for task in inner.tasks}
    Question = _question(inner, reward)

    class Questions(vf.Taskset[Question, vf.TasksetConfig]):  # pyright: ignore[reportInvalidTypeForm]
        """The tasks of one split."""

        def load(self) -> Iterator[Any]:
            for task in tasks.values():
                messages, _ = inner.reset(options={"task": task})
                system = "\n".join(one.content for one in messages if one.role == "system") or None
                asked: Any = [{"role": one.role, "content": one.content} for one in messages if one.role != "system"]
                if len(asked) == 1:
                    asked = asked[0]["content"]
                data = Question.data_type()(id=task.id, name=task.id, prompt=asked, system_prompt=system)
                yield Question(data, self.config.task)

    class AttemptsConfig(vf.EnvConfig):
        """Config with a single agent, which makes the attempts."""

        agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"})  # pyright: ignore[reportArgumentType]

    class Attempts(vf.Env[AttemptsConfig]):
        """Plays all attempts; the messages of the exported environment are the user's turns."""

        async def run(self, task: Any, agents: Any) -> None:
            own = copy.copy(inner)  # concurrent episodes need separate state; task set and prompts are shared
            own.reset(options={"task": tasks[str(task.data.id)]})
            async with agents.agent.interaction(task) as talk:
                segment = await talk.turn()
                while not segment.terminated:
                    text = next(one.content or "" for one in reversed(segment.messages) if one.role == "assistant")
                    # In a thread, because verification may wait for other processes and would block the event loop,
                    # which plays the other episodes.
                    messages, _, terminated, truncated, _ = await asyncio.to_thread(own.step, text)
                    if terminated or truncated:
                        break
                    segment = await talk.turn(_said(messages))

    return Questions, Attempts


def single_conversation(env: Any) -> SelfCorrectEnv:
    """Unwraps an environment for frameworks that need a data set and train on a single conversation.

    Raises:
        TypeError: If the environment draws its own tasks.
        ValueError: If a role speaks between attempts.
    """
    inner = getattr(env, "unwrapped", env)
    if not isinstance(inner, SelfCorrectEnv):
        raise TypeError(
            f"{type(inner).__name__} draws its own tasks; give an environment of a task set, as envs.make makes it"
        )
    if inner.has_roles:
        raise ValueError(
            "env.between: each role has its own conversation, but only one can be handed over; set env.between=null"
        )
    return inner


def _question(env: SelfCorrectEnv, reward: Callable[[Sequence[float]], float]) -> type:
    """A task class of verifiers whose reward is computed by ``env``."""
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    tasks = {task.id: task for task in env.tasks}

    async def rewards(question: Any, trace: Any) -> list[float]:
        said = [node.message.content or "" for node in trace.nodes if node.sampled]
        return await asyncio.to_thread(_rewards, copy.copy(env), tasks[str(question.data.id)], said)

    class Question(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):
        """A question; its id names the task of ``env``."""

        @property
        def key(self) -> str:
            return str(self.data.id)

        @vf.reward
        async def episode(self, trace: vf.Trace) -> float:
            paid = await rewards(self, trace)
            return float(reward(paid)) if paid else 0.0

        @vf.metric
        async def attempts(self, trace: vf.Trace) -> dict[str, float]:
            return {f"attempt_{k}": value for k, value in enumerate(await rewards(self, trace), 1)}

    return Question


def _said(messages: Sequence[Message]) -> str:
    return "\n\n".join(one.content for one in messages)


def _rewards(env: SelfCorrectEnv, task: Any, said: Sequence[str]) -> list[float]:
    """The rewards that ``env`` pays for these attempts, without the attempts after the end of its episode.

    Raises:
        RuntimeError: If the verifier fails, so that the trace gets an error instead of a reward of 0.
    """
    env.reset(options={"task": task})
    rewards = []
    for text in said:
        _, paid, terminated, truncated, info = env.step(text)
        if "error" in info:
            raise RuntimeError(info["error"])
        rewards.append(float(paid))
        if terminated or truncated:
            break
    return rewards
