"""Evaluation: play episodes, keep one row per (arm, seed, mode, task, sample). All else is computed from rows."""

from collections.abc import Callable, Sequence

from envs import Task
from rl.analysis.rows import EvalRow
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, derive_seed

EVALUATION_SEED = 20_240_919
"""Evaluation draws do not depend on the run's seed: arms and seeds are compared on the same draws."""


def play(
    rollout: Rollout,
    tasks: Sequence[Task],
    n_samples: int,
    temperature: float,
    mode: str,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """``n_samples`` episodes per task in one mode, those of a task next to each other.

    Args:
        rollout: Plays episodes with the environment's full number of attempts.
        tasks: What to measure on.
        n_samples: Episodes per task.
        temperature: 0 for greedy.
        mode: Decides the draws, together with task and sample.
        on_episode: Called as episodes end.
    """
    plans = [
        EpisodePlan(task, index, derive_seed(EVALUATION_SEED, mode, task.id, sample))
        for index, task in enumerate(tasks)
        for sample in range(n_samples)
    ]
    return rollout.run(plans, temperature, on_episode)


def to_rows(
    episodes: Sequence[Episode], n_samples: int, arm: str, seed: int, mode: str, attempts: int
) -> list[EvalRow]:
    """The rows of what :func:`play` returned; arm and seed are named in them and change no draw.

    Args:
        episodes: Those of a task next to each other.
        n_samples: Episodes per task.
        arm: Named in the rows.
        seed: Named in the rows.
        mode: Named in the rows.
        attempts: How many the environment allows; an episode may have ended earlier.
    """
    return [EvalRow.of(episode, arm, seed, mode, i % n_samples, attempts) for i, episode in enumerate(episodes)]
