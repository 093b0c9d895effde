"""A whole online run in each of two processes, for ``test_distributed.py``."""

import os
import signal
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(folder: Path, algorithm: str = "SCORE", signal_at: int = 0) -> None:
    """Runs to the end; the second process alone gets a signal in step ``signal_at``, unless that is 0."""
    from experiments.online import run_online
    from experiments.stopping import EXIT_PREEMPTED, Preempted
    from rl.backends.distributed import Distributed
    from rl.trainer import Trainer
    from tests.rl import resuming, test_curriculum

    distributed = Distributed(cpu=True)
    if algorithm == "CURRICULUM":
        cfg = test_curriculum.curriculum()
    else:
        cfg = resuming.config(getattr(resuming, algorithm), save_every=1, save_every_updates=1)
    folder.mkdir(exist_ok=True)
    update = Trainer.train_step

    def signalled(self, *args):
        if distributed.rank == 1 and self.step + 1 == signal_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return update(self, *args)

    Trainer.train_step = signalled
    try:
        run_online(cfg, folder, resuming.quiet, distributed=distributed)
    except Preempted:
        distributed.close()
        sys.exit(EXIT_PREEMPTED)
    distributed.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:]))
