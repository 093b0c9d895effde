"""Where the episodes of a step come from: which tasks, which seeds, which first attempts."""

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
    """A rollout batch of this process, and what it took.

    Args:
        episodes: To be trained on.
        everything: All that were sampled, groups that were replaced included.
        n_resampled: Groups that were replaced, over all processes.
        curriculum: What was drawn and passed over.
    """

    episodes: list[Episode]
    everything: list[Episode]
    n_resampled: int
    curriculum: dict[str, float]


class EpisodeSource:
    """Samples rollout batches. Positions in an endless, shuffled stream of tasks are shared out over the processes.

    Args:
        config: The run.
        rollouts: Plays episodes with a given number of attempts.
        tasks: Training tasks.
        distributed: Processes.
    """

    def __init__(
        self, config: TrainConfig, rollouts: dict[int, Rollout], tasks: Sequence[Task], distributed: Distributed
    ) -> None:
        self._config, self._algorithm = config, config.algorithm
        self._rollouts, self._tasks, self._distributed = rollouts, list(tasks), distributed
        self._stream = TaskStream(tasks, config.seed)
        name, options = config.env.group_reward, config.env.group_reward_options
        self._group_reward = GROUP_REWARDS.bind(name, options) if name is not None else None
        # One clock for all rollouts: a step may use those of one attempt and those of several.
        self.times = PhaseTimes()
        """Seconds spent so far, of all rollouts together."""
        for rollout in rollouts.values():
            rollout.times = self.times
        self._first: dict[str, Turn] = {}
        self._position = 0
        """Groups that came by so far, over all processes."""
        name, options = config.training.curriculum, config.training.curriculum_options
        draws_all = CURRICULA.fact(name, "draws_all")
        at = self._stream.__getitem__
        self.curriculum = None if draws_all else Curriculum(name, options, at, len(tasks), config.seed)

    def prepare(self) -> list[Episode]:
        """Samples the first attempts that offline groups will read, from the policy as it is now.

        One attempt per task; to be called while the policy still is the base model.

        Returns:
            This process's share of the attempts.
        """
        seed, rank, n = self._config.seed, self._distributed.rank, self._distributed.n_processes
        plans = [
            EpisodePlan(task, i, derive_seed(seed, "offline", task.id)) for i, task in enumerate(self._tasks[rank::n])
        ]
        # Every process needs all of the attempts, since it cannot know which tasks will come to it.
        episodes = self._distributed.together(partial(self._rollouts[1].run, plans, self._algorithm.temperature))
        found = {episode.task_id: episode.turns[0] for episode in episodes if not episode.failed}
        self._first = {task_id: turn for part in self._distributed.gather([found]) for task_id, turn in part.items()}
        return episodes

    def sample(self, stage: StageConfig, budget: int | None) -> Sampled:
        """This process's episodes of a step.

        With ``dynamic_sampling``, groups without a gradient are replaced by groups of the next tasks, as long as rounds
        and budget last; what still has no gradient then stays, so that the batch keeps its size.

        Args:
            stage: Attempts, rewards, offline share; resolved.
            budget: Episodes that may still be sampled, over all processes; ``None`` for no limit.
        """
        # ``missing`` and ``room`` are the same on every process, so that all of them sample as many rounds: each round
        # ends in collectives.
        rank, n, size = self._distributed.rank, self._distributed.n_processes, self._config.training.tasks_per_step
        missing = [len(range(r, size, n)) for r in range(n)]  # groups that every process still has to draw
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
            # Replace groups without a gradient only if what is missing everywhere still fits into the budget.
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
        """Plays the next groups of the stream; the processes' shares lie interleaved, so that one stream serves all.

        Args:
            counts: How many groups every process takes.
            stage: Attempts, offline share, group size, temperature.
        """
        seed, size, positions, plans = self._config.seed, stage.group_size, [], []
        # Deal the stream's next places out in turn, one to each process that still takes some. Which tasks a step
        # trains on is then the same for any number of processes.
        n, start = sum(counts), self._position
        drawn = range(start, start + n) if self.curriculum is None else self.curriculum.take(start, n)
        self._position, places = drawn[-1] + 1, iter(drawn)
        for row in range(max(counts)):
            shares = {rank: next(places) for rank, count in enumerate(counts) if row < count}
            positions += [shares[rank] for rank in shares if rank == self._distributed.rank]
        for position in positions:
            task = self._stream[position]
            # A whole group reads the same attempt, so that its second attempts are compared in the same situation.
            reads = derive_seed(seed, "offline?", position) / 2**63 < stage.offline_first_attempts
            first = self._first.get(task.id) if reads else None
            # Seeds hang on the place in the stream: a resumed run, or one with more processes, samples the same.
            step, place = divmod(position, self._config.training.tasks_per_step)
            for member in range(size):
                draw = derive_seed(seed, "train", step, place, task.id, member)
                plans.append(EpisodePlan(task, position, draw, first))
        # A curriculum learns pass rates from what the verifier said; rewards of a whole group do not change that.
        episodes = self._distributed.together(partial(self._rollouts[stage.attempts].run, plans, stage.temperature))
        groups = [Group(position, tuple(episodes[i * size :][:size])) for i, position in enumerate(positions)]
        if (reward := self._group_reward) is not None:
            groups = self._distributed.together(lambda: [apply_group_reward(reward, group) for group in groups])
        if self.curriculum is not None:
            rates = [(group.group_id, rate) for group in groups if (rate := passed(group.episodes)) is not None]
            self.curriculum.learn(self._distributed.gather(rates))
        return groups

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; the same on all processes."""
        history = {} if self.curriculum is None else self.curriculum.state()
        return {"position": self._position, "history": history, "first": self._first}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._first, self._position = state["first"], state["position"]
        if self.curriculum is not None:
            self.curriculum.load_state(state["history"])


class TaskStream:
    """A run's endless stream of tasks: one pass over all of them after the other, each shuffled anew.

    Args:
        tasks: In their own order.
        seed: Of the run.
    """

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self._tasks, self._seed = list(tasks), seed
        self._orders: dict[int, list[int]] = {}
        """Of the passes that were asked about last: a batch may begin in one and end in the next."""

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
        episodes: A rollout batch.
        need_company: Drop the only survivor of a group as well: it has nothing to be compared with.
    """
    good = [episode for episode in episodes if not (episode.failed or episode.masked)]
    if not need_company:
        return good
    sizes: dict[int, int] = {}
    for episode in good:
        sizes[episode.group_id] = sizes.get(episode.group_id, 0) + 1
    return [episode for episode in good if sizes[episode.group_id] > 1]
