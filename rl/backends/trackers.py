"""Logging to dashboards through accelerate: tensorboard, wandb, trackio."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from rewards import Lookup
from rl.config import TrackingConfig

LONG = ("prompt", "answer")
"""Columns of a table that hold long texts."""

TRACKERS: Lookup[Callable[[str, Path], GeneralTracker]] = Lookup("tracking.backends")
"""Functions ``(project, folder of the run) -> tracker`` by name. The fact ``package`` names the package that must be
installed; ``table`` is a function ``(tracker, name, rows, step)`` that shows a table, if the dashboard can."""

Rows = Sequence[Mapping[str, Any]]


def _as_text(tracker: Any, name: str, rows: Rows, step: int) -> None:
    """Shows a table as Markdown: every row has its short columns in bold, and its long texts as blocks."""
    parts = []
    for row in rows:
        short = ", ".join(f"{key} {value}" for key, value in row.items() if key not in LONG)
        blocks = ["    " + str(row[key]).replace("\n", "\n    ") for key in LONG if key in row]
        parts.append("\n\n".join([f"**{short}**", *blocks]))
    tracker.tracker.add_text(name, "\n\n---\n\n".join(parts), step)
    tracker.tracker.flush()


def _as_wandb_table(tracker: Any, name: str, rows: Rows, step: int) -> None:
    tracker.log_table(name, columns=list(rows[0]), data=[list(row.values()) for row in rows], step=step)


def _as_trackio_table(tracker: Any, name: str, rows: Rows, step: int) -> None:
    import pandas

    trackio = importlib.import_module("trackio")
    tracker.log({name: trackio.Table(dataframe=pandas.DataFrame([dict(row) for row in rows]))}, step=step)


@TRACKERS.register("tensorboard", package="tensorboard", table=_as_text)
def tensorboard(project: str, folder: Path) -> GeneralTracker:
    """Event files in the run's folder."""
    return TensorBoardTracker("", str(folder))


@TRACKERS.register("wandb", package="wandb", table=_as_wandb_table)
def wandb(project: str, folder: Path) -> GeneralTracker:
    """Weights & Biases."""
    return WandBTracker(project)


@TRACKERS.register("trackio", package="trackio", table=_as_trackio_table)
def trackio(project: str, folder: Path) -> GeneralTracker:
    """Trackio, a local dashboard."""
    return TrackioTracker(project)


class Trackers:
    """Sends metrics to the dashboards of a config.

    Args:
        config: The tracking config, which names the dashboards.
        folder: Folder of the run, into which tensorboard writes.
        run_config: The resolved config as a flat mapping, stored with the run.

    Raises:
        ModuleNotFoundError: If the package of a dashboard is not installed.
    """

    def __init__(self, config: TrackingConfig, folder: Path, run_config: Mapping[str, Any]) -> None:
        self._trackers: list[GeneralTracker] = []
        self._names = list(config.backends)
        for name in config.backends:
            package = TRACKERS.fact(name, "package")
            if package is not None and importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"tracking.backends: {package} is not installed; pip install {package}")
            tracker = TRACKERS[name](config.project, folder)
            tracker.start()
            tracker.store_init_configuration({key: _plain(value) for key, value in run_config.items()})
            self._trackers.append(tracker)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of one step to all dashboards."""
        for tracker in self._trackers:
            tracker.log(dict(metrics), step=step)

    def table(self, name: str, rows: Rows, step: int) -> None:
        """Sends a table, whose rows have the same columns, to the dashboards that can show tables."""
        for backend, tracker in zip(self._names, self._trackers, strict=True):
            show = TRACKERS.fact(backend, "table")
            if show is not None:
                show(tracker, name, rows, step)

    def close(self) -> None:
        """Flushes and ends the run on every dashboard."""
        for tracker in self._trackers:
            tracker.finish()


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) else str(value)
