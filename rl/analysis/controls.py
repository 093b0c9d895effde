"""Controls of self-correction by name: changes to the prompt of a second attempt that show what the attempt depends on.

A second attempt that is right more often than the first shows improvement, not correction: the policy may simply answer
again, and better. Greedy second attempts are therefore played once more with a part of their prompt removed or
exchanged. If accuracy drops, the policy used that part. ``@CONTROLS.register("mine", id="C6", ...)`` adds a control;
:mod:`rl.controls` plays the controls, and this module does not need torch.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from envs import Task
from rewards.lookup import Lookup

if TYPE_CHECKING:  # rl.types imports torch, which is not needed to read results
    from rl.types import Turn

WITHOUT_FIRST, OTHERS_FIRST, TOLD_VERDICT = "without_first", "others_first", "told_verdict"
OTHER_ERROR, OTHER_ATTEMPT = "other_error", "other_attempt"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a control may change: the greedy first attempt at one task, and the feedback on it.

    Args:
        index: Position of the task in ``tasks``.
        tasks: All tasks.
        firsts: The policy's first attempts, one per task.
        env: Environment of these tasks; ``env.request(task, response, score)`` is its feedback after an attempt.
        rng: Random generator of this task and control, seeded alike in every evaluation.
    """

    index: int
    tasks: Sequence[Task]
    firsts: "Sequence[Turn]"
    env: Any
    rng: random.Random

    @property
    def task(self) -> Task:
        """The task of this scene."""
        return self.tasks[self.index]

    @property
    def own(self) -> "Turn":
        """The policy's first attempt at the task of this scene."""
        return self.firsts[self.index]

    def others(self) -> "Iterator[Turn]":
        """First attempts at the other tasks, starting half a list away from this task."""
        # Neighbours in the list may be similar tasks (sorted, or from one template), so they are not tried first. The
        # task itself, where n // 2 + k is a multiple of n, is skipped.
        n = len(self.tasks)
        return (self.firsts[(self.index + n // 2 + k) % n] for k in range(n) if (n // 2 + k) % n)

    def said(self, score: Any) -> str | None:
        """The environment's feedback on this scene's first attempt if it had this score; ``None`` if there is none."""
        request = getattr(getattr(self.env, "unwrapped", self.env), "request", None)
        return request(self.task, self.own.text, score) if request is not None and score is not None else None

    def hook(self, name: str) -> Callable[..., Any] | None:
        """The task set's function of this name; ``None`` if the task set has none."""
        return getattr(getattr(getattr(self.env, "unwrapped", self.env), "taskset", None), name, None)


@dataclass(frozen=True, slots=True)
class Change:
    """What a control puts before the second attempt.

    Args:
        first: First attempt to show: a text, or another task's turn, token for token; ``None`` keeps the policy's own.
        request: Feedback to show after the first attempt; ``None`` takes the environment's feedback on the attempt
            that is shown.
    """

    first: "str | Turn | None" = None
    request: str | None = None


Control = Callable[[Scene], Change | None]
"""A control gives the change for a scene; ``None`` if nothing can be exchanged there. A control that can change no task
is left out of the results; one that can change some has a marked row for each task that it leaves as it is."""
CONTROLS: Lookup[Control] = Lookup("evaluation.only_controls")
"""Controls by name. Facts of an entry: ``id`` and ``title`` of the control's table, a short ``label``, ``reads`` (what
the policy reads before the second attempt, as part of a sentence), and ``feedback``, the name of a feedback that
replaces the environment's own."""


@CONTROLS.register(
    WITHOUT_FIRST,
    id="C1",
    title="Without a first attempt",
    label="no first attempt",
    reads="an empty answer, and what the environment says of an empty answer",
)
def without_first(scene: Scene) -> Change:
    """Replaces the first attempt by an empty answer, followed by the environment's feedback on an empty answer."""
    return Change(first="")


@CONTROLS.register(
    OTHERS_FIRST,
    id="C2",
    title="With its first attempt at another task",
    label="its first attempt at another task",
    reads="its first attempt at another task, and what the environment says of that as an answer to this one",
)
def others_first(scene: Scene) -> Change:
    """Exchanges the first attempt for one at another task, together with the feedback on it."""
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
    """Reduces the feedback to right or wrong: more than no feedback, less than an error that says what went wrong."""
    return Change()


@CONTROLS.register(
    OTHER_ERROR,
    id="C4",
    title="With another error",
    label="another error",
    reads="its own first attempt, and an error that is not its own",
)
def other_error(scene: Scene) -> Change | None:
    """Keeps the first attempt and exchanges the feedback on it for feedback on another error.

    The observation of the other error comes from the task set's ``other_error(task, response, score, rng)``. If there
    is no such function, or it gives ``None``, the feedback comes from another task's score: the first score that makes
    the environment say something else. Feedback that the hook's observation does not change, such as a mere verdict,
    names no error: then nothing is exchanged.
    """
    own, score = scene.said(scene.own.score), scene.own.score
    # Scores of other tasks are tried in turn until the feedback differs from the one on this attempt.
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
    """Keeps the feedback and exchanges the first attempt that it is about.

    The text of the other attempt comes from the task set's ``other_attempt(task, response, rng)``, in the form of the
    policy's own. If there is no such function, or it gives ``None``, the policy's first attempt at another task is
    shown.
    """
    own = scene.said(scene.own.score)
    if own is None:
        return None
    hook = scene.hook("other_attempt")
    if hook is not None and (text := hook(scene.task, scene.own.text, scene.rng)) is not None:
        return Change(text, own)
    # Skip attempts with the same feedback as this one: with them the scene would be that of C2.
    return next((Change(turn, own) for turn in scene.others() if scene.said(turn.score) not in (own, None)), None)


def short(name: str) -> str:
    """Short label of a control with its id, such as ``another error (C4)``."""
    return f"{CONTROLS.fact(name, 'label') or name} ({CONTROLS.fact(name, 'id') or name})"
