"""An offline arm: ``python -m experiments.sft offline=star env=modchain``."""

from experiments.cli import console, entry_point, resolved_yaml
from rl.config import SFTConfig


@entry_point("sft")
def main(cfg: SFTConfig) -> None:
    """Samples, keeps, fine-tunes, evaluates, and prints what came out."""
    from experiments.arms import run_offline
    from experiments.folders import is_complete, open_run
    from experiments.progress import Display
    from experiments.push import push, refuse_early
    from rl.tracking import describe_run

    refuse_early(cfg.hub.repo)
    with open_run(cfg, "sft") as folder:
        if is_complete(folder):
            console.print(f"the run in {folder} is finished", highlight=False)
            return
        describe_run(folder, resolved_yaml(cfg))
        with Display(console) as display:
            result = run_offline(cfg, folder, display.reporter(cfg.offline.name))
        display.summary(result, folder)
    if cfg.hub.repo is not None:
        console.print(f"published as {push(folder, cfg.hub.repo, cfg.hub.private)}", highlight=False)


if __name__ == "__main__":
    main()
