"""Controls of self-correction by name: what is changed before a second attempt, to see what the attempt owes to it.

A second attempt that is right more often than the first shows improvement, not correction: the policy may simply answer
again, and better. Greedy second attempts are therefore played once more with something taken away or exchanged. What
costs accuracy when it is gone was used. ``@CONTROLS.register("mine", id="C6", ...)`` adds a control;
:mod:`rl.controls` plays them, and nothing here needs torch.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from envs import Task
from rewards.lookup import Lookup

if TYPE_CHECKING:  # rl.types imports torch, which reading results does without
    from rl.types import Turn

WITHOUT_FIRST, OTHERS_FIRST, TOLD_VERDICT = "without_first", "others_first", "told_verdict"
OTHER_ERROR, OTHER_ATTEMPT = "other_error", "other_attempt"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a control may change: the greedy first attempt at one task, and what was said about it.

    Args:
        index: Which of the tasks.
        tasks: All of them.
        firsts: The policy's first attempts, one a task.
        env: An environment of these tasks; ``env.request(task, response, score)`` is what it says after an attempt.
        rng: Draws of this task and control, the same in every evaluation.
    """

    index: int
    tasks: Sequence[Task]
    firsts: "Sequence[Turn]"
    env: Any
    rng: random.Random

    @property
    def task(self) -> Task:
        """The task at hand."""
        return self.tasks[self.index]

    @property
    def own(self) -> "Turn":
        """The first attempt at it."""
        return self.firsts[self.index]

    def others(self) -> "Iterator[Turn]":
        """First attempts at the other tasks, the farthest one first: half a list away, and on from there."""
        # Neighbours in a list may be alike (sorted, or of one template); n // 2 + k = 0 mod n would be the task itself.
        n = len(self.tasks)
        return (self.firsts[(self.index + n // 2 + k) % n] for k in range(n) if (n // 2 + k) % n)

    def said(self, score: Any) -> str | None:
        """What the environment says after the own attempt if this is its score; ``None`` where it cannot be asked."""
        request = getattr(getattr(self.env, "unwrapped", self.env), "request", None)
        return request(self.task, self.own.text, score) if request is not None and score is not None else None

    def hook(self, name: str) -> Callable[..., Any] | None:
        """A function of this name of the task set, if it has one."""
        return getattr(getattr(getattr(self.env, "unwrapped", self.env), "taskset", None), name, None)


@dataclass(frozen=True, slots=True)
class Change:
    """What the policy reads before its second attempt where that is not its own.

    Args:
        first: The attempt that stands there: a text, or another task's turn, token for token; ``None`` for its own.
        request: What is said after it; ``None`` for what the environment says of the attempt that stands there.
    """

    first: "str | Turn | None" = None
    request: str | None = None


Control = Callable[[Scene], Change | None]
"""``None``: here there is nothing to exchange; a control without any task is left out."""
CONTROLS: Lookup[Control] = Lookup("evaluation.only_controls")
"""Facts: ``id`` and ``title`` of its table, ``label`` in few words, ``reads`` (what stands before the second attempt,
in a sentence), and ``feedback``, a mode that replaces the environment's own."""


@CONTROLS.register(
    WITHOUT_FIRST,
    id="C1",
    title="Without a first attempt",
    label="no first attempt",
    reads="an empty answer, and what the environment says of an empty answer",
)
def without_first(scene: Scene) -> Change:
    """Its first attempt is taken away; feedback that speaks of the attempt goes with it."""
    return Change(first="")


@CONTROLS.register(
    OTHERS_FIRST,
    id="C2",
    title="With its first attempt at another task",
    label="its first attempt at another task",
    reads="its first attempt at another task, and what the environment says of that as an answer to this one",
)
def others_first(scene: Scene) -> Change:
    """Its first attempt is exchanged together with what is said of it."""
    return Change(first=next(scene.others(), scene.own))


@CONTROLS.register(
    TOLD_VERDICT,
    id="C3",
    title="Told right or wrong and no more",
    label="told right or wrong and no more",
    reads="its own first attempt, and whether it was right in place of what the environment says",
    feedback="verdict",
)
def told_verdict(scene: Scene) -> Change:
    """What an oracle's flag is worth: more than no feedback, less than an error that says what went wrong."""
    return Change()


@CONTROLS.register(
    OTHER_ERROR,
    id="C4",
    title="With another error",
    label="another error",
    reads="its own first attempt, and an error that is not its own",
)
def other_error(scene: Scene) -> Change | None:
    """Its attempt stays, and what is said of it is exchanged.

    A task set's ``other_error(task, response, score, rng)`` gives an observation with another value; without one, or
    where that is ``None``, the first other task's score is taken for which the environment says something else.
    """
    own, score = scene.said(scene.own.score), scene.own.score
    # A score of another task says something else of this attempt; where the sentence is the same, the next is tried.
    scores = (turn.score for turn in scene.others())
    hook = scene.hook("other_error")
    if hook is not None and score is not None:
        observation = hook(scene.task, scene.own.text, score, scene.rng)
        scores = scores if observation is None else iter([replace(score, observation=observation)])
    said = (scene.said(score) for score in scores)
    return next((Change(request=text) for text in said if text is not None and text != own), None)


@CONTROLS.register(
    OTHER_ATTEMPT,
    id="C5",
    title="With another attempt under its own error",
    label="another attempt under its own error",
    reads="an attempt that is not its own, and what the environment said of its own",
)
def other_attempt(scene: Scene) -> Change | None:
    """What is said stays, and the attempt of which it is said is exchanged.

    A task set's ``other_attempt(task, response, rng)`` gives the text of an attempt of the same form; without one it is
    the policy's own attempt at another task.
    """
    own = scene.said(scene.own.score)
    if own is None:
        return None
    hook = scene.hook("other_attempt")
    if hook is not None and (text := hook(scene.task, scene.own.text, scene.rng)) is not None:
        return Change(text, own)
    # Where the same is said of both, the environment itself plays that control: it is C2.
    return next((Change(turn, own) for turn in scene.others() if scene.said(turn.score) not in (own, None)), None)


def short(name: str) -> str:
    """A control in few words with its id, ``another error (C4)``."""
    return f"{CONTROLS.fact(name, 'label') or name} ({CONTROLS.fact(name, 'id') or name})"
