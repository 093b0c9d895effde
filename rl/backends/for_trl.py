"""Uses this package's environments in TRL: a data set, ``rollout_func`` and reward for ``GRPOTrainer``, or tools.

TRL expects from a ``rollout_func`` token ids and a mask of the tokens that the policy wrote (``env_mask``). Messages of
the environment between the attempts are part of the completion, but are not trained on.
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
"""Function from the rewards of an episode's turns to the single reward that TRL trains on."""


def to_trl(
    env: Any, max_new_tokens: Sequence[int], reward: Reward = sum, seed: int = 0, limit: int | None = None
) -> dict[str, Any]:
    """Arguments of ``trl.GRPOTrainer`` for an environment: ``GRPOTrainer(model, args=..., **to_trl(env, [64, 64]))``.

    Episodes are sampled with the trained model itself, at ``args.temperature``; ``args.use_vllm`` must be false. If the
    verifier fails, the reward is ``None``, which TRL leaves out of the baseline.

    Args:
        env: An environment of a task set, from :func:`envs.make` or ``gymnasium.make``; the tasks of its split are the
            data set.
        max_new_tokens: Token limit of each attempt; the last entry holds for all further attempts.
        reward: Function from the turns' rewards to the reward of the episode, since TRL has no rewards of turns.
        seed: Random seed; with the process and the number of episodes so far it determines the samples.
        limit: Maximum number of tasks; ``None`` for all.

    Returns:
        ``train_dataset`` (``prompt`` as messages, ``task_id``), ``rollout_func`` and ``reward_funcs``.

    Raises:
        TypeError: If the environment generates its own tasks.
        ValueError: If another role speaks between attempts, which does not fit into TRL's single completion.
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
    """The reward function for TRL: returns the rewards that the ``rollout_func`` computed."""
    return list(episode_reward)


class _Played:
    """The ``rollout_func``: plays one episode for each prompt; TRL repeats the prompts of a group already."""

    def __init__(
        self, env: SelfCorrectEnv, tasks: dict[str, Task], limits: tuple[int, ...], reward: Reward, seed: int
    ) -> None:
        self._env, self._tasks, self._limits, self._reward, self._seed = env, tasks, limits, reward, seed
        self._drawn = count()
        self._renderer = cache(Renderer)  # cached, because building a renderer tests the chat template

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Plays the episodes; returns prompt and completion ids, log-probs, ``env_mask`` and ``episode_reward``."""
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
            lambda: copy.copy(self._env),  # a shallow copy shares task set and prompts, but not an episode's state
            self._limits,
            context_length(model, ModelConfig(path="")),
        )
        return self._for_trl(rollout.run(plans, trainer.temperature), renderer)

    def _for_trl(self, episodes: Sequence[Episode], renderer: Renderer) -> dict[str, Any]:
        found: dict[str, list[Any]] = {
            name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "episode_reward")
        }
        # The completion is everything after the first prompt: the attempts, and between them the environment's
        # messages, which are the part of each later prompt that is new.
        for episode in episodes:
            first = episode.turns[0].prompt_ids if episode.turns else (renderer.end_id,)
            ids, mask, logprobs = [], [], []
            for turn in episode.turns:
                said = turn.prompt_ids[len(first) + len(ids) :]
                ids += [*said, *turn.action_ids]
                mask += [0] * len(said) + [1] * len(turn.action_ids)
                logprobs += [0.0] * len(said) + list(turn.sampler_logprobs)
            if not ids:  # the episode has no turn, but TRL needs at least one token
                ids, mask, logprobs = [renderer.end_id], [0], [0.0]
            found["prompt_ids"].append(list(first))
            found["completion_ids"].append(ids)
            found["logprobs"].append(logprobs)
            found["env_mask"].append(mask)
            paid = None if episode.failed else float(self._reward([turn.reward for turn in episode.turns]))
            found["episode_reward"].append(paid)
        return found


def to_trl_tools(env: Any, reward: Reward = sum) -> Callable[[], "HandIn"]:
    """An ``environment_factory`` for ``trl.GRPOTrainer``: models that call tools submit attempts with ``submit``.

    It is meant for environments whose attempts can be submitted as text; the environment's message is the tool's
    answer. Use the data set of :func:`to_trl`, whose column ``task_id`` selects the task of an episode.

    Args:
        env: As for :func:`to_trl`.
        reward: Function from the attempts' rewards to the reward of the episode, which is 0 without any attempt.
    """
    inner = single_conversation(env)
    tasks = {task.id: task for task in inner.tasks}
    return lambda: HandIn(copy.copy(inner), tasks, reward)


class HandIn:
    """One episode in the form of TRL's environments, in which :meth:`submit` is a tool of the model.

    Args:
        env: The environment.
        tasks: Tasks by id.
        reward: Function from the attempts' rewards to the reward of the episode.
    """

    def __init__(self, env: SelfCorrectEnv, tasks: dict[str, Task], reward: Reward) -> None:
        self._env, self._tasks, self._reward = env, tasks, reward
        self._rewards: list[float] = []
        self._over, self._failed = True, False

    def reset(self, task_id: str, **_: Any) -> None:
        """Starts an episode on a task of the data set, whose prompt the model has already been given."""
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
