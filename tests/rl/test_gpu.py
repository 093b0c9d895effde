"""Tests that need a GPU: ``pytest -m gpu`` on a machine with one; vLLM's test runs only if vLLM is installed."""

import importlib.util
import math

import pytest
import torch

from rl.config import AlgorithmConfig, EngineConfig, StageConfig
from tests.helpers import log_step, modchain_config, named

pytestmark = pytest.mark.gpu

PRESETS = ("grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp", "ppo", "ppo_shared", "score", "turn_ppo")
SMALL = {
    "env.options": {"n_train": 64, "n_validation": 16, "n_test": 16},
    "training": {"tasks_per_step": 8, "keep_episodes": 2, "validate_every": 2},
    "evaluation": {"samples_per_task": 2},
}


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


def online(tmp_path, name, *overrides):
    """Makes a whole run of ``experiments.train`` on the GPU and returns its metrics."""
    from experiments.configs import config
    from experiments.online import run_online
    from rl.tracking import read_jsonl

    cfg = config("train", *overrides, env="modchain", algorithm=name, threads=1, **SMALL)
    (tmp_path / "run").mkdir(exist_ok=True)
    before = torch.cuda.memory_stats().get("allocated_bytes.all.allocated", 0)  # no entry before the first allocation
    run_online(cfg, tmp_path / "run", lambda *_: None)
    assert torch.cuda.memory_stats()["allocated_bytes.all.allocated"] > before
    return read_jsonl(tmp_path / "run" / "metrics.jsonl")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_validates_and_evaluates(name, tmp_path):
    rows = online(tmp_path, name, "training.episodes=512")
    losses = [row["policy/sampler_gap"] for row in rows if "policy/sampler_gap" in row]
    assert losses
    assert all(math.isfinite(value) and value < 1e-3 for value in losses)
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.optim.gradient_checkpointing=true"],
        ["model.lora.rank=4"],
        ["algorithm.optim.mixed_precision=bf16", "algorithm.optim.micro_batch_tokens=256"],
        ["model.dtype=bfloat16"],
    ],
    ids=["checkpointing", "lora", "bf16", "weights in bfloat16"],
)
def test_what_saves_memory_trains(overrides, tmp_path):
    if "model.lora.rank=4" in overrides:
        pytest.importorskip("peft")
    rows = online(tmp_path, "rloo", "training.episodes=256", *overrides)
    norms = [row["optim/grad_norm"] for row in rows if "optim/grad_norm" in row]
    assert norms
    assert all(map(math.isfinite, norms))


def test_replayed_steps_sample_what_the_others_do(modchain):
    from rl.backends.engine_hf import HFEngine
    from tests.rl.test_engine_hf import over_two_turns

    model, tokenizer, renderer = modchain
    model, ends = model.to("cuda"), tokenizer.convert_tokens_to_ids(["3", "7"])
    try:
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        grown, replayed = (HFEngine(model, ends, renderer.pad_id, replays=on) for on in (False, True))
        expected = over_two_turns(grown, renderer)
        for _ in range(30):  # graphs of earlier batches must free their memory
            found = over_two_turns(replayed, renderer)
            for left, right in zip(expected, found, strict=True):
                assert left.action_ids == right.action_ids
                assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
        assert replayed._replays.possible
        assert torch.cuda.memory_reserved() < held + 2**32
    finally:
        model.to("cpu")


def test_a_step_that_waits_for_the_device_is_not_captured(modchain, monkeypatch):
    from rl.backends.engine_hf import HFEngine
    from rl.backends.replay import FixedStep
    from tests.rl.test_engine_hf import over_two_turns

    model, tokenizer, renderer = modchain
    model, ends = model.to("cuda"), tokenizer.convert_tokens_to_ids(["3", "7"])
    step = FixedStep._step
    try:
        expected = over_two_turns(HFEngine(model, ends, renderer.pad_id, replays=False), renderer)
        engine = HFEngine(model, ends, renderer.pad_id, replays=True)
        monkeypatch.setattr(FixedStep, "_step", lambda self: (self._column.item(), step(self))[1])
        with pytest.warns(UserWarning, match="synchronizing"):
            found = over_two_turns(engine, renderer)
        assert [one.action_ids for one in found] == [one.action_ids for one in expected]
        assert torch.cuda.get_sync_debug_mode() == 0
        torch.cuda.empty_cache()  # raises if a capture is still running
    finally:
        model.to("cpu")


@pytest.mark.parametrize("name", ["star", "dpo", "iterated_rft"])
def test_offline_methods_train(name, tmp_path):
    from experiments.arms import run_offline
    from experiments.configs import config

    cfg = config("sft", env="modchain", offline=name, threads=1, **(SMALL | {"training": {"episodes": 512}}))
    result = run_offline(cfg, tmp_path, lambda *_: None)
    assert result.totals["updates"] > 0


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("sleep_level", [0, 1, 2])
def test_vllm_samples_the_trainers_policy_also_after_sleep(sleep_level):
    engine = EngineConfig(name="vllm", sleep_level=sleep_level, gpu_memory_utilization=0.2, enforce_eager=True)
    trainer, bench = trainer_on_gpu(engine)
    while not trainer.is_done:
        metrics, _ = log_step(trainer)
        assert metrics["policy/sampler_gap"] < 1e-2
    bench.engine.close()
