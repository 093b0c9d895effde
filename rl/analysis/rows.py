"""One row per evaluated episode. All reported results are computed from these rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.wording import counted
from rl.analysis.rates import measure

if TYPE_CHECKING:  # rl.types imports torch, which is not needed to read results
    from rl.types import Episode

LONGER = "longer"
"""Mode of rows of greedy episodes with more attempts than in training."""
TRANSFER = "transfer/"
"""Prefix of the mode of rows that were played in another environment; the environment's name follows."""


def broken_off(rows: Sequence["EvalRow"]) -> str:
    """A sentence on how many of these episodes failed and the most common cause; empty if none failed."""
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
    """One evaluated episode. Tuples have one entry per attempt that was made, except ``said``.

    Args:
        arm: Name of the method.
        seed: Seed of the training run.
        mode: ``greedy``, ``sampled``, ``validation``, ``longer``, a control's name, or ``transfer/<name>``.
        task_id: Id of the task.
        sample: Index among the samples of this task.
        attempts: Number of attempts that the environment allows, K; an episode that ended early made fewer.
        correct: Whether each attempt was right.
        rewards: Raw reward of each attempt.
        verdicts: Name of the verdict on each attempt.
        answers: Final answer of each attempt in readable form; ``None`` if there is none.
        texts: What the policy wrote in each attempt.
        n_tokens: Number of sampled tokens of each attempt.
        truncated: Whether the token limit cut off each attempt.
        stop_reason: Why the episode ended.
        failed: Whether the episode was aborted by a fault, or ended with the attempt that a control put there; such
            rows count in no rate.
        values: The episode's value of every rate in :data:`rl.analysis.rates.RATES` that is defined for it.
        answer_keys: Normal forms of the answers, equal for equivalent answers; the answers themselves if not given.
        said: Turns of other roles between the attempts, each as role, text and reward.
        errors: Kind of error of each attempt, empty for a right attempt; the verdicts if not given.
        broken_by: Cause of a failed episode, in the words of the environment or the verifier.
        observations: The verifier's observation on each attempt, such as what a program printed; empty if there is
            none.
        unchanged: Whether a control changed nothing: the prompt of the second attempt is the same without the control,
            or there is no second attempt either way. Rows of older runs do not say so.
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
    unchanged: bool = False

    def __post_init__(self) -> None:
        known = self.errors or tuple("" if verdict == "correct" else verdict for verdict in self.verdicts)
        object.__setattr__(self, "errors", known)
        object.__setattr__(self, "answer_keys", self.answer_keys or self.answers)
        # Keep stored values, and add those of rates that were declared only after the row had been written.
        object.__setattr__(self, "values", self.values | measure(self))

    def at(self, k: int) -> int:
        """Index of attempt ``k``, counted from 1; for an episode that ended earlier, the index of its last attempt."""
        return min(k, len(self.correct)) - 1

    @classmethod
    def of(cls, episode: "Episode", arm: str, seed: int, mode: str, sample: int, attempts: int) -> "EvalRow":
        """The row of an episode in an environment that allows ``attempts`` attempts."""
        # The solver's turns are the attempts; turns of all other roles are what was said between the attempts.
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
