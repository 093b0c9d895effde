"""Evaluation of any model: ``python -m experiments.evaluate model=path model.path=runs/train/<time>/policy``."""

from experiments.cli import console, entry_point, resolved_yaml
from rl.config import RunConfig


@entry_point("evaluate")
def main(cfg: RunConfig) -> None:
    """Evaluates a model and prints the rates."""
    from experiments.arms import run_base
    from experiments.folders import open_run
    from experiments.progress import Display
    from rl.tracking import describe_run

    with open_run(cfg, "evaluate") as folder:
        describe_run(folder, resolved_yaml(cfg))
        with Display(console) as display:
            result = run_base(cfg, folder, display.reporter("evaluation"))
        display.summary(result, folder)


if __name__ == "__main__":
    main()
