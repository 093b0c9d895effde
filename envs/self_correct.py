"""A task set as a K-attempt episode: attempt, be asked to look again, attempt again.

What the policy is told between attempts, and when an episode ends before its last one, are names in a config with a
function behind them; another module adds its own with ``@FEEDBACK.register("mine")``. Results under different feedback
must not share a table.
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
"""``(task, response, score, prompts) -> text`` of the user message that asks for another attempt."""
StopRule = Callable[[Sequence[Score]], bool]
"""``(scores so far) -> whether the episode ends here``. Never called after the last attempt."""

FEEDBACK: Lookup[Feedback] = Lookup("env.feedback")
"""``observes=True`` declares that task set and prompts must know of programs that were run."""
STOP_RULES: Lookup[StopRule] = Lookup("env.stop_rule")
"""``observes=True`` as for feedback."""


@FEEDBACK.register("none")
def none(task: Task, response: str, score: Score, prompts: Prompts) -> str:
    """The same instruction whatever the attempt was worth: intrinsic self-correction (SCoRe)."""
    return prompts.retry.format(question=task.question)


@FEEDBACK.register("verdict")
def verdict(task: Task, response: str, score: Score, prompts: Prompts) -> str:
    """Whether the attempt was right (UFO, arXiv 2507.14295): leaks the verifier at test time."""
    text = prompts.right if score.verdict is Verdict.CORRECT else prompts.wrong
    return text.format(question=task.question)


@FEEDBACK.register("execution", observes=True)
def execution(task: Task, response: str, score: Score, prompts: Prompts) -> str:
    """What the tests that the question shows gave when they were run (RLEF, arXiv 2410.02089); never a hidden one."""
    return prompts.execution.format(question=task.question, observation=score.observation)


@STOP_RULES.register("never")
def never(scores: Sequence[Score]) -> bool:
    """Every attempt is made: stopping early would tell the policy that it was right."""
    return False


@STOP_RULES.register("on_correct")
def on_correct(scores: Sequence[Score]) -> bool:
    """Ends at the first right attempt."""
    return scores[-1].verdict is Verdict.CORRECT


@STOP_RULES.register("on_repeat")
def on_repeat(scores: Sequence[Score]) -> bool:
    """Ends when an attempt gives the answer of the one before: it asks no verifier."""
    return len(scores) > 1 and scores[-1].key is not None and scores[-1].key == scores[-2].key


@STOP_RULES.register("on_public", observes=True)
def on_public(scores: Sequence[Score]) -> bool:
    """Ends when the tests that the question shows pass, whatever the hidden ones say (RLEF, arXiv 2410.02089)."""
    return scores[-1].public is True


class SelfCorrectEnv(gymnasium.Env[tuple[Message, ...], str]):
    """K attempts at one task; every attempt is verified and paid.

    Observation: the messages that are *new* since the last action (``reset``: the opening messages; ``step``: the
    request for another attempt, or nothing at the end). A conversation is the concatenation of all of them with the
    policy's own texts between. Where somebody speaks between attempts, ``info["role"]`` says whose turn comes next,
    and a role's observation is the whole conversation with a question about its last attempt; every time its role is
    another one, such as ``verifier 2``.
    Action: the policy's text. Reward: ``Score.value`` of this attempt alone, raw; shaping belongs to the algorithm.
    Ending: ``terminated`` after the last attempt, or where the stop rule holds. ``truncated`` if the verifier failed.
    Info: ``task_id``; after a step also ``score``; at the end ``stop_reason``.

    Args:
        taskset: Where tasks come from and who verifies them.
        split: Which tasks ``reset`` draws from.
        attempts: K.
        feedback: What the policy is told between attempts, a name in :data:`envs.FEEDBACK`.
        feedback_options: That function's own options.
        prompts: Version of the prompt texts.
        prompts_text: Texts that replace some of that version's, by name.
        stop_rule: When an episode ends before its last attempt, a name in :data:`envs.STOP_RULES`.
        stop_rule_options: That function's own options.
        between: Who speaks between attempts, a name in :data:`envs.BETWEEN`; ``None`` for nobody.
        between_options: That function's own options.
        render_mode: ``ansi`` makes ``render`` return the conversation as text.

    Raises:
        ValueError: If ``attempts`` is less than 1, the split is empty, a name is unknown, feedback or stop rule speak
            of programs that were run and the task set runs none, or the prompts have no text for what is asked for.
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
                raise ValueError(f"{type(self.taskset).__name__} has no tasks in split {self.split.value!r}")
        return self._tasks

    @property
    def has_roles(self) -> bool:
        """Whether somebody speaks between attempts, in a conversation of their own."""
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
        """Starts an episode on ``options["task"]``, or on a task drawn by ``seed``."""
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
        else:
            task = self.tasks[int(self.np_random.integers(len(self.tasks)))]
        self._task, self._scores, self._over, self._asked = task, [], False, False
        # Examples are a conversation that went before: each question in the same words as the task's, with its answer.
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
        """Verifies one attempt, or hears what is said of it."""
        if self._task is None:
            raise RuntimeError("no episode was begun: call reset() first")
        if self._over:
            raise RuntimeError("the episode is over: call reset()")
        if not isinstance(action, str):
            raise TypeError(f"a response must be text, got {action!r:.100}")
        if self._asked:
            return self._hear(action)
        score = self.taskset.verify(self._task, action)
        self._scores.append(score)
        info: dict[str, Any] = {"task_id": self._task.id, "score": score}
        self._talk.append(Message("assistant", action))
        # A verifier that cannot tell is no wrong answer: the episode is cut off, so that training masks it.
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
        # Somebody else speaks next. A role of a new name has a new conversation, so it reads the whole one of the
        # solver, and ``verifier 2`` does not see what ``verifier`` said of the first attempt.
        self._asked = True
        place = len(self._scores)
        info |= {"role": self._role if place == 1 else f"{self._role} {place}"}
        info |= {"max_new_tokens": self._said_tokens} if self._said_tokens else {}
        asked = self._asks.format(question=self._task.question, observation=score.observation)
        return (*self._talk, Message("user", asked)), score.value, False, False, info

    def request(self, task: Task, response: str, score: Score) -> str | None:
        """What is said after an attempt that is worth this; ``None`` where another role speaks between attempts."""
        return self._say(task, response, score) if self._between is None else None

    def _say(self, task: Task, response: str, score: Score) -> str:
        """What feedback says; anything but words would reach the policy as whatever a tokenizer makes of it."""
        text = self._feedback(task, response, score, self.prompts)
        if not isinstance(text, str):
            raise TypeError(f"env.feedback={self._feedback_name} returned {text!r:.200}; it must return a text")
        return text

    def _hear(self, words: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Pays what was said of the last attempt, and hands it to the solver, or ends the episode."""
        assert self._between is not None
        # The words themselves are not in the solver's conversation; the message that quotes them is.
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
        """The conversation so far, in render mode ``ansi``."""
        shown = (f"{message.role}: {message.content}" for message in self._talk)
        return "\n".join(shown) if self.render_mode == "ansi" else None


def _refuse_without_programs(taskset: TaskSet, what: str, instead: str) -> None:
    if not getattr(taskset, "observes_execution", False):
        raise ValueError(
            f"{what}: {type(taskset).__name__} runs no programs, so there is nothing to observe; use {instead}"
        )
