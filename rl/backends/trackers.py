"""Dashboards through accelerate: tensorboard, wandb, trackio."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from rl.config import TrackingConfig


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
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(f"tracking.backends: {name} is not installed; pip install {name}")
            kind = LOGGER_TYPE_TO_CLASS[name]
            tracker = kind("", str(folder)) if kind.requires_logging_directory else kind(config.project)
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
