"""Applies the checks of :mod:`rl.health` to a run: after every log line; prints and records findings, stops the run."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from experiments.cli import console
from rl.config import BudgetConfig
from rl.health import CHECKS, PAGE
from rl.health_log import VALIDATION, History
from rl.tracking import read_jsonl, write_json

if TYPE_CHECKING:  # Programs that only show findings must not load torch.
    from rl.backends.distributed import Distributed


@dataclass
class Finding:
    """A problem that a check found, and the steps at which it began and ended.

    Args:
        check: Name of the check.
        said: Description of the problem.
        begun: Step at which the problem began.
        ended: Step at which the problem was over; ``None`` while it lasts.
    """

    check: str
    said: str
    begun: int
    ended: int | None = None

    @property
    def line(self) -> str:
        """The problem, its usual cause, a remedy to try, and a link to the documentation, as one line."""
        cause, remedy = CHECKS.fact(self.check, "cause"), CHECKS.fact(self.check, "remedy")
        return f"{self.said}. Usual cause: {cause}. Try {remedy}. {PAGE}#{self.check}"

    def to_json(self) -> dict[str, Any]:
        """The finding as it is stored in ``run.json``."""
        return {"check": self.check, "from": self.begun, "to": self.ended, "said": self.line}


class Health:
    """All checks of a run, evaluated again after every line of its log.

    Args:
        checks: Options of each check that replace the defaults; ``None`` disables the check.
        group_sizes: Number of episodes of a task that are compared with each other, by stage.
    """

    def __init__(self, checks: Mapping[str, Any], group_sizes: Sequence[int] = (1,)) -> None:
        on = {name: checks.get(name, {}) for name in CHECKS}
        self._checks = {name: CHECKS.bind(name, given) for name, given in on.items() if given is not None}
        self.history = History(group_sizes)
        self.findings: list[Finding] = []

    def add(self, row: Mapping[str, Any], progress: float) -> tuple[list[Finding], list[Finding]]:
        """Evaluates all checks with one more line of the log.

        Args:
            row: Metrics by name, including their ``step``.
            progress: Share of the budget that is spent.

        Returns:
            Findings that have just begun, and findings that have just ended.
        """
        history, step = self.history, int(row["step"])
        history.add(row)
        history.progress = progress
        open_now = {one.check: one for one in self.findings if one.ended is None}
        begun, over = [], []
        for name, check in self._checks.items():
            said = check(history)
            if said and name not in open_now:
                begun.append(Finding(name, said, step))
            elif not said and name in open_now:
                open_now[name].ended = step
                over.append(open_now[name])
        self.findings += begun
        return begun, over


class RunHealth:
    """Watches a run: prints once when a problem begins and once when it ends; stops the run only if configured to.

    Args:
        budget: ``training`` of the config, with the options of the checks (``health``) and the checks that stop the run
            (``stop_on``).
        folder: Folder of the run; findings are written to its ``run.json``.
        group_sizes: Number of episodes of a task that are compared with each other, by stage.
        distributed: Process group; the main process prints and writes, and all processes stop together.
    """

    def __init__(
        self, budget: BudgetConfig, folder: Path, group_sizes: Sequence[int], distributed: "Distributed"
    ) -> None:
        self._health, self._stop_on = Health(budget.health, group_sizes), budget.stop_on
        self._folder, self._distributed = folder, distributed
        self._stops: list[Finding] = []

    def read(self, step: int, progress: float) -> None:
        """Evaluates the checks on earlier log lines of a resumed run without printing; all processes must call it.

        A problem of ``training.stop_on`` that still lasts ends the resumed run at the next call of :meth:`stop`.

        Args:
            step: Step at which the run resumes; later log lines are ignored.
            progress: Share of the budget that was spent at this step.
        """
        path = self._folder / "metrics.jsonl"
        rows = self._distributed.on_main(lambda: read_jsonl(path) if path.exists() else [])
        rows = [row for row in rows if row["step"] <= step]
        # Log lines do not contain the progress. It is computed in proportion to the episodes that were sampled by then.
        spent = max((row.get("rollout/episodes", 0) for row in rows), default=0) or 1
        for row in rows:
            self._health.add(row, progress * row.get("rollout/episodes", 0) / spent)
        self._stops += [one for one in self._health.findings if one.ended is None and one.check in self._stop_on]
        self._write()

    def look(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """Evaluates the checks after a line was logged, and prints and writes what begins or ends."""
        begun, over = self._health.add({"step": step, **metrics}, progress)
        self._stops += [one for one in begun if one.check in self._stop_on]
        if (begun or over) and self._distributed.is_main:
            self._write()
            for one in over:
                console.print(_line(one.to_json(), True), highlight=False)
            for one in begun:
                console.print(_line(one.to_json(), False), highlight=False)

    def stop(self, save: Callable[[], None]) -> None:
        """Ends the run if a check of ``training.stop_on`` has found a problem; all processes must call it.

        Args:
            save: Called before the run ends.

        Raises:
            RunStoppedError: If a problem was found; the message describes it.
        """
        # Every process takes part in the gather, even without a finding: the gather waits for all processes.
        if not self._stop_on or not max(self._distributed.gather([len(self._stops)])):
            return
        found = self._stops[0].line if self._stops else "found on another process"
        from rl.types import RunStoppedError

        save()
        raise RunStoppedError(
            f"training.stop_on={self._stop_on}: {found} What is done is kept; to continue all the same, give "
            f"training.stop_on=[] and resume={self._folder}, or the folder of its comparison"
        )

    def _write(self) -> None:
        if not self._distributed.is_main:
            return
        path = self._folder / "run.json"
        info = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if self._health.findings or "health" in info:
            write_json(path, info | {"health": [one.to_json() for one in self._health.findings]})


def of_evaluation(summary: Mapping[str, float], limits: Mapping[str, Any]) -> list[str]:
    """Findings of the checks for a single evaluation; most checks need a history and find nothing here.

    Args:
        summary: Rates of the evaluation by name.
        limits: Options of the checks, ``training.health`` of the config.
    """
    begun, _ = Health(limits).add({"step": 0, **{f"{VALIDATION}{name}": rate for name, rate in summary.items()}}, 1.0)
    return [one.line for one in begun]


def findings(folder: Path) -> list[dict[str, Any]]:
    """Findings in a run so far, read from its ``run.json``; empty if there is no such file."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")).get("health", []) if path.exists() else []


def lasting(folder: Path) -> str:
    """A line with the problems that lasted until the run ended; empty if there were none."""
    names = [one["check"] for one in findings(folder) if one["to"] is None]
    return f"until the end of training: {', '.join(names)} (see above, and {folder / 'run.json'})" if names else ""


class News:
    """Reports new findings of runs that other processes execute, each only once."""

    def __init__(self) -> None:
        self._told: set[tuple[Path, str, int, bool]] = set()

    def of(self, folder: Path) -> Iterator[str]:
        """Yields a line for each new finding in a run's folder, and one for each that has ended since."""
        for one in findings(folder):
            # A finding is reported when it begins and again when it ends; both at once if both happened since the last
            # call.
            for over in (False, True) if one["to"] is not None else (False,):
                key = (folder, one["check"], one["from"], over)
                if key not in self._told:
                    self._told.add(key)
                    yield _line(one, over)


def _line(one: Mapping[str, Any], over: bool) -> str:
    if over:
        return f"[green]health, step {one['to']}:[/] {one['check']} is over"
    return f"[yellow]health, step {one['from']}:[/] {escape(one['said'])}"
