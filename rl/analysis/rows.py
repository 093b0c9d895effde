"""One row per evaluated episode: arm, seed, mode, task, sample. Everything that is reported is computed from rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.wording import counted
from rl.analysis.rates import measure

if TYPE_CHECKING:  # rl.types imports torch, which reading results does without
    from rl.types import Episode

LONGER = "longer"
"""Mode of greedy episodes with more attempts than in training."""
TRANSFER = "transfer/"
"""Modes of rows that were played in another environment begin with it; the environment's name follows."""


def broken_off(rows: Sequence["EvalRow"]) -> str:
    """How many of these episodes were broken off, and what for, in a sentence; empty if none was."""
    causes = Counter(row.broken_by or row.stop_reason for row in rows if row.failed)
    if not causes:
        return ""
    cause, n = causes.most_common(1)[0]
    whole = causes.total()
    others = f"; {n} of them: " if n < whole else ": "
    of = f"of {counted(len(rows), 'episode')}"
    broken = counted(whole, f"{of} was broken off and counts", f"{of} were broken off and count")
    return f"{broken} in no rate{others}{cause}"


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One evaluated episode. Lists have one entry per attempt that was made.

    Args:
        arm: Which method.
        seed: Which training run.
        mode: ``greedy``, ``sampled``, ``validation``, ``longer``, a control's name, or ``transfer/<name>``.
        task_id: Which task.
        sample: Index of the sample of this task.
        attempts: K, how many the environment allows; an episode that ended early made fewer.
        correct: Whether each attempt was right.
        rewards: Raw rewards.
        verdicts: Verdicts by name.
        answers: Final answers as people read them, or ``None``.
        texts: What the policy wrote.
        n_tokens: Sampled tokens.
        truncated: Whether the token limit cut the attempt off.
        stop_reason: Why the episode ended.
        failed: Whether we broke it off; such rows count in no rate.
        values: Its value of every rate in :data:`rl.analysis.rates.RATES` that says something about it.
        answer_keys: By which two answers are the same; the answers themselves if nothing else is known.
        said: What was said between the attempts: role, text, reward.
        errors: Which kind of error each attempt makes, empty for a right one; verdicts if nothing else is known.
        broken_by: What broke a failed episode off, in the words of the environment or the verifier.
        observations: What the policy could be told about each attempt, of programs that were run; empty without any.
    """

    arm: str
    seed: int
    mode: str
    task_id: str
    sample: int
    attempts: int
    correct: tuple[bool, ...]
    rewards: tuple[float, ...]
    verdicts: tuple[str, ...]
    answers: tuple[str | None, ...]
    texts: tuple[str, ...]
    n_tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    stop_reason: str
    failed: bool
    values: dict[str, float] = field(default_factory=dict)
    answer_keys: tuple[str | None, ...] = ()
    said: tuple[tuple[str, str, float], ...] = ()
    errors: tuple[str, ...] = ()
    broken_by: str = ""
    observations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = self.errors or tuple("" if verdict == "correct" else verdict for verdict in self.verdicts)
        object.__setattr__(self, "errors", known)
        object.__setattr__(self, "answer_keys", self.answer_keys or self.answers)
        # Stored values stay; a rate that was declared after the row was written is measured when it is read.
        object.__setattr__(self, "values", self.values | measure(self))

    def at(self, k: int) -> int:
        """Index of attempt ``k``, from 1; an episode that ended early counts with its last one."""
        return min(k, len(self.correct)) - 1

    @classmethod
    def of(cls, episode: "Episode", arm: str, seed: int, mode: str, sample: int, attempts: int) -> "EvalRow":
        """The row of an episode in an environment that allows ``attempts``."""
        # The solver's turns are the attempts; everybody else's stand between them.
        turns = episode.attempts
        roles = {turn.role for turn in turns}
        said = [turn for turn in episode.turns if turn.role not in roles]
        seen = [turn.score.observation if turn.score else "" for turn in turns]
        return cls(
            arm=arm,
            seed=seed,
            mode=mode,
            task_id=episode.task_id,
            sample=sample,
            attempts=max(attempts, len(turns)),
            correct=tuple(turn.correct for turn in turns),
            rewards=tuple(turn.reward for turn in turns),
            verdicts=tuple(turn.score.verdict.value if turn.score else "unscored" for turn in turns),
            answers=tuple(turn.answer for turn in turns),
            answer_keys=tuple(turn.answer_key for turn in turns),
            texts=tuple(turn.text for turn in turns),
            n_tokens=tuple(len(turn.action_ids) for turn in turns),
            truncated=tuple(turn.finish == "length" for turn in turns),
            stop_reason=episode.stop_reason.value,
            failed=episode.failed,
            said=tuple((turn.role, turn.text, turn.reward) for turn in said),
            errors=tuple(turn.error for turn in turns),
            broken_by=episode.error or "",
            observations=tuple(seen) if any(seen) else (),
        )

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "EvalRow":
        """The inverse of :meth:`to_json`."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The row as a dictionary of JSON types."""
        return asdict(self)
