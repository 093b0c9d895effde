"""Writes tables, figures and a page for a folder of runs: ``python -m experiments.report run=<folder> [only=F4]``."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from experiments.cli import console, entry_point
from experiments.evidence import build
from experiments.evidence.comparison import Comparison, compare
from experiments.evidence.controls import control_cells
from experiments.evidence.draw import write
from experiments.evidence.model import Absent, Dots, Exhibit, Table
from experiments.evidence.page import page
from experiments.evidence.store import Store
from experiments.evidence.verdicts import lead, verdicts
from experiments.progress import print_table, speed
from experiments.schema import ReportConfig
from rewards.wording import counted
from rl.analysis.printing import fixed
from rl.analysis.rates import Where, declared
from rl.tracking import write_json

FOLDER = "exhibits"
"""Name of the folder for tables and figures, next to ``report.html``."""


def write_report(
    folder: Path | str | Sequence[str], out: Console | None = None, n_episodes: int = ReportConfig.page_episodes
) -> dict[str, Comparison]:
    """Writes ``comparison.json``, all tables and figures, and ``report.html``; prints the main tables.

    Args:
        folder: Folder of a comparison, a sweep, a run or several runs. For several folders the report is written into
            a new one.
        out: Console to print on; ``None`` prints nothing.
        n_episodes: Largest number of evaluated episodes that the page contains.

    Returns:
        The comparison for each evaluation mode in the folder: ``greedy``, ``sampled``, or both.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
    """
    store = Store(folder)
    folder = store.folder
    comparisons = {mode: compare(store, mode) for mode in store.modes}
    folder.mkdir(exist_ok=True)  # Several folders are compared in a new one.
    write_json(folder / "comparison.json", {mode: found.to_json() for mode, found in comparisons.items()})
    exhibits = build(store)
    write_exhibits(exhibits, folder)
    page(store, exhibits, n_episodes).write(folder / "report.html")
    if out is not None:
        for mode, comparison in comparisons.items():
            _print(comparison, out, mode == store.mode)
        header, rows = where_time_went(store)
        if rows:
            print_table(header, _escaped(rows), out, "training, all seeds together: speed, and where the time went")
        if absent := [one.id for one in exhibits if isinstance(one, Absent)]:
            out.print(f"left out: {', '.join(absent)}; the page says what each needs", highlight=False)
        for note in store.notes:
            out.print(note, highlight=False, markup=False)
        out.print(f"report: {folder / 'report.html'}", highlight=False)
    return comparisons


def write_exhibits(exhibits: list[Exhibit], folder: Path) -> list[Path]:
    """Writes the files of tables and figures, and the numbers behind each as JSON; returns the paths of the former."""
    place = folder / FOLDER
    paths = [path for exhibit in exhibits for path in write(exhibit, place)]
    for exhibit in exhibits:
        write_json(place / f"{exhibit.id}.json", exhibit.to_json())
    return paths


def _print(comparison: Comparison, out: Console, is_first: bool) -> None:
    """Prints the table and the controls of one mode; for the main mode (``is_first``) also a verdict on every arm."""
    tasks = counted(comparison.n_tasks, "test task")
    title = f"{comparison.env}: {tasks}, {comparison.mode}; mean over seeds, 95 % interval"
    rates, rows = declared(comparison.attempts, Where.HEADLINE), []
    of_run = ("failed", "episodes", "steps", "tokens learned", "s/run")
    for line in comparison.arms:
        shown = [(rate, line.rates[name]) for name, rate in rates.items()]
        cells = [f"{r.text(one.mean)}\n[dim]{r.text(one.low)}, {r.text(one.high)}[/]" for r, one in shown]
        failed = "-" if not line.trained else f"{sum(s.failed for s in line.seeds)}/{len(line.seeds)}"
        if line.crashed:
            failed += f" +{len(line.crashed)} crashed"
        spent = [fixed(n, 0) for n in (line.episodes, line.updates, line.gradient_tokens, line.seconds)]
        rows.append([line.name, *cells, failed, *spent])
    print_table(["arm", *(rate.header for rate in rates.values()), *of_run], rows, out, title)
    header, found = control_cells(comparison)
    if found:
        print_table(header, _escaped(found), out, "controls: accuracy of the greedy second attempt, percent")
    if said := lead(comparison):
        out.print(said, highlight=False, markup=False)
    for sentence in verdicts(comparison) if is_first else []:
        out.print(f"- {sentence}", highlight=False, markup=False)


def where_time_went(store: Store) -> tuple[list[str], list[list[str]]]:
    """Header, and a row for each trained arm with throughput and the time share of every phase, summed over seeds."""
    found: dict[str, dict[str, Any]] = {}
    for arm in store.trained:
        added: dict[str, Any] = {"episodes": 0, "sampled_tokens": 0, "seconds": defaultdict(float)}
        for seed in store.seeds(arm):
            part = store.runs[arm, seed].result["totals"]
            added["episodes"] += part["episodes"]
            added["sampled_tokens"] += part["sampled_tokens"]
            for phase, seconds in part["seconds"].items():
                added["seconds"][phase] += seconds
        if sum(added["seconds"].values()):
            found[store.names[arm]] = added
    phases = list(dict.fromkeys(phase for one in found.values() for phase in one["seconds"]))
    rows = []
    for name, one in found.items():
        wall = sum(one["seconds"].values())
        rates = [speed(one[what] / wall) for what in ("episodes", "sampled_tokens")]
        shares = [f"{one['seconds'].get(phase, 0.0) / wall:.0%}" for phase in phases]
        rows.append([name, fixed(wall, 0), *rates, *shares])
    return ["arm", "seconds", "episodes/s", "tokens/s", *phases], rows


def _show(exhibit: Exhibit, out: Console) -> None:
    out.print(f"[bold]{exhibit.title} ({exhibit.id})[/]", highlight=False)
    if isinstance(exhibit, Absent):
        out.print(f"left out: {exhibit.reason}", highlight=False, markup=False)
        return
    out.print(exhibit.caption, highlight=False, markup=False)
    if isinstance(exhibit, Table):
        header, rows = exhibit.flat()
        print_table(header, _escaped(rows), out)
    elif isinstance(exhibit, Dots):
        rows = []
        for one in exhibit.rows:
            mean, low, high = (fixed(value, exhibit.digits, signed=True) for value in (one.mean, one.low, one.high))
            rows.append([one.name, mean, f"{low}, {high}", ", ".join(badge.text for badge in one.badges), one.view])
        print_table(["", exhibit.x_label, "interval", "found", "episodes"], _escaped(rows), out)


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]  # Otherwise rich reads an interval in brackets as markup.


@entry_point("report", runs=False)
def main(cfg: ReportConfig) -> None:
    """Writes the whole report, or only the tables and figures that ``only`` names."""
    folders = [str(one) for one in cfg.run] if isinstance(cfg.run, list) else str(cfg.run)
    if not cfg.only:
        write_report(folders, console, cfg.page_episodes)
        return
    store = Store(folders)
    exhibits = build(store, cfg.only)
    paths = write_exhibits(exhibits, store.folder)
    for exhibit in exhibits:
        _show(exhibit, console)
    for path in paths:
        console.print(str(path), highlight=False)


if __name__ == "__main__":
    main()
