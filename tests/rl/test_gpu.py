"""What only a GPU shows: ``pytest -m gpu`` on a machine that has one; vLLM's part where it is installed."""

import importlib.util

import pytest
import torch

from rl.config import AlgorithmConfig, EngineConfig, StageConfig
from tests.helpers import log_step, modchain_config, named

pytestmark = pytest.mark.gpu


def trainer_on_gpu(engine=None, **optim):
    from rl.backends.distributed import Distributed
    from rl.workbench import Workbench

    algorithm = AlgorithmConfig(name="x", group_size=4, stages=named(StageConfig()))
    cfg = modchain_config(algorithm=algorithm, episodes=96, **optim)
    cfg.engine = engine or EngineConfig()
    distributed = Distributed(mixed_precision=cfg.algorithm.optim.mixed_precision)
    assert distributed.device.type == "cuda"
    bench = Workbench.build(cfg, distributed)
    trainer = bench.trainer()
    return trainer, bench


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_on_a_gpu_measures_a_small_gap(fused, precision):
    trainer, bench = trainer_on_gpu(fused_head=fused, mixed_precision=precision)
    while not trainer.is_done:
        metrics, _ = log_step(trainer)
        assert metrics["policy/sampler_gap"] < (1e-3 if precision == "no" else 0.1)
    assert {p.dtype for p in bench.model.parameters()} == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("sleep_level", [0, 1, 2])
def test_vllm_samples_the_trainers_policy_also_after_sleep(sleep_level):
    engine = EngineConfig(name="vllm", sleep_level=sleep_level, gpu_memory_utilization=0.2, enforce_eager=True)
    trainer, bench = trainer_on_gpu(engine)
    while not trainer.is_done:
        metrics, _ = log_step(trainer)
        assert metrics["policy/sampler_gap"] < 1e-2
    bench.engine.close()
