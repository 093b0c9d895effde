"""Trains with online RL: ``python -m experiments.train algorithm=score env=modchain seed=1``."""

from functools import partial
from pathlib import Path

from experiments.cli import console, entry_point
from experiments.refusals import refuse_no_config
from rl.config import TrainConfig


def run(cfg: TrainConfig) -> Path:
    """Trains, evaluates and prints the results; returns the run's folder."""
    from experiments.folders import is_complete, open_run
    from experiments.online import run_online
    from experiments.progress import shown_run
    from experiments.push import push, refuse_early
    from experiments.stopping import Preempted
    from rl.backends.distributed import Distributed

    # The imports are inside the function because they load torch, which would slow down --help and completion. Whether
    # the policy can be published is checked before training, not only after hours of it.
    refuse_no_config(cfg, TrainConfig, "train")
    refuse_early(cfg.hub.repo)
    distributed = Distributed(mixed_precision=cfg.algorithm.optim.mixed_precision)
    try:
        with open_run(cfg, "train", distributed) as folder:
            if distributed.is_main:
                shown_run(cfg, folder, cfg.algorithm.name, partial(run_online, distributed=distributed))
            elif not is_complete(folder):
                run_online(cfg, folder, lambda *_: None, distributed=distributed)
    except Preempted:  # Every process gets here, so the collective shutdown in close() cannot hang.
        distributed.close()
        raise
    distributed.close()
    if cfg.hub.repo is not None and distributed.is_main:
        console.print(f"published as {push(folder, cfg.hub.repo, cfg.hub.private)}", highlight=False)
    return folder


main = entry_point("train")(run)

if __name__ == "__main__":
    main()
