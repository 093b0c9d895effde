"""Evaluation: play episodes, keep one row per (arm, seed, mode, task, sample). All else is computed from rows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from envs import Task
from rl.rollout import EpisodePlan, Rollout
from rl.seeding import derive_seed
from rl.types import Episode, Finish

EVALUATION_SEED = 20_240_919
"""Evaluation draws do not depend on the run's seed: arms and seeds are compared on the same draws."""


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One evaluated episode. Lists have one entry per attempt.

    Args:
        arm: Which method.
        seed: Which training run.
        mode: ``greedy``, ``sampled``, ``validation``, ``attempts`` (greedy, with more attempts than in training), a
            control's name (:mod:`rl.controls`), or ``transfer/<name>`` for another environment.
        task_id: Which task.
        sample: Index of the sample of this task.
        correct: Whether each attempt was right.
        rewards: Raw rewards.
        verdicts: Verdicts by name.
        answers: Final answers in canonical form, or ``None``.
        texts: What the policy wrote.
        n_tokens: Sampled tokens.
        truncated: Whether the token limit cut the attempt off.
        stop_reason: Why the episode ended.
        failed: Whether we broke it off; such rows count in no rate.
    """

    arm: str
    seed: int
    mode: str
    task_id: str
    sample: int
    correct: tuple[bool, ...]
    rewards: tuple[float, ...]
    verdicts: tuple[str, ...]
    answers: tuple[str | None, ...]
    texts: tuple[str, ...]
    n_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    stop_reason: str
    failed: bool

    @classmethod
    def of(cls, episode: Episode, arm: str, seed: int, mode: str, sample: int) -> "EvalRow":
        """The row of an episode."""
        turns = episode.turns
        return cls(
            arm=arm,
            seed=seed,
            mode=mode,
            task_id=episode.task_id,
            sample=sample,
            correct=tuple(turn.correct for turn in turns),
            rewards=tuple(turn.reward for turn in turns),
            verdicts=tuple(turn.score.verdict.value if turn.score else "unscored" for turn in turns),
            answers=tuple(turn.answer for turn in turns),
            texts=tuple(turn.text for turn in turns),
            n_tokens=tuple(len(turn.action_ids) for turn in turns),
            truncated=tuple(turn.finish is Finish.LENGTH for turn in turns),
            stop_reason=episode.stop_reason.value,
            failed=episode.failed,
        )

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "EvalRow":
        """The inverse of :meth:`to_json`."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The row as a dictionary of JSON types."""
        return asdict(self)


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


def to_rows(episodes: Sequence[Episode], n_samples: int, arm: str, seed: int, mode: str) -> list[EvalRow]:
    """The rows of what :func:`play` returned; arm and seed are named in them and change no draw."""
    return [EvalRow.of(episode, arm, seed, mode, i % n_samples) for i, episode in enumerate(episodes)]
