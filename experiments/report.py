"""Tables, figures and the page of a folder of runs: ``python -m experiments.report run=<folder> [only=F4]``."""

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
from experiments.evidence.model import Absent, Exhibit, Figure
from experiments.evidence.page import page
from experiments.evidence.store import Store
from experiments.evidence.verdicts import verdicts
from experiments.progress import print_table, throughput
from experiments.schema import ReportConfig
from rl.analysis.printing import fixed
from rl.analysis.rates import Where, declared
from rl.tracking import write_json, write_text

FOLDER = "exhibits"
"""Of the tables and figures, beside ``report.html``."""


def write_report(
    folder: Path | str, out: Console | None = None, n_episodes: int = ReportConfig.page_episodes
) -> dict[str, Comparison]:
    """Writes ``comparison.json``, every table and figure and ``report.html``; prints the main ones.

    Args:
        folder: A comparison, a sweep, a run, or a folder of runs.
        out: Where to print.
        n_episodes: Most evaluated episodes that the page carries.

    Returns:
        The comparison by mode: ``greedy``, ``sampled``, or both.

    Raises:
        FileNotFoundError: If the folder holds no finished run.
    """
    store = Store(folder)
    folder = store.folder
    comparisons = {mode: compare(store, mode) for mode in store.modes}
    write_json(folder / "comparison.json", {mode: found.to_json() for mode, found in comparisons.items()})
    exhibits = build(store)
    write_exhibits(exhibits, folder)
    write_text(folder / "report.html", page(store, exhibits, n_episodes))
    if out is not None:
        for comparison in comparisons.values():
            _print(comparison, out)
        for line in where_time_went(store):
            out.print(line, highlight=False)
        for one in exhibits:
            if isinstance(one, Absent):
                out.print(f"{one.title} ({one.id}) is not there: {one.reason}", highlight=False, markup=False)
        for note in store.notes:
            out.print(note, highlight=False, markup=False)
        out.print(f"report: {folder / 'report.html'}", highlight=False)
    return comparisons


def write_exhibits(exhibits: list[Exhibit], folder: Path) -> list[Path]:
    """Their files, and the numbers behind each as JSON."""
    place = folder / FOLDER
    paths = [path for exhibit in exhibits for path in write(exhibit, place)]
    for exhibit in exhibits:
        write_json(place / f"{exhibit.id}.json", exhibit.to_json())
    return paths


def _print(comparison: Comparison, out: Console) -> None:
    title = f"{comparison.env}: {comparison.n_tasks} test tasks, {comparison.mode}; mean over seeds, 95 % interval"
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
    for sentence in verdicts(comparison):
        out.print(f"- {sentence}", highlight=False)


def where_time_went(store: Store) -> list[str]:
    """Per trained arm, throughput and shares of sampling, verification and update, added over seeds."""
    lines = []
    for arm in store.trained:
        added: dict[str, Any] = {"episodes": 0, "sampled_tokens": 0, "seconds": defaultdict(float)}
        for seed in store.seeds(arm):
            part = store.runs[arm, seed].result["totals"]
            added["episodes"] += part["episodes"]
            added["sampled_tokens"] += part["sampled_tokens"]
            for phase, seconds in part["seconds"].items():
                added["seconds"][phase] += seconds
        if text := throughput(added):
            lines.append(f"{store.names[arm]} {text}")
    return lines


def _show(exhibit: Exhibit, out: Console) -> None:
    out.print(f"[bold]{exhibit.title} ({exhibit.id})[/]", highlight=False)
    if isinstance(exhibit, Absent):
        out.print(f"not there: {exhibit.reason}", highlight=False, markup=False)
        return
    out.print(exhibit.caption, highlight=False, markup=False)
    if isinstance(exhibit, Figure):
        return
    print_table(exhibit.header, _escaped(exhibit.rows), out)


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]  # an interval in brackets is no markup


@entry_point("report")
def main(cfg: ReportConfig) -> None:
    """Draws everything, or what ``only`` names."""
    folder = Path(cfg.run)
    if not cfg.only:
        write_report(folder, console, cfg.page_episodes)
        return
    exhibits = build(Store(folder), cfg.only)
    paths = write_exhibits(exhibits, folder)
    for exhibit in exhibits:
        _show(exhibit, console)
    for path in paths:
        console.print(str(path), highlight=False)


if __name__ == "__main__":
    main()
