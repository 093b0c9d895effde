"""Task sets of verifiers 0.4 as ours: ``env=verifiers env.options.name=<package>``. Its own rewards are the verdict.

What is played is one question and its answers, as with any task set of ours: tasks that need tools, a container or
another model are refused or fail as errors of the verifier, which are masked and counted.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from envs.base import Split, Task
from envs.splits import splits_of
from rewards import Score, Verdict


class VerifiersTasks:
    """The tasks of an installed package of verifiers.

    Args:
        name: The package, as ``--env.taskset.id`` of verifiers takes it.
        settings: Of its task set's config.
        n: How many of its tasks are read; a task set without an end needs it, 0 reads all.
        validation: Share of the questions for validation, by the hash of their text.
        test: Share of the questions for test.
        right: The reward from which on an answer is right, and worth 1; below it is wrong, and worth its reward.

    Raises:
        ImportError: If verifiers or the package is not installed.
        ValueError: If it has no tasks, or tasks that need more than an answer; or no answer could be wrong, or right.
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
            raise ValueError(f"env.options.right={right}: the reward of a right answer lies above 0 and is 1 at most")
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
            raise ValueError(f"env.options.n=0: {name} has no end; say how many of its tasks are read")
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
        """The tasks whose question hashes to a split."""
        return self._splits[Split(split)]

    def verify(self, task: Task, response: str) -> Score:
        """The weighted sum of the task's own rewards for a trace in which the model says this."""
        # Its rewards are coroutines; the threads that a rollout verifies in run no event loop yet.
        return score_of(asyncio.run(_scored(self._own[task.id], task.question, response)), self._right, response)

    def gold_response(self, task: Task) -> str:
        """The task's own answer, where it has one; a package may read it in a form of its own."""
        return task.gold


def score_of(reward: float, right: float, response: str) -> Score:
    """A sum of rewards as value and verdict, which say the same: what is right is worth 1, and nothing else is."""
    # Weights that add up to 1 add up to a little less as floats: 0.7 + 0.2 + 0.1.
    correct = reward >= right - 1e-9
    value = 1.0 if correct else max(reward, 0.0)
    return Score(value, Verdict.CORRECT if correct else Verdict.WRONG, response.strip() or None, "verifiers")


def _task(own: Any, place: int, name: str) -> Task:
    data = own.data
    if own.NEEDS_CONTAINER or data.image or type(own).toolsets(own.config):
        raise ValueError(
            f"env.options.name={name}: its tasks need a container or tools; an answer alone cannot be paid"
        )
    question = data.prompt_text
    if not question:
        raise ValueError(f"env.options.name={name}: task {place} has no prompt, so another model would have to ask")
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
