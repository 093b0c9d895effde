"""The checks of :mod:`rl.health` around a run: asked after every line of its log, shown, written down, obeyed."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from experiments.cli import console
from rl.config import BudgetConfig
from rl.health import CHECKS, PAGE, VALIDATION, History
from rl.tracking import read_jsonl, write_json

if TYPE_CHECKING:  # a terminal reads findings without torch
    from rl.backends.distributed import Distributed


@dataclass
class Finding:
    """What a check found, from one step to another.

    Args:
        check: Its name.
        said: What is wrong.
        begun: Step at which it began.
        ended: Step at which it was over; ``None`` while it lasts.
    """

    check: str
    said: str
    begun: int
    ended: int | None = None

    @property
    def line(self) -> str:
        """What is wrong, what usually causes it, what to try, where more is written."""
        cause, remedy = CHECKS.fact(self.check, "cause"), CHECKS.fact(self.check, "remedy")
        return f"{self.said}. Usual cause: {cause}. Try {remedy}. {PAGE}#{self.check}"

    def to_json(self) -> dict[str, Any]:
        """For ``run.json``."""
        return {"check": self.check, "from": self.begun, "to": self.ended, "said": self.line}


class Health:
    """Every check of a run, asked again after every line of its log.

    Args:
        checks: Limits by check, where they are not the default; ``None`` switches one off.
        group_size: Episodes of a task that are compared with each other.
    """

    def __init__(self, checks: Mapping[str, Any], group_size: int = 1) -> None:
        on = {name: checks.get(name, {}) for name in CHECKS}
        self._checks = {name: CHECKS.bind(name, given) for name, given in on.items() if given is not None}
        self.history = History(group_size)
        self.findings: list[Finding] = []

    def add(self, row: Mapping[str, Any], progress: float) -> tuple[list[Finding], list[Finding]]:
        """Reads a line of the log.

        Args:
            row: Metrics by name, with their ``step``.
            progress: Part of the budget that is spent.

        Returns:
            What has begun, and what is over.
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
    """Watches a run and says once when something begins and once when it is over; stops it only if it was asked to.

    Args:
        budget: ``training`` of the config: limits, and what to stop on.
        folder: Of the run; findings go into its ``run.json``.
        group_size: Episodes of a task that are compared with each other.
        distributed: Processes; the main one says and writes, and all stop together.
    """

    def __init__(self, budget: BudgetConfig, folder: Path, group_size: int, distributed: "Distributed") -> None:
        self._health, self._stop_on = Health(budget.health, group_size), budget.stop_on
        self._folder, self._distributed = folder, distributed
        self._stops: list[Finding] = []

    def read(self, step: int, progress: float) -> None:
        """Takes in what a resumed run has logged before, without saying it again; all processes call it together.

        Args:
            step: At which it goes on; what was logged later is no more.
            progress: Part of the budget that was spent by then.
        """
        path = self._folder / "metrics.jsonl"
        rows = self._distributed.on_main(lambda: read_jsonl(path) if path.exists() else [])
        rows = [row for row in rows if row["step"] <= step]
        # Lines of the log have no progress; it is in proportion to the episodes that were sampled by then.
        spent = max((row.get("rollout/episodes", 0) for row in rows), default=0) or 1
        for row in rows:
            self._health.add(row, progress * row.get("rollout/episodes", 0) / spent)
        self._write()

    def look(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        """After a line of the log."""
        begun, over = self._health.add({"step": step, **metrics}, progress)
        self._stops += [one for one in begun if one.check in self._stop_on]
        if (begun or over) and self._distributed.is_main:
            self._write()
            for one in over:
                console.print(_line(one.to_json(), True), highlight=False)
            for one in begun:
                console.print(_line(one.to_json(), False), highlight=False)

    def stop(self, save: Callable[[], None]) -> None:
        """Ends the run if a check of ``training.stop_on`` has found something; all processes call it together.

        Args:
            save: Called before.

        Raises:
            RunStoppedError: With what was found.
        """
        # Every process asks, whether it has found something or not: a gather waits for all of them.
        if not self._stop_on or not max(self._distributed.gather([len(self._stops)])):
            return
        found = self._stops[0].line if self._stops else "found on another process"
        from rl.types import RunStoppedError

        save()
        raise RunStoppedError(
            f"training.stop_on={self._stop_on}: {found} What is done is kept; resume={self._folder} with "
            "training.stop_on=[] goes on all the same"
        )

    def _write(self) -> None:
        if not self._distributed.is_main:
            return
        path = self._folder / "run.json"
        info = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if self._health.findings or "health" in info:
            write_json(path, info | {"health": [one.to_json() for one in self._health.findings]})


def of_evaluation(summary: Mapping[str, float], limits: Mapping[str, Any]) -> list[str]:
    """What the checks say of the rates of an evaluation; of a single one only a few can say anything.

    Args:
        summary: Rates by name.
        limits: Of the config's ``training.health``.
    """
    begun, _ = Health(limits).add({"step": 0, **{f"{VALIDATION}{name}": rate for name, rate in summary.items()}}, 1.0)
    return [one.line for one in begun]


def findings(folder: Path) -> list[dict[str, Any]]:
    """What the checks have found in a run so far, as its ``run.json`` has it; empty before there is one."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")).get("health", []) if path.exists() else []


def lasting(folder: Path) -> str:
    """What was still wrong when a run ended, in a line; empty if nothing was."""
    names = [one["check"] for one in findings(folder) if one["to"] is None]
    return f"to the end of training: {', '.join(names)} (said above, and in {folder / 'run.json'})" if names else ""


class News:
    """Lines about findings that were not told yet, of runs that other processes do."""

    def __init__(self) -> None:
        self._told: set[tuple[Path, str, int, bool]] = set()

    def of(self, folder: Path) -> Iterator[str]:
        """What is new in a run's folder."""
        for one in findings(folder):
            # Told once when it begins and once when it is over; of what came and went between two looks, both at once.
            for over in (False, True) if one["to"] is not None else (False,):
                key = (folder, one["check"], one["from"], over)
                if key not in self._told:
                    self._told.add(key)
                    yield _line(one, over)


def _line(one: Mapping[str, Any], over: bool) -> str:
    if over:
        return f"[green]health, step {one['to']}:[/] {one['check']} is over"
    return f"[yellow]health, step {one['from']}:[/] {escape(one['said'])}"
