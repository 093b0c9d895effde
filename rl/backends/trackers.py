"""Dashboards through accelerate: tensorboard, wandb, trackio."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from rewards import Lookup
from rl.config import TrackingConfig

TRACKERS: Lookup[Callable[[str, Path], GeneralTracker]] = Lookup("tracking.backends")
"""``(project, folder of the run) -> tracker``, by name. ``package=`` names what must be installed for it."""


@TRACKERS.register("tensorboard", package="tensorboard")
def tensorboard(project: str, folder: Path) -> GeneralTracker:
    """Event files in the run's folder."""
    return TensorBoardTracker("", str(folder))


@TRACKERS.register("wandb", package="wandb")
def wandb(project: str, folder: Path) -> GeneralTracker:
    """Weights & Biases."""
    return WandBTracker(project)


@TRACKERS.register("trackio", package="trackio")
def trackio(project: str, folder: Path) -> GeneralTracker:
    """Trackio, a dashboard of this machine."""
    return TrackioTracker(project)


class Trackers:
    """Sends metrics to the dashboards of a config.

    Args:
        config: Which ones.
        folder: Of the run; tensorboard writes into it.
        run_config: The resolved config, flat, stored with the run.

    Raises:
        ModuleNotFoundError: If one of them is not installed.
    """

    def __init__(self, config: TrackingConfig, folder: Path, run_config: Mapping[str, Any]) -> None:
        self._trackers: list[GeneralTracker] = []
        for name in config.backends:
            package = TRACKERS.fact(name, "package")
            if package is not None and importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"tracking.backends: {package} is not installed; pip install {package}")
            tracker = TRACKERS[name](config.project, folder)
            tracker.start()
            tracker.store_init_configuration({key: _plain(value) for key, value in run_config.items()})
            self._trackers.append(tracker)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics."""
        for tracker in self._trackers:
            tracker.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flushes and ends the runs."""
        for tracker in self._trackers:
            tracker.finish()


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) else str(value)
