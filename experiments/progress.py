"""What a run shows in the terminal: bars with rates while it works, rates and where the time went at the end."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rl.analysis.printing import percent

RATE_NAMES = {
    "accuracy_t1": "acc@t1",
    "accuracy_t2": "acc@t2",
    "delta": "delta",
    "delta_i_to_c": "i->c",
    "delta_c_to_i": "c->i",
    "edit_rate": "edited",
    "same_answer": "same answer",
    "truncated_fraction": "truncated",
    "no_answer_fraction": "no answer",
}
LINE_EVERY_S = 15.0
"""Without a terminal a line is printed this often instead of a bar."""


class Display:
    """Progress bars in a terminal; now and then a line elsewhere.

    Args:
        console: Where to.
        one_run: Print every validation as a line of its own.
    """

    def __init__(self, console: Console, one_run: bool = True) -> None:
        self._console, self._one_run = console, one_run
        self._bars = Progress(
            TextColumn("[bold]{task.fields[who]}"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._all: TaskID | None = None
        self._n_finished = 0

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def reporter(self, who: str) -> Callable[[str, float, dict[str, float]], None]:
        """A function that shows one job's progress."""

        def report(what: str, share: float, metrics: dict[str, float]) -> None:
            note = live_note(metrics)
            if what == "validation":  # worth a line that stays, if there is one run to look at
                if self._one_run:
                    self._bars.console.print(f"{who}: {note}", highlight=False)
                return
            key = f"{who}/{what}"
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(what, total=100, who=who, note="")
            self._bars.update(self._tasks[key], completed=round(100 * share))
            if note:
                self._bars.update(self._tasks[key], note=note)
            self._maybe_print(key, f"{who}: {what} {share:.0%}  {note}")

        return report

    def finished(self, who: str, n_jobs: int) -> None:
        """Takes a job's bars off the screen and counts it."""
        for key in [key for key in self._tasks if key.startswith(f"{who}/")]:
            self._bars.remove_task(self._tasks.pop(key))
        self._n_finished += 1
        if self._all is None:
            self._all = self._bars.add_task("jobs finished", total=n_jobs, who="all", note="")
        self._bars.update(self._all, completed=self._n_finished)
        if not self._console.is_terminal:
            print(f"finished {who} ({self._n_finished}/{n_jobs})", flush=True)

    def _maybe_print(self, key: str, line: str) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now - self._last_line.get(key, 0.0) < LINE_EVERY_S:
            return
        self._last_line[key] = now
        print(line, file=sys.stdout, flush=True)

    def summary(self, result: Any, folder: Path) -> None:
        """Rates with n, throughput and where the time went."""
        if not result.greedy and not result.sampled:
            return  # not the process that evaluates
        table = Table(title=f"{result.arm}, seed {result.seed}", title_justify="left")
        table.add_column("episodes")
        for name in ("n", *RATE_NAMES.values()):
            table.add_column(name, justify="right")
        for mode in ("greedy", "sampled"):
            rates = getattr(result, mode)
            if rates:
                values = [f"{percent(rates[name])}%" if rates.get(name) is not None else "-" for name in RATE_NAMES]
                table.add_row(mode, str(int(rates["n"])), *values)
        self._console.print(table)
        if line := throughput(result.totals):
            self._console.print(line, highlight=False)
        self._console.print(f"everything is in {folder}", highlight=False)


def live_note(metrics: dict[str, float]) -> str:
    """The few numbers that tell whether a run is healthy."""
    if not metrics:
        return ""
    if "eval/validation/n" in metrics:
        rates = {short: metrics.get(f"eval/validation/{name}") for name, short in RATE_NAMES.items()}
        shown = [f"{short} {percent(rate)}%" for short, rate in rates.items() if rate is not None]
        when = f"validation after {metrics['rollout/episodes']:.0f} episodes (n {metrics['eval/validation/n']:.0f})"
        return "  ".join([when, *shown])
    parts = [
        f"acc@t{k + 1} {metrics[f'rollout/accuracy_t{k + 1}']:.2f}"
        for k in range(2)
        if f"rollout/accuracy_t{k + 1}" in metrics
    ]
    parts.append(f"n {metrics['rollout/episodes']:.0f}")
    parts.append(f"{metrics['system/episodes_per_second']:.0f} ep/s {metrics['system/tokens_per_second']:.0f} tok/s")
    failures = {name: metrics[f"rollout/{name}"] for name in ("env_error", "context_full")}
    parts += [f"{name} {count:.0f}" for name, count in failures.items() if count]
    for name in ("verifier_timeout", "no_answer", "truncated"):
        share = max((v for key, v in metrics.items() if key.startswith(f"rollout/{name}_t")), default=0.0)
        if share:
            parts.append(f"{name} {share:.0%}")
    return "  ".join(parts)


def throughput(totals: dict[str, Any]) -> str:
    """Training episodes and tokens per second, and the share of each phase."""
    seconds = totals["seconds"]
    wall = sum(seconds.values())
    if not wall or not totals["episodes"]:
        return ""
    shares = ", ".join(f"{name} {value / wall:.0%}" for name, value in seconds.items())
    return (
        f"training: {totals['episodes']} episodes, {totals['sampled_tokens']} sampled tokens in {wall:.0f} s = "
        f"{totals['episodes'] / wall:.0f} episodes/s, {totals['sampled_tokens'] / wall:.0f} tokens/s ({shares})"
    )
