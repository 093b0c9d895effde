"""Builds the parts that every run needs from its config: model, renderer, engine, environments."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from envs import Split, Task, TaskSet, TextEnv
from rewards.lookup import fits
from rewards.wording import counted
from rl.backends import hub
from rl.backends.distributed import Distributed
from rl.backends.engines import ENGINES
from rl.backends.model_check import check_model
from rl.backends.policy import context_length, load_policy, make_renderer
from rl.backends.weights import full_weights, hash_file, hash_model
from rl.checkpoint import hash_tasks
from rl.config import EnvConfig, RunConfig, SFTConfig, TrainConfig
from rl.config.parts import EPISODE
from rl.offline import OfflineTrainer
from rl.recorded import read_conversations, replay
from rl.rendering import Renderer
from rl.rollout import Rollout
from rl.trainer import Trainer
from rl.types import Engine, Episode, Finish


@dataclass(slots=True)
class Workbench:
    """The parts of a run, built once.

    Args:
        config: Config of the run.
        model: The policy.
        tokenizer: The policy's tokenizer.
        renderer: Turns messages into token ids.
        engine: Samples from ``model`` itself or from a copy of its weights; see :meth:`publish`.
        taskset: Tasks and verifier.
        context_length: Length of the longest sequence that the model can process, in tokens.
        distributed: Processes, devices and precision.
        loaded: Tasks of the splits that were asked for so far: a generated task set would draw them again each time.
    """

    config: RunConfig
    model: Any
    tokenizer: Any
    renderer: Renderer
    engine: Engine
    taskset: TaskSet
    context_length: int
    distributed: Distributed
    loaded: dict[Split, list[Task]] = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, config: RunConfig, distributed: Distributed | None = None) -> "Workbench":
        """Loads the model and the task set of a run and seeds the global random generators.

        Args:
            config: Config of the run.
            distributed: Processes and device; ``None`` creates them from the launcher's settings.

        Raises:
            TypeError: If ``config`` is no config of a run.
        """
        if not isinstance(config, RunConfig):
            raise TypeError(
                f"Workbench.build takes a config, not {config!r:.100}; make one with experiments.configs.config, as "
                'config("evaluate", env="repair")'
            )
        # Cheap steps come first, so that an unknown engine, environment or option fails before the model is loaded.
        distributed = distributed or Distributed()
        make_engine = ENGINES[config.engine.name]
        seed_everything(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        config = replace(config, env=config.env.settled())
        taskset = make_taskset(config.env)
        model, tokenizer = load_policy(config.model)
        model = model.to(distributed.device).eval()
        renderer = make_renderer(config.model, model, tokenizer, config.engine.stop_strings)
        limit = context_length(model, config.model)
        check_model(model, renderer, samples=bool(ENGINES.fact(config.engine.name, "decodes")))
        engine = make_engine(config, model, renderer, limit, distributed)
        bench = cls(config, model, tokenizer, renderer, engine, taskset, limit, distributed)
        bench.evaluation_tasks()  # raises if there are too few, now rather than after training
        return bench

    def trainer(self) -> Trainer:
        """The online trainer of this run.

        Raises:
            TypeError: If the config is not one of online training.
        """
        if not isinstance(self.config, TrainConfig):
            raise TypeError(
                f"{type(self.config).__name__} does not say how to train online; build the workbench with "
                'config("train", ...)'
            )
        return Trainer(
            self.config,
            self.model,
            lambda attempts, n_envs: self.rollout(Split.TRAIN, attempts, n_envs=n_envs),
            self.tasks(Split.TRAIN),
            self.renderer.pad_id,
            self.distributed,
            self.engine,
        )

    def offline_trainer(self, config: SFTConfig, report: Callable[[str, float], None]) -> OfflineTrainer:
        """The trainer of an offline method with this workbench's model, tasks and engine.

        Args:
            config: Config of the method and its budget.
            report: Called with a description of the current work and the progress in [0, 1].
        """
        recorded = config.offline.conversations
        return OfflineTrainer(
            config,
            self.model,
            self.tokenizer,
            self.rollout(Split.TRAIN),
            self.tasks(Split.TRAIN),
            self.publish,
            report,
            self.recorded(recorded, Split.TRAIN) if recorded else None,
        )

    def publish(self, version: int) -> None:
        """Hands the model's weights to the engine; with several processes, all must call this method."""
        # An engine that samples from the model itself needs only the version; gathering weights would copy them.
        named = () if getattr(self.engine, "shares_weights", False) else full_weights(self.model)
        self.distributed.together(lambda: self.engine.load_weights(named, version))

    def evaluation_tasks(self) -> Sequence[Task]:
        """The tasks that ``config.evaluation`` asks for."""
        return self.tasks(Split(self.config.evaluation.split), self.config.evaluation.n_tasks)

    def with_env(self, changes: dict[str, Any]) -> "Workbench":
        """A workbench with the same policy and another environment.

        Args:
            changes: Values that replace those of ``config.env``; nested dictionaries are merged.
        """
        config = replace(self.config, env=self.config.env.changed(changes))
        return replace(self, config=config, taskset=make_taskset(config.env), loaded={})

    def tasks(self, split: Split | str, n: int = 0) -> Sequence[Task]:
        """The first ``n`` tasks of a split; ``n=0`` returns all.

        Raises:
            ValueError: If there is no such split, ``n`` is negative or no whole number, or the split has fewer than
                ``n`` tasks, or none (a pure test set has no training tasks).
        """
        split = Split(split)
        if not fits(int, n) or n < 0:
            raise ValueError(f"n={n!r}: give the number of tasks, or 0 for all")
        if split not in self.loaded:
            self.loaded[split] = list(self.taskset.load(split))
        tasks = self.loaded[split]
        if not tasks:
            why = getattr(self.taskset, "why_empty", None)
            raise ValueError(
                f"{self.config.env.id} has no tasks in split {split.value!r}, which this run needs: "
                f"{why(split) if why else 'its load() must return some'}. Without test tasks measure "
                "with evaluation.split=validation; without validation tasks train with training.validate_every=0"
            )
        if n > len(tasks):
            raise ValueError(
                f"evaluation.n_tasks={n}: {self.config.env.id} has {counted(len(tasks), 'task')} in split "
                f"{split.value!r}; 0 takes all"
            )
        return tasks[: n or None]

    def rollout(self, split: Split | str, attempts: int = 0, feedback: str | None = None, n_envs: int = 0) -> Rollout:
        """A rollout that plays episodes of this environment.

        Args:
            split: Split that an environment samples a task from if it is reset without one.
            attempts: Attempts per episode; 0 takes the environment's own number.
            feedback: Name in :data:`envs.FEEDBACK`; ``None`` takes the environment's own feedback.
            n_envs: Number of environments to build immediately.

        Raises:
            ValueError: If there is no such split or feedback, or a number is negative.
        """
        split = Split(split)
        for name, value in (("attempts", attempts), ("n_envs", n_envs)):
            if not fits(int, value) or value < 0:
                raise ValueError(f"{name}={value!r}: a whole number is needed here, at least 0")
        if feedback is not None:
            envs.FEEDBACK[feedback]  # Raises for an unknown name now, not at the first episode.
        return Rollout(
            self.engine,
            self.renderer,
            lambda: make_env(self.config.env, self.taskset, split, attempts, feedback),
            self.config.env.max_new_tokens,
            self.context_length,
            n_envs,
        )

    def recorded(self, path: str, split: Split, one_origin: bool = False) -> list[Episode]:
        """Reads a file of conversations as episodes on tasks of a split; see :mod:`rl.recorded`.

        Args:
            path: The file, or a folder that ``datasets`` saved.
            split: Split of the tasks that the conversations are about.
            one_origin: Whether to refuse an export that holds several runs or modes.

        Raises:
            ValueError: If rows of the file cannot be used, or a conversation does not fit into the context.
        """
        env, config = make_env(self.config.env, self.taskset, split), self.config.env
        found = read_conversations(path, env, self.tasks(split), one_origin)
        make = partial(make_env, config, self.taskset, split)
        episodes = list(replay(found, make, self.renderer, self.context_length))
        # The verdict belongs to the whole answer, so it must not be used to train on a part of the answer.
        if cut := [one for one in episodes if any(turn.finish is Finish.LENGTH for turn in one.turns)]:
            raise ValueError(
                f"{path}: {len(cut)} of {counted(len(episodes), 'conversation')} cannot fit into the context of "
                f"{counted(self.context_length, 'token')}, the first one about task {cut[0].task_id}; leave them out"
            )
        return episodes


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, numpy and torch, for libraries that sample from them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def content_of(config: RunConfig) -> dict[str, str]:
    """Hashes of what a config only names: model, training tasks, chat template file, conversation files."""
    # A config refers to these by name or path only, so without hashes a run would resume even if contents had changed.
    found = hash_model(config.model.path, config.model.revision)
    found["training tasks"] = hash_tasks(make_taskset(config.env).load(Split.TRAIN))
    if (template := config.model.chat_template) is not None and Path(template).exists():
        found["chat template"] = hash_file(Path(template))
    offline: Any = getattr(config, "offline", None)
    for path in filter(None, (config.evaluation.conversations, offline.conversations if offline else "")):
        place = Path(path).expanduser()
        places = sorted(place.rglob("*")) if place.is_dir() else [place]
        found |= {f"conversations {one}": hash_file(one) for one in places if one.is_file()}
    return found


def make_taskset(config: EnvConfig) -> TaskSet:
    """The task set of an environment config."""
    hub.register()
    return envs.make_taskset(config.id, config.task_options, config.seeds)


def make_env(
    config: EnvConfig, taskset: TaskSet, split: Split, attempts: int = 0, feedback: str | None = None
) -> TextEnv:
    """An environment over an already loaded task set."""
    # ``None`` leaves the choice to the environment's author; empty values of the config are passed as ``None`` too.
    # ``feedback_options`` are for the configured feedback, so another feedback gets none.
    chosen = {name: getattr(config, name) or None for name in EPISODE}
    if attempts:
        chosen["attempts"] = attempts
    if feedback is not None:
        chosen |= {"feedback": feedback, "feedback_options": {}}
    return envs.make_text_env(config.id, taskset, config.task_options, split=split, **chosen)
