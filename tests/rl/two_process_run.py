"""A whole online run in each of two processes, for ``test_distributed.py``."""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(folder: Path) -> None:
    from experiments.online import run_online
    from rl.backends.distributed import Distributed
    from tests.rl.test_resume import SCORE, config, quiet

    distributed = Distributed(cpu=True)
    cfg = config(SCORE, save_every=1, save_every_updates=1)
    run_online(cfg, folder, quiet, distributed=distributed)
    distributed.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
