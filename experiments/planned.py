"""Planned and actual cost of a run: ``plan.json`` in the run's folder.

``python -m experiments.plan`` stores its estimate below ``runs_dir``, in a file named by a hash of all config keys that
influence the cost of a run. When a run starts and finds such an estimate, it copies the estimate into its folder; at
its end the run adds its actual cost.
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
"""Config keys without noticeable influence on the cost of a run."""


@dataclass
class PlanConfig:
    """``experiments.plan``: estimates the cost of a run.

    Args:
        calibrate: Take a few real steps and derive time, tokens and memory from them. ``false`` computes from the
            config, with answers of maximal length and without time.
        steps: Rollout batches of every stage that are run; the last one is measured.
        tasks: Tasks with which the evaluation, and a round of an offline method, are measured; a sixteenth of the
            evaluation's or the round's own tasks if that is more.
        memory_gib: Memory of one device in GiB; 0 takes that of the GPU, or what is free on this machine.
        processes: Number of devices that share a run; only for ``calibrate=false``.
        sharded: Whether each device holds only a part of the model (FSDP2); only for ``calibrate=false``.
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
            raise ValueError(f"plan.{name}: real steps run in one process; set plan.calibrate=false")


def spent() -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of all threads of this process; only differences are meaningful."""
    return time.perf_counter(), time.process_time()


def place(config: Any) -> Path:
    """Path of the estimate for a run; the same for all seeds."""
    told = {key: value for key, value in asdict(config).items() if key not in _FREE}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    return Path(config.runs_dir) / "plans" / f"{digest}.json"


def adopt(config: Any, folder: Path) -> None:
    """Copies the estimate for a run, if any, into the run's folder; marks one that is there already as resumed."""
    path, own = place(config), folder / FILE
    if own.exists():
        write_json(own, json.loads(own.read_text(encoding="utf-8")) | {"resumed": True})
    elif path.exists():
        write_json(own, json.loads(path.read_text(encoding="utf-8")))


def settle(folder: Path, result: dict[str, Any]) -> None:
    """Adds the actual cost of a run to its estimate, if it has one.

    Args:
        folder: Folder of the run, after all other files are written, since its size is measured.
        result: Content of ``result.json``.
    """
    path = folder / FILE
    if path.exists():
        known = result["totals"] | result
        known["disk"] = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
        found = json.loads(path.read_text(encoding="utf-8"))
        # This process did only a part of a resumed run, so it does not know the time and the peak memory of the whole.
        unknown = ("seconds", "cpu_seconds", "peak_memory") if found.get("resumed") else ()
        write_json(path, found | {"actual": {key: known[key] for key in UNITS if key not in unknown}})


def size(n_bytes: float) -> str:
    """A number of bytes as text, such as ``340 MiB`` or ``1.20 GiB``."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**29 else f"{fixed(n_bytes / 2**20, 0)} MiB"


def count(n: float) -> str:
    """A whole number as text with thousands separators, such as ``9,216``."""
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
"""Quantities that are estimated and measured: for each its name on the screen, and a function that formats it."""


_SHOWN = ("seconds", "cpu_seconds", "peak_memory", "sampled_tokens")
PLANNED = ("", "each run", "time", "processor time", "memory", "sampled tokens")
"""Columns of :func:`lines`."""


def _both(folder: Path) -> dict[str, tuple[float, float]]:
    """Estimated and actual value of every quantity for which a run has both."""
    path = folder / FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    told, actual = found.get("estimate", {}), found.get("actual", {})
    return {key: (told[key], actual[key]) for key in UNITS if told.get(key) and actual.get(key)}


def _off(planned: float, actual: float) -> str:
    return f"{100 * (planned - actual) / actual:+.0f} %"


def compared(folder: Path) -> list[list[str]]:
    """Name, estimate, actual value and error in percent of every quantity for which a run has both values."""
    both = {UNITS[key]: pair for key, pair in _both(folder).items()}
    return [[name, show(told), show(actual), _off(told, actual)] for (name, show), (told, actual) in both.items()]


def lines(folders: Sequence[Path]) -> list[list[str]]:
    """A row for each planned arm, with the mean estimate, the mean actual value and the error of each quantity."""
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
