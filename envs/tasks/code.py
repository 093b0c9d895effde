"""What every code task set shares: a program is asked for, run in the sandbox, and described by public tests alone."""

from envs.base import Split, Task
from rewards import Score
from rewards.code import score_code
from rewards.sandbox import Limits, Mode
from rewards.sandboxes import get_sandbox


class CodeTasks:
    """Verification of programs. A subclass has ``_load``: tasks whose ``info["tests"]`` are tests, the gold a program.

    Args:
        timeout_s: Seconds that one run of a program may take.
        partial_credit: Pay a wrong program the share of tests that it passes.
        isolation: The least isolation to run programs in: ``namespaces``, ``landlock``, ``strict``; or ``none``, which
            runs them with limits alone.

    Raises:
        ValueError: For an isolation of another name or a time that is not positive.
    """

    observes_execution = True
    """Scores carry an observation of the public tests, so feedback mode ``execution`` can be used."""
    verifies_elsewhere = True
    """``verify`` waits for other processes and is thread-safe: a rollout calls it from several threads."""

    def __init__(self, timeout_s: float = 5.0, partial_credit: bool = False, isolation: str = "strict") -> None:
        names = [mode.name.lower() for mode in Mode]
        if isolation not in names:
            raise ValueError(f"env.options.isolation={isolation}: use one of {', '.join(names)}")
        if timeout_s <= 0:
            raise ValueError(f"env.options.timeout_s={timeout_s}: must be positive")
        self._limits = Limits(cpu_s=timeout_s)
        self._partial_credit, self._minimum = partial_credit, Mode[isolation.upper()]

    def load(self, split: Split) -> list[Task]:
        """Tasks of a split. Starts the sandbox: a machine that cannot isolate should be known before sampling.

        Raises:
            SandboxError: If this machine does not give the isolation that is asked for.
        """
        get_sandbox(self._minimum)
        return self._load(split)

    def _load(self, split: Split) -> list[Task]:
        raise NotImplementedError

    def verify(self, task: Task, response: str) -> Score:
        """1 if the program in the response passes every test, public and hidden."""
        return score_code(
            response, task.info["tests"], self._limits, partial_credit=self._partial_credit, minimum=self._minimum
        )

    def gold_response(self, task: Task) -> str:
        """The task's own solution in a code block."""
        return f"```python\n{task.gold}\n```"
