"""Evaluation: plays episodes and stores one row per (arm, seed, mode, task, sample); all rates are computed from rows.

A policy's second attempts are also measured after first attempts of the base model (:func:`first_turns`,
:func:`second_attempts`). Fine-tuning on stored traces teaches a policy to correct the attempts in them, which does not
mean that it corrects its own (SCoRe, arXiv 2409.12917, section 4.2 and Figure 4). The base's first attempts stay fixed
while the policy changes; validations measure the policy on its own first attempts.
"""

import math
from collections.abc import Callable, Sequence

from envs import Task
from rewards import nearest
from rewards.lookup import fits
from rl.analysis.rows import LONGER, EvalRow
from rl.backends.flops import release_freed
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, RunStoppedError, Turn, derive_seed

EVALUATION_SEED = 20_240_919
"""Seed of all evaluations. It does not depend on the run's seed, so arms and seeds share the same random numbers."""

MODES = ("greedy", "sampled", LONGER, "first", "validation")
"""Modes in which :func:`play` plays."""


def play(
    rollout: Rollout,
    tasks: Sequence[Task],
    n_samples: int = 1,
    temperature: float = 0.0,
    mode: str = "greedy",
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Plays ``n_samples`` episodes per task in one mode and returns them, those of a task next to each other.

    Args:
        rollout: Plays episodes with the environment's full number of attempts.
        tasks: Tasks to evaluate on.
        n_samples: Episodes per task.
        temperature: Sampling temperature; 0 for greedy.
        mode: Name of the mode, one of :data:`MODES`; each episode's seed is derived from mode, task and sample.
        on_episode: Called with every episode as it ends.

    Raises:
        TypeError: If ``tasks`` are no tasks.
        ValueError: If there is no such mode, or a number is out of range.
        RunStoppedError: If log-probs of sampled tokens are not finite.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode}: unknown{nearest(mode, MODES)} Known: {', '.join(MODES)}")
    if not isinstance(tasks, Sequence) or not all(isinstance(task, Task) for task in tasks):
        raise TypeError(f"play takes a list of tasks, as bench.tasks('test', 4), not {tasks!r:.80}")
    if not fits(int, n_samples) or n_samples < 1:
        raise ValueError(f"n_samples={n_samples}: give a number of episodes per task, at least 1")
    if not fits(float, temperature) or not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature}: must be at least 0; 0 is greedy")
    plans = [
        EpisodePlan(task, index, derive_seed(EVALUATION_SEED, mode, task.id, sample))
        for index, task in enumerate(tasks)
        for sample in range(n_samples)
    ]
    release_freed()  # of training, or of the mode before, whose holes in memory this mode could not use
    episodes = rollout.run(plans, temperature, on_episode)
    # Overflowed activations still produce answers, whose rates would look like those of a bad policy. A sum is finite
    # only if all of its terms are.
    odd = sum(not math.isfinite(sum(turn.sampler_logprobs)) for episode in episodes for turn in episode.sampled)
    if odd:
        raise RunStoppedError(
            f"{mode}: {odd} answers have log-probs that are not finite, so the policy's weights or activations have "
            "overflowed and its rates would mean nothing. Continue from an earlier checkpoint with a smaller learning "
            "rate, or load the model in float32 (model.dtype)"
        )
    return episodes


def to_rows(
    episodes: Sequence[Episode], n_samples: int, arm: str, seed: int, mode: str, attempts: int
) -> list[EvalRow]:
    """Converts the episodes that :func:`play` returned to rows.

    Args:
        episodes: Episodes, those of a task next to each other.
        n_samples: Episodes per task.
        arm: Name of the arm, written to the rows.
        seed: Seed of the run, written to the rows; it has no influence on the episodes' own seeds.
        mode: Name of the mode, written to the rows.
        attempts: Number of attempts that the environment allows; an episode may have ended earlier.
    """
    return [EvalRow.of(episode, arm, seed, mode, i % n_samples, attempts) for i, episode in enumerate(episodes)]


def first_turns(rollout: Rollout, tasks: Sequence[Task]) -> list[tuple[Task, Turn]]:
    """Greedy first attempts of the engine's policy, with their tasks; failed episodes are left out.

    Args:
        rollout: Plays episodes of one attempt.
        tasks: Tasks to attempt.
    """
    episodes = play(rollout, tasks, 1, 0.0, "first")
    return [(task, e.turns[0]) for task, e in zip(tasks, episodes, strict=True) if not e.failed]


def second_attempts(rollout: Rollout, firsts: Sequence[tuple[Task, Turn]]) -> list[Episode]:
    """Plays greedy second attempts after given first attempts.

    Args:
        rollout: Plays episodes of two attempts.
        firsts: Tasks with the first attempts that are given to the policy instead of sampled.
    """
    return rollout.run([EpisodePlan(task, i, i, turn) for i, (task, turn) in enumerate(firsts)], 0.0)
