"""The basic types of this layer: tasks, task sets, environments of text, and the reasons why an episode ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

from rewards import Score, nearest

Role = Literal["system", "user", "assistant"]


class Split(StrEnum):
    """The split that tasks belong to; no question is in two splits."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    @classmethod
    def _missing_(cls, value: object) -> "Split":
        raise ValueError(f"split={value}: unknown{nearest(str(value), list(cls))} Known: {', '.join(cls)}")


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
        info: Further data that ``verify`` needs or that tables group by (difficulty, source).
        seed: Seed for ``reset`` of an environment that draws its own task; ``None`` for the tasks of a task set.

    Raises:
        TypeError: If question or gold is not text.
    """

    id: str
    question: str
    gold: str
    info: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("question", "gold"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"task {self.id}: the {name} must be text, got {value!r:.100}")


@runtime_checkable
class TaskSet(Protocol):
    """Tasks and their verifier: what the author of an environment writes, usually in about 30 lines.

    ``SelfCorrectEnv`` turns a task set into an episode of K attempts. ``load`` must be deterministic. ``verify`` must
    not raise for anything that a policy can write; if ``verify`` raises nevertheless, the episode is recorded as an
    error and masked out of training. A task set may also define:

    - ``observes_execution = True`` if its scores say what the public tests gave, which ``feedback=execution`` needs;
    - ``verifies_elsewhere = True`` if ``verify`` waits for other processes and may be called from several threads;
    - ``partial_credit = True`` if a wrong answer may be worth more than 0;
    - ``reads_when_built = True`` if its constructor is slow, so that it is not called merely to validate options;
    - ``why_empty(split)``, which says why a split has no tasks and what to do, for the error message;
    - ``examples``, pairs of a task and an answer to it: few-shot examples that precede every question;
    - a static method ``episode(options)``, which returns arguments of ``SelfCorrectEnv`` that suit these options (such
      as ``prompts``) and hold unless a config says otherwise.
    """

    def load(self, split: Split) -> Sequence[Task]:
        """All tasks of a split. Splits must not share a question."""
        ...

    def verify(self, task: Task, response: str) -> Score:
        """The score of one response to a task."""
        ...

    def gold_response(self, task: Task) -> str:
        """A response that ``verify`` must accept: the contract test's proof that the task can be solved."""
        ...


class StopReason(StrEnum):
    """Why an episode ended."""

    ATTEMPTS_USED = "attempts_used"
    """Every attempt was made."""
    STOPPED = "stopped"
    """The stop rule ended the episode, or the policy as verifier judged its own attempt to be right."""
    ENDED = "ended"
    """The environment terminated without saying why."""
    TIME_LIMIT = "time_limit"
    """The environment truncated the episode without saying why, as gymnasium's limit of steps does."""
    CONTEXT_FULL = "context_full"
    """The next prompt leaves no room for an answer. The episode counts with the turns that were played; if its first
    prompt does not fit, the episode has no turns and has failed."""
    ENV_ERROR = "env_error"
    """The environment or its verifier raised; the episode carries the error."""


Observation = Sequence[Message] | str
"""New messages since the last action; a bare string is one user message."""


def messages_of(observation: Observation) -> tuple[Message, ...]:
    """The messages of an observation."""
    return (Message("user", observation),) if isinstance(observation, str) else tuple(observation)


class TextEnv(Protocol):
    """What a rollout plays: gymnasium's interface over text. Any ``gymnasium.Env`` of text fits, wrapped or not.

    An exception in ``reset`` or ``step`` ends the episode as ``StopReason.ENV_ERROR``; such episodes are counted and
    masked out of training. An environment is reused for further episodes, unless it raised or has
    ``single_use = True``, for example because it holds a session of a server: then it is closed after the episode.

    ``info`` may hold:

    - ``score``: a ``rewards.Score``, if the action was verified. The reward that ``step`` returns may be any finite
      number.
    - ``role``: whose turn comes next; ``solver`` if the key is missing. Every role has a conversation of its own: what
      ``reset`` or ``step`` returns is added to the conversation of the role whose turn comes next.
    - ``max_new_tokens``: a token limit for the next action, if it is lower than the config's limit.
    - ``trained``: False if the reward of this action means nothing; the turn is then masked instead of paid 0.
    - ``stop_reason`` and ``error``, at the end of the episode.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode on ``options["task"]``, a :class:`Task`, or on a task drawn with ``seed``."""
        ...

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes the policy's text; returns new messages, reward, terminated, truncated and info."""
        ...
