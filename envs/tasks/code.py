"""Base class of code task sets: a response is a program, which the sandbox runs; feedback shows public tests only."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.base import Split, Task
from rewards import Score
from rewards.code import score_code
from rewards.sandbox import SandboxError
from rewards.sandboxes import VERDICTS, SandboxOptions, get_sandbox
from rewards.wording import counted


class CodeTasks:
    """Task sets that verify programs; a subclass defines ``_load``.

    ``_load`` returns tasks with the tests in ``info["tests"]`` and a program as the gold.

    Args:
        timeout_s: Limit in processor seconds for one test of a program.
        partial_credit: Whether a wrong program earns the share of tests that it passes.
        isolation: The weakest isolation that is accepted for running programs: ``namespaces``, ``landlock`` or
            ``strict``; ``none`` runs programs with resource limits only.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.

    Raises:
        ValueError: If the isolation is unknown, the time limit is not positive, or an option is unknown.
    """

    observes_execution = True
    """Scores say what the public tests gave, so feedback mode ``execution`` can be used."""
    verifies_elsewhere = True
    """``verify`` waits for other processes and is thread-safe, so a rollout may call it from several threads."""

    def __init__(
        self,
        timeout_s: float = 5.0,
        partial_credit: bool = False,
        isolation: str = "strict",
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"env.options.timeout_s={timeout_s}: must be positive")
        self._sandbox = SandboxOptions.of(sandbox or {}, isolation)
        self._limits, self.partial_credit = self._sandbox.limits(timeout_s), partial_credit
        self._cache = VERDICTS if self._sandbox.cache else None

    def load(self, split: Split) -> list[Task]:
        """The tasks of a split; also starts the sandbox, so that missing isolation is an error before any sampling.

        Raises:
            SandboxError: If this machine does not support the required isolation, or tests need a judge process and the
                backend has none.
        """
        tasks = self._load(split)
        self.start(tasks)
        return tasks

    def start(self, tasks: Sequence[Task]) -> None:
        """Starts the sandbox for these tasks; raises SandboxError as :meth:`load` does."""
        sandbox = get_sandbox(self._sandbox)
        judged = [task.id for task in tasks if getattr(task.info["tests"], "code", None)]
        if judged and not getattr(sandbox, "judges", True):
            raise SandboxError(
                f"{counted(len(judged), 'task has', 'tasks have')} tests that are code, {judged[0]}: use "
                "env.options.sandbox.backend=local"
            )

    def _load(self, split: Split) -> list[Task]:
        raise NotImplementedError

    def verify(self, task: Task, response: str) -> Score:
        """1 if the program in the response passes every test, public and hidden."""
        sandbox = get_sandbox(self._sandbox)
        return score_code(response, task.info["tests"], self._limits, self.partial_credit, sandbox, self._cache)

    def gold_response(self, task: Task) -> str:
        """The task's own solution in a code block."""
        return f"```python\n{task.gold}\n```"
