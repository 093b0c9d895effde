"""Trains with an offline method: ``python -m experiments.sft offline=star env=modchain``."""

from pathlib import Path

from experiments.cli import console, entry_point
from experiments.refusals import refuse_no_config
from rl.config import SFTConfig


def run(cfg: SFTConfig) -> Path:
    """Samples, filters, fine-tunes, evaluates and prints the results; returns the run's folder."""
    from experiments.arms import run_offline
    from experiments.folders import open_run
    from experiments.progress import shown_run
    from experiments.push import push, refuse_early

    refuse_no_config(cfg, SFTConfig, "sft")
    refuse_early(cfg.hub.repo)
    with open_run(cfg, "sft") as folder:
        shown_run(cfg, folder, cfg.offline.name, run_offline)
    if cfg.hub.repo is not None:
        console.print(f"published as {push(folder, cfg.hub.repo, cfg.hub.private)}", highlight=False)
    return folder


main = entry_point("sft")(run)

if __name__ == "__main__":
    main()
