"""What every code task set shares: a program is asked for, run in the sandbox, and described by public tests alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.base import Split, Task
from rewards import Score
from rewards.code import score_code
from rewards.sandbox import SandboxError
from rewards.sandboxes import VERDICTS, SandboxOptions, get_sandbox
from rewards.wording import counted


class CodeTasks:
    """Verification of programs. A subclass has ``_load``: tasks whose ``info["tests"]`` are tests, the gold a program.

    Args:
        timeout_s: Processor seconds for one test of a program.
        partial_credit: Pay a wrong program the share of tests that it passes.
        isolation: The least isolation to run programs in: ``namespaces``, ``landlock``, ``strict``; or ``none``, which
            runs them with limits alone.
        sandbox: Further options, see :class:`rewards.sandboxes.SandboxOptions`.

    Raises:
        ValueError: For an isolation of another name, a time that is not positive, or an unknown option.
    """

    observes_execution = True
    """Scores carry an observation of the public tests, so feedback mode ``execution`` can be used."""
    verifies_elsewhere = True
    """``verify`` waits for other processes and is thread-safe: a rollout calls it from several threads."""

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
        """Tasks of a split. Starts the sandbox: a machine that cannot isolate should be known before sampling.

        Raises:
            SandboxError: If this machine does not give the isolation that is asked for, or tests need a judge and the
                backend has none.
        """
        tasks = self._load(split)
        self.start(tasks)
        return tasks

    def start(self, tasks: Sequence[Task]) -> None:
        """Starts the sandbox for these tasks; raises as :meth:`load` does."""
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
