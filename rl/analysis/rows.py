"""One row per evaluated episode: arm, seed, mode, task, sample. Everything that is reported is computed from rows."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the nouns of sampling import torch
    from rl.types import Episode


TRANSFER = "transfer/"
"""Modes of rows that were played in another environment begin with it; the environment's name follows."""


class Control(StrEnum):
    """What the policy reads in place of its first attempt (:mod:`rl.controls`); also the ``mode`` of the rows."""

    WITHOUT_FIRST = "without_first"
    """An empty answer (C1)."""
    OTHERS_FIRST = "others_first"
    """Its first attempt at another task (C2)."""
    TOLD_VERDICT = "told_verdict"
    """Its own first attempt, and whether it was right (C3): what an oracle's flag would add."""


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
    def of(cls, episode: "Episode", arm: str, seed: int, mode: str, sample: int) -> "EvalRow":
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
            truncated=tuple(turn.finish == "length" for turn in turns),
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
