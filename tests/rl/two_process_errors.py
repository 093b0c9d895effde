"""For ``test_distributed.py``: makes the second of two processes fail and records what each of the two raises."""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(folder: Path) -> None:
    """Runs the cases in turn; both processes begin each case together, so a hang in any case would be noticed."""
    from experiments.arms import ArmResult, Validation, finish
    from rl.backends.distributed import Distributed
    from rl.types import RunStoppedError
    from rl.workbench import Workbench
    from tests.rl import resuming

    distributed, raised = Distributed(cpu=True), {}
    cfg = resuming.config(resuming.SCORE)
    bench = Workbench.build(cfg, distributed)
    engine = bench.engine

    def memory(*_):
        raise RuntimeError("the engine is out of memory")

    @contextmanager
    def case(name: str, method: str, fails=memory):
        if distributed.rank == 1:
            setattr(engine, method, fails)
        try:
            yield bench.trainer()
            raised[name] = "nothing"
        except (RuntimeError, RunStoppedError) as error:
            raised[name] = f"{type(error).__name__}: {error}"
        vars(engine).pop(method, None)
        engine.close()

    for name, method in (("sample", "submit"), ("sleep", "sleep"), ("weights", "load_weights")):
        with case(name, method) as trainer:
            trainer.train_step()
    engine.load_weights((), 0)
    with case("version", "load_weights", lambda *_: None) as trainer:
        trainer.train_step()
        trainer.train_step()
    with case("validation", "submit"):
        Validation(bench, resuming.quiet).log(None, 0, 0)
    with case("evaluation", "submit"):
        finish(ArmResult("x", 0), bench, folder, resuming.quiet, (0.0, 0.0))
    (folder / f"{distributed.rank}.json").write_text(json.dumps(raised))
    distributed.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
