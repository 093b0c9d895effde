"""Evaluates any model: ``python -m experiments.evaluate model=path model.path=runs/train/<time>/policy``."""

from pathlib import Path

from experiments.cli import entry_point
from experiments.refusals import refuse_no_config
from rl.config import RunConfig


def run(cfg: RunConfig) -> Path:
    """Evaluates a model and prints its rates; returns the run's folder."""
    from experiments.arms import run_base
    from experiments.folders import open_run
    from experiments.progress import shown_run

    refuse_no_config(cfg, RunConfig, "evaluate")
    with open_run(cfg, "evaluate") as folder:
        shown_run(cfg, folder, "evaluation", run_base)
    return folder


main = entry_point("evaluate")(run)

if __name__ == "__main__":
    main()
