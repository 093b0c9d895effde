"""Tuning without training: an executor that pretends, and configs that use it."""

import json
import math

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.cli import CONFIGS, register_schemas, typed
from experiments.executors import EXECUTORS

STARTED: list[str] = []


class Ended:
    def done(self):
        return True

    def exception(self):
        return None


@EXECUTORS.register("pretend")
class Pretend:
    """Executor that trains nothing: a trial is best at a learning rate of 4e-4, and crashes above 2e-3."""

    threads = 1

    def __init__(self, options, folder):
        pass

    def submit(self, folders):
        for folder in folders:
            job, config = json.loads((folder / "job.json").read_text()), OmegaConf.load(folder / "config.yaml")
            STARTED.append(job["arm"])
            rate = (config.get("offline") or config.get("algorithm")).optim.lr
            if rate > 2e-3:
                (folder / "error.txt").write_text("Traceback\nRunStoppedError: too fast")
                continue
            good = 1 - abs(math.log10(rate / 4e-4))
            greedy = {"accuracy_t1": 0.5, "accuracy_t2": good, "delta": good - 0.5}
            totals = {"episodes": 192, "updates": 3, "gradient_tokens": 10, "sampled_tokens": 20}
            (folder / "policy").mkdir(exist_ok=True)
            (folder / "policy" / "config.json").write_text("{}")
            (folder / "result.json").write_text(json.dumps({"greedy": greedy, "totals": totals}))
        return [Ended() for _ in folders]

    def stop(self):
        pass


@pytest.fixture
def make(tmp_path):
    register_schemas()
    STARTED.clear()

    def config(*overrides, program="tune"):
        with initialize_config_dir(CONFIGS, version_base=None):
            return typed(compose(program, list(overrides)))

    base = ["include=[star,score]", "executor=pretend", f"output={tmp_path}/tuned/mine.yaml"]
    return lambda *more, **given: config(*([] if given else base), *more, **given)
