"""The environment that makes an episode of K attempts from a task set: attempt, be asked to revise, attempt again.

The config names the function that writes the feedback between attempts and the rule that ends an episode early. Another
module adds its own functions with ``@FEEDBACK.register("mine")`` or ``@STOP_RULES.register("mine")``. Results under
different feedback must not share a table.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import gymnasium

from envs.base import Message, Split, StopReason, Task, TaskSet
from envs.between import BETWEEN, Heard
from envs.prompts import Prompts, get_prompts
from envs.vector import MessagesSpace, ResponseSpace
from rewards import Score, Verdict
from rewards.lookup import Lookup, nearest

Feedback = Callable[[Task, str, Score, Prompts], str]
"""``(task, response, score, prompts) -> text``: writes the user message that asks for another attempt."""
StopRule = Callable[[Sequence[Score]], bool]
"""``(scores so far) -> whether the episode ends here``. Never called after the last attempt."""

FEEDBACK: Lookup[Feedback] = Lookup("env.feedback")
"""``observes=True`` declares that the task set must observe public tests and the prompts must have text for them."""
STOP_RULES: Lookup[StopRule] = Lookup("env.stop_rule")
"""``observes=True`` declares that the task set must observe public tests."""


@FEEDBACK.register("none")
def none(task: Task, response: str, score: Score, prompts: Prompts) -> str:
    """The same instruction after right and wrong attempts: intrinsic self-correction (SCoRe)."""
    return prompts.retry.format(question=task.question)


@FEEDBACK.register("verdict")
def verdict(task: Task, response: str, score: Score, prompts: Prompts) -> str:
    """Says whether the attempt was right (UFO, arXiv 2507.14295); this leaks the verifier's verdict at test time."""
    text = prompts.right if score.verdict is Verdict.CORRECT else prompts.wrong
    return text.format(question=task.question)


@FEEDBACK.register("execution", observes=True)
def execution(task: Task, response: str, score: Score, prompts: Prompts) -> str:
    """Results of the tests that the question shows (RLEF, arXiv 2410.02089); never the result of a hidden test."""
    return prompts.execution.format(question=task.question, observation=score.observation)


@STOP_RULES.register("never")
def never(scores: Sequence[Score]) -> bool:
    """Always makes every attempt: stopping at a right one would use the verifier's verdict at test time."""
    return False


@STOP_RULES.register("on_correct")
def on_correct(scores: Sequence[Score]) -> bool:
    """Ends the episode at the first right attempt."""
    return scores[-1].verdict is Verdict.CORRECT


@STOP_RULES.register("on_repeat")
def on_repeat(scores: Sequence[Score]) -> bool:
    """Ends the episode when an attempt repeats the previous attempt's answer; uses no verdict."""
    return len(scores) > 1 and scores[-1].key is not None and scores[-1].key == scores[-2].key


@STOP_RULES.register("on_public", observes=True)
def on_public(scores: Sequence[Score]) -> bool:
    """Ends the episode when all public tests pass, whatever the hidden tests give (RLEF, arXiv 2410.02089)."""
    return scores[-1].public is True


class SelfCorrectEnv(gymnasium.Env[tuple[Message, ...], str]):
    """K attempts at one task; every attempt is verified and paid.

    Observation: the messages that are *new* since the last action (``reset``: the opening messages; ``step``: the
    request for another attempt, or nothing at the end). The conversation consists of all observations and, between
    them, the policy's own texts. With ``between``, ``info["role"]`` says which role speaks next. Such a role observes
    the solver's whole conversation and a question about the last attempt; after the second attempt it has a new name,
    such as ``verifier 2``, and so a new conversation.
    Action: the policy's text. Reward: ``Score.value`` of this attempt alone, raw; shaping belongs to the algorithm. A
    role between attempts earns the reward of its :class:`envs.between.Heard`.
    Ending: ``terminated`` after the last attempt, or when the stop rule or a role between attempts ends the episode.
    ``truncated`` if the verifier failed.
    Info: ``task_id``; after an attempt also ``score``; at the end ``stop_reason``.

    Args:
        taskset: Task set that gives the tasks and verifies the attempts.
        split: Split whose tasks ``reset`` draws from.
        attempts: K, the number of attempts at a task.
        feedback: How the feedback between attempts is written, a name in :data:`envs.FEEDBACK`.
        feedback_options: Options of the feedback function.
        prompts: Version of the prompt texts.
        prompts_text: Texts that replace texts of this version, by field of :class:`envs.prompts.Prompts`.
        stop_rule: When an episode ends before its last attempt, a name in :data:`envs.STOP_RULES`.
        stop_rule_options: Options of the stop rule.
        between: Role that speaks between attempts, a name in :data:`envs.BETWEEN`; ``None`` for no role.
        between_options: Options of that role.
        render_mode: ``ansi`` makes ``render`` return the conversation as text.

    Raises:
        ValueError: If ``attempts`` is less than 1, the split is empty, a name is unknown, feedback or stop rule need
            observations of public tests and the task set gives none, or the prompts lack a text that is needed.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self,
        taskset: TaskSet,
        split: Split | str = Split.TRAIN,
        attempts: int = 2,
        feedback: str = "none",
        feedback_options: Mapping[str, Any] | None = None,
        prompts: str = "math-v1",
        prompts_text: Mapping[str, str] | None = None,
        stop_rule: str = "never",
        stop_rule_options: Mapping[str, Any] | None = None,
        between: str | None = None,
        between_options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ValueError(
                f"render_mode={render_mode}: use ansi, which makes render() return the conversation as text"
            )
        if not isinstance(attempts, Integral) or isinstance(attempts, bool):
            raise ValueError(f"attempts={attempts!r}: a whole number is needed here")
        if attempts < 1:
            raise ValueError(f"attempts={attempts}: an episode needs at least one")
        self.taskset, self.split, self.attempts, self.render_mode = taskset, Split(split), attempts, render_mode
        self.prompts = get_prompts(prompts, prompts_text)
        self._feedback_name = feedback
        self._feedback = FEEDBACK.bind(feedback, feedback_options or {})
        self._stops = STOP_RULES.bind(stop_rule, stop_rule_options or {})
        if FEEDBACK.fact(feedback, "observes"):
            _refuse_without_programs(taskset, f"env.feedback={feedback}", "none or verdict")
            if not self.prompts.execution:
                raise ValueError(f"env.feedback={feedback}: prompts {prompts!r} have no text for it; use code-v1")
        if STOP_RULES.fact(stop_rule, "observes"):
            _refuse_without_programs(taskset, f"env.stop_rule={stop_rule}", "never or on_correct")
        self._between, self._role, self._asks, self._said_tokens = None, "", "", 0
        if between is not None:
            self._between = BETWEEN.bind(between, between_options or {})
            self._said_tokens = BETWEEN.options(between, between_options or {}).max_new_tokens
            self._role, self._asks = BETWEEN.fact(between, "role"), getattr(self.prompts, BETWEEN.fact(between, "asks"))
            if not self._asks:
                raise ValueError(
                    f"env.between={between}: prompts {prompts!r} have no text for it; set "
                    f"env.prompts_text.{BETWEEN.fact(between, 'asks')}, or use math-v1 or code-v1"
                )
        self.observation_space, self.action_space = MessagesSpace(), ResponseSpace()
        self.verifies_elsewhere = getattr(taskset, "verifies_elsewhere", False)
        self._tasks: tuple[Task, ...] | None = None
        self._task: Task | None = None
        self._scores: list[Score] = []
        self._over = False
        self._talk: list[Message] = []
        self._asked = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of this environment's split, loaded on first use."""
        if self._tasks is None:
            self._tasks = tuple(self.taskset.load(self.split))
            if not self._tasks:
                why = getattr(self.taskset, "why_empty", None)
                said = f": {why(self.split)}" if why else ""
                raise ValueError(f"{type(self.taskset).__name__} has no tasks in split {self.split.value!r}{said}")
        return self._tasks

    @property
    def has_roles(self) -> bool:
        """Whether a role with its own conversation speaks between attempts."""
        return self._between is not None

    @property
    def task(self) -> Task:
        """The task of the current episode."""
        if self._task is None:
            raise RuntimeError("call reset() first")
        return self._task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Starts an episode on ``options["task"]``, or on a task of the split drawn with ``seed``.

        A task of one's own making is taken as well, if the task set can verify answers to it; a seed is refused.
        """
        super().reset(seed=seed)
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"reset(options={options!r:.200}): a mapping is needed, {{'task': <an envs.Task>}}")
        for name in options or {}:
            if name != "task":
                raise ValueError(f"reset(options={{{name!r}: ...}}): unknown{nearest(name, ['task'])} Known: task")
        if options:
            task = options["task"]
            if not isinstance(task, Task):
                raise TypeError(f"reset(options={{'task': ...}}) takes an envs.Task, got {task!r:.200}")
            if task.seed is not None:
                raise ValueError(
                    f"task {task.id!r:.80} is a seed for an environment that draws its own tasks, and "
                    f"{type(self.taskset).__name__} does not; take one of env.tasks"
                )
        else:
            task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        self._task, self._scores, self._over, self._asked = task, [], False, False
        # Examples are earlier turns of the conversation: each question in the task's prompt, followed by its answer.
        question = task.question
        opening = []
        for example, answer in getattr(self.taskset, "examples", ()):
            asked = self.prompts.task.format(question=example.question)
            opening += [Message("user", asked), Message("assistant", answer)]
        opening.append(Message("user", self.prompts.task.format(question=question)))
        if self.prompts.system:
            opening.insert(0, Message("system", self.prompts.system.format(question=question)))
        self._talk = opening
        return tuple(opening), {"task_id": task.id}

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Verifies an attempt, or takes what the role between attempts said about it."""
        if self._task is None:
            raise RuntimeError("no episode was begun: call reset() first")
        if self._over:
            raise RuntimeError("the episode is over: call reset()")
        if not isinstance(action, str):
            raise TypeError(f"a response must be text, got {action!r:.100}")
        if self._asked:
            return self._hear(action)
        try:
            score = self.taskset.verify(self._task, action)
        except Exception as error:
            self._refuse_other_kind_of_task(self._task, error)
            raise
        self._scores.append(score)
        info: dict[str, Any] = {"task_id": self._task.id, "score": score}
        self._talk.append(Message("assistant", action))
        # A failed verification says nothing about the attempt. The episode is truncated as an error, so that training
        # masks it and does not take the reward of 0 for a wrong answer.
        if score.verdict is Verdict.ERROR:
            self._over = True
            info |= {"stop_reason": StopReason.ENV_ERROR, "error": f"verifier: {score.reason}"}
            return (), 0.0, False, True, info
        last = len(self._scores) == self.attempts
        if last or self._stops(self._scores):
            self._over = True
            info["stop_reason"] = StopReason.ATTEMPTS_USED if last else StopReason.STOPPED
            return (), score.value, True, False, info
        if self._between is None:
            self._talk.append(Message("user", self._say(self._task, action, score)))
            return (self._talk[-1],), score.value, False, False, info
        # Another role speaks next. A role with a new name starts a new conversation, so the observation has to hold the
        # solver's whole conversation, and ``verifier 2`` does not see what ``verifier`` said about the first attempt.
        self._asked = True
        place = len(self._scores)
        info |= {"role": self._role if place == 1 else f"{self._role} {place}"}
        info |= {"max_new_tokens": self._said_tokens} if self._said_tokens else {}
        asked = self._asks.format(question=self._task.question, observation=score.observation)
        return (*self._talk, Message("user", asked)), score.value, False, False, info

    def _refuse_other_kind_of_task(self, task: Task, error: Exception) -> None:
        """Raises ValueError from an error of ``verify`` if a task lacks data that this task set's own tasks have."""
        own = next(iter(self._tasks or self.taskset.load(self.split)), task)
        if lacking := [name for name in own.info if name not in task.info]:
            raise ValueError(
                f"task {task.id!r:.80} has no {', '.join(map(repr, lacking))} in its info, so it is no task of this "
                f"environment, and {type(self.taskset).__name__} cannot verify an answer to it; take one of env.tasks"
            ) from error

    def request(self, task: Task, response: str, score: Score) -> str | None:
        """The feedback that follows an attempt with this score; ``None`` if a role speaks between attempts."""
        return self._say(task, response, score) if self._between is None else None

    def _say(self, task: Task, response: str, score: Score) -> str:
        """The feedback text; raises TypeError for other values, which a chat template would silently turn into text."""
        text = self._feedback(task, response, score, self.prompts)
        if not isinstance(text, str):
            raise TypeError(f"env.feedback={self._feedback_name} returned {text!r:.200}; it must return a text")
        return text

    def _hear(self, words: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Pays the role between attempts for its words, then passes them to the solver or ends the episode."""
        assert self._between is not None
        # The role's own turn stays out of the solver's conversation; only the user message that quotes it goes in.
        self._asked, attempt, score = False, self._talk[-1].content, self._scores[-1]
        heard: Heard = self._between(words, score, self.prompts)
        info: dict[str, Any] = {"task_id": self.task.id}
        info |= {"score": heard.score} if heard.score is not None else {}
        if heard.ends:
            self._over = True
            return (), heard.reward, True, False, info | {"stop_reason": StopReason.STOPPED}
        feedback = self._say(self.task, attempt, score)
        said = self.prompts.said.format(question=self.task.question, words=words.strip(), feedback=feedback)
        self._talk.append(Message("user", said))
        return (self._talk[-1],), heard.reward, False, False, info

    def render(self) -> str | None:  # type: ignore[override]
        """The solver's conversation so far in render mode ``ansi``, else ``None``."""
        shown = (f"{message.role}: {message.content}" for message in self._talk)
        return "\n".join(shown) if self.render_mode == "ansi" else None


def _refuse_without_programs(taskset: TaskSet, what: str, instead: str) -> None:
    if not getattr(taskset, "observes_execution", False):
        raise ValueError(
            f"{what}: {type(taskset).__name__} runs no programs, so there is nothing to observe; use {instead}"
        )
