"""Learning curves of a comparison, as PNG files; readable in black and white."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rl.tracking import read_jsonl

_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5)))
_MARKERS = "osD^vPX*"
_COLOURS = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
PANELS = {
    "accuracy_t1": "accuracy of attempt 1 (%)",
    "accuracy_t2": "accuracy of attempt 2 (%)",
    "delta": "delta = attempt 2 - attempt 1 (points)",
}


def validation_curves(folder: Path, arm: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Per rate, one (sampled episodes, value in percent) curve per seed."""
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for path in sorted(folder.glob(f"arms/{arm}/*/metrics.jsonl")):
        rows = [row for row in read_jsonl(path) if "eval/validation/delta" in row]
        episodes = np.array([row["rollout/episodes"] for row in rows], dtype=float)
        for rate in PANELS:
            curves[rate].append(
                (episodes, 100 * np.array([row[f"eval/validation/{rate}"] for row in rows], dtype=float))
            )
    return curves


def learning_curves(folder: Path, arms: dict[str, str]) -> Path | None:
    """Greedy validation rates against sampled episodes: mean over seeds, every seed as a thin line.

    Args:
        folder: A comparison's folder.
        arms: Names by key, in the order of the legend.

    Returns:
        The PNG file, or ``None`` if no arm has a curve.
    """
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 4.6), constrained_layout=True)
    drawn = False
    for index, (arm, name) in enumerate(arms.items()):
        curves = validation_curves(folder, arm)
        for axis, rate in zip(axes, PANELS, strict=True):
            drawn |= _draw(axis, curves.get(rate, []), index, name)
    if not drawn:
        plt.close(figure)
        return None
    for axis, label in zip(axes, PANELS.values(), strict=True):
        axis.set_xlabel("sampled training episodes")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[-1].axhline(0, color="black", linewidth=0.8)
    axes[0].legend(fontsize=8)
    path = folder / "learning_curves.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _draw(axis: Any, seeds: list[tuple[np.ndarray, np.ndarray]], index: int, name: str) -> bool:
    seeds = [(x, y) for x, y in seeds if len(x) > 1]
    if not seeds:
        return False
    colour = _COLOURS[index % len(_COLOURS)]
    for x, y in seeds:
        axis.plot(x, y, color=colour, linewidth=0.6, alpha=0.5)
    shortest = min(len(x) for x, _ in seeds)
    mean = np.mean([y[:shortest] for _, y in seeds], axis=0)
    style = {"linestyle": _STYLES[index % len(_STYLES)], "marker": _MARKERS[index % len(_MARKERS)]}
    axis.plot(seeds[0][0][:shortest], mean, color=colour, linewidth=1.8, markersize=4, label=name, **style)
    return True


def deltas(folder: Path, lines: list[Any]) -> Path:
    """Delta of every arm with its interval and every seed as a dot."""
    figure, axis = plt.subplots(figsize=(8, 0.5 * len(lines) + 1.4), constrained_layout=True)
    for row, line in enumerate(reversed(lines)):
        delta = line.rates["delta"]
        axis.plot([100 * delta.low, 100 * delta.high], [row, row], color="black", linewidth=2)
        axis.plot(100 * delta.mean, row, "D", color="black", markersize=6)
        axis.plot(
            [100 * s.rates["delta"] for s in line.seeds], [row] * len(line.seeds), "o", mfc="none", color="tab:blue"
        )
    axis.set_yticks(range(len(lines)), [line.name for line in reversed(lines)])
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_xlabel("delta, attempt 2 - attempt 1 (points): mean, 95 % interval, one circle per seed")
    axis.grid(axis="x", alpha=0.3)
    path = folder / "deltas.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
