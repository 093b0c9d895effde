"""Builds what every run needs from its config: model, renderer, engine, environments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import envs
from envs import SelfCorrectEnv, Split, Task, TaskSet
from rl.backends.engine_hf import HFEngine
from rl.backends.policy import context_length, load_policy
from rl.config import EnvConfig, RunConfig
from rl.rendering import Renderer
from rl.rollout import Rollout
from rl.seeding import seed_everything


@dataclass(slots=True)
class Workbench:
    """The parts of a run, built once.

    Args:
        config: The run.
        model: The policy.
        tokenizer: Its tokenizer.
        renderer: Messages to token ids.
        engine: Samples from ``model`` itself.
        taskset: Tasks and verifier.
        context_length: Longest sequence that the model can hold.
    """

    config: RunConfig
    model: Any
    tokenizer: Any
    renderer: Renderer
    engine: HFEngine
    taskset: TaskSet
    context_length: int

    @classmethod
    def build(cls, config: RunConfig, device: torch.device | str = "cpu") -> "Workbench":
        """Loads the model and the task set of a run and seeds the global generators."""
        seed_everything(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        taskset = make_taskset(config.env)
        model, tokenizer = load_policy(config.model)
        model = model.to(device).eval()
        renderer = Renderer(tokenizer)
        engine = HFEngine(model, renderer.end_id, renderer.pad_id, config.engine.max_batch_size)
        limit = context_length(model, config.model)
        bench = cls(config, model, tokenizer, renderer, engine, taskset, limit)
        bench.evaluation_tasks()  # too few of them should be known before training, not after
        return bench

    def evaluation_tasks(self) -> Sequence[Task]:
        """The tasks that ``config.evaluation`` asks for."""
        return self.tasks(Split(self.config.evaluation.split), self.config.evaluation.n_tasks)

    def tasks(self, split: Split, n: int = 0) -> Sequence[Task]:
        """The first ``n`` tasks of a split, or all of them for 0.

        Raises:
            ValueError: If there are fewer, or none at all (a data set that is for testing only has no train split).
        """
        tasks = list(self.taskset.load(split))
        if not tasks:
            raise ValueError(f"{self.config.env.id} has no tasks in split {split.value!r}: take another environment")
        if n > len(tasks):
            raise ValueError(f"{n} tasks of split {split.value!r} asked for, but {self.config.env.id} has {len(tasks)}")
        return tasks[:n] if n else tasks

    def rollout(self, split: Split, attempts: int = 0) -> Rollout:
        """A rollout on this environment; ``attempts=0`` takes the environment's own number."""
        return Rollout(
            self.engine,
            self.renderer,
            lambda: make_env(self.config.env, self.taskset, split, attempts),
            self.config.env.max_new_tokens,
            self.context_length,
        )


def make_taskset(config: EnvConfig) -> TaskSet:
    """The task set of an environment config."""
    return envs.make(config.id, options=config.task_options).taskset


def make_env(config: EnvConfig, taskset: TaskSet, split: Split, attempts: int = 0) -> SelfCorrectEnv:
    """An environment over an already loaded task set."""
    return SelfCorrectEnv(
        taskset,
        split=split,
        attempts=attempts or config.attempts,
        feedback=config.feedback,
        prompts=config.prompts,
        stop_on_correct=config.stop_on_correct,
    )
