"""Our environments in TRL: a data set, a ``rollout_func`` and a reward for ``GRPOTrainer``, or tools for its models.

TRL asks a ``rollout_func`` for token ids, and for a mask of those that the policy wrote (``env_mask``); what the
environment says between the attempts is part of the completion and is not learned.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any

from envs import Message, SelfCorrectEnv, Task
from envs.for_verifiers import single_conversation
from rl.backends.engine_hf import HFEngine
from rl.backends.policy import context_length
from rl.config import ModelConfig
from rl.rendering import Renderer
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, derive_seed

Reward = Callable[[Sequence[float]], float]
"""The rewards of the turns of an episode as the one number that TRL learns from."""


def to_trl(
    env: Any, max_new_tokens: Sequence[int], reward: Reward = sum, seed: int = 0, limit: int | None = None
) -> dict[str, Any]:
    """What ``trl.GRPOTrainer`` takes of an environment: ``GRPOTrainer(model, args=..., **to_trl(env, [64, 64]))``.

    Episodes are sampled with the trained model itself, at ``args.temperature``; ``args.use_vllm`` is not for it. A
    verifier that fails makes the reward ``None``, which TRL leaves out of the baseline.

    Args:
        env: An environment of a task set, from :func:`envs.make` or ``gymnasium.make``; its split is the data set.
        max_new_tokens: Token limit of each attempt; the last entry holds for all further attempts.
        reward: Of the whole episode; TRL knows no reward of a turn.
        seed: Decides, with the process and the count of episodes, what is sampled.
        limit: How many tasks; ``None`` for all.

    Returns:
        ``train_dataset`` (``prompt`` as messages, ``task_id``), ``rollout_func`` and ``reward_funcs``.

    Raises:
        TypeError: If the environment draws its own tasks.
        ValueError: If a role speaks between attempts, which TRL's one completion cannot hold.
    """
    from datasets import Dataset

    inner = single_conversation(env)
    rows, tasks = [], {}
    for task in inner.tasks[:limit]:
        messages, _ = inner.reset(options={"task": task})
        rows.append({"prompt": [{"role": one.role, "content": one.content} for one in messages], "task_id": task.id})
        tasks[messages[-1].content] = task
    return {
        "train_dataset": Dataset.from_list(rows),
        "rollout_func": _Played(inner, tasks, tuple(max_new_tokens), reward, seed),
        "reward_funcs": episode_reward,
    }


def episode_reward(episode_reward: Sequence[float | None], **_: Any) -> list[float | None]:
    """The reward function: what the ``rollout_func`` was paid."""
    return list(episode_reward)


class _Played:
    """The ``rollout_func``: one episode for each prompt that TRL hands over, groups already repeated."""

    def __init__(
        self, env: SelfCorrectEnv, tasks: dict[str, Task], limits: tuple[int, ...], reward: Reward, seed: int
    ) -> None:
        self._env, self._tasks, self._limits, self._reward, self._seed = env, tasks, limits, reward, seed
        self._drawn = count()
        self._renderer = cache(Renderer)  # it tries the chat template out, which is done once

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Prompt and completion ids, log-probs, ``env_mask`` and ``episode_reward``."""
        if trainer.use_vllm:
            raise ValueError("args.use_vllm: episodes of to_trl are sampled with the trained model; set use_vllm=False")
        model, renderer = trainer.accelerator.unwrap_model(trainer.model), self._renderer(trainer.processing_class)
        rank = trainer.accelerator.process_index  # a group may be spread over processes
        plans = [
            EpisodePlan(self._tasks[prompt[-1]["content"]], i, derive_seed(self._seed, "trl", rank, next(self._drawn)))
            for i, prompt in enumerate(prompts)
        ]
        rollout = Rollout(
            HFEngine(model, renderer.end_ids, renderer.pad_id),
            renderer,
            lambda: copy.copy(self._env),  # task set and prompts are shared, what an episode has said is not
            self._limits,
            context_length(model, ModelConfig(path="")),
        )
        return self._for_trl(rollout.run(plans, trainer.temperature), renderer)

    def _for_trl(self, episodes: Sequence[Episode], renderer: Renderer) -> dict[str, Any]:
        found: dict[str, list[Any]] = {
            name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "episode_reward")
        }
        # One completion is all that follows the first prompt: attempts, and between them what the environment says,
        # which is the part of a later prompt that is in no text before it.
        for episode in episodes:
            first = episode.turns[0].prompt_ids if episode.turns else (renderer.end_id,)
            ids, mask, logprobs = [], [], []
            for turn in episode.turns:
                said = turn.prompt_ids[len(first) + len(ids) :]
                ids += [*said, *turn.action_ids]
                mask += [0] * len(said) + [1] * len(turn.action_ids)
                logprobs += [0.0] * len(said) + list(turn.sampler_logprobs)
            if not ids:  # nothing was said; TRL needs a token all the same
                ids, mask, logprobs = [renderer.end_id], [0], [0.0]
            found["prompt_ids"].append(list(first))
            found["completion_ids"].append(ids)
            found["logprobs"].append(logprobs)
            found["env_mask"].append(mask)
            paid = None if episode.failed else float(self._reward([turn.reward for turn in episode.turns]))
            found["episode_reward"].append(paid)
        return found


def to_trl_tools(env: Any, reward: Reward = sum) -> Callable[[], "HandIn"]:
    """An ``environment_factory`` for ``trl.GRPOTrainer``: models that call tools hand attempts in by ``submit``.

    It fits an environment whose attempts can be handed in as text; what the environment says comes back as the tool's
    answer. The data set is the one of :func:`to_trl`, whose ``task_id`` tells the environment its task.

    Args:
        env: As for :func:`to_trl`.
        reward: Of the whole episode; 0 where nothing was handed in.
    """
    inner = single_conversation(env)
    tasks = {task.id: task for task in inner.tasks}
    return lambda: HandIn(copy.copy(inner), tasks, reward)


class HandIn:
    """One episode as TRL sees an environment: its public method is a tool.

    Args:
        env: The environment.
        tasks: By id.
        reward: Of the whole episode.
    """

    def __init__(self, env: SelfCorrectEnv, tasks: dict[str, Task], reward: Reward) -> None:
        self._env, self._tasks, self._reward = env, tasks, reward
        self._rewards: list[float] = []
        self._over, self._failed = True, False

    def reset(self, task_id: str, **_: Any) -> None:
        """Starts an episode on a task of the data set; the prompt stands there already."""
        self._env.reset(options={"task": self._tasks[task_id]})
        self._rewards, self._over, self._failed = [], False, False

    def submit(self, answer: str) -> str:
        """Hands in an attempt at the question and returns what is said about it.

        Args:
            answer: The whole attempt, with the final answer in the form that the question asks for.

        Returns:
            What to do next.
        """
        if self._over:
            return "No attempt is left."
        messages, reward, terminated, truncated, info = self._env.step(answer)
        self._rewards.append(float(reward))
        self._over = terminated or truncated
        self._failed |= "error" in info
        return "\n".join(one.content for one in messages if isinstance(one, Message)) or "No attempt is left."

    def get_reward(self) -> float | None:
        """The reward of the episode so far; ``None`` if the verifier failed."""
        if self._failed:
            return None
        return float(self._reward(self._rewards)) if self._rewards else 0.0
