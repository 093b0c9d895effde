"""The online loop: sample a batch of episodes, score it, take optimiser steps, hand the weights to the engine.

All that a run needs to go on exactly where it was is in :meth:`Trainer.state`, also between two optimiser steps of one
rollout batch; :mod:`rl.checkpoint` writes it to disk.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch

from envs import StopReason, Task
from rl.advantages import shaped_rewards
from rl.analysis.metrics import Ratio, declare
from rl.backends.distributed import Distributed
from rl.backends.flops import Flops, peak_memory_gib
from rl.batching import Row, conversations, join_rows, minibatches, to_rollout_batch
from rl.config import StageConfig, TrainConfig
from rl.learner import Learner, Measured
from rl.rollout import Rollout
from rl.rollout_metrics import rollout_metrics, sampled_tokens
from rl.schedule import stage_spans
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
        rows: Where each row comes from; places count in ``episodes``.
        metrics: Numbers about the sampling.
        seconds: Seconds by phase.
        plan: This process's rows of each optimiser step.
        done: Optimiser steps taken.
        parts: What they measured.
    """

    train: TrainBatch
    episodes: list[Episode]
    rows: list[Row]
    metrics: dict[str, float]
    seconds: dict[str, float]
    plan: list[torch.Tensor]
    done: int = 0
    parts: list[Measured] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence["Pending"]) -> "Pending":
        """The parts of several processes as one process's, for every optimiser step the same rows as all of theirs."""
        starts = list(accumulate((len(part.train) for part in parts), initial=0))
        places = list(accumulate((len(part.episodes) for part in parts), initial=0))
        plan = [
            torch.cat([rows + start for rows, start in zip(step, starts, strict=False)])
            for step in zip(*(part.plan for part in parts), strict=True)
        ]
        return replace(
            parts[0],
            train=join_rows([part.train for part in parts]),
            episodes=[episode for part in parts for episode in part.episodes],
            rows=[
                row._replace(episode=row.episode + place)
                for part, place in zip(parts, places, strict=False)
                for row in part.rows
            ],
            plan=plan,
            parts=[measured for part in parts for measured in part.parts],
        )

    def emptied(self) -> "Pending":
        """Nothing to do and nothing measured: the share of a process that another one has taken over."""
        nothing = [measured.emptied() for measured in self.parts]
        plan = [rows[:0] for rows in self.plan]
        return replace(self, train=self.train.rows(torch.arange(0)), episodes=[], rows=[], plan=plan, parts=nothing)


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
        self.stages = config.algorithm.resolved(config.env.attempts)
        attempts = {stage.attempts for stage in self.stages}
        self._reads_first = any(stage.offline_first_attempts for stage in self.stages)
        attempts |= {1} if self._reads_first else set()
        self.source = EpisodeSource(config, {k: make_rollout(k) for k in attempts}, tasks, distributed)
        self.learner = Learner(config, model, pad_id, distributed)
        self._flops = Flops.of(model, distributed.device, config)
        budget, per_batch = config.training, config.algorithm.epochs * config.algorithm.minibatches
        self._per_step = budget.tasks_per_step * config.algorithm.group_size
        """Episodes of a rollout batch with the algorithm's own group size: the unit that stages share."""
        self._counts_episodes = not (budget.tokens or budget.updates)
        n_steps = budget.updates // per_batch if budget.updates else budget.episodes // self._per_step
        self.n_steps = TOKEN_STEPS if budget.tokens else max(1, n_steps)
        """Rollout batches of the run, if none of its groups are replaced and all stages have the same groups; with a
        budget of tokens their number is not known, and stages share :data:`TOKEN_STEPS` parts of the budget."""
        self._spans = stage_spans([stage.share for stage in self.stages], self.n_steps)
        self._stage_index, self._stage_began, self._stage_updates = -1, 0, 1
        self._pending: Pending | None = None
        self.step = 0
        self.n_updates = 0
        self.totals = Totals()
        self.advantages: dict[int, list[list[float]]] = {}
        """Of the last batch's first ``keep_episodes`` episodes, by index: per turn, of every sampled token."""

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
        done = min(self.totals.episodes // self._per_step, self.n_steps - 1)
        stage = next(stage for stage, (_, end) in zip(self.stages, self._spans, strict=True) if done < end)
        size = self._config.training.tasks_per_step * stage.group_size
        return self.totals.episodes + size > self.n_steps * self._per_step

    def train_step(self, after_update: Callable[[], None] = _nothing) -> tuple[dict[str, float], list[Episode]]:
        """One rollout batch and its updates, or the rest of one that a checkpoint interrupted.

        Sample, score, compare, update: :class:`rl.source.EpisodeSource` samples, :class:`rl.learner.Learner` scores the
        batch, compares its episodes with each other and takes the optimiser steps.

        Args:
            after_update: Called between two optimiser steps of the batch; :meth:`state` may be taken there.

        Returns:
            The step's metrics and this process's episodes.

        Raises:
            RunStoppedError: If too many episodes failed, or the engine samples from another policy.
        """
        began = time.perf_counter()
        # Where the budget is, in rollout batches, decides the stage; where in the stage, the learning rate.
        spent = self.totals.episodes / self._per_step if self._counts_episodes else self.progress * self.n_steps
        done = min(int(spent), self.n_steps - 1)
        index = next(i for i, (_, end) in enumerate(self._spans) if done < end)
        stage, (start, end) = self.stages[index], self._spans[index]
        if index != self._stage_index:
            self._begin_stage(index)
        position = (spent - start) * self._stage_updates / (end - start)

        before = 0.0 if self._pending is None else sum(self._pending.seconds.values())
        pending = self._pending = self._pending or self._sample(stage)
        while pending.done < len(pending.plan):
            started = time.perf_counter()
            rows = pending.train.rows(pending.plan[pending.done])
            self.learner.set_lr(self.n_updates - self._stage_began, position + pending.done)
            pending.parts.append(self.learner.update(rows, stage, self.step < self._algorithm.critic.warmup_steps))
            pending.done += 1
            self.n_updates += 1
            pending.seconds["update"] += time.perf_counter() - started
            if pending.done < len(pending.plan):
                after_update()

        measured = Measured.total(pending.parts).over_processes(self._distributed)
        gap, limit = measured.gap.value, self._config.training.max_sampler_gap
        if limit and gap > limit:  # what is no number was refused before, with its cause, or is to be left out
            raise RunStoppedError(
                f"step {self.step}: trainer and sampler log-probs differ by {gap:.3g} nats per token on average, more "
                f"than training.max_sampler_gap={limit:g}: the engine samples from another policy than the one that is "
                "trained (stale weights, another precision, chat template or temperature)"
            )
        metrics = self._measure(pending, stage, measured)
        self.learner.control.update([x.value for x in measured.kl], [x.value for x in measured.advantage])
        self.advantages = _first_advantages(pending, self._config.training.keep_episodes)
        self.step += 1
        self._pending = None
        self._on_update(self.step)
        in_phases = sum(pending.seconds.values()) - before
        pending.seconds["other"] += max(0.0, time.perf_counter() - began - in_phases)
        return metrics | self._account(pending), pending.episodes

    def _begin_stage(self, index: int) -> None:
        stage, algorithm, (start, end) = self.stages[index], self._algorithm, self._spans[index]
        n_steps = end - start
        if self._counts_episodes:  # larger groups make fewer steps of the same episodes
            n_steps = -(-n_steps * algorithm.group_size // stage.group_size)
        self._stage_updates = n_steps * algorithm.epochs * algorithm.minibatches
        self.learner.enter_stage(stage, self._stage_updates, is_first=self._stage_index < 0)
        self._stage_index, self._stage_began = index, self.n_updates

    def _sample(self, stage: StageConfig) -> Pending:
        """Samples a rollout batch, refuses it if something is wrong with it, scores and compares its episodes."""
        before, started = self.source.seconds(), time.perf_counter()
        if self.step == 0 and self._reads_first:
            n_responses, n_tokens = self.source.prepare()
            self.totals.responses += n_responses
            self.totals.sampled_tokens += n_tokens
        room = self.n_steps * self._per_step - self.totals.episodes if self._counts_episodes else None
        episodes = self.source.sample(stage, room)
        wall = time.perf_counter() - started

        of_errors = sum(e.stop_reason is StopReason.ENV_ERROR for e in episodes)
        of_context = sum(e.stop_reason is StopReason.CONTEXT_FULL for e in episodes)
        given = sum(e.given > 0 for e in episodes)
        trainable = drop_failed(episodes, self.learner.compares_groups)
        counts = [len(episodes), sum(e.failed for e in episodes), of_errors, of_context, given, len(trainable)]
        n, n_failed, of_errors, of_context, given, n_trainable = self._distributed.sum(
            torch.tensor(counts, dtype=torch.float64)
        ).tolist()
        if n_failed / n > self._config.training.max_failed_fraction:
            self._refuse_failures(episodes, n_failed / n)
        refuse_stale(episodes, self.step)
        if not n_trainable:
            raise RunStoppedError(f"step {self.step}: no episode is left to train on")
        metrics = rollout_metrics(episodes, stage.attempts, self._distributed)
        metrics |= {
            "rollout/env_error": of_errors,
            "rollout/context_full": of_context,
            "rollout/failed_fraction": n_failed / n,
            "group/resampled": self.source.n_resampled,
            "group/offline_first_fraction": given / n,
        }

        started = time.perf_counter()
        batch = to_rollout_batch(trainable, self._pad_id, stage.attempts, self._algorithm.mask_cut_off)
        train = self.learner.score(batch, stage)
        update = time.perf_counter() - started
        sampling, verification = (now - then for now, then in zip(self.source.seconds(), before, strict=True))
        seconds = {"sampling": sampling, "verification": verification, "update": update}
        seconds["other"] = max(0.0, wall - sampling - verification)
        places = {id(episode): i for i, episode in enumerate(episodes)}
        rows = [row._replace(episode=places[id(trainable[row.episode])]) for row in conversations(trainable)]
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "minibatches", self.step))
        n_parts = self._algorithm.minibatches
        plan = [part for _ in range(self._algorithm.epochs) for part in minibatches(len(rows), n_parts, generator)]
        return Pending(train, episodes, rows, metrics, seconds, plan)

    def _refuse_failures(self, episodes: list[Episode], share: float) -> None:
        example = next((episode for episode in episodes if episode.failed), None)
        what = "on another process"
        if example is not None:
            error = example.error or "context too short"
            what = f"task {example.task_id}, {example.stop_reason.value}, {error}"
        raise RunStoppedError(
            f"step {self.step}: {share:.0%} of the episodes failed, more than "
            f"training.max_failed_fraction={self._config.training.max_failed_fraction:.0%}. First: {what}"
        )

    def _measure(self, pending: Pending, stage: StageConfig, measured: Measured) -> dict[str, float]:
        """What the sampling and the updates measured, for the log."""
        metrics = pending.metrics | {name: ratio.value for name, ratio in measured.log.items()}
        metrics["policy/sampler_gap"] = measured.gap.value
        metrics |= {f"policy/kl_ref_t{k + 1}": ratio.value for k, ratio in enumerate(measured.kl)}
        metrics |= {f"policy/abs_advantage_t{k + 1}": ratio.value for k, ratio in enumerate(measured.advantage)}
        if "critic/return" in metrics:
            variance = metrics["critic/return_square"] - metrics["critic/return"] ** 2
            error = metrics["critic/error"]
            metrics["critic/explained_variance"] = 1 - error / variance if variance > 0 else float("nan")
        batch = pending.train.rollout
        sums = shaped_rewards(batch, stage).sum(0).tolist()
        shares = {f"reward/shaped_t{k + 1}": Ratio(value, float(len(batch))) for k, value in enumerate(sums)}
        metrics |= {name: ratio.value for name, ratio in self._distributed.sum_ratios(shares).items()}
        metrics |= {f"policy/kl_coef_t{k + 1}": coef for k, coef in enumerate(self.learner.control.coefs)}
        return metrics | {"optim/lr": self.learner.lr, "stage": self._stage_index}

    def _account(self, pending: Pending) -> dict[str, float]:
        """Adds what the step cost to the totals; what it cost and how fast it was, for the log."""
        batch, epochs = pending.train.rollout, self._algorithm.epochs
        counts = [self.source.n_sampled, self.source.n_tokens, self.source.n_responses]
        learned = [float(batch.response_mask.sum()) * epochs, float(batch.attention_mask.sum()) * epochs]
        n_sampled, n_tokens, n_responses, n_learned, n_read = self._distributed.sum(
            torch.tensor([*counts, *learned], dtype=torch.float64)
        ).tolist()
        totals, seconds, n = self.totals, pending.seconds, self._distributed.n_processes
        totals.episodes += int(n_sampled)
        totals.sampled_tokens += int(n_tokens)
        totals.responses += int(n_responses)
        totals.gradient_tokens += int(n_learned)
        totals.updates = self.n_updates
        for name, value in seconds.items():
            totals.seconds[name] += value
        kept_tokens, wall = sampled_tokens(pending.episodes) * n, sum(seconds.values())
        update = max(seconds["update"], 1e-9)
        metrics = {f"time/{name}": value for name, value in seconds.items()} | {
            "system/episodes_per_second": len(pending.episodes) * n / wall,
            "system/tokens_per_second": kept_tokens / wall,
            "system/sampling_tokens_per_second": kept_tokens / max(seconds["sampling"], 1e-9),
            "system/update_tokens_per_second": n_read / update,
            "system/peak_memory": peak_memory_gib(self._distributed.device),
            "rollout/episodes": totals.episodes,
            "rollout/sampled_tokens": totals.sampled_tokens,
        }
        if self._flops.peak:
            metrics["system/mfu"] = self._flops.per_token * n_read / update / n / self._flops.peak
        return metrics

    def state(self) -> dict[str, Any]:
        """Everything that decides how the run goes on beside :meth:`tensors`, this process's part of it."""
        return {
            "step": self.step,
            "n_updates": self.n_updates,
            "stage": self._stage_index,
            "stage_began": self._stage_began,
            "totals": asdict(self.totals),
            "source": self.source.state(),
            "learner": self.learner.state(),
            "pending": self._pending,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights, moments and references, live."""
        return self.learner.tensors()

    def load_state(
        self,
        shared: dict[str, Any],
        parts: Sequence[dict[str, Any]],
        fill: Callable[[dict[str, torch.Tensor]], None],
    ) -> None:
        """The inverse of :meth:`state`; the engine gets the weights too. See :class:`rl.checkpoint.Stateful`."""
        self.step, self.n_updates = shared["step"], shared["n_updates"]
        self.totals = Totals(**shared["totals"])
        self.source.load_state(shared["source"], [part["source"] for part in parts])
        if shared["stage"] >= 0:
            self._begin_stage(shared["stage"])
            self._stage_began = shared["stage_began"]
            self.learner.load_state(shared["learner"])
            fill(self.learner.tensors())
        if (pending := shared["pending"]) is not None:
            self._pending = Pending.joined([part["pending"] for part in parts]) if parts else pending.emptied()
        self._on_update(self.step)


def _first_advantages(pending: Pending, n: int) -> dict[int, list[list[float]]]:
    """Per turn of the first ``n`` episodes, the advantage of every sampled token; of those that are trained on."""
    found: dict[int, list[list[float]]] = {}
    batch = pending.train.rollout
    for i, row in enumerate(pending.rows):
        if row.episode >= n:
            break
        turns = found.setdefault(row.episode, [[] for _ in pending.episodes[row.episode].turns])
        for k, index in enumerate(row.turns):
            turns[index] = pending.train.advantages[i][batch.turn_ids[i] == k].tolist()
    return found


def refuse_config(config: TrainConfig, n_processes: int) -> None:
    """Raises ValueError for values that cannot work together, before anything is sampled."""
    algorithm, size = config.algorithm, config.training.tasks_per_step
    stages = algorithm.resolved(config.env.attempts)
    if config.training.tokens and any(stage.optim["schedule"] != "constant" for stage in stages):
        raise ValueError("training.tokens: the number of updates is not known beforehand; use optim.schedule=constant")
    names = [name for name, stage in (algorithm.stages or {"main": stages[0]}).items() if stage.share]
    for name, stage in zip(names, stages, strict=True):
        key = f"algorithm.stages.{name}"
        if len(stage.reward_weights) < stage.attempts:
            raise ValueError(
                f"{key}.reward_weights has {len(stage.reward_weights)} entries, but training episodes have "
                f"{stage.attempts} attempts: give reward_weights and kl_coefs one entry per attempt"
            )
        if stage.offline_first_attempts and stage.attempts < 2:
            raise ValueError(f"{key}.offline_first_attempts needs at least two attempts")
        if size * stage.group_size < algorithm.minibatches * n_processes:
            raise ValueError(
                f"algorithm.minibatches={algorithm.minibatches}: cannot split {size * stage.group_size} episodes into "
                f"so many on {n_processes} processes"
            )
    if size % n_processes:
        raise ValueError(f"training.tasks_per_step={size} cannot be shared equally by {n_processes} processes")


declare(
    {
        "reward/shaped_t<k>": ("reward", "mean reward of the turn after weights and progress bonus"),
        "policy/kl_coef_t<k>": ("1", "weight of the turn's KL penalty"),
        "rollout/env_error": ("episodes", "episodes broken off by an environment or verifier error"),
        "rollout/context_full": ("episodes", "episodes that ended early, their context being full"),
        "rollout/failed_fraction": ("fraction", "episodes masked out of training"),
        "rollout/episodes": ("episodes", "sampled episodes so far, failed ones included"),
        "rollout/sampled_tokens": ("tokens", "sampled tokens so far"),
        "group/resampled": ("groups", "groups without a gradient that dynamic sampling replaced"),
        "group/offline_first_fraction": ("fraction", "episodes whose first attempt was read, not sampled"),
        "critic/explained_variance": ("fraction", "1 - error / variance of the returns; a constant has 0"),
        "optim/lr": ("1", "learning rate"),
        "stage": ("index", "stage of the algorithm, from 0"),
        "time/sampling": ("seconds", "spent in the engine this step"),
        "time/verification": ("seconds", "spent in environments and verifiers this step"),
        "time/update": ("seconds", "spent in forward, backward and optimiser this step"),
        "time/other": ("seconds", "the rest of this step: rendering, batching, logging, validation"),
        "time/checkpoint": ("seconds", "spent in writing checkpoints since the step before"),
        "system/sampling_tokens_per_second": ("tokens/s", "sampled tokens over the time in the engine"),
        "system/update_tokens_per_second": ("tokens/s", "prompt and response tokens over the update's time"),
        "system/mfu": ("fraction", "model FLOPs of the update over what the device can do; on known GPUs only"),
        "system/peak_memory": ("GiB", "peak memory of this process: the GPU's where there is one, else resident"),
        "system/episodes_per_second": ("episodes/s", "sampled and trained on, over the whole step"),
        "system/tokens_per_second": ("tokens/s", "sampled tokens over the whole step"),
    }
)
