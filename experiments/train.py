"""Online RL: ``python -m experiments.train algorithm=score env=modchain seed=1``."""

from experiments.arms import run_online
from experiments.cli import console, entry_point, resolved_yaml, run_folder
from experiments.progress import Display
from rl.config import TrainConfig
from rl.tracking import describe_run


@entry_point("train")
def main(cfg: TrainConfig) -> None:
    """Trains, evaluates, and prints what came out."""
    folder = run_folder()
    describe_run(folder, resolved_yaml(cfg))
    with Display(console) as display:
        result = run_online(cfg, folder, display.reporter(cfg.algorithm.name))
    display.summary(result, folder)


if __name__ == "__main__":
    main()
