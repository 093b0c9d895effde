"""Where the episodes of a step come from: which tasks, which seeds, which first attempts."""

import math
from collections.abc import Sequence
from typing import Any

from envs import Task
from rl.advantages import has_gradient
from rl.backends.distributed import Distributed
from rl.config import StageConfig, TrainConfig
from rl.group_rewards import GROUP_REWARDS, apply_group_reward
from rl.rollout import EpisodePlan, Rollout
from rl.rollout_metrics import sampled_responses, sampled_tokens
from rl.schedule import shuffled_index
from rl.seeding import derive_seed
from rl.types import Episode, Group, RunStoppedError, Turn


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
        name, options = config.env.group_reward, config.env.group_reward_options
        self._group_reward = GROUP_REWARDS.bind(name, options) if name is not None else None
        self._first: dict[str, Turn] = {}
        self.position = 0
        """Groups drawn so far, over all processes."""
        self.n_resampled = 0
        """Groups that the last step replaced, over all processes."""
        self.n_sampled, self.n_tokens, self.n_responses = 0, 0, 0
        """What this process sampled for the last step, replaced groups included: episodes, tokens, attempts."""

    def seconds(self) -> tuple[float, float]:
        """Seconds spent in the engine and in verification so far."""
        times = [rollout.times for rollout in self._rollouts.values()]
        return sum(t.sampling for t in times), sum(t.verification for t in times)

    def prepare(self) -> tuple[int, int]:
        """Samples the first attempts that offline groups will read, from the policy as it is now.

        One attempt per task; to be called while the policy still is the base model.

        Returns:
            Sampled attempts and tokens, over all processes.
        """
        seed, rank, n = self._config.seed, self._distributed.rank, self._distributed.n_processes
        plans = [
            EpisodePlan(task, i, derive_seed(seed, "offline", task.id)) for i, task in enumerate(self._tasks[rank::n])
        ]
        episodes = self._rollouts[1].run(plans, self._algorithm.temperature)
        self._first = {episode.task_id: episode.turns[0] for episode in episodes if not episode.failed}
        found = self._distributed.gather([self._first])
        self._first = {task_id: turn for part in found for task_id, turn in part.items()}
        each = self._distributed.each
        return sum(each(sampled_responses(episodes))), sum(each(sampled_tokens(episodes)))

    def sample(self, stage: StageConfig, budget: int | None) -> list[Episode]:
        """This process's episodes of a step.

        With ``dynamic_sampling``, groups without a gradient are replaced by groups of the next tasks, as long as rounds
        and budget last; what still has no gradient then stays, so that the batch keeps its size.

        Args:
            stage: Attempts, rewards, offline share; resolved.
            budget: Episodes that may still be sampled, over all processes; ``None`` for no limit.
        """
        size, group_size = self._config.training.tasks_per_step, stage.group_size
        wanted = len(range(self._distributed.rank, size, self._distributed.n_processes))
        kept: list[Group] = []
        self.n_resampled = self.n_sampled = self.n_tokens = self.n_responses = 0
        room = math.inf if budget is None else budget
        for rounds_left in reversed(range(self._algorithm.dynamic_sampling + 1)):
            groups = self._draw(wanted - len(kept), stage)
            room -= sum(self._distributed.each(len(groups) * group_size))
            every = not self._algorithm.dynamic_sampling
            good = [group for group in groups if every or has_gradient(group.episodes, stage)]
            missing = sum(self._distributed.each(wanted - len(kept) - len(good)))
            if not rounds_left or not missing or missing * group_size > room:
                kept += groups
                break
            kept += good
            self.n_resampled += missing
        self._rollouts[stage.attempts].rest()
        return [episode for group in kept for episode in group.episodes]

    def _draw(self, n_groups: int, stage: StageConfig) -> list[Group]:
        """Plays the next groups of the stream; the processes' shares lie interleaved, so that one stream serves all."""
        seed, plans = self._config.seed, []
        positions = self._positions(n_groups)
        for position in positions:
            task = self._tasks[shuffled_index(seed, position, len(self._tasks))]
            # A whole group reads the same attempt, so that its second attempts are compared in the same situation.
            reads = derive_seed(seed, "offline?", position) / 2**63 < stage.offline_first_attempts
            first = self._first.get(task.id) if reads else None
            step, place = divmod(position, self._config.training.tasks_per_step)
            for member in range(stage.group_size):
                draw = derive_seed(seed, "train", step, place, task.id, member)
                plans.append(EpisodePlan(task, position, draw, first))
        episodes = self._rollouts[stage.attempts].run(plans, stage.temperature)
        turns = [turn for episode in episodes for turn in episode.sampled]
        self.n_sampled += len(episodes)
        self.n_responses += len(turns)
        self.n_tokens += sum(len(turn.action_ids) for turn in turns)
        size = stage.group_size
        groups = [Group(position, tuple(episodes[i * size :][:size])) for i, position in enumerate(positions)]
        if self._group_reward is not None:
            groups = [apply_group_reward(self._group_reward, group) for group in groups]
        return groups

    def _positions(self, n_groups: int) -> list[int]:
        counts = self._distributed.each(n_groups)
        rank, start, positions = self._distributed.rank, self.position, []
        for row in range(max(counts, default=0)):
            active = [r for r, count in enumerate(counts) if row < count]
            if rank in active:
                positions.append(start + active.index(rank))
            start += len(active)
        self.position = start
        return positions

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state(self, shared: dict[str, Any], parts: Sequence[dict[str, Any]]) -> None:
        """The inverse of :meth:`state`; counts of what was sampled are added over ``parts``."""
        for name in _STATE:
            setattr(self, name, sum(part[name] for part in parts) if name in _COUNTS else shared[name])


_COUNTS = ("n_sampled", "n_tokens", "n_responses")
_STATE = ("position", "n_resampled", "_first", *_COUNTS)


def refuse_stale(episodes: Sequence[Episode], version: int) -> None:
    """Raises RunStoppedError if an episode was sampled by other weights than the trainer's."""
    for episode in episodes:
        # An episode may end with the attempt that it read.
        if episode.sampled and not episode.failed and episode.policy_version != version:
            raise RunStoppedError(
                f"task {episode.task_id} was sampled by version {episode.policy_version} of the weights, but the "
                f"trainer is at version {version}: the engine did not take the last update"
            )


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
