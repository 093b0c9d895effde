"""What was planned and what it came to: ``plan.json`` in a run's folder.

``python -m experiments.plan`` leaves its estimate below ``runs_dir``, under a key that is made of all that decides what
a run costs. A run that finds one there takes it into its folder when it starts, and writes beside it what it came to.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl.analysis.printing import duration, fixed
from rl.config.checks import check_numbers
from rl.tracking import write_json

FILE = "plan.json"
_FREE = {"seed", "runs_dir", "data_dir", "name", "resume", "plugins", "tracking", "hub"}
"""Keys of a config that decide nothing of what is planned, or as good as nothing."""


@dataclass
class PlanConfig:
    """``experiments.plan``: what a run will cost.

    Args:
        calibrate: Take a few real steps, from which time, tokens and memory follow; otherwise all is counted, answers
            as long as they may be, and nothing is said of time.
        steps: Rollout batches of every stage that are taken, of which the last one counts.
        tasks: Tasks of the evaluation, and of a round of an offline method, that are played: so many or a sixteenth,
            whichever is more.
        memory_gib: Of one device; 0 looks at the GPU, or at what is free on this machine.
        processes: Devices that share a run; for ``calibrate=false``.
        sharded: Whether each of them holds a part of the model (FSDP2); for ``calibrate=false``.
    """

    calibrate: bool = True
    steps: int = 2
    tasks: int = 64
    memory_gib: float = 0.0
    processes: int = 1
    sharded: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "plan", positive="steps tasks processes", not_negative="memory_gib")
        if self.calibrate and (self.processes > 1 or self.sharded):
            name = "processes" if self.processes > 1 else "sharded"
            raise ValueError(f"plan.{name}: steps are taken by one process; set plan.calibrate=false")


def spent() -> tuple[float, float]:
    """Seconds on the clock and of this process's processor time, all threads together, until now; differences count."""
    return time.perf_counter(), time.process_time()


def place(config: Any) -> Path:
    """Where the estimate for a run lies; the same for all its seeds."""
    told = {key: value for key, value in asdict(config).items() if key not in _FREE}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    return Path(config.runs_dir) / "plans" / f"{digest}.json"


def adopt(config: Any, folder: Path) -> None:
    """Takes the estimate for a run into its folder, if one was made; a run that goes on has it already."""
    path, own = place(config), folder / FILE
    if own.exists():
        write_json(own, json.loads(own.read_text(encoding="utf-8")) | {"resumed": True})
    elif path.exists():
        write_json(own, json.loads(path.read_text(encoding="utf-8")))


def settle(folder: Path, result: dict[str, Any]) -> None:
    """Writes what a run came to beside its estimate, if it has one.

    Args:
        folder: Of the run, all of it written.
        result: What ``result.json`` holds.
    """
    path = folder / FILE
    if path.exists():
        known = result["totals"] | result
        known["disk"] = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
        found = json.loads(path.read_text(encoding="utf-8"))
        # Of a run that went on in another process this one knows neither the whole time nor the whole peak.
        unknown = ("seconds", "cpu_seconds", "peak_memory") if found.get("resumed") else ()
        write_json(path, found | {"actual": {key: known[key] for key in UNITS if key not in unknown}})


def size(n_bytes: float) -> str:
    """``340 MiB``, ``1.2 GiB``."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**29 else f"{fixed(n_bytes / 2**20, 0)} MiB"


def count(n: float) -> str:
    """``9,216``."""
    return fixed(n, 0)


UNITS = {
    "seconds": ("time", duration),
    "cpu_seconds": ("processor time", duration),
    "peak_memory": ("peak memory", lambda gib: size(gib * 2**30)),
    "sampled_tokens": ("sampled tokens", count),
    "gradient_tokens": ("trained tokens", count),
    "updates": ("optimiser steps", count),
    "disk": ("disk", size),
}
"""What is estimated and measured: its name on the screen, and how it is written."""


_SHOWN = ("seconds", "cpu_seconds", "peak_memory", "sampled_tokens")
PLANNED = ("", "each run", "time", "processor time", "memory", "sampled tokens")
"""Columns of :func:`lines`."""


def _both(folder: Path) -> dict[str, tuple[float, float]]:
    """Estimate and what it came to, for all that both sides know of a run."""
    path = folder / FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    told, actual = found.get("estimate", {}), found.get("actual", {})
    return {key: (told[key], actual[key]) for key in UNITS if told.get(key) and actual.get(key)}


def _off(planned: float, actual: float) -> str:
    return f"{100 * (planned - actual) / actual:+.0f} %"


def compared(folder: Path) -> list[list[str]]:
    """Name, estimate, what it came to and the difference in percent, for all that both sides know of a run."""
    both = {UNITS[key]: pair for key, pair in _both(folder).items()}
    return [[name, show(told), show(actual), _off(told, actual)] for (name, show), (told, actual) in both.items()]


def lines(folders: Sequence[Path]) -> list[list[str]]:
    """A row for each arm that was planned: by quantity what was planned and what it came to, the mean of its runs."""
    of_arm: dict[str, list[dict[str, tuple[float, float]]]] = {}
    for folder in folders:
        if both := _both(folder):
            of_arm.setdefault(folder.parent.name, []).append(both)
    rows = []
    for arm, runs in of_arm.items():
        row = [arm + (f" x {len(runs)}" if len(runs) > 1 else ""), "planned\ncame to\noff by"]
        for key in _SHOWN:
            pairs = [run[key] for run in runs if key in run]
            told, actual = (
                (sum(side) / max(len(pairs), 1) for side in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
            )
            show = UNITS[key][1]
            row.append(f"{show(told)}\n{show(actual)}\n{_off(told, actual)}" if pairs else "-")
        rows.append(row)
    return rows
