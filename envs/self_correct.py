"""A task set as a K-attempt episode: attempt, be asked to look again, attempt again."""

from typing import Any

import gymnasium

from envs.base import Feedback, Message, Split, StopReason, Task, TaskSet
from envs.prompts import Prompts, get_prompts
from rewards import Score, Verdict


class MessagesSpace(gymnasium.Space[tuple[Message, ...]]):
    """The space of tuples of chat messages."""

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        """A single user message of random digits."""
        return (Message("user", " ".join(map(str, self.np_random.integers(0, 10, 4)))),)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a tuple of messages."""
        return isinstance(x, tuple) and all(isinstance(message, Message) for message in x)


class ResponseSpace(gymnasium.Space[str]):
    """The space of all strings: a policy may write anything."""

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A few random digits."""
        return " ".join(map(str, self.np_random.integers(0, 10, 4)))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string."""
        return isinstance(x, str)


class SelfCorrectEnv(gymnasium.Env[tuple[Message, ...], str]):
    """K attempts at one task; every attempt is verified and paid.

    Observation: the messages that are *new* since the last action (``reset``: the opening messages; ``step``: the
    request for another attempt, or nothing at the end). A conversation is the concatenation of all of them with the
    policy's own texts between.
    Action: the policy's text. Reward: ``Score.value`` of this attempt alone, raw; shaping belongs to the algorithm.
    Ending: ``terminated`` after the last attempt, or at a right one with ``stop_on_correct``. The default goes on after
    a right attempt, because stopping would tell the policy that it was right.
    Info: ``task_id``; after a step also ``score``; at the end ``stop_reason``.

    Args:
        taskset: Where tasks come from and who verifies them.
        split: Which tasks ``reset`` draws from.
        attempts: K.
        feedback: What the policy is told between attempts.
        prompts: Version of the prompt texts.
        stop_on_correct: End the episode at the first right attempt.

    Raises:
        ValueError: If ``attempts`` is less than 1, the split is empty, or the feedback mode is ``execution`` and the
            task set runs nothing or the prompts have no text for it.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self,
        taskset: TaskSet,
        split: Split | str = Split.TRAIN,
        attempts: int = 2,
        feedback: Feedback | str = Feedback.NONE,
        prompts: str = "math-v1",
        stop_on_correct: bool = False,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts={attempts}: an episode needs at least one")
        self.taskset, self.split, self.attempts = taskset, Split(split), attempts
        self.feedback, self.stop_on_correct = Feedback(feedback), stop_on_correct
        self.prompts = get_prompts(prompts)
        if self.feedback is Feedback.EXECUTION:
            _require_execution(taskset, self.prompts, prompts)
        self.observation_space, self.action_space = MessagesSpace(), ResponseSpace()
        self._tasks: tuple[Task, ...] | None = None
        self._task: Task | None = None
        self._attempt = 0

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of this environment's split, loaded on first use."""
        if self._tasks is None:
            self._tasks = tuple(self.taskset.load(self.split))
            if not self._tasks:
                raise ValueError(f"{type(self.taskset).__name__} has no tasks in split {self.split.value!r}")
        return self._tasks

    @property
    def task(self) -> Task:
        """The task of the current episode."""
        if self._task is None:
            raise RuntimeError("call reset() first")
        return self._task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Starts an episode on ``options["task"]``, or on a task drawn by ``seed``."""
        if options and "task" in options:
            self._task = options["task"]
        else:
            super().reset(seed=seed)
            self._task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        self._attempt = 0
        opening = Message("user", self.prompts.task.format(question=self.task.question))
        system = (Message("system", self.prompts.system),) if self.prompts.system else ()
        return (*system, opening), {"task_id": self.task.id}

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Verifies one attempt."""
        if self._attempt >= self.attempts:
            raise RuntimeError("the episode is over: call reset()")
        self._attempt += 1
        score = self.taskset.verify(self.task, action)
        info: dict[str, Any] = {"task_id": self.task.id, "score": score}
        if score.verdict is Verdict.ERROR:
            self._attempt = self.attempts
            info |= {"stop_reason": StopReason.ENV_ERROR, "error": f"verifier: {score.reason}"}
            return (), 0.0, False, True, info
        solved = self.stop_on_correct and score.verdict is Verdict.CORRECT
        if solved or self._attempt == self.attempts:
            self._attempt = self.attempts
            info["stop_reason"] = StopReason.SOLVED if solved else StopReason.ATTEMPTS_USED
            return (), score.value, True, False, info
        return (Message("user", self._request(action, score)),), score.value, False, False, info

    def _request(self, response: str, score: Score) -> str:
        question = self.task.question
        if self.feedback is Feedback.NONE:
            return self.prompts.retry.format(question=question)
        if self.feedback is Feedback.EXECUTION:
            return self.prompts.execution.format(question=question, observation=score.observation)
        if hasattr(self.taskset, "feedback"):
            return self.taskset.feedback(self.task, response, score)  # type: ignore[attr-defined]
        template = self.prompts.right if score.verdict is Verdict.CORRECT else self.prompts.wrong
        return template.format(question=question)


def _require_execution(taskset: TaskSet, prompts: Prompts, version: str) -> None:
    if not getattr(taskset, "observes_execution", False):
        raise ValueError(
            f"env.feedback=execution: {type(taskset).__name__} runs no programs, so there is nothing to observe; "
            "use none or verdict"
        )
    if not prompts.execution:
        raise ValueError(f"env.feedback=execution: prompts {version!r} have no text for it; use code-v1")
