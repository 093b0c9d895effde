"""Imports task sets of the package verifiers 0.4: ``env=verifiers env.options.name=<package>``.

The rewards of an imported task set decide the verdict. An episode consists of one question and the attempts at it, as
with every task set. Tasks that need tools, a container or another model are refused, or end as errors of the verifier,
which are masked and counted.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from envs.base import Split, Task
from envs.splits import splits_of
from rewards import Score, Verdict


class VerifiersTasks:
    """The tasks of an installed package for the library verifiers.

    Args:
        name: Name of the package, as in verifiers' ``--env.taskset.id``.
        settings: Values for the config of the package's task set.
        n: Number of tasks to read; 0 reads all, which an endless task set does not allow.
        validation: Share of the questions for validation, by the hash of their text.
        test: Share of the questions for test.
        right: Smallest reward of a right answer, which is then worth 1. An answer with a smaller reward is wrong and
            worth this reward, or 0 if it is negative.

    Raises:
        ImportError: If verifiers or the package is not installed.
        ValueError: If ``name`` is empty, ``right`` is not in (0, 1], ``n`` is missing for an endless task set, or the
            package has no tasks or tasks that need more than an answer.
    """

    partial_credit = True
    verifies_elsewhere = True
    reads_when_built = True

    def __init__(
        self,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        n: int = 0,
        validation: float = 0.1,
        test: float = 0.2,
        right: float = 1.0,
    ) -> None:
        if not name:
            raise ValueError("env.options.name is missing: which package of verifiers, as in env.options.name=gsm8k_v1")
        if not 0.0 < right <= 1.0:
            raise ValueError(f"env.options.right={right}: the reward of a right answer must be above 0 and at most 1")
        try:
            from verifiers.v1.utils.loaders import taskset_class  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                f"env=verifiers needs the package verifiers: pip install 'verifiers>=0.4,<0.5' ({error})",
                name="verifiers",
            ) from error
        try:
            cls = taskset_class(name)
        except (ModuleNotFoundError, TypeError, AttributeError) as error:
            raise ImportError(f"env.options.name={name}: no task set of verifiers (v1): {error}") from error
        from verifiers.v1.configs.taskset import TasksetConfig  # pyright: ignore[reportMissingImports]
        from verifiers.v1.utils.generic import concrete_type  # pyright: ignore[reportMissingImports]

        config_cls = concrete_type(cls, TasksetConfig) or TasksetConfig
        found = cls(config_cls(id=name, **dict(settings or {})))
        if not found.bounded and not n:
            raise ValueError(f"env.options.n=0: {name} has endless tasks; set n to how many of them are read")
        self._own: dict[str, Any] = {}
        self._splits: dict[Split, list[Task]] = {split: [] for split in Split}
        self._right, self._name = right, name
        tasks = []
        for place, own in enumerate(found.take(n) if n else found):
            tasks.append(_task(own, place, name))
            self._own[tasks[-1].id] = own
        splits = splits_of([task.question for task in tasks], validation, test)
        for task, split in zip(tasks, splits, strict=True):
            self._splits[split].append(task)
        if not self._own:
            raise ValueError(f"env.options.name={name}: it has no tasks")

    def load(self, split: Split) -> Sequence[Task]:
        """The tasks whose question the hash assigns to a split."""
        return self._splits[Split(split)]

    def verify(self, task: Task, response: str) -> Score:
        """Scores a response by the weighted sum of the task's own rewards for a trace with this response."""
        # The rewards are coroutines. asyncio.run works here because a rollout's verification threads run no event loop.
        return score_of(asyncio.run(_scored(self._own[task.id], task.question, response)), self._right, response)

    def gold_response(self, task: Task) -> str:
        """The task's own answer, or an empty text; the package may expect answers in another form."""
        return task.gold


def score_of(reward: float, right: float, response: str) -> Score:
    """Converts a sum of rewards to a score; a right answer is worth 1, a wrong one its reward, but at least 0."""
    # Tolerance for rounding: as floats, the weights 0.7 + 0.2 + 0.1 add up to a little less than 1.
    correct = reward >= right - 1e-9
    value = 1.0 if correct else max(reward, 0.0)
    return Score(value, Verdict.CORRECT if correct else Verdict.WRONG, response.strip() or None, "verifiers")


def _task(own: Any, place: int, name: str) -> Task:
    data = own.data
    if own.NEEDS_CONTAINER or data.image or type(own).toolsets(own.config):
        raise ValueError(
            f"env.options.name={name}: its tasks need a container or tools; an answer alone cannot be scored"
        )
    question = data.prompt_text
    if not question:
        raise ValueError(f"env.options.name={name}: task {place} has no prompt of its own to ask; use another set")
    if data.system_prompt:
        question = f"{data.system_prompt}\n\n{question}"
    known = data.model_dump()
    gold = next((str(known[key]) for key in ("answer", "gold", "target", "solution") if known.get(key)), "")
    return Task(f"{name}/{data.id or place}", question, gold)


async def _scored(own: Any, question: str, response: str) -> float:
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    nodes = [
        vf.MessageNode(message=vf.UserMessage(content=question)),
        vf.MessageNode(parent=0, message=vf.AssistantMessage(content=response), sampled=True),
    ]
    trace = vf.Trace(
        task=vf.TraceTask(type=type(own).__name__, data=own.data, key=own.key),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=nodes,
        is_completed=True,
        ok=True,
    )
    await own.score(trace)
    if all(one is None for one in trace.rewards.values()):
        raise RuntimeError("none of this task's rewards can be computed from an answer alone")
    return float(trace.reward)
