"""A comparison's table, figures and page: ``python -m experiments.report <folder>`` draws them again."""

import base64
import html
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from experiments.analysis import BASE, SHOWN, Comparison, analyse, load_results, load_rows, points, verdicts
from experiments.cli import console
from experiments.figures import deltas, learning_curves
from experiments.progress import RATE_NAMES, throughput
from rl.evaluate import EvalRow
from rl.tracking import write_json, write_text

EXAMPLES_PER_TRANSITION = 4
_TRANSITIONS = {(False, True): "i->c", (True, False): "c->i", (True, True): "c->c", (False, False): "i->i"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #8884; }
td small { display: block; color: #888; } img { max-width: 100%; background: white; } code { font-size: .9em; }
.failed { color: #c33; font-weight: 600; } summary { cursor: pointer; margin: .5rem 0; }
"""


def write_report(folder: Path, out: Console | None = None) -> dict[str, Comparison]:
    """Writes ``comparison.json``, ``learning_curves.png``, ``deltas.png`` and ``report.html``; prints the tables.

    Returns:
        The comparison by mode: ``greedy``, ``sampled``, or both.

    Raises:
        FileNotFoundError: If the folder holds no comparison, or no finished arm.
    """
    config = OmegaConf.load(folder / "config.yaml")
    names = {BASE: "base"} | {arm: node.name for arm, node in config.arms.items()}
    modes = ["greedy"] * config.evaluation.greedy + ["sampled"] * bool(config.evaluation.samples_per_task)
    order = [BASE, *config.run]
    comparisons = {mode: analyse(folder, order, names, config.env.name, mode) for mode in modes}
    write_json(folder / "comparison.json", {mode: found.to_json() for mode, found in comparisons.items()})
    main_one = comparisons[modes[0]]
    present = {line.arm: line.name for line in main_one.arms}
    curves = learning_curves(folder, {arm: name for arm, name in present.items() if arm != BASE})
    figures = [path for path in (deltas(folder, main_one.arms), curves) if path is not None]
    results = load_results(folder)
    write_text(folder / "report.html", _page(comparisons, figures, load_rows(folder), results, folder))
    if out is not None:
        for comparison in comparisons.values():
            _print(comparison, out)
        for arm, text in where_time_went(main_one, results).items():
            out.print(f"{arm} {text}", highlight=False)
        out.print(f"report: {folder / 'report.html'}", highlight=False)
    return comparisons


def _print(comparison: Comparison, out: Console) -> None:
    title = (
        f"{comparison.env}: {comparison.n_tasks} test tasks, {comparison.mode}; percent, mean over seeds, 95 % interval"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    for name in SHOWN:
        table.add_column(RATE_NAMES[name], justify="right")
    for name in ("failed", "episodes", "s/run"):
        table.add_column(name, justify="right")
    for line in comparison.arms:
        cells = []
        for name in SHOWN:
            rate = line.rates[name]
            cells.append(f"{100 * rate.mean:.1f}\n[dim]{100 * rate.low:.1f}, {100 * rate.high:.1f}[/]")
        failed = "-" if line.arm == BASE else f"{sum(s.failed for s in line.seeds)}/{len(line.seeds)}"
        if line.crashed:
            failed += f" +{len(line.crashed)} crashed"
        table.add_row(line.name, *cells, failed, str(line.episodes), f"{line.seconds:.0f}")
    out.print(table)
    if cells := control_cells(comparison):
        controls = Table(title="controls: accuracy of the greedy second attempt, percent", title_justify="left")
        for name in ("arm", "acc@t2", *_CONTROL_NAMES.values()):
            controls.add_column(name, justify="left" if name == "arm" else "right")
        for row in cells:
            controls.add_row(*row)
        out.print(controls)
    for sentence in verdicts(comparison):
        out.print(f"- {sentence}", highlight=False)


def where_time_went(comparison: Comparison, results: dict[tuple[str, int], dict[str, Any]]) -> dict[str, str]:
    """Per trained arm, throughput and shares of sampling, verification and update, added over seeds."""
    lines = {}
    for line in comparison.arms:
        totals = [result["totals"] for (arm, _), result in results.items() if arm == line.arm]
        added: dict[str, Any] = {"episodes": 0, "sampled_tokens": 0, "seconds": defaultdict(float)}
        for part in totals:
            added["episodes"] += part["episodes"]
            added["sampled_tokens"] += part["sampled_tokens"]
            for phase, seconds in part["seconds"].items():
                added["seconds"][phase] += seconds
        if text := throughput(added):
            lines[line.name] = text
    return lines


def _page(
    comparisons: dict[str, Comparison],
    figures: list[Path],
    rows: list[EvalRow],
    results: dict[tuple[str, int], dict[str, Any]],
    folder: Path,
) -> str:
    first = next(iter(comparisons.values()))
    images = "".join(
        f'<p><img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>'
        for path in figures
    )
    times = "".join(
        f"<li>{html.escape(arm)}: {html.escape(text)}</li>" for arm, text in where_time_went(first, results).items()
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Errata: {html.escape(first.env)}</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>Offline against online: {html.escape(first.env)}</h1>
<p>{first.n_tasks} test tasks, rates in percent: mean over seeds and 95 % interval (bootstrap over seeds, then tasks,
paired between arms; rough with few seeds, so read every seed below). Delta is accuracy of the last minus the first
attempt; its IQM is the mean of the middle half of the seeds. The detectable delta is what one run on this many tasks
would show with 80 % power, were as many of them to change sides as did. A seed failed if its delta is at most 1
point.</p>
{"".join(_section(comparison) for comparison in comparisons.values())}
<h2>Figures (greedy)</h2>{images}
<h2>Answers per task</h2><p>Accuracy (%) from sampled episodes against the number of responses per task: any of k first
attempts right (pass), majority of k first attempts, and the majority over the last attempts of as many episodes as cost
k responses (sequential).</p>{_scaling_table(first, results)}
<h2>Where the time went</h2><ul>{times}</ul>
<h2>Episodes</h2><p>The first {EXAMPLES_PER_TRANSITION} of each transition, seed by seed; all of them are in
<code>{html.escape(str(folder))}/arms/*/seed_*/rows.jsonl</code>.</p>{_examples(first, rows)}
</body></html>
"""


def _section(comparison: Comparison) -> str:
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in verdicts(comparison))
    return (
        f"<h2>{comparison.mode.capitalize()} decoding</h2><ul>{sentences}</ul>{_main_table(comparison)}"
        f"{_control_table(comparison)}"
        f"<details><summary>every seed</summary>{_seed_table(comparison)}</details>"
    )


def _scaling_table(comparison: Comparison, results: dict[tuple[str, int], dict[str, Any]]) -> str:
    body, head = "", ""
    for line in comparison.arms:
        runs = [result["scaling"] for (arm, _), result in results.items() if arm == line.arm and result.get("scaling")]
        cells, head = "", ""
        for at_k in zip(*runs, strict=False):
            for name in ("pass", "majority", "sequential"):
                values = [point[name] for point in at_k if name in point]
                if values:
                    head += f"<th>{name}@{at_k[0]['responses']:.0f}</th>"
                    cells += f"<td>{100 * sum(values) / len(values):.1f}</td>"
        body += f"<tr><td>{html.escape(line.name)}</td>{cells}</tr>"
    return f"<table><tr><th>arm</th>{head}</tr>{body}</table>"


def _main_table(comparison: Comparison) -> str:
    head = "".join(f"<th>{RATE_NAMES[name]}</th>" for name in SHOWN)
    body = ""
    for line in comparison.arms:
        cells = ""
        for name in SHOWN:
            rate = line.rates[name]
            cells += f"<td>{100 * rate.mean:.1f}<small>{100 * rate.low:.1f}, {100 * rate.high:.1f}</small></td>"
        n_failed = sum(seed.failed for seed in line.seeds)
        failed = "-" if line.arm == BASE else f"{n_failed}/{len(line.seeds)}"
        mark = ' class="failed"' if n_failed and line.arm != BASE else ""
        body += (
            f"<tr><td>{html.escape(line.name)}</td>{cells}<td>{100 * line.delta_iqm:+.1f}</td>"
            f"<td>{100 * line.detectable:.1f}</td><td{mark}>{failed}</td><td>{line.episodes}</td>"
            f"<td>{line.sampled_tokens}</td><td>{line.gradient_tokens}</td><td>{line.seconds:.0f}</td></tr>"
        )
    return (
        f"<table><tr><th>arm</th>{head}<th>delta, IQM</th><th>detectable delta</th><th>failed seeds</th>"
        f"<th>sampled episodes</th><th>sampled tokens</th>"
        f"<th>gradient tokens</th><th>seconds/run</th></tr>{body}</table>"
    )


_CONTROL_NAMES = {
    "without_first": "C1: no first attempt",
    "others_first": "C2: its first attempt at another task",
    "told_verdict": "C3: told whether it was right",
}


def control_cells(comparison: Comparison) -> list[list[str]]:
    """Rows of the controls' table: arm, acc@t2 as it is and under each control."""
    rows = []
    for line in comparison.arms:
        if line.controls:
            values = [line.rates["accuracy_t2"], *(line.controls[name] for name in _CONTROL_NAMES)]
            rows.append([line.name, *(points(value, False) for value in values)])
    return rows


def _control_table(comparison: Comparison) -> str:
    rows = control_cells(comparison)
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("arm", "acc@t2", *_CONTROL_NAMES.values()))
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        "<h3>Controls</h3><p>Accuracy (%) of greedy second attempts. An arm corrects if C1 and C2 both "
        "cost accuracy; one that loses nothing under C2 answers anew, whatever it wrote before.</p>"
        f"<table><tr>{head}</tr>{body}</table>"
    )


def _seed_table(comparison: Comparison) -> str:
    head = "".join(f"<th>{RATE_NAMES[name]}</th>" for name in SHOWN)
    body = ""
    for line in comparison.arms:
        for seed in line.seeds:
            cells = "".join(f"<td>{100 * seed.rates[name]:.1f}</td>" for name in SHOWN)
            fate = "failed" if seed.failed and line.arm != BASE else ""
            low, high = (100 * end for end in seed.delta_interval)
            body += (
                f"<tr><td>{html.escape(line.name)}</td><td>{seed.seed}</td>{cells}<td>{low:+.1f}, {high:+.1f}</td>"
                f"<td>{seed.p_value:.2g}</td>"
                f'<td class="failed">{fate}</td></tr>'
            )
    last = "<th>delta, Newcombe</th><th>McNemar p</th><th></th>"
    return f"<table><tr><th>arm</th><th>seed</th>{head}{last}</tr>{body}</table>"


def _examples(comparison: Comparison, rows: list[EvalRow]) -> str:
    found: dict[tuple[str, str], list[EvalRow]] = defaultdict(list)
    for row in rows:
        if row.mode == comparison.mode and not row.failed:
            bucket = found[row.arm, _TRANSITIONS[row.correct[0], row.correct[-1]]]
            if len(bucket) < EXAMPLES_PER_TRANSITION:
                bucket.append(row)
    parts = []
    for line in comparison.arms:
        body = ""
        for name in _TRANSITIONS.values():
            for row in found[line.arm, name]:
                attempts = "".join(f"<td><code>{html.escape(text)}</code></td>" for text in row.texts)
                body += f"<tr><td><code>{html.escape(row.task_id)}</code></td><td>{name}</td>{attempts}</tr>"
        parts.append(
            f"<details><summary>{html.escape(line.name)}</summary><table><tr><th>task</th><th>transition</th>"
            f"<th>attempts</th></tr>{body}</table></details>"
        )
    return "".join(parts)


def main() -> None:
    """Draws the report of a comparison's folder again."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m experiments.report <folder of a comparison>")
    try:
        write_report(Path(sys.argv[1]), console)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
