"""Shows a running run, or all runs of a comparison or sweep: ``python -m experiments.watch run=runs/train/<time>``.

Only reads the files that a run writes, so it can be started and stopped at any time, also on another machine that
shares the folder.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from experiments.cli import UserError, console, entry_point
from experiments.keys import told_apart
from experiments.run_health import findings
from experiments.schema import WatchConfig
from rewards.wording import counted
from rl.analysis.rates import Where, named, reported
from rl.tracking import files_below

SHOWN = (
    "rollout/episodes",
    "rollout/accuracy_t1",
    "rollout/accuracy_t2",
    "reward/shaped_t1",
    "reward/shaped_t2",
    "policy/loss",
    "policy/kl_ref_t1",
    "policy/kl_ref_t2",
    "policy/entropy",
    "policy/sampler_gap",
    "critic/explained_variance",
    "group/mixed_fraction",
    "rollout/failed_fraction",
    "optim/grad_norm",
    "optim/lr",
    "system/episodes_per_second",
    "system/peak_memory",
)
VALIDATION = "eval/validation/"
CURVE = 40
"""Number of steps that a curve shows, the newest on the right."""
TAIL_BYTES = 2**20
"""Number of bytes that are read from the end of a file, because reading all episodes of a long run is too slow."""
_BARS = " ▁▂▃▄▅▆▇█"


def tail(path: Path, n_bytes: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The newest complete lines of a JSON-lines file, parsed; empty if there is no such file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(0, 2)
        start = max(0, file.tell() - n_bytes)
        file.seek(start)
        lines = file.read().split(b"\n")
    complete = lines[1 if start else 0 : -1]  # The first line may lack its beginning, the last one its end.
    return [json.loads(line) for line in complete if line]


def curve(values: Sequence[float | None], n: int = CURVE) -> str:
    """The last ``n`` values as a line of block characters, scaled from minimum to maximum; ``None`` becomes a gap."""
    shown = list(values)[-n:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(_BARS) - 2) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else _BARS[1 + round((value - low) * scale)] for value in shown)


def metrics_table(rows: Sequence[dict[str, Any]], meanings: Mapping[str, Any]) -> Table:
    """Newest value and curve of the metrics in ``SHOWN``; ``meanings`` is the content of ``metrics.json``."""
    steps = [row for row in rows if "optim/lr" in row]
    table = Table(title=f"step {steps[-1]['step']}" if steps else "no step yet", title_justify="left")
    for name, justify in (("metric", "left"), ("now", "right"), ("unit", "left"), (f"last {CURVE} steps", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in SHOWN:
        values = [step.get(name) for step in steps]
        if any(value is not None for value in values):
            now = "-" if values[-1] is None else f"{values[-1]:.4g}"
            table.add_row(name, now, meanings.get(name, {}).get("unit", ""), curve(values))
    return table


def validation_line(rows: Sequence[dict[str, Any]]) -> Text:
    """Rates of the newest validation, and the curve of the last attempt's accuracy over all validations."""
    found = validations(rows)
    if not found:
        return Text("no validation yet", style="dim")
    parts = [rate.line(value) for rate, value in reported(found[-1], VALIDATION, Where.HEADLINE).values()]
    name, history = last_accuracy(found)
    return Text(f"validation at step {found[-1]['step']}: {', '.join(parts)}   {named(name).label} {history}")


def validations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that were written by a validation."""
    return [row for row in rows if f"{VALIDATION}accuracy_t1" in row]


def last_accuracy(found: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Name of the accuracy of the last attempt, and its curve over these validations."""
    name = [name for name in reported(found[-1], VALIDATION, Where.LOG) if name.startswith("accuracy_t")][-1]
    return name, curve([row.get(f"{VALIDATION}{name}") for row in found])


def transitions_line(episodes: Sequence[dict[str, Any]]) -> Text:
    """Counts of correct and incorrect first and second attempts in the newest step's kept episodes."""
    if not episodes:
        return Text("no episodes yet", style="dim")
    newest = [episode for episode in episodes if episode["step"] == episodes[-1]["step"] and episode["turns"]]
    # An episode that ended after one attempt keeps that attempt's verdict, so it counts as c->c or i->i, as in the
    # rates.
    sides = Counter(
        "->".join(
            "c" if _verdict(turn) == "correct" else "i"
            for turn in (episode["turns"][:2] if episode["turns"][1:] else episode["turns"] * 2)
        )
        for episode in newest
    )
    shares = "  ".join(f"{name} {sides[name]}" for name in ("i->c", "c->i", "c->c", "i->i"))
    return Text(f"transitions of {counted(len(newest), 'kept episode')} of step {episodes[-1]['step']}: {shares}")


def _verdict(turn: dict[str, Any]) -> str:
    return turn["score"]["verdict"] if turn["score"] else "unscored"


def episode_panel(episode: dict[str, Any]) -> Panel:
    """The attempts of one episode with their verdicts and rewards."""
    lines = Text()
    for k, turn in enumerate(episode["turns"]):
        style = "green" if _verdict(turn) == "correct" else "red"
        lines.append(f"attempt {k + 1} ", style="bold")
        lines.append(f"{_verdict(turn)}, reward {turn['reward']:g}\n", style=style)
        lines.append(turn["text"][:400].rstrip() + "\n")
    return Panel(lines, title=Text(str(episode["task_id"])[:80]), title_align="left")


def health_line(finding: Mapping[str, Any]) -> Text:
    """A finding of a health check: the whole message while the problem lasts, afterwards only the name of the check."""
    if finding["to"] is None:
        return Text(f"health, since step {finding['from']}: {finding['said']}", style="yellow")
    return Text(f"health, steps {finding['from']} to {finding['to']}: {finding['check']}", style="dim")


def run_view(folder: Path, n_episodes: int) -> Group:
    """The view of one run: state, metrics, validation, health, transitions and the newest episodes."""
    rows, episodes = tail(folder / "metrics.jsonl"), tail(folder / "episodes.jsonl")
    described = folder / "metrics.json"
    meanings = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    state = "finished" if (folder / "result.json").exists() else "running, or interrupted"
    parts = [Text(f"{folder}: {state}", style="bold"), metrics_table(rows, meanings), validation_line(rows)]
    parts += [health_line(one) for one in findings(folder)]
    shown = [episode_panel(episode) for episode in episodes[-n_episodes:]] if n_episodes else []
    return Group(*parts, transitions_line(episodes), *shown)


def runs_below(folder: Path) -> dict[str, Path]:
    """Folders of the runs in a comparison (including waiting jobs), a sweep or another folder, by a distinct label."""
    if (folder / "arms").is_dir():
        jobs = sorted(path for path in folder.glob("arms/*/*") if path.is_dir())
        return {f"{path.parent.name}/{path.name.removeprefix('seed_')}": path for path in jobs}
    found = [path.parent for path in files_below(folder, "config.yaml", 3) if path.parent != folder]
    found.sort(key=lambda path: (path.parent, len(path.name), path.name))  # Shorter names first: 10 comes after 9.
    configs: list[Any] = [OmegaConf.load(path / "config.yaml") for path in found]
    methods = [next((str(one[key].name) for key in ("algorithm", "offline") if key in one), "") for one in configs]
    told = [f"{what}, seed {one.get('seed')}" for what, one in zip(told_apart(methods, configs), configs, strict=True)]
    return {f"{path.relative_to(folder)}  {what}": path for path, what in zip(found, told, strict=True)}


def runs_view(folder: Path) -> Table:
    """A table with one row for every run of a comparison, a sweep or another folder of several runs."""
    table = Table(title=str(folder), title_justify="left")
    for name in ("run", "state", "episodes", "newest validation", "accuracy so far"):
        table.add_column(name, overflow="fold")  # Long names are wrapped, not cut, so that the run can be found.
    for name, job in runs_below(folder).items():
        found = validations(tail(job / "metrics.jsonl"))
        said = next((json.loads(path.read_text()) for path in job.glob("progress.json")), None)
        waits = "waiting" if (folder / "arms").is_dir() else "running, or interrupted"
        state = waits if said is None else f"{said['what']} {said['share']:.0%}"
        state = "finished" if (job / "result.json").exists() else "crashed" if (job / "error.txt").exists() else state
        state += "".join(f"\n{one['check']}" for one in findings(job) if one["to"] is None)
        cells = ["", "", ""]
        if found:
            rates = reported(found[-1], VALIDATION, Where.HEADLINE).values()
            shown = "  ".join(f"{rate.label} {rate.text(value)}" for rate, value in rates)
            cells = [f"{found[-1]['rollout/episodes']:.0f}", shown, last_accuracy(found)[1]]
        table.add_row(name, state, *cells)
    return table


def view(folder: Path, n_episodes: int) -> Group | Table:
    """The view of a folder with one run or with several."""
    is_run = (folder / "config.yaml").exists() and not (folder / "arms").is_dir()
    return run_view(folder, n_episodes) if is_run else runs_view(folder)


@entry_point("watch", runs=False)
def main(cfg: WatchConfig) -> None:
    """Refreshes the view until Ctrl-C, or prints it once."""
    folder = Path(cfg.run)
    if not folder.is_dir():
        raise UserError(f"run={cfg.run}: there is no such folder; use runs/<name>/<time>")
    if not (folder / "config.yaml").exists() and not runs_below(folder):
        raise UserError(f"run={cfg.run}: there is no run in it, up to three folders deep; use runs/<name>/<time>")
    if cfg.once:
        console.print(view(folder, cfg.newest))
        return
    with Live(view(folder, cfg.newest), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(cfg.every_s)
            live.update(view(folder, cfg.newest), refresh=True)


if __name__ == "__main__":
    main()
