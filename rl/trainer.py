"""The online loop: sample a batch of episodes, score it, take optimiser steps, hand the weights to the engine.

All that a run needs to go on exactly where it was is in :meth:`Trainer.state`, also between two optimiser steps of one
rollout batch; :mod:`rl.checkpoint` writes it to disk.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from envs import StopReason, Task
from rl.algorithms import shaped_rewards
from rl.analysis.metrics import Ratio, total
from rl.backends.distributed import Distributed
from rl.backends.flops import Flops, peak_memory_gib
from rl.batching import minibatches, to_rollout_batch
from rl.config import Schedule, StageConfig, TrainConfig
from rl.learner import Learner
from rl.rollout import Rollout
from rl.rollout_metrics import rollout_metrics, sampled_tokens
from rl.schedule import stage_at
from rl.seeding import derive_seed
from rl.source import EpisodeSource, drop_failed, refuse_stale
from rl.types import Episode, RunStoppedError, TrainBatch

TOKEN_STEPS = 1000
"""Resolution of the stages of a run whose budget is tokens."""


@dataclass(slots=True)
class Totals:
    """What a run has spent so far; a response is one sampled attempt."""

    episodes: int = 0
    responses: int = 0
    sampled_tokens: int = 0
    gradient_tokens: int = 0
    updates: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"sampling": 0.0, "verification": 0.0, "update": 0.0, "other": 0.0}
    )


@dataclass(slots=True)
class Pending:
    """A rollout batch that is being trained on.

    Args:
        train: Scored rows of this process.
        episodes: All sampled episodes of this process.
        rows: The episode of each row, by its index.
        metrics: Numbers about the sampling.
        seconds: Seconds by phase.
        done: Optimiser steps taken.
        parts: What they measured.
    """

    train: TrainBatch
    episodes: list[Episode]
    rows: list[int]
    metrics: dict[str, float]
    seconds: dict[str, float]
    done: int = 0
    parts: list[dict[str, Ratio]] = field(default_factory=list)


def _nothing() -> None:
    pass


class Trainer:
    """Runs one online algorithm.

    Args:
        config: The run.
        model: The policy; trained in place.
        make_rollout: Plays training episodes of a given number of attempts with an engine that samples from ``model``.
        tasks: Training tasks.
        pad_id: Fills rows.
        distributed: Processes and devices.
        on_update: Called with the new weights' version after every rollout batch's updates.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        make_rollout: Callable[[int], Rollout],
        tasks: Sequence[Task],
        pad_id: int,
        distributed: Distributed,
        on_update: Callable[[int], None],
    ) -> None:
        refuse_config(config, distributed.n_processes)
        self._config, self._algorithm = config, config.algorithm
        self._pad_id, self._distributed, self._on_update = pad_id, distributed, on_update
        attempts = {stage.attempts or config.env.attempts for stage in config.algorithm.stages}
        attempts |= {1} if any(stage.offline_first_attempts for stage in config.algorithm.stages) else set()
        self.source = EpisodeSource(config, {k: make_rollout(k) for k in attempts}, tasks, distributed)
        self.learner = Learner(config, model, pad_id, distributed)
        self._flops = Flops.of(model, distributed.device, config)
        self._stage_index = -1
        self._pending: Pending | None = None
        self.step = 0
        self.n_updates = 0
        self.totals = Totals()
        self.advantages: dict[int, list[list[float]]] = {}
        """Of the last batch's first ``keep_episodes`` episodes, by index: per turn, of every sampled token."""

    @property
    def n_steps(self) -> int:
        """Rollout batches of the whole run, if none of its groups are replaced.

        With a budget of tokens their number is not known: stages then share :data:`TOKEN_STEPS` parts of the budget.
        """
        budget = self._config.training
        if budget.tokens:
            return TOKEN_STEPS
        if budget.updates:
            return max(1, budget.updates // (self._algorithm.epochs * self._algorithm.minibatches))
        return max(1, budget.episodes // self._per_step)

    @property
    def _per_step(self) -> int:
        return self._config.training.tasks_per_step * self._algorithm.group_size

    @property
    def progress(self) -> float:
        """Part of the budget that is spent: of tokens, optimiser steps or sampled episodes."""
        budget = self._config.training
        if budget.tokens:
            return min(1.0, self.totals.sampled_tokens / budget.tokens)
        if budget.updates:
            return self.step / self.n_steps
        return self.totals.episodes / (self.n_steps * self._per_step)

    @property
    def is_done(self) -> bool:
        """Whether the budget has no room for another rollout batch."""
        if not self._counts_episodes:
            return self.progress >= 1.0
        return self.totals.episodes + self._per_step > self.n_steps * self._per_step

    @property
    def _counts_episodes(self) -> bool:
        return not (self._config.training.tokens or self._config.training.updates)

    def train_step(self, after_update: Callable[[], None] = _nothing) -> tuple[dict[str, float], list[Episode]]:
        """One rollout batch and its updates, or the rest of one that a checkpoint interrupted.

        Args:
            after_update: Called between two optimiser steps of the batch; :meth:`state` may be taken there.

        Returns:
            The step's metrics and this process's episodes.

        Raises:
            RunStoppedError: If too many episodes failed, or the engine samples from another policy.
        """
        began = time.perf_counter()
        stage = self._enter_stage()
        before = 0.0 if self._pending is None else sum(self._pending.seconds.values())
        pending = self._pending = self._pending or self._sample(stage)
        plan = self._minibatch_plan(len(pending.train))
        while pending.done < len(plan):
            started = time.perf_counter()
            critic_only = self.step < self._algorithm.critic.warmup_steps
            rows = pending.train.rows(plan[pending.done])
            pending.parts.append(self.learner.update(rows, stage, critic_only))
            pending.done += 1
            self.n_updates += 1
            pending.seconds["update"] += time.perf_counter() - started
            if pending.done < len(plan):
                after_update()
        self.advantages = dict(_first_advantages(pending, self._config.training.keep_episodes))
        return self._finish(pending, stage, began, before), pending.episodes

    def _minibatch_plan(self, n_rows: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "minibatches", self.step))
        algorithm = self._algorithm
        return [rows for _ in range(algorithm.epochs) for rows in minibatches(n_rows, algorithm.minibatches, generator)]

    def _enter_stage(self) -> StageConfig:
        done = self.totals.episodes // self._per_step if self._counts_episodes else int(self.progress * self.n_steps)
        position = min(done, self.n_steps - 1)
        index, start, end = stage_at(self._algorithm, position, self.n_steps)
        if index != self._stage_index:
            self._begin_stage(index, end - start)
        return self._algorithm.stages[index]

    def _begin_stage(self, index: int, n_steps: int) -> None:
        n_updates = n_steps * self._algorithm.epochs * self._algorithm.minibatches
        self.learner.enter_stage(self._algorithm.stages[index], n_updates, is_first=self._stage_index < 0)
        self._stage_index = index

    def _sample(self, stage: StageConfig) -> Pending:
        before, started = self.source.seconds(), time.perf_counter()
        if self.step == 0:
            n_responses, n_tokens = self.source.prepare()
            self.totals.responses += n_responses
            self.totals.sampled_tokens += n_tokens
        room = self.n_steps * self._per_step - self.totals.episodes if self._counts_episodes else None
        episodes = self.source.sample(stage, room)
        wall = time.perf_counter() - started
        metrics = self._refuse_failures(episodes)
        refuse_stale(episodes, self.step)
        trainable = drop_failed(episodes, self._algorithm.advantage.uses_groups)
        if not sum(self._distributed.each(len(trainable))):
            raise RunStoppedError(f"step {self.step}: no episode is left to train on")
        started = time.perf_counter()
        batch = to_rollout_batch(
            trainable, self._pad_id, self.source.attempts(stage), self._config.algorithm.mask_cut_off
        )
        train = self.learner.score(batch, stage)
        update = time.perf_counter() - started
        sampling, verification = (now - then for now, then in zip(self.source.seconds(), before, strict=True))
        metrics |= rollout_metrics(episodes, self.source.attempts(stage), self._distributed)
        metrics["group/resampled"] = self.source.n_resampled
        given = Ratio(float(sum(e.given > 0 for e in episodes)), float(len(episodes)))
        metrics["group/offline_first_fraction"] = self._distributed.sum_ratios({"x": given})["x"].value
        seconds = {"sampling": sampling, "verification": verification, "update": update}
        seconds["other"] = max(0.0, wall - sampling - verification)
        places = {id(episode): i for i, episode in enumerate(episodes)}
        return Pending(train, episodes, [places[id(episode)] for episode in trainable], metrics, seconds)

    def _refuse_failures(self, episodes: list[Episode]) -> dict[str, float]:
        by_reason = {reason: sum(e.stop_reason is reason for e in episodes) for reason in StopReason}
        counts = self._distributed.sum(
            torch.tensor(
                [
                    len(episodes),
                    sum(e.failed for e in episodes),
                    by_reason[StopReason.ENV_ERROR],
                    by_reason[StopReason.CONTEXT_FULL],
                ],
                dtype=torch.float64,
            )
        ).tolist()
        share = counts[1] / counts[0]
        if share > self._config.training.max_failed_fraction:
            example = next((episode for episode in episodes if episode.failed), None)
            what = "on another process"
            if example is not None:
                error = example.error or "context too short"
                what = f"task {example.task_id}, {example.stop_reason.value}, {error}"
            raise RunStoppedError(
                f"step {self.step}: {share:.0%} of the episodes failed, more than "
                f"training.max_failed_fraction={self._config.training.max_failed_fraction:.0%}. First: {what}"
            )
        return {
            "rollout/env_error": counts[2],
            "rollout/context_full": counts[3],
            "rollout/failed_fraction": share,
        }

    def _finish(self, pending: Pending, stage: StageConfig, began: float, before: float) -> dict[str, float]:
        """Hands the weights over, adapts the KL, adds up what the step cost and measured."""
        n_tokens = self._account(pending)
        metrics = self._update_metrics(pending, stage)
        self._refuse_gap(metrics["policy/sampler_gap"])
        self.learner.control.update(metrics)
        self.step += 1
        self._pending = None
        self._on_update(self.step)
        in_phases = sum(pending.seconds.values()) - before
        pending.seconds["other"] += max(0.0, time.perf_counter() - began - in_phases)
        for name, value in pending.seconds.items():
            self.totals.seconds[name] += value
        return metrics | self._speed(pending, n_tokens)

    def _account(self, pending: Pending) -> float:
        """Adds to the totals; returns the tokens that all processes trained on, prompts included."""
        mask = pending.train.rollout.response_mask
        counts = self._distributed.sum(
            torch.tensor(
                [
                    self.source.n_sampled,
                    self.source.n_tokens,
                    self.source.n_responses,
                    float(mask.sum()) * self._algorithm.epochs,
                    float(pending.train.rollout.lengths.sum()) * self._algorithm.epochs,
                ],
                dtype=torch.float64,
            )
        ).tolist()
        self.totals.episodes += int(counts[0])
        self.totals.sampled_tokens += int(counts[1])
        self.totals.responses += int(counts[2])
        self.totals.gradient_tokens += int(counts[3])
        self.totals.updates = self.n_updates
        return counts[4]

    def _update_metrics(self, pending: Pending, stage: StageConfig) -> dict[str, float]:
        ratios = self._distributed.sum_ratios(total(pending.parts))
        metrics = pending.metrics | {name: ratio.value for name, ratio in ratios.items()}
        if "critic/return" in metrics:
            variance = metrics["critic/return_square"] - metrics["critic/return"] ** 2
            error = metrics["critic/error"]
            metrics["critic/explained_variance"] = 1 - error / variance if variance > 0 else float("nan")
        batch = pending.train.rollout
        shaped = shaped_rewards(batch, stage)
        sums = shaped.sum(0).tolist()
        shares = {f"reward/shaped_t{k + 1}": Ratio(value, float(len(batch))) for k, value in enumerate(sums)}
        metrics |= {name: ratio.value for name, ratio in self._distributed.sum_ratios(shares).items()}
        metrics |= {f"policy/kl_coef_t{k + 1}": coef for k, coef in enumerate(self.learner.control.coefs)}
        return metrics | {"optim/lr": self.learner.lr, "stage": self._stage_index}

    def _speed(self, pending: Pending, n_tokens: float) -> dict[str, float]:
        seconds = pending.seconds
        n_sampled = sampled_tokens(pending.episodes) * self._distributed.n_processes
        wall = sum(seconds.values())
        update = max(seconds["update"], 1e-9)
        metrics = {f"time/{name}": value for name, value in seconds.items()}
        metrics |= {
            "system/episodes_per_second": len(pending.episodes) * self._distributed.n_processes / wall,
            "system/tokens_per_second": n_sampled / wall,
            "system/sampling_tokens_per_second": n_sampled / max(seconds["sampling"], 1e-9),
            "system/update_tokens_per_second": n_tokens / update,
            "system/peak_memory": peak_memory_gib(self._distributed.device),
            "rollout/episodes": self.totals.episodes,
            "rollout/sampled_tokens": self.totals.sampled_tokens,
        }
        if (mfu := self._flops.utilisation(n_tokens / update / self._distributed.n_processes)) is not None:
            metrics["system/mfu"] = mfu
        return metrics

    def _refuse_gap(self, gap: float) -> None:
        limit = self._config.training.max_sampler_gap
        if limit and not gap <= limit:
            raise RunStoppedError(
                f"step {self.step}: trainer and sampler log-probs differ by {gap:.3g} nats per token on average, more "
                f"than training.max_sampler_gap={limit:g}: the engine samples from another policy than the one that is "
                "trained (stale weights, another precision, chat template or temperature)"
            )

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, this process's part of it."""
        return {
            "step": self.step,
            "n_updates": self.n_updates,
            "stage": self._stage_index,
            "totals": asdict(self.totals),
            "source": self.source.state(),
            "learner": self.learner.state(),
            "pending": self._pending,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`; the engine gets the weights too."""
        self.step, self.n_updates = state["step"], state["n_updates"]
        self.totals = Totals(**state["totals"])
        self.source.load_state(state["source"])
        if state["stage"] >= 0:
            spans = (stage_at(self._algorithm, step, self.n_steps) for step in range(self.n_steps))
            _, start, end = next(span for span in spans if span[0] == state["stage"])
            self._begin_stage(state["stage"], end - start)
            self.learner.load_state(state["learner"])
        self._pending = state["pending"]
        self._on_update(self.step)


def _first_advantages(pending: Pending, n: int) -> Iterator[tuple[int, list[list[float]]]]:
    batch = pending.train.rollout
    for row, place in enumerate(pending.rows):
        if place >= n:
            return
        turn_ids, values = batch.turn_ids[row], pending.train.advantages[row]
        yield place, [values[turn_ids == k].tolist() for k in range(int(batch.n_turns[row]))]


def refuse_config(config: TrainConfig, n_processes: int) -> None:
    """Raises ValueError for values that cannot work together, before anything is sampled."""
    algorithm, size = config.algorithm, config.training.tasks_per_step
    if config.training.tokens and config.optim.schedule is not Schedule.CONSTANT:
        raise ValueError("training.tokens: the number of updates is not known beforehand; use optim.schedule=CONSTANT")
    for index, stage in enumerate(algorithm.stages):
        attempts = stage.attempts or config.env.attempts
        if len(stage.reward_weights) < attempts:
            raise ValueError(
                f"algorithm.stages.{index}.reward_weights has {len(stage.reward_weights)} entries, but training "
                f"episodes have {attempts} attempts: give reward_weights and kl_coefs one entry per attempt"
            )
        if stage.offline_first_attempts and attempts < 2:
            raise ValueError(f"algorithm.stages.{index}.offline_first_attempts needs at least two attempts")
    if size % n_processes:
        raise ValueError(f"training.tasks_per_step={size} cannot be shared equally by {n_processes} processes")
    if size * algorithm.group_size < algorithm.minibatches * n_processes:
        raise ValueError(
            f"algorithm.minibatches={algorithm.minibatches}: cannot split {size * algorithm.group_size} episodes into "
            f"so many on {n_processes} processes"
        )
