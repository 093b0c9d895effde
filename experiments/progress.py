"""Terminal output of a run: progress bars with rates while it works, final rates and a time breakdown at the end."""

import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
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
from rich.text import Text

from experiments.cli import UserError, console, resolved_yaml
from experiments.jobs import OfflineArm, OnlineArm
from experiments.planned import compared
from experiments.run_health import lasting
from rewards.wording import counted
from rl.analysis.printing import duration, fixed
from rl.analysis.rates import Where, reported
from rl.budget import planned_steps, smallest_budget, steps_of_stages
from rl.config import RunConfig, TrainConfig
from rl.tracking import describe_run

NAME_WIDTH = 12
"""A column name longer than this is wrapped, unless the column's cells are wider; in characters."""
LINE_EVERY_S = 15.0
"""Seconds between two progress lines, which replace the bars when the output is no terminal."""


class Display:
    """Shows progress: bars in a terminal, otherwise occasional lines; with ``ERRATA_QUIET=1`` only the results.

    Args:
        console: Console to print on.
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
            disable=not console.is_terminal or bool(os.environ.get("ERRATA_QUIET")),
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, tuple[float, str]] = {}
        self._all: TaskID | None = None
        self._n_ended = self._n_jobs = 0
        self._began = time.monotonic()
        self._quiet = bool(os.environ.get("ERRATA_QUIET"))

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def reporter(self, who: str) -> Callable[[str, float, dict[str, float]], None]:
        """Returns a function that shows the progress of the job called ``who``."""

        def report(what: str, share: float, metrics: dict[str, float]) -> None:
            note = live_note(metrics)
            if what == "validation":  # With several runs at once, these lines would flood the terminal.
                if self._one_run and not self._quiet:
                    self._bars.console.print(f"{who}: {note}", highlight=False)
                return
            key = f"{who}/{what}"
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(what, total=100, who=who, note="")
            self._bars.update(self._tasks[key], completed=round(100 * share))
            if note:
                self._bars.update(self._tasks[key], note=note)
            now = time.monotonic()
            silent = self._quiet or self._console.is_terminal  # A terminal shows the bars instead.
            last, said = self._last_line.get(key, (0.0, ""))
            line = f"{who}: {what} {share:.0%}  {note}".rstrip()
            if not silent and now - last >= LINE_EVERY_S and line != said:
                self._last_line[key] = now, line
                print(line, file=sys.stdout, flush=True)

        return report

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        self._bars.console.print(line, highlight=False)

    def ended(self, who: str, n_jobs: int, crashed: bool = False) -> None:
        """Removes the bars of a job that has ended, counts the job, and prints whether it finished or crashed."""
        for key in [key for key in self._tasks if key.startswith(f"{who}/")]:
            self._bars.remove_task(self._tasks.pop(key))
        if n_jobs != self._n_jobs or self._n_ended == n_jobs:  # A new batch of jobs begins.
            self._began = self._began if not self._n_jobs else time.monotonic()
            self._n_jobs, self._n_ended = n_jobs, 0
        self._n_ended += 1
        if self._all is None:
            self._all = self._bars.add_task("jobs ended", total=n_jobs, who="all", note="")
        self._bars.update(self._all, completed=self._n_ended, total=n_jobs)
        if not self._quiet and not self._console.is_terminal:
            # Assumes that the remaining jobs end at the same rate, which includes that several jobs run at once.
            n_left = n_jobs - self._n_ended
            seconds = (time.monotonic() - self._began) / self._n_ended * n_left
            left = f", about {duration(seconds)} left" if n_left else ""
            print(f"{'crashed' if crashed else 'finished'} {who} ({self._n_ended}/{n_jobs}{left})", flush=True)

    def summary(self, result: Any, folder: Path) -> None:
        """Prints the rates with n, throughput, warnings, and planned against actual cost."""
        if not result.greedy and not result.sampled:
            return  # Only the main process has the summaries of the evaluation.
        summaries = {mode: getattr(result, mode) for mode in ("greedy", "sampled") if getattr(result, mode)}
        rates = {mode: reported(summary, "", Where.TABLES) for mode, summary in summaries.items()}
        header = ["rate", *(f"{mode}, n {summary['n']:.0f}" for mode, summary in summaries.items())]
        lines = []
        for name in dict.fromkeys(name for found in rates.values() for name in found):
            cells = [found[name][0].text(found[name][1]) if name in found else "-" for found in rates.values()]
            lines.append([next(found[name][0] for found in rates.values() if name in found).header, *cells])
        if lines:
            print_table(header, lines, self._console, f"{result.arm}, seed {result.seed}")
        if line := throughput(result.totals):
            self._console.print(line, highlight=False)
        # If no episode of the evaluation counts, ``shown_run`` raises an error with the same message.
        if (said := result.notes.get("broken_off")) and any(summary["n"] for summary in summaries.values()):
            self._console.print(Text.assemble(("warning: ", "yellow"), said))
        for line in result.notes.get("health", []):
            self._console.print(Text.assemble(("health: ", "yellow"), line))
        if line := lasting(folder):
            self._console.print(f"[yellow]health,[/] {line}", highlight=False)
        if rows := compared(folder):
            print_table(
                ["", "planned", "came to", "off by"],
                rows,
                self._console,
                "Planned, and what it came to, without loading the libraries",
            )
        self._console.print(f"everything is in {folder}", highlight=False, soft_wrap=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], out: Console, title: str = "") -> None:
    """Prints a table; a table that is too wide is split into several, one below the other.

    Cells are never cut or wrapped; column names are wrapped if there is no room for them. Every part begins with the
    first column.

    Args:
        header: Names of the columns.
        rows: Cells of each row, which may contain rich markup.
        out: Console to print on.
        title: Title above the first part.
    """

    cells = [Text.from_markup(row[i]) for row in rows for i in range(len(header))]
    widths = [
        max((cell_len(line) for one in cells[i :: len(header)] for line in one.plain.split("\n")), default=0)
        for i in range(len(header))
    ]
    names = list(header)

    def table(columns: Sequence[int], title: str) -> Table:
        made = Table(title=title, title_justify="left")
        for i in columns:
            made.add_column(names[i], justify="right" if i else "left", no_wrap=True)
        for row in rows:
            made.add_row(*(row[i] for i in columns))
        return made

    # Each part gets as many columns as fit, at least one besides the first. The width is measured without a limit,
    # because otherwise rich reports the width to which it could squeeze the table.
    wide, left = out.options.update(width=10_000), list(range(1, len(header)))
    if out.measure(table([0, *left], ""), options=wide).maximum > out.width:
        names = [textwrap.fill(name, max(width, NAME_WIDTH)) for name, width in zip(header, widths, strict=True)]
    while left:
        n = len(left)
        while n > 1 and out.measure(table([0, *left[:n]], ""), options=wide).maximum > out.width:
            n -= 1
        out.print(table([0, *left[:n]], title))
        left, title = left[n:], ""


def shown_run(cfg: Any, folder: Path, who: str, run: Callable[..., Any]) -> None:
    """Runs an entry point's work with progress bars and prints the results; does nothing if the run is finished.

    Args:
        cfg: Typed config of the run.
        folder: Folder of the run.
        who: Name of the run on the screen.
        run: Function that does the work, ``(config, folder, report) -> result``.

    Raises:
        UserError: If no episode of the evaluation can be counted.
    """
    from experiments.folders import is_complete  # Loads torch.

    if is_complete(folder):
        console.print(f"the run in {folder} is finished", highlight=False)
        return
    describe_run(folder, resolved_yaml(cfg))
    for note in said_before(cfg):
        console.print(f"[yellow]note:[/] {note}", highlight=False)
    with Display(console) as display:
        result = run(cfg, folder, display.reporter(who))
    display.summary(result, folder)
    # Without this error, a run in which every episode failed would exit with status 0 and show a table of dashes.
    played = [found for found in (result.greedy, result.sampled) if found]
    if played and not any(found["n"] for found in played):
        raise UserError(f"not one episode of the evaluation can be counted: {result.notes['broken_off']}")


def said_before(cfg: Any) -> list[str]:
    """Notes about a config, printed before a run or its plan: rounded budgets, skipped stages, keys without effect."""
    from rl.refusals import notes  # Loads torch.

    own = notes(cfg) if isinstance(cfg, RunConfig) else []  # An arm of a plugin may have a config of any class.
    return [note for note in (uneven_budget(cfg), skipped_stages(cfg), *own) if note]


def uneven_budget(cfg: Any) -> str:
    """A note about what a run really spends, if that differs from the requested budget; otherwise empty."""
    budget = getattr(cfg, "training", None)
    if budget is None or budget.tokens or (hasattr(cfg, "offline") and cfg.offline.conversations):
        return ""
    online = hasattr(cfg, "algorithm")
    arm = OnlineArm("", cfg) if online else OfflineArm("", cfg)
    match, name = ("updates", "updates") if budget.updates else ("samples", "episodes")
    asked, spent = getattr(budget, name), arm.budget(match)
    if asked == spent:
        return ""
    if online and not budget.updates and asked % (budget.tasks_per_step * cfg.algorithm.group_size) == 0:
        return (
            f"training.episodes={asked} leaves {counted(asked - spent, 'episode')} over, too few for a further batch "
            f"with its stage's group_size, so this run samples {counted(spent, 'episode')}"
        )
    if budget.updates:
        of = "algorithm.epochs * algorithm.minibatches" if online else "offline.iterations"
    elif online:
        of = "training.tasks_per_step * algorithm.group_size"
    else:
        of = "offline.iterations * offline.group_size"
    takes = f"takes {counted(spent, 'optimiser step')}" if budget.updates else f"samples {counted(spent, 'episode')}"
    return (
        f"training.{name}={asked} is no multiple of {of}, so this run {takes}; give a multiple, or make a step smaller"
    )


def skipped_stages(cfg: Any) -> str:
    """A note about stages that get no step because an online run's budget is too small; otherwise empty."""
    if not isinstance(cfg, TrainConfig) or cfg.training.tokens:  # The tokens of a step are unknown beforehand.
        return ""
    steps = steps_of_stages(cfg, planned_steps(cfg))
    if all(steps) or not any(steps):  # A run without any step is refused elsewhere.
        return ""
    names = [name for name, stage in cfg.algorithm.stages.items() if stage.share]
    skipped = [f"algorithm.stages.{name}" for name, n in zip(names, steps, strict=True) if not n]
    key = "updates" if cfg.training.updates else "episodes"
    return (
        f"training.{key}={getattr(cfg.training, key)} has no step for {', '.join(skipped)}: give at least "
        f"training.{key}={smallest_budget(cfg, all)}"
        f"{'' if cfg.training.updates else ', or make a step smaller (training.tasks_per_step)'}"
    )


def live_note(metrics: dict[str, float]) -> str:
    """A line with the few metrics that show whether a run is healthy."""
    if not metrics:
        return ""
    if "eval/validation/n" in metrics:
        rates = reported(metrics, "eval/validation/", Where.HEADLINE).values()
        played = counted(int(metrics["rollout/episodes"]), "episode")
        when = f"validation after {played} (n {metrics['eval/validation/n']:.0f})"
        return "  ".join([when, *(rate.line(value) for rate, value in rates)])
    known = {
        name: value for name, value in metrics.items() if value is not None and value == value
    }  # The rate of an attempt that no episode reached is ``None`` or nan.
    parts = [f"acc@t{k} {known[name]:.2f}" for k in (1, 2) if (name := f"rollout/accuracy_t{k}") in known]
    parts.append(f"n {metrics['rollout/episodes']:.0f}")
    speeds = (("ep/s", "system/episodes_per_second"), ("tok/s", "system/tokens_per_second"))
    parts.append(" ".join(f"{speed(known[name])} {unit}" for unit, name in speeds if name in known))
    parts += [f"{name} {n:.0f}" for name in ("env_error", "context_full") if (n := known.get(f"rollout/{name}"))]
    for name in ("verifier_timeout", "no_answer", "truncated"):
        if share := max((v for key, v in known.items() if key.startswith(f"rollout/{name}_t")), default=0.0):
            parts.append(f"{name} {share:.0%}")
    return "  ".join(parts)


def speed(per_second: float) -> str:
    """A speed as text with at least two significant digits: ``1,234``, ``3.4``, ``0.056``."""
    return fixed(per_second, 0) if per_second >= 10 else f"{per_second:.2g}"


def throughput(totals: dict[str, Any]) -> str:
    """Training episodes and tokens per second and the time share of each phase; empty if no episode was sampled."""
    seconds = totals.get("seconds", {})
    wall = sum(seconds.values())
    if not wall or not totals["episodes"]:
        return ""
    shares = ", ".join(f"{name} {value / wall:.0%}" for name, value in seconds.items())
    return (
        f"training: {counted(totals['episodes'], 'episode')}, {counted(totals['sampled_tokens'], 'sampled token')} in "
        f"{wall:.0f} s = {speed(totals['episodes'] / wall)} episodes/s, {speed(totals['sampled_tokens'] / wall)} "
        f"tokens/s ({shares})"
    )
