"""The online loop: sample a batch of episodes, score it, take optimiser steps, hand the weights to the engine.

All that a run needs to go on exactly where it was is in :meth:`Trainer.state`, also between two optimiser steps of one
rollout batch; :mod:`rl.checkpoint` writes it to disk.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from envs import StopReason, Task
from rl.backends.distributed import Distributed
from rl.backends.weights import full_weights
from rl.batching import Row, conversations, join_rows, to_rollout_batch
from rl.budget import planned_steps, stage_spans
from rl.config import StageConfig, TrainConfig
from rl.learner import Learner, Measured, Sums
from rl.refusals import refuse_config
from rl.rollout import Rollout
from rl.source import EpisodeSource, drop_failed
from rl.types import Engine, Episode, RunStoppedError, Totals, TrainBatch, derive_seed


class Counts(NamedTuple):
    """Of a rollout batch, over all processes.

    Args:
        episodes: To be trained on, failed ones included.
        failed: Broken off by us.
        env_error: Broken off by an environment or verifier error.
        context_full: Ended early, their context being full.
        given: Whose first attempt was read.
        trainable: Neither failed nor masked nor alone.
        sampled: Episodes that were sampled, replaced groups included.
        responses: Attempts that were sampled.
        tokens: Tokens that were sampled.
        learned: Tokens with a gradient, epochs included.
        read: Prompt and response tokens of the updates, epochs included.
    """

    episodes: float
    failed: float
    env_error: float
    context_full: float
    given: float
    trainable: float
    sampled: float
    responses: float
    tokens: float
    learned: float
    read: float


@dataclass(slots=True)
class Pending:
    """A rollout batch that is being trained on.

    Args:
        train: Scored rows of this process.
        episodes: All sampled episodes of this process.
        rows: Where each row comes from; places count in ``episodes``.
        counts: Of the batch.
        n_resampled: Groups that dynamic sampling replaced, over all processes.
        curriculum: Tasks that were drawn and passed over.
        seconds: Seconds by phase.
        plan: This process's rows of each optimiser step.
        done: Optimiser steps taken.
        parts: What they measured.
    """

    train: TrainBatch
    episodes: list[Episode]
    rows: list[Row]
    counts: Counts
    n_resampled: int
    curriculum: dict[str, float]
    seconds: dict[str, float]
    plan: list[torch.Tensor]
    done: int = 0
    parts: list[Sums] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence["Pending"]) -> "Pending":
        """The parts of several processes as one process's, for every optimiser step the same rows as all of theirs."""
        # Each part counts its rows and its episodes from 0; below each other they begin where the part before ends.
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
        """The same optimiser steps without any rows: the share of a process whose work another one has taken over."""
        # A process that left out a step's collectives would leave the others waiting in them.
        nothing = [{name: torch.zeros_like(pair) for name, pair in part.items()} for part in self.parts]
        plan = [rows[:0] for rows in self.plan]
        return replace(self, train=self.train.rows(torch.arange(0)), episodes=[], rows=[], plan=plan, parts=nothing)


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step did; :func:`rl.rollout_metrics.describe` makes the log of it.

    Args:
        stage: Of the algorithm.
        stage_index: Its place, from 0.
        batch: The rollout batch, of this process.
        measured: By the optimiser steps, over all processes.
        lr: The policy's learning rate at the last of them.
        kl_coefs: KL weights of the step.
        totals: Of the run, this step included.
    """

    stage: StageConfig
    stage_index: int
    batch: Pending
    measured: Measured
    lr: float
    kl_coefs: tuple[float, ...]
    totals: Totals

    @property
    def episodes(self) -> list[Episode]:
        """What this process sampled."""
        return self.batch.episodes


class Trainer:
    """Runs one online algorithm.

    Args:
        config: The run.
        model: The policy; trained in place.
        make_rollout: From a number of attempts and one of environments to build, what plays training episodes.
        tasks: Training tasks.
        pad_id: Fills rows.
        distributed: Processes and devices.
        engine: What the rollouts sample from; gets the new weights after every rollout batch's updates.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        make_rollout: Callable[[int, int], Rollout],
        tasks: Sequence[Task],
        pad_id: int,
        distributed: Distributed,
        engine: Engine,
    ) -> None:
        refuse_config(config, distributed.n_processes)
        self._config, self._algorithm = config, config.algorithm
        self._model, self._pad_id, self._distributed, self._engine = model, pad_id, distributed, engine
        self.stages = config.algorithm.resolved(config.env.attempts)
        self._reads_first = any(stage.offline_first_attempts for stage in self.stages)
        # An environment plays one episode at a time, so each number of attempts needs as many as its largest batch.
        n_envs = {1: 0} if self._reads_first else {}
        for stage in self.stages:
            at_a_time = config.training.tasks_per_step // distributed.n_processes * stage.group_size
            n_envs[stage.attempts] = max(at_a_time, n_envs.get(stage.attempts, 0))
        rollouts = {attempts: make_rollout(attempts, n) for attempts, n in n_envs.items()}
        self.source = EpisodeSource(config, rollouts, tasks, distributed)
        self.learner = Learner(config, model, pad_id, distributed)
        budget = config.training
        self._per_step = budget.tasks_per_step * config.algorithm.group_size
        """Episodes of a rollout batch with the algorithm's own group size: the unit that stages share."""
        self._counts_episodes = not (budget.tokens or budget.updates)
        self.n_steps = planned_steps(config)
        """Rollout batches of the run, if none of its groups are replaced and all stages have the same groups; with a
        budget of tokens their number is not known, and stages share :data:`rl.budget.TOKEN_STEPS` parts of it."""
        self._spans = stage_spans([stage.share for stage in self.stages], self.n_steps)
        self._stage_index, self._stage_began, self._stage_updates = -1, 0, 1
        self._pending: Pending | None = None
        self.step = 0
        self.n_updates = 0
        self.totals = Totals()
        self._shares_weights = getattr(engine, "shares_weights", False)

    @property
    def progress(self) -> float:
        """Part of the budget that is spent: of tokens, optimiser steps or sampled episodes."""
        # Sampled episodes and not steps taken: groups that dynamic sampling replaced have cost their share too.
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
        # The next batch is as large as its stage's groups make it, and must fit into what is left.
        done = min(self.totals.episodes // self._per_step, self.n_steps - 1)
        stage = next(stage for stage, (_, end) in zip(self.stages, self._spans, strict=True) if done < end)
        size = self._config.training.tasks_per_step * stage.group_size
        return self.totals.episodes + size > self.n_steps * self._per_step

    def train_step(self, after_update: Callable[[], None] = lambda: None) -> Step:
        """One rollout batch and its updates, or the rest of one that a checkpoint interrupted.

        Sample, score, compare, update: :class:`rl.source.EpisodeSource` samples, :class:`rl.learner.Learner` scores the
        batch, compares its episodes with each other and takes the optimiser steps.

        Args:
            after_update: Called between two optimiser steps of the batch; :meth:`state` may be taken there.

        Raises:
            RunStoppedError: If too many episodes failed, or the engine samples from another policy.
        """
        # Where the budget is, in rollout batches, decides the stage; where in the stage, the learning rate. The totals
        # change at the end of a step alone, so that a step which a checkpoint interrupted finds the same place again.
        began = time.perf_counter()
        spent = self.totals.episodes / self._per_step if self._counts_episodes else self.progress * self.n_steps
        done = min(int(spent), self.n_steps - 1)
        index = next(i for i, (_, end) in enumerate(self._spans) if done < end)
        stage, (start, end) = self.stages[index], self._spans[index]
        if index != self._stage_index:
            self._begin_stage(index)
        position = (spent - start) * self._stage_updates / (end - start)

        # Sample, score and compare. What is pending belongs to the state: a checkpoint between two optimiser steps must
        # hold the batch that they share, with its old log-probs and advantages.
        before = 0.0 if self._pending is None else sum(self._pending.seconds.values())
        pending = self._pending = self._pending or self._sample(stage)

        # Update: the optimiser steps of the batch, epochs times minibatches, less those taken before an interruption.
        critic = self._algorithm.critic
        rests = critic.kind != "none" and self.step < critic.warmup_steps
        while pending.done < len(pending.plan):
            started = time.perf_counter()
            rows = pending.train.rows(pending.plan[pending.done])
            self.learner.set_lr(self.n_updates - self._stage_began, position + pending.done)
            pending.parts.append(self.learner.update(rows, stage, rests))
            pending.done += 1
            self.n_updates += 1
            pending.seconds["update"] += time.perf_counter() - started
            if pending.done < len(pending.plan):
                after_update()

        # The policy gradient holds for samples of the policy alone, so an engine that sampled from another one ends the
        # run. KL coefficients adapt last: the log shows those that the step was taken with.
        measured = self.learner.measured(pending.parts)
        gap, limit = measured.gap, self._config.training.max_sampler_gap
        if limit and gap > limit:  # what is no number was refused before, with its cause, or is to be left out
            raise RunStoppedError(
                f"step {self.step}: trainer and sampler log-probs differ by {gap:.3g} nats per token on average, more "
                f"than training.max_sampler_gap={limit:g}: the engine samples from another policy than the one that is "
                "trained (stale weights, another precision, chat template or temperature)"
            )
        kl_coefs = tuple(self.learner.control.coefs)
        if not rests:  # a policy that rests has not left the reference, whatever the weight of the KL
            self.learner.control.update(measured.kl, measured.balance)

        # Publish: the weights' version is the number of steps taken, which the next batch's episodes must carry.
        self.step += 1
        self._pending = None
        named = () if self._shares_weights else full_weights(self._model)
        self._distributed.together(lambda: self._engine.load_weights(named, self.step))

        totals, counts = self.totals, pending.counts
        totals.episodes += int(counts.sampled)
        totals.responses += int(counts.responses)
        totals.sampled_tokens += int(counts.tokens)
        totals.gradient_tokens += int(counts.learned)
        totals.updates = self.n_updates
        in_phases = sum(pending.seconds.values()) - before
        pending.seconds["other"] += max(0.0, time.perf_counter() - began - in_phases)
        for name, value in pending.seconds.items():  # of the batch, an interrupted process's part included
            totals.seconds[name] += value
        return Step(stage, index, pending, measured, self.learner.lr, kl_coefs, replace(totals))

    def _begin_stage(self, index: int) -> None:
        stage, algorithm, (start, end) = self.stages[index], self._algorithm, self._spans[index]
        n_steps = end - start
        # A schedule ends where the stage does, so it needs the optimiser steps that the stage will take: with a budget
        # of episodes, larger groups make fewer rollout batches of the same episodes, rounded up.
        if self._counts_episodes:
            n_steps = -(-n_steps * algorithm.group_size // stage.group_size)
        self._stage_updates = n_steps * algorithm.epochs * algorithm.minibatches
        self.learner.enter_stage(stage, self._stage_updates, is_first=self._stage_index < 0)
        self._stage_index, self._stage_began = index, self.n_updates

    def _sample(self, stage: StageConfig) -> Pending:
        """Samples a rollout batch, refuses it if something is wrong with it, scores and compares its episodes."""
        # The base's first attempts, which offline groups read, are sampled while the policy still is the base.
        times, started = replace(self.source.times), time.perf_counter()
        read_first = self.source.prepare() if self.step == 0 and self._reads_first else []
        room = self.n_steps * self._per_step - self.totals.episodes if self._counts_episodes else None
        episodes, everything, n_resampled, curriculum = self.source.sample(stage, room)
        self._distributed.together(self._engine.sleep)
        wall = time.perf_counter() - started
        sampling = self.source.times.sampling - times.sampling
        verification = self.source.times.verification - times.verification

        trainable = drop_failed(episodes, self.learner.compares_groups)
        cut_off, together = self._algorithm.mask_cut_off, self._distributed.together
        batch = together(lambda: to_rollout_batch(trainable, self._pad_id, stage.attempts, cut_off, self.step))
        spoken = [turn for episode in [*read_first, *everything] for turn in episode.turns[episode.given :]]
        here = Counts(
            episodes=len(episodes),
            failed=sum(episode.failed for episode in episodes),
            env_error=sum(episode.stop_reason is StopReason.ENV_ERROR for episode in episodes),
            context_full=sum(episode.stop_reason is StopReason.CONTEXT_FULL for episode in episodes),
            given=sum(episode.given > 0 for episode in episodes),
            trainable=len(trainable),
            sampled=len(everything),
            responses=len(spoken),
            tokens=sum(len(turn.action_ids) for turn in spoken),
            learned=int(batch.response_mask.sum()) * self._algorithm.epochs,
            read=int(batch.attention_mask.sum()) * self._algorithm.epochs,
        )
        counts = Counts(*self._distributed.sum(torch.tensor(here, dtype=torch.float64)).tolist())
        share, limit = counts.failed / counts.episodes, self._config.training.max_failed_fraction
        if share > limit:
            example = next((episode for episode in episodes if episode.failed), None)
            what = "on another process"
            if example is not None:
                what = f"task {example.task_id}, {example.stop_reason.value}, {example.error}"
            raise RunStoppedError(
                f"step {self.step}: {share:.0%} of the episodes failed, more than "
                f"training.max_failed_fraction={limit:.0%}. First: {what}"
            )
        if not counts.trainable:
            raise RunStoppedError(f"step {self.step}: no episode is left to train on")

        # Scores are fixed here, once for all epochs. Scoring runs the model, so its time is the update's.
        started = time.perf_counter()
        train = self.learner.score(batch, stage)
        update = time.perf_counter() - started
        seconds = {"sampling": sampling, "verification": verification, "update": update}
        seconds["other"] = max(0.0, wall - sampling - verification)
        # The batch has rows of trainable episodes; the log looks them up among all of this process's episodes.
        places = {id(episode): i for i, episode in enumerate(episodes)}
        rows = [row._replace(episode=places[id(trainable[row.episode])]) for row in conversations(trainable)]
        # Every epoch is a partition of the rows of its own. An optimiser step needs a row on some process, so where
        # masks have left fewer rows than minibatches there are fewer steps, as many on every process.
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "minibatches", self.step))
        plan, n_parts = [], self._algorithm.minibatches
        if n_parts > 1:
            n_parts = min(n_parts, max(self._distributed.gather([len(rows)])))
        for _ in range(self._algorithm.epochs):
            order = torch.arange(len(rows)) if n_parts == 1 else torch.randperm(len(rows), generator=generator)
            plan += order.tensor_split(n_parts)
        return Pending(train, episodes, rows, counts, n_resampled, curriculum, seconds, plan)

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
        self.source.load_state(shared["source"])
        if shared["stage"] >= 0:
            # The stage's optimiser and references must exist before the checkpoint's tensors can be read into them.
            self._begin_stage(shared["stage"])
            self._stage_began = shared["stage_began"]
            self.learner.load_state(shared["learner"])
            fill(self.learner.tensors())
        if (pending := shared["pending"]) is not None:
            self._pending = Pending.joined([part["pending"] for part in parts]) if parts else pending.emptied()
        named = () if self._shares_weights else full_weights(self._model)
        self._distributed.together(lambda: self._engine.load_weights(named, self.step))
