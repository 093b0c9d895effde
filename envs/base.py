"""The nouns of this layer: what a task is, what its author writes, and how an episode can end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

from rewards import Score, nearest

Role = Literal["system", "user", "assistant"]


class Split(StrEnum):
    """Which tasks. No question is in two of them."""

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
        info: Whatever else ``verify`` needs, or a table wants to group by (difficulty, source).
        seed: For environments that draw their own task when they are reset: with which seed they do.

    Raises:
        TypeError: If question or gold is no text.
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
    """What an author writes, usually in about 30 lines; ``SelfCorrectEnv`` turns it into a K-attempt episode.

    ``load`` must be deterministic. ``verify`` must not raise for anything that a policy can write; if it raises all
    the same, the episode is recorded as an error and masked out of training.
    A task set may also define:

    - ``observes_execution = True`` if its scores carry an observation of public tests, for ``feedback=execution``;
    - ``verifies_elsewhere = True`` if ``verify`` waits for other processes and may be called from several threads;
    - ``partial_credit = True`` if a wrong answer may be worth something;
    - ``reads_when_built = True`` if its constructor takes long, so that it is not called to look at options alone;
    - ``examples``, pairs of a task and an answer that are shown in front of every question;
    - a static method ``episode(options)``: what an episode is made of under these options, as ``prompts``, where a
      config says nothing.
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
    """Every attempt was made."""
    STOPPED = "stopped"
    """The stop rule held."""
    ENDED = "ended"
    """The environment terminated without saying why."""
    TIME_LIMIT = "time_limit"
    """The environment truncated: its own limit of steps."""
    CONTEXT_FULL = "context_full"
    """The next prompt leaves no room for an answer: the episode counts with the turns that it has. One whose first
    prompt does not fit has none and has failed."""
    ENV_ERROR = "env_error"
    """The environment or its verifier raised; the episode carries the error."""


Observation = Sequence[Message] | str
"""New messages since the last action; a bare string is one user message."""


class TextEnv(Protocol):
    """What a rollout plays: gymnasium's interface over text. Any ``gymnasium.Env`` of text is one, wrapped or not.

    Whatever ``reset`` or ``step`` raises ends the episode as ``StopReason.ENV_ERROR``, masked out and counted. An
    environment is used again for further episodes, unless it raised or has ``single_use = True``, as where it holds a
    session of a server: then it is closed as soon as the episode is over.

    ``info`` may hold:

    - ``score``: a ``rewards.Score``, where the action has a verdict. The reward beside it is any finite number.
    - ``role``: whose turn comes next, ``solver`` if it says nothing. Every role has a conversation of its own: what
      ``reset`` or ``step`` returns is added to the conversation of the role whose turn comes next.
    - ``max_new_tokens``: how long the next action may be, where that is less than the config's limit.
    - ``trained``: False where this action's reward says nothing, so that the turn is masked and not paid 0.
    - ``stop_reason`` and ``error``, at the end.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode; ``options["task"]`` is a :class:`Task`, or ``seed`` draws one."""
        ...

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes the policy's text: new messages, reward, terminated, truncated, info."""
        ...
