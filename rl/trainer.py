"""The online loop: sample a batch of episodes, score it, take optimiser steps, hand the weights to the engine."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from envs import StopReason, Task
from rl.algorithms import advantages, shaped_rewards, stage_at
from rl.backends.distributed import Distributed
from rl.backends.policy import SampledStats, sampled_stats
from rl.batching import micro_batches, minibatches, to_rollout_batch
from rl.config import KL, Importance, Normaliser, Schedule, StageConfig, TrainConfig
from rl.kl import full_kl, sampled_kl
from rl.losses import clipped_pg_loss, importance_weights, kl_penalty, masked_sum
from rl.metrics import Ratio, total
from rl.rollout import EpisodePlan, Rollout
from rl.rollout_metrics import rollout_metrics
from rl.seeding import derive_seed
from rl.types import Episode, RolloutBatch, RunStoppedError, TrainBatch


@dataclass(slots=True)
class Totals:
    """What a run has spent so far."""

    episodes: int = 0
    sampled_tokens: int = 0
    gradient_tokens: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"sampling": 0.0, "verification": 0.0, "update": 0.0, "other": 0.0}
    )


class Trainer:
    """Runs one online algorithm.

    Args:
        config: The run.
        model: The policy; trained in place.
        rollout: Plays training episodes with an engine that samples from ``model``.
        tasks: Training tasks.
        pad_id: Fills rows.
        distributed: Processes and devices.
        on_update: Called with the new weights' version after every rollout batch's updates.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        rollout: Rollout,
        tasks: Sequence[Task],
        pad_id: int,
        distributed: Distributed,
        on_update: Callable[[int], None],
    ) -> None:
        self._config, self._algorithm = config, config.algorithm
        self._rollout, self._tasks, self._pad_id = rollout, list(tasks), pad_id
        self._distributed, self._on_update = distributed, on_update
        self._max_turns = config.algorithm.train_attempts or config.env.attempts
        needs_reference = any(coef for stage in config.algorithm.stages for coef in stage.kl_coefs)
        self._reference = deepcopy(model).eval().requires_grad_(False) if needs_reference else None
        self._bare_model, self._model = model, distributed.prepare_model(model)
        for index, stage in enumerate(config.algorithm.stages):
            if len(stage.reward_weights) < self._max_turns:
                raise ValueError(
                    f"algorithm.stages.{index}.reward_weights has {len(stage.reward_weights)} entries, but training "
                    f"episodes have {self._max_turns} attempts: give reward_weights and kl_coefs one entry per attempt"
                )
        if config.training.tasks_per_step % distributed.n_processes:
            raise ValueError(
                f"training.tasks_per_step={config.training.tasks_per_step} cannot be shared equally by "
                f"{distributed.n_processes} processes"
            )
        self._stage_index = -1
        self.step = 0
        self.totals = Totals()

    @property
    def n_steps(self) -> int:
        """Rollout batches of the whole run."""
        per_step = self._config.training.tasks_per_step * self._algorithm.group_size
        return max(1, self._config.training.episodes // per_step)

    def train_step(self) -> tuple[dict[str, float], list[Episode]]:
        """One rollout batch and its updates; returns the step's metrics and its episodes."""
        began = time.perf_counter()
        stage = self._enter_stage()
        phase = self._rollout.times
        sampling, verification = phase.sampling, phase.verification
        episodes = self._rollout.run(self._plans(), self._algorithm.temperature)
        counts = self._refuse_failures(episodes)
        sampling, verification = phase.sampling - sampling, phase.verification - verification
        update_began = time.perf_counter()
        trainable = drop_failed(episodes, self._algorithm.group_size > 1)
        metrics = self._update(trainable, stage)
        self._refuse_gap(metrics["policy/sampler_gap"])
        update = time.perf_counter() - update_began
        self.step += 1
        self._on_update(self.step)
        wall = time.perf_counter() - began
        seconds = {"sampling": sampling, "verification": verification, "update": update}
        seconds["other"] = wall - sum(seconds.values())
        self._account(episodes, seconds)
        n_tokens = sum(len(turn.action_ids) for episode in episodes for turn in episode.turns)
        metrics |= counts | rollout_metrics(episodes, self._max_turns, self._distributed)
        metrics |= {f"time/{name}": value for name, value in seconds.items()}
        metrics["system/episodes_per_second"] = len(episodes) * self._distributed.n_processes / wall
        metrics["system/tokens_per_second"] = n_tokens * self._distributed.n_processes / wall
        metrics["rollout/episodes"] = self.totals.episodes
        metrics["rollout/sampled_tokens"] = self.totals.sampled_tokens
        return metrics, episodes

    def _account(self, episodes: list[Episode], seconds: dict[str, float]) -> None:
        n_tokens = sum(len(turn.action_ids) for episode in episodes for turn in episode.turns)
        counts = self._distributed.sum(torch.tensor([len(episodes), n_tokens], dtype=torch.float64))
        self.totals.episodes += int(counts[0])
        self.totals.sampled_tokens += int(counts[1])
        for name, value in seconds.items():
            self.totals.seconds[name] += value

    def _enter_stage(self) -> StageConfig:
        index, start, end = stage_at(self._algorithm, self.step, self.n_steps)
        if index != self._stage_index:
            self._stage_index = index
            self._optimizer, self._schedule = self._new_optimizer(end - start)
        return self._algorithm.stages[index]

    def _new_optimizer(self, n_steps: int) -> tuple[Any, Any]:
        optim = self._config.optim
        optimizer = torch.optim.AdamW(
            [p for p in self._bare_model.parameters() if p.requires_grad],
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            weight_decay=optim.weight_decay,
        )
        n_updates = n_steps * self._algorithm.epochs * self._algorithm.minibatches
        factor = lr_factor(optim.schedule, optim.warmup_steps, n_updates)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return self._distributed.prepare_optimizer(optimizer), schedule

    def _plans(self) -> list[EpisodePlan]:
        """This process's share of the step's episodes; every coordinate goes into the seed."""
        size, seed = self._config.training.tasks_per_step, self._config.seed
        plans = []
        for slot in range(self._distributed.rank, size, self._distributed.n_processes):
            position = self.step * size + slot
            task = self._tasks[shuffled_index(seed, position, len(self._tasks))]
            for member in range(self._algorithm.group_size):
                draw = derive_seed(seed, "train", self.step, slot, task.id, member)
                plans.append(EpisodePlan(task, position, draw))
        return plans

    def _refuse_failures(self, episodes: list[Episode]) -> dict[str, float]:
        by_reason = {reason: sum(e.stop_reason is reason for e in episodes) for reason in StopReason}
        share = sum(episode.failed for episode in episodes) / len(episodes)
        if share > self._config.training.max_failed_fraction:
            example = next(episode for episode in episodes if episode.failed)
            raise RunStoppedError(
                f"step {self.step}: {share:.0%} of the episodes failed, more than "
                f"training.max_failed_fraction={self._config.training.max_failed_fraction:.0%}. "
                f"First: task {example.task_id}, {example.stop_reason.value}, {example.error or 'context too short'}"
            )
        return {
            "rollout/env_error": by_reason[StopReason.ENV_ERROR],
            "rollout/context_full": by_reason[StopReason.CONTEXT_FULL],
            "rollout/failed_fraction": share,
        }

    def _update(self, episodes: list[Episode], stage: StageConfig) -> dict[str, float]:
        batch = to_rollout_batch(episodes, self._pad_id, self._max_turns)
        train = self._score(batch, stage)
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "minibatches", self.step))
        parts: list[dict[str, Ratio]] = []
        self._model.train()
        for _ in range(self._algorithm.epochs):
            for rows in minibatches(len(train), self._algorithm.minibatches, generator):
                parts.append(self._optimizer_step(train.rows(rows), stage))
        self.totals.gradient_tokens += self._algorithm.epochs * int(
            self._distributed.sum(batch.response_mask.sum().double())
        )
        metrics = {name: ratio.value for name, ratio in self._distributed.sum_ratios(total(parts)).items()}
        shaped = shaped_rewards(batch, stage)
        for k in range(self._max_turns):
            metrics[f"reward/shaped_t{k + 1}"] = float(shaped[:, k].mean())
        metrics["optim/lr"] = self._schedule.get_last_lr()[0]
        metrics["stage"] = self._stage_index
        return metrics

    def _score(self, batch: RolloutBatch, stage: StageConfig) -> TrainBatch:
        """Everything that stays fixed while the batch is trained on."""
        advantages_BT, returns_BT = advantages(batch, self._algorithm, stage)
        zeros = torch.zeros_like(batch.sampler_logprobs)
        # With a single update the old policy is the current one, and the loss reads it off its own forward pass.
        old = self._all_logprobs(self._model, batch) if self._algorithm.reuses_samples else batch.sampler_logprobs
        sampled = self._algorithm.kl is not KL.FULL and any(stage.kl_coefs)
        ref = self._all_logprobs(self._reference, batch) if sampled else zeros
        return TrainBatch(batch, old, ref, zeros, advantages_BT, returns_BT)

    @torch.no_grad()
    def _all_logprobs(self, model: Any, batch: RolloutBatch) -> Tensor:
        out = torch.zeros_like(batch.sampler_logprobs)
        for rows, width in micro_batches(batch.lengths, self._config.optim.micro_batch_tokens):
            part = batch.rows(rows, width).to(self._distributed.device)
            stats = sampled_stats(model, part, self._algorithm.temperature)
            out[rows, :width] = stats.logprobs.to(out.device)
        return out

    def _optimizer_step(self, train: TrainBatch, stage: StageConfig) -> dict[str, Ratio]:
        normaliser = self._normaliser(train.rollout)
        pieces = list(micro_batches(train.rollout.lengths, self._config.optim.micro_batch_tokens))
        parts = []
        for i, (rows, width) in enumerate(pieces):
            part = train.rows(rows, width).to(self._distributed.device)
            last = i == len(pieces) - 1
            with nullcontext() if last else self._distributed.no_sync(self._model):
                loss, metrics = self._loss(part, stage, normaliser)
                # Data-parallel wrappers average gradients over processes; the normaliser already counts all of them.
                self._distributed.backward(loss * self._distributed.n_processes)
            parts.append(metrics | {"policy/loss": Ratio(loss.item(), 0.0)})
        norm = self._distributed.clip_grad_norm(self._bare_model.parameters(), self._config.optim.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        # The loss adds up over micro-batches and processes; the gradient norm is the same on all of them.
        share = 1.0 / self._distributed.n_processes
        metrics = total(parts) | {"optim/grad_norm": Ratio(norm * share, share)}
        metrics["policy/loss"] += Ratio(0.0, share)
        return metrics

    def _normaliser(self, batch: RolloutBatch) -> float:
        tokens = self._algorithm.normaliser is Normaliser.TOKENS
        count = batch.response_mask.sum() if tokens else torch.tensor(len(batch))
        return float(self._distributed.sum(count.double()))

    def _loss(self, train: TrainBatch, stage: StageConfig, normaliser: float) -> tuple[Tensor, dict[str, Ratio]]:
        batch, algorithm = train.rollout, self._algorithm
        stats = sampled_stats(self._model, batch, algorithm.temperature)
        old = train.old_logprobs if algorithm.reuses_samples else stats.logprobs.detach()
        weights, weight_metrics = self._importance(old, batch)
        surrogate = clipped_pg_loss(
            stats.logprobs,
            old,
            train.advantages * weights,
            batch.response_mask,
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
            normaliser=normaliser,
        )
        loss, metrics = surrogate.loss, surrogate.metrics | weight_metrics
        if any(stage.kl_coefs):
            kl = self._kl(stats, train)
            coefs = tuple(stage.kl_coefs)
            penalty = kl_penalty(kl, batch.turn_ids, batch.response_mask, coefs=coefs, normaliser=normaliser)
            loss, metrics = loss + penalty.loss, metrics | penalty.metrics
        n_tokens = float(batch.response_mask.sum())
        gap = (old - batch.sampler_logprobs).abs()
        metrics["policy/entropy"] = Ratio(float(masked_sum(stats.entropy, batch.response_mask)), n_tokens)
        metrics["policy/sampler_gap"] = Ratio(float(masked_sum(gap, batch.response_mask)), n_tokens)
        return loss, metrics

    def _importance(self, old: Tensor, batch: RolloutBatch) -> tuple[Tensor | float, dict[str, Ratio]]:
        algorithm = self._algorithm
        if algorithm.importance is Importance.NONE:
            return 1.0, {}
        per_sequence = algorithm.importance is Importance.SEQUENCE
        return importance_weights(
            old, batch.sampler_logprobs, batch.response_mask, per_sequence=per_sequence, cap=algorithm.importance_cap
        )

    def _refuse_gap(self, gap: float) -> None:
        limit = self._config.training.max_sampler_gap
        if limit and not gap <= limit:
            raise RunStoppedError(
                f"step {self.step}: trainer and sampler log-probs differ by {gap:.3g} nats per token on average, more "
                f"than training.max_sampler_gap={limit:g}: the engine samples from another policy than the one that is "
                "trained (stale weights, another precision, chat template or temperature)"
            )

    def _kl(self, stats: SampledStats, train: TrainBatch) -> Tensor:
        batch = train.rollout
        if self._algorithm.kl is not KL.FULL:
            return sampled_kl(stats.logprobs, train.ref_logprobs, batch.response_mask, self._algorithm.kl.estimator)
        with torch.no_grad():
            reference = sampled_stats(self._reference, batch, self._algorithm.temperature)
        kl_N = full_kl(stats.distribution, reference.distribution)
        return torch.zeros_like(stats.logprobs).masked_scatter(batch.response_mask, kl_N)


def drop_failed(episodes: Sequence[Episode], need_company: bool) -> list[Episode]:
    """Episodes that can be trained on: not failed and, with a group baseline, not alone in their group.

    Args:
        episodes: A rollout batch.
        need_company: Drop the only survivor of a group as well: it has nothing to be compared with.
    """
    good = [episode for episode in episodes if not episode.failed]
    if not need_company:
        return good
    sizes: dict[int, int] = {}
    for episode in good:
        sizes[episode.group_id] = sizes.get(episode.group_id, 0) + 1
    return [episode for episode in good if sizes[episode.group_id] > 1]


def shuffled_index(seed: int, position: int, n: int) -> int:
    """Index of the task at a position of an endless stream that shuffles ``n`` tasks anew on every pass."""
    epoch, offset = divmod(position, n)
    return _permutation(seed, epoch, n)[offset]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> list[int]:
    order = list(range(n))
    random.Random(derive_seed(seed, "order", epoch)).shuffle(order)
    return order


def lr_factor(schedule: Schedule, warmup_steps: int, n_updates: int) -> Callable[[int], float]:
    """The learning rate's factor as a function of the update index."""

    def factor(update: int) -> float:
        if update < warmup_steps:
            return (update + 1) / warmup_steps
        progress = min(1.0, (update - warmup_steps) / max(1, n_updates - warmup_steps))
        if schedule is Schedule.LINEAR:
            return 1.0 - progress
        if schedule is Schedule.COSINE:
            return 0.5 * (1.0 + float(torch.cos(torch.tensor(progress * torch.pi))))
        return 1.0

    return factor
