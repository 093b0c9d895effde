"""Evaluation: play episodes, keep one row per (arm, seed, mode, task, sample). All else is computed from rows.

A policy is also measured at first attempts that it did not make (:func:`first_turns`, :func:`second_attempts`).
Fine-tuning on stored traces learns to correct the attempts in them; whether a policy corrects its own is another
question (SCoRe, arXiv 2409.12917, section 4.2 and Figure 4). So the base's first attempts are held fixed while the
policy changes, beside validations of its own.
"""

import math
from collections.abc import Callable, Sequence

from envs import Task
from rl.analysis.rows import EvalRow
from rl.rollout import EpisodePlan, Rollout
from rl.types import Episode, RunStoppedError, Turn, derive_seed

EVALUATION_SEED = 20_240_919
"""Evaluation draws do not depend on the run's seed: arms and seeds are compared on the same draws."""


def play(
    rollout: Rollout,
    tasks: Sequence[Task],
    n_samples: int = 1,
    temperature: float = 0.0,
    mode: str = "greedy",
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

    Raises:
        RunStoppedError: If what the policy thinks of its own answers is no number.
    """
    plans = [
        EpisodePlan(task, index, derive_seed(EVALUATION_SEED, mode, task.id, sample))
        for index, task in enumerate(tasks)
        for sample in range(n_samples)
    ]
    episodes = rollout.run(plans, temperature, on_episode)
    # A sum that is finite has finite parts. Overflowed activations give answers all the same, whose rates look like a
    # bad policy's.
    odd = sum(not math.isfinite(sum(turn.sampler_logprobs)) for episode in episodes for turn in episode.sampled)
    if odd:
        raise RunStoppedError(
            f"{mode}: {odd} answers have log-probs that are not finite, so the policy's weights or activations have "
            "overflowed and its rates would mean nothing. Go on from an earlier checkpoint with a smaller learning "
            "rate, or load the model in float32 (model.dtype)"
        )
    return episodes


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


def first_turns(rollout: Rollout, tasks: Sequence[Task]) -> list[tuple[Task, Turn]]:
    """Greedy first attempts of the engine's policy, with their tasks; failed episodes are left out.

    Args:
        rollout: Plays episodes of one attempt.
        tasks: What is attempted.
    """
    episodes = play(rollout, tasks, 1, 0.0, "first")
    return [(task, e.turns[0]) for task, e in zip(tasks, episodes, strict=True) if not e.failed]


def second_attempts(rollout: Rollout, firsts: Sequence[tuple[Task, Turn]]) -> list[Episode]:
    """Greedy second attempts at given first ones.

    Args:
        rollout: Plays episodes of two attempts.
        firsts: Tasks and the first attempts that are read instead of sampled.
    """
    return rollout.run([EpisodePlan(task, i, i, turn) for i, (task, turn) in enumerate(firsts)], 0.0)
