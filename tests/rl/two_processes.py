"""Run by each of two processes in ``test_distributed.py``; environment variables give each process its rank."""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(folder: Path) -> None:
    from rl.backends.weights import full_state
    from tests.rl.test_distributed import ALGORITHMS, learner_after_one_update

    for kind in ALGORITHMS:
        learner, metrics = learner_after_one_update(kind)
        state = full_state(learner.model)  # a collective: both processes gather
        if learner._distributed.is_main:
            torch.save({"weights": state, "metrics": metrics}, folder / f"{kind}.pt")
        learner._distributed.wait()
    learner._distributed.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
