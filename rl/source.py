"""Samples the episodes of each training step: chooses their tasks, seeds and given first attempts."""

import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from envs import Task
from rl.advantages import has_gradient
from rl.backends.distributed import Distributed
from rl.config import StageConfig, TrainConfig
from rl.curriculum import CURRICULA, Curriculum, passed
from rl.group_rewards import GROUP_REWARDS, apply_group_reward
from rl.rollout import EpisodePlan, PhaseTimes, Rollout
from rl.types import Episode, Group, Turn, derive_seed


class Sampled(NamedTuple):
    """This process's episodes of a rollout batch, and what was sampled to get them.

    Args:
        episodes: Episodes of the final batch, including failed ones.
        everything: All sampled episodes, including those of replaced groups.
        n_resampled: Number of replaced groups, over all processes.
        curriculum: Metrics on the tasks that the curriculum chose and skipped; empty without a curriculum.
    """

    episodes: list[Episode]
    everything: list[Episode]
    n_resampled: int
    curriculum: dict[str, float]


class EpisodeSource:
    """Samples rollout batches from an endless, shuffled stream of tasks, whose positions the processes divide up.

    Args:
        config: Config of the run.
        rollouts: Rollout for each number of attempts.
        tasks: Training tasks.
        distributed: Processes of the run.
    """

    def __init__(
        self, config: TrainConfig, rollouts: dict[int, Rollout], tasks: Sequence[Task], distributed: Distributed
    ) -> None:
        self._config, self._algorithm = config, config.algorithm
        self._rollouts, self._tasks, self._distributed = rollouts, list(tasks), distributed
        self._stream = TaskStream(tasks, config.seed)
        name, options = config.env.group_reward, config.env.group_reward_options
        self._group_reward = GROUP_REWARDS.bind(name, options) if name is not None else None
        # All rollouts share one clock, since a step may use rollouts with different numbers of attempts.
        self.times = PhaseTimes()
        """Seconds spent so far by all rollouts together."""
        for rollout in rollouts.values():
            rollout.times = self.times
        self._first: dict[str, Turn] = {}
        self._position = 0
        """Next position in the stream of tasks, the same on all processes."""
        name, options = config.training.curriculum, config.training.curriculum_options
        draws_all = CURRICULA.fact(name, "draws_all")
        at = self._stream.__getitem__
        self.curriculum = None if draws_all else Curriculum(name, options, at, len(tasks), config.seed)

    def prepare(self) -> list[Episode]:
        """Samples one first attempt per task with the current policy, to be given to offline groups later.

        It must be called before training, while the policy still is the base model.

        Returns:
            This process's share of the one-attempt episodes.
        """
        seed, rank, n = self._config.seed, self._distributed.rank, self._distributed.n_processes
        plans = [
            EpisodePlan(task, i, derive_seed(seed, "offline", task.id)) for i, task in enumerate(self._tasks[rank::n])
        ]
        # Every process needs all of the attempts, since any task may be assigned to it later.
        episodes = self._distributed.together(partial(self._rollouts[1].run, plans, self._algorithm.temperature))
        found = {episode.task_id: episode.turns[0] for episode in episodes if not episode.failed}
        self._first = {task_id: turn for part in self._distributed.gather([found]) for task_id, turn in part.items()}
        return episodes

    def sample(self, stage: StageConfig, budget: int | None) -> Sampled:
        """Samples this process's episodes of a step.

        With ``dynamic_sampling``, groups without a gradient are replaced by groups of the next tasks, until the rounds
        or the budget are used up. Groups that then still have no gradient are kept, so that the batch keeps its size.

        Args:
            stage: Resolved stage that the step belongs to.
            budget: Number of episodes that may still be sampled, over all processes; ``None`` for no limit.
        """
        # ``missing`` and ``room`` are the same on every process. All processes therefore sample equally many rounds,
        # which they must, because each round contains collectives.
        rank, n, size = self._distributed.rank, self._distributed.n_processes, self._config.training.tasks_per_step
        missing = [len(range(r, size, n)) for r in range(n)]  # number of groups that each process still has to sample
        room = math.inf if budget is None else budget
        kept: list[Group] = []
        everything: list[Episode] = []
        n_resampled = 0
        for rounds_left in reversed(range(self._algorithm.dynamic_sampling + 1)):
            groups = self._draw(missing, stage)
            everything += [episode for group in groups for episode in group.episodes]
            room -= sum(missing) * stage.group_size
            if not rounds_left:
                kept += groups
                break
            # Replace groups without a gradient only if the replacements of all processes still fit into the budget.
            good = [group for group in groups if has_gradient(group.episodes, stage)]
            still = self._distributed.gather([missing[rank] - len(good)])
            if not any(still) or sum(still) * stage.group_size > room:
                kept += groups
                break
            kept, missing = kept + good, still
            n_resampled += sum(still)
        episodes = [episode for group in kept for episode in group.episodes]
        return Sampled(episodes, everything, n_resampled, {} if self.curriculum is None else self.curriculum.metrics())

    def _draw(self, counts: Sequence[int], stage: StageConfig) -> list[Group]:
        """Plays this process's share of the next groups of the stream.

        Args:
            counts: Number of groups for each process.
            stage: Resolved stage that the step belongs to.
        """
        seed, size, positions, plans = self._config.seed, stage.group_size, [], []
        # Assign the stream's next positions to the processes in turn, skipping processes that have all their groups.
        # The tasks of a step are then the same for any number of processes.
        n, start = sum(counts), self._position
        drawn = range(start, start + n) if self.curriculum is None else self.curriculum.take(start, n)
        self._position, places = drawn[-1] + 1, iter(drawn)
        for row in range(max(counts)):
            shares = {rank: next(places) for rank, count in enumerate(counts) if row < count}
            positions += [shares[rank] for rank in shares if rank == self._distributed.rank]
        for position in positions:
            task = self._stream[position]
            # All episodes of a group are given the same first attempt, so that their second attempts are comparable.
            reads = derive_seed(seed, "offline?", position) / 2**63 < stage.offline_first_attempts
            first = self._first.get(task.id) if reads else None
            # Seeds depend only on run, stream position, task and member, so that a resumed run, or a run with another
            # number of processes, samples with the same seeds.
            step, place = divmod(position, self._config.training.tasks_per_step)
            for member in range(size):
                draw = derive_seed(seed, "train", step, place, task.id, member)
                plans.append(EpisodePlan(task, position, draw, first))
        # A curriculum learns pass rates from the verifier's verdicts, which group rewards do not change.
        episodes = self._distributed.together(partial(self._rollouts[stage.attempts].run, plans, stage.temperature))
        groups = [Group(position, tuple(episodes[i * size :][:size])) for i, position in enumerate(positions)]
        if (reward := self._group_reward) is not None:
            groups = self._distributed.together(lambda: [apply_group_reward(reward, group) for group in groups])
        if self.curriculum is not None:
            rates = [(group.group_id, rate) for group in groups if (rate := passed(group.episodes)) is not None]
            self.curriculum.learn(self._distributed.gather(rates))
        return groups

    def state(self) -> dict[str, Any]:
        """State that a checkpoint must hold; the same on all processes."""
        history = {} if self.curriculum is None else self.curriculum.state()
        return {"position": self._position, "history": history, "first": self._first}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state` returned."""
        self._first, self._position = state["first"], state["position"]
        if self.curriculum is not None:
            self.curriculum.load_state(state["history"])


class TaskStream:
    """An endless stream of tasks: pass after pass over all tasks, each pass in a new random order.

    Args:
        tasks: The tasks; their order matters, because each pass shuffles it.
        seed: Seed of the run.
    """

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self._tasks, self._seed = list(tasks), seed
        self._orders: dict[int, list[int]] = {}
        """Task order of the last two passes that were used, since a batch may begin in one pass and end in the next."""

    def __getitem__(self, position: int) -> Task:
        n_pass, place = divmod(position, len(self._tasks))
        if n_pass not in self._orders:
            order = list(range(len(self._tasks)))
            random.Random(derive_seed(self._seed, "order", n_pass)).shuffle(order)
            self._orders = dict([*self._orders.items()][-1:]) | {n_pass: order}
        return self._tasks[self._orders[n_pass][place]]


def drop_failed(episodes: Sequence[Episode], need_company: bool) -> list[Episode]:
    """Episodes that can be trained on: neither failed nor masked and, with a group baseline, not alone in their group.

    Args:
        episodes: Episodes of a rollout batch.
        need_company: Whether to drop the last remaining episode of a group too, since nothing is left to compare it
            with.
    """
    good = [episode for episode in episodes if not (episode.failed or episode.masked)]
    if not need_company:
        return good
    sizes: dict[int, int] = {}
    for episode in good:
        sizes[episode.group_id] = sizes.get(episode.group_id, 0) + 1
    return [episode for episode in good if sizes[episode.group_id] > 1]
