"""The nouns of this layer: what a task is, what its author writes, and how an episode can end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

from rewards import Score

Role = Literal["system", "user", "assistant"]


class Split(StrEnum):
    """Which tasks. No question is in two of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Task:
    """One problem.

    Args:
        id: Unique within its task set, stable over runs.
        question: The text that the policy is shown; two tasks with the same question are the same task.
        gold: The right answer, as the task set's ``verify`` understands it.
        info: Whatever else ``verify`` needs, or a table wants to group by (difficulty, source).
    """

    id: str
    question: str
    gold: str
    info: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class TaskSet(Protocol):
    """What an author writes, usually in about 30 lines; ``SelfCorrectEnv`` turns it into a K-attempt episode.

    ``load`` must be deterministic. ``verify`` must not raise for anything that a policy can write; if it raises all
    the same, the episode is recorded as an error and masked out of training.
    A task set may also define ``feedback(task, response, score) -> str`` to word what the policy is told after a
    failed attempt in feedback mode ``verdict``; and ``observes_execution = True`` if its scores carry an observation of
    public tests, for feedback mode ``execution``; and ``verifies_elsewhere = True`` if ``verify`` waits for other
    processes and may be called from several threads at a time.
    """

    def load(self, split: Split) -> Sequence[Task]:
        """All tasks of a split. Splits must not share a question."""
        ...

    def verify(self, task: Task, response: str) -> Score:
        """What one response to a task is worth."""
        ...

    def gold_response(self, task: Task) -> str:
        """A response that ``verify`` must accept: the contract test's proof that the task can be solved."""
        ...


class StopReason(StrEnum):
    """Why an episode ended."""

    ATTEMPTS_USED = "attempts_used"
    """Every attempt was made: the episode terminated."""
    SOLVED = "solved"
    """The environment stops at a right attempt, and this one was: the episode terminated."""
    CONTEXT_FULL = "context_full"
    """The next prompt leaves no room for an answer: the episode terminated with the attempts it has. One whose first
    prompt does not fit has none, and was truncated."""
    ENV_ERROR = "env_error"
    """The environment or its verifier raised: the episode was truncated and carries the error."""


class Feedback(StrEnum):
    """What the policy is told between attempts. Results under different modes must not share a table."""

    NONE = "none"
    """The same instruction whatever the attempt was worth: intrinsic self-correction (SCoRe)."""
    VERDICT = "verdict"
    """Whether the attempt was right (UFO, arXiv 2507.14295): leaks the verifier at test time."""
    EXECUTION = "execution"
    """What the tests that the question shows gave when they were run (RLEF, arXiv 2410.02089); never a hidden one."""
