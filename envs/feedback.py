"""What the policy is told between attempts, and when an episode ends before its last attempt.

Both are names in a config with a function behind them; another module adds its own with
``@FEEDBACK.register("mine")``. Results under different feedback must not share a table.
"""

from collections.abc import Callable, Sequence

from envs.base import Task
from envs.prompts import Prompts
from rewards import Score, Verdict
from rewards.lookup import Lookup

Feedback = Callable[[Task, str, Score, Prompts], str]
"""``(task, response, score, prompts) -> text`` of the user message that asks for another attempt."""
StopRule = Callable[[Sequence[Score]], bool]
"""``(scores so far) -> whether the episode ends here``. Never called after the last attempt."""

FEEDBACK: Lookup[Feedback] = Lookup("env.feedback")
"""``observes=True`` declares that task set and prompts must know of programs that were run."""
STOP_RULES: Lookup[StopRule] = Lookup("env.stop_rule")


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
