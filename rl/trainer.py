"""The online loop: sample a batch of episodes, score it, take optimiser steps, hand the weights to the engine.

:meth:`Trainer.state` and :meth:`Trainer.tensors` hold everything that a run needs to resume exactly where it stopped,
even between two optimiser steps of one rollout batch; :mod:`rl.checkpoint` writes them to disk.
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
    """What was sampled and learned in one rollout batch, summed over all processes.

    Args:
        episodes: Episodes of the final batch, including failed ones but not replaced groups.
        failed: Episodes that broke off for a reason other than the policy.
        env_error: Episodes that an environment or verifier error broke off.
        context_full: Episodes that ended early because their context was full.
        given: Episodes whose first attempt was given to the policy instead of sampled.
        trainable: Episodes left to train on: not failed, not masked and, with a group baseline, not alone in a group.
        sampled: All sampled episodes, including those of replaced groups.
        responses: All sampled attempts: those of ``sampled`` and, in the first step, those stored for offline groups.
        tokens: Tokens of the sampled attempts.
        learned: Response tokens trained on, counted once per epoch.
        read: Prompt and response tokens that the updates process, counted once per epoch.
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
        episodes: This process's episodes of the batch, including failed ones.
        rows: Which episode, role and turns each row holds; ``Row.episode`` is an index into ``episodes``.
        counts: Counts of the batch over all processes.
        n_resampled: Number of groups that dynamic sampling replaced, over all processes.
        curriculum: Metrics on the tasks that the curriculum chose and skipped; empty without a curriculum.
        seconds: Seconds spent, by phase.
        plan: Indices into this process's rows, one tensor per optimiser step.
        done: Number of optimiser steps taken so far.
        parts: Measurements of this process, one dictionary per optimiser step taken.
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
        """Merges the batches of several processes into one; each optimiser step keeps all of their rows."""
        # Each part numbers its rows and episodes from 0, so the indices are shifted by the sizes of the parts before.
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
        """A copy with the same optimiser steps but no rows, for a process whose work another process has taken over."""
        # Empty steps are kept, since the other processes would hang in a step's collectives if this one skipped it.
        nothing = [{name: torch.zeros_like(pair) for name, pair in part.items()} for part in self.parts]
        plan = [rows[:0] for rows in self.plan]
        return replace(self, train=self.train.rows(torch.arange(0)), episodes=[], rows=[], plan=plan, parts=nothing)


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step did; :func:`rl.rollout_metrics.describe` turns it into metrics for the log.

    Args:
        stage: Stage of the algorithm that the step belongs to.
        stage_index: Index of the stage, from 0.
        batch: This process's part of the rollout batch.
        measured: Measurements of the optimiser steps, over all processes.
        lr: The policy's learning rate at the last optimiser step.
        kl_coefs: KL coefficient of each turn, as used in the step.
        totals: Totals of the run, including this step.
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
        """This process's episodes of the batch."""
        return self.batch.episodes


class Trainer:
    """Runs one online algorithm.

    Args:
        config: Config of the run.
        model: The policy; trained in place.
        make_rollout: Called with a number of attempts and a number of environments to build; returns a rollout that
            plays training episodes.
        tasks: Training tasks.
        pad_id: Token id that pads rows.
        distributed: Processes and devices.
        engine: Engine that the rollouts sample from; it receives the new weights after the updates of each batch.
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
        # An environment plays one episode at a time, so each number of attempts needs as many environments as its
        # largest batch has episodes.
        n_envs = {1: 0} if self._reads_first else {}
        for stage in self.stages:
            at_a_time = config.training.tasks_per_step // distributed.n_processes * stage.group_size
            n_envs[stage.attempts] = max(at_a_time, n_envs.get(stage.attempts, 0))
        rollouts = {attempts: make_rollout(attempts, n) for attempts, n in n_envs.items()}
        self.source = EpisodeSource(config, rollouts, tasks, distributed)
        self.learner = Learner(config, model, pad_id, distributed)
        budget = config.training
        self._per_step = budget.tasks_per_step * config.algorithm.group_size
        """Episodes of a rollout batch with the algorithm's own group size: the unit in which stages divide the run."""
        self._counts_episodes = not (budget.tokens or budget.updates)
        self.n_steps = planned_steps(config)
        """Rollout batches of the run if no groups are replaced and all stages have the same group size. With a budget
        of tokens that number is unknown; the budget is then divided into :data:`rl.budget.TOKEN_STEPS` parts."""
        self._spans = stage_spans([stage.share for stage in self.stages], self.n_steps)
        self._stage_index, self._stage_began, self._stage_updates = -1, 0, 1
        self._pending: Pending | None = None
        self.step = 0
        self.n_updates = 0
        self.totals = Totals()
        self._shares_weights = getattr(engine, "shares_weights", False)

    @property
    def progress(self) -> float:
        """Spent fraction of the budget, which counts tokens, optimiser steps or sampled episodes."""
        # A budget of episodes counts all sampled ones, since groups that dynamic sampling replaced were paid for too.
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
        # The size of the next batch depends on its stage's group size; the batch must fit into the rest of the budget.
        done = min(self.totals.episodes // self._per_step, self.n_steps - 1)
        stage = next(stage for stage, (_, end) in zip(self.stages, self._spans, strict=True) if done < end)
        size = self._config.training.tasks_per_step * stage.group_size
        return self.totals.episodes + size > self.n_steps * self._per_step

    def train_step(self, after_update: Callable[[], None] = lambda: None) -> Step:
        """Samples and trains on one rollout batch, or finishes a batch that was restored from a checkpoint.

        Sample, score, compare, update: :class:`rl.source.EpisodeSource` samples, :class:`rl.learner.Learner` scores the
        batch, compares its episodes with each other and takes the optimiser steps.

        Args:
            after_update: Called between two optimiser steps of the batch; :meth:`state` may be saved there.

        Raises:
            RunStoppedError: If too many episodes failed or none is left to train on, the engine samples from another
                policy, or a loss or gradient is not finite (unless ``training.nonfinite`` is ``skip``).
        """
        # The spent budget, measured in rollout batches, selects the stage; the position within the stage sets the
        # learning rate. Totals change only at the end of a step, so that a batch resumed from a checkpoint computes the
        # same position as before the interruption.
        began = time.perf_counter()
        spent = self.totals.episodes / self._per_step if self._counts_episodes else self.progress * self.n_steps
        done = min(int(spent), self.n_steps - 1)
        index = next(i for i, (_, end) in enumerate(self._spans) if done < end)
        stage, (start, end) = self.stages[index], self._spans[index]
        if index != self._stage_index:
            self._begin_stage(index)
        position = (spent - start) * self._stage_updates / (end - start)

        # Sample, score and compare. The pending batch belongs to the state: a checkpoint between two optimiser steps
        # must hold the batch that both use, with its old log-probs and advantages.
        before = 0.0 if self._pending is None else sum(self._pending.seconds.values())
        pending = self._pending = self._pending or self._sample(stage)

        # Update: epochs times minibatches optimiser steps, minus those taken before an interruption. During the
        # critic's warm-up the policy rests: only the critic is updated.
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

        # The policy gradient is valid only for samples of the trained policy, so an engine that samples from another
        # one ends the run. KL coefficients adapt afterwards, because the log shows those that the step used.
        measured = self.learner.measured(pending.parts)
        gap, limit = measured.gap, self._config.training.max_sampler_gap
        if limit and gap > limit:  # nan passes here: the update has already raised, or training.nonfinite=skip
            raise RunStoppedError(
                f"step {self.step}: trainer and sampler log-probs differ by {gap:.3g} nats per token on average, more "
                f"than training.max_sampler_gap={limit:g}: the engine samples from another policy than the one that is "
                "trained (stale weights, another precision, chat template or temperature)"
            )
        kl_coefs = tuple(self.learner.control.coefs)
        if not rests:  # a resting policy does not move, so its KL says nothing about how large a coefficient should be
            self.learner.control.update(measured.kl, measured.balance)

        # Publish: the version of the weights is the number of training steps; the next batch's episodes must carry it.
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
        for name, value in pending.seconds.items():  # includes the time that an interrupted process spent on the batch
            totals.seconds[name] += value
        return Step(stage, index, pending, measured, self.learner.lr, kl_coefs, replace(totals))

    def _begin_stage(self, index: int) -> None:
        stage, algorithm, (start, end) = self.stages[index], self._algorithm, self._spans[index]
        n_steps = end - start
        # The learning-rate schedule ends with the stage, so it needs the stage's number of optimiser steps. With a
        # budget of episodes, larger groups mean fewer rollout batches for the same episodes, rounded up.
        if self._counts_episodes:
            n_steps = -(-n_steps * algorithm.group_size // stage.group_size)
        self._stage_updates = n_steps * algorithm.epochs * algorithm.minibatches
        self.learner.enter_stage(stage, self._stage_updates, is_first=self._stage_index < 0)
        self._stage_index, self._stage_began = index, self.n_updates

    def _sample(self, stage: StageConfig) -> Pending:
        """Samples a rollout batch, stops the run if too much of it failed, then scores and compares the episodes."""
        # Offline groups are given first attempts of the base model, so those are sampled before the first update.
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

        # The batch is scored once, for all epochs. Scoring runs the model, so its time counts as update time.
        started = time.perf_counter()
        train = self.learner.score(batch, stage)
        update = time.perf_counter() - started
        seconds = {"sampling": sampling, "verification": verification, "update": update}
        seconds["other"] = max(0.0, wall - sampling - verification)
        # Rows are numbered by trainable episode, but the log looks them up among all of this process's episodes, so
        # ``Row.episode`` is translated.
        places = {id(episode): i for i, episode in enumerate(episodes)}
        rows = [row._replace(episode=places[id(trainable[row.episode])]) for row in conversations(trainable)]
        # Every epoch partitions the rows anew. An optimiser step needs at least one row on some process, so if no
        # process has as many rows as there are minibatches, the number of steps falls, equally on every process.
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "minibatches", self.step))
        plan, n_parts = [], self._algorithm.minibatches
        if n_parts > 1:
            n_parts = min(n_parts, max(self._distributed.gather([len(rows)])))
        for _ in range(self._algorithm.epochs):
            order = torch.arange(len(rows)) if n_parts == 1 else torch.randperm(len(rows), generator=generator)
            plan += order.tensor_split(n_parts)
        return Pending(train, episodes, rows, counts, n_resampled, curriculum, seconds, plan)

    def state(self) -> dict[str, Any]:
        """This process's part of the state that a resumed run needs, apart from :meth:`tensors`."""
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
        """Trained weights, optimiser moments and references: the live tensors, not copies."""
        return self.learner.tensors()

    def load_state(
        self,
        shared: dict[str, Any],
        parts: Sequence[dict[str, Any]],
        fill: Callable[[dict[str, torch.Tensor]], None],
    ) -> None:
        """Restores what :meth:`state` returned and loads the weights into the engine.

        The arguments are those of :meth:`rl.checkpoint.Stateful.load_state`.
        """
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
