"""Two processes with unequal parts of a rollout batch make the same update as one process with the whole batch."""

import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rl.backends.distributed import Distributed
from rl.config import (
    AlgorithmConfig,
    CriticConfig,
    LoraConfig,
    ModelConfig,
    StageConfig,
    TermConfig,
)
from rl.learner import Learner
from rl.tracking import read_jsonl
from rl.types import RolloutBatch
from rl.workbench import Workbench
from tests import programs
from tests.conftest import ROOT
from tests.helpers import modchain_config
from tests.rl.resuming import TWICE, config, play, without_times

STAGES = {"main": StageConfig(reward_weights=[1.0, 1.0], progress_alpha=1.0, kl_coefs=[0.1, 0.2])}
ALGORITHMS = {
    "rloo": AlgorithmConfig(name="rloo", group_size=4, stages=STAGES, kl="full"),
    "ppo": AlgorithmConfig(
        name="ppo",
        group_size=4,
        advantage="gae",
        critic=CriticConfig("separate"),
        normaliser="tokens",
        whiten=True,
        advantage_options={"turn_gamma": 1.0, "lam": 0.95},
        stages=STAGES,
        terms={"entropy": TermConfig(weight=0.01)},
    ),
    "shared": AlgorithmConfig(
        name="shared", group_size=4, advantage="turn_gae", critic=CriticConfig("shared"), stages=STAGES
    ),
    "reinforce_pp": AlgorithmConfig(
        name="reinforce_pp", advantage="reinforce_pp", group_size=1, stages=STAGES, minibatches=1, epochs=2
    ),
    "lora": AlgorithmConfig(name="lora", group_size=4, stages=STAGES),
    "masks": AlgorithmConfig(
        name="masks", group_size=4, stages=STAGES, token_mask="entropy", token_mask_options={"share": 0.4}
    ),
    "covariance": AlgorithmConfig(
        name="covariance",
        group_size=4,
        stages=STAGES,
        epochs=2,
        token_mask="clip_cov",
        token_mask_options={"share": 0.2, "low": 0.0},
    ),
}


def rollout_batch() -> RolloutBatch:
    """Twelve random episodes in three groups, of very different lengths; no policy is needed to sample them."""
    generator = torch.Generator().manual_seed(0)
    n_rows, width = 12, 40
    input_ids = torch.randint(4, 20, (n_rows, width), generator=generator)
    turn_ids = torch.full((n_rows, width), -1)
    attention = torch.zeros(n_rows, width, dtype=torch.bool)
    for row in range(n_rows):
        first, second = 2 + row // 4 * 3 + row % 4, 1 + row % 3  # later groups are far longer
        start = 5 + row // 2
        turn_ids[row, start : start + first] = 0
        turn_ids[row, start + first + 2 : start + first + 2 + second] = 1
        attention[row, : start + first + 2 + second] = True
    input_ids[~attention] = 0
    mask = turn_ids >= 0
    return RolloutBatch(
        input_ids=input_ids,
        attention_mask=attention,
        response_mask=mask,
        turn_ids=turn_ids,
        sampler_logprobs=torch.where(mask, -1.0, 0.0),
        rewards=torch.rand(n_rows, 2, generator=generator).round(decimals=1),
        n_turns=torch.full((n_rows,), 2),
        group_ids=torch.arange(n_rows) // 4,
        compared=torch.ones(n_rows, 2, dtype=torch.bool),
    )


def learner_after_one_update(kind: str) -> tuple[Learner, dict[str, float]]:
    """A learner after one update per epoch on this process's part of the batch, and the metrics of the last update.

    Of two processes, the first gets groups 0 and 1, the second group 2.
    """
    from rl.backends.policy import load_policy

    torch.manual_seed(0)
    cfg = modchain_config(algorithm=ALGORITHMS[kind])
    cfg.algorithm.optim.micro_batch_tokens = 120  # several micro-batches, and not the same number on both processes
    lora = LoraConfig(rank=4) if kind == "lora" else LoraConfig()
    cfg.model = ModelConfig(path=str(ROOT / "models" / "modchain"), lora=lora)
    model, _ = load_policy(cfg.model)
    if kind == "lora":
        with torch.no_grad():  # with B = 0 the update would not change A
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(0.01 * torch.sin(torch.arange(parameter.numel()).view_as(parameter)))
    distributed = Distributed(cpu=True)
    learner = Learner(cfg, model, 0, distributed)
    (stage,) = cfg.algorithm.resolved(2)
    learner.enter_stage(stage, 10, is_first=True)
    batch = rollout_batch()
    if distributed.n_processes == 2:
        batch = batch.rows(range(8) if distributed.rank == 0 else range(8, 12))
    train = learner.score(batch, stage)
    for _ in range(cfg.algorithm.epochs):
        sums = learner.update(train, stage)
    return learner, learner.measured([sums]).log


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two(script: str, arguments: list[str], fsdp: bool, cwd: Path = ROOT, status: int = 0) -> None:
    """Runs a script in two gloo processes, with the environment variables that ``accelerate launch`` sets."""
    port = str(free_port())
    folder = Path(tempfile.mkdtemp())
    processes, errors = [], [folder / f"stderr{rank}" for rank in range(2)]
    for rank in range(2):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "ACCELERATE_USE_CPU": "true",
            "ACCELERATE_USE_FSDP": str(fsdp).lower(),
            "FSDP_VERSION": "2",
            "OMP_NUM_THREADS": "1",
        }
        streams = [Path(os.devnull), folder / f"stdout{rank}", errors[rank]]
        processes.append(programs.start(programs.program, script, arguments, cwd, env, streams))
    try:
        for process in processes:
            process.join(600)
    finally:  # if a process hangs, neither of the two may outlive the test
        for process in processes:
            process.kill()
    said = "\n".join(path.read_text()[-3000:] for path in errors)
    shutil.rmtree(folder)
    assert [process.exitcode for process in processes] == [status, status], said


@pytest.fixture(scope="module", params=[False, True], ids=["ddp", "fsdp2"])
def updated(request, tmp_path_factory):
    """Weights and metrics of every kind of algorithm after an update in two processes, which run all kinds in turn."""
    folder = tmp_path_factory.mktemp("updated")
    run_two("tests.rl.two_processes", [str(folder)], request.param)
    return {kind: torch.load(folder / f"{kind}.pt") for kind in ALGORITHMS}


@pytest.mark.parametrize("kind", list(ALGORITHMS))
def test_two_processes_equal_one(kind, updated):
    """Float32 weights agree within 1e-6, although episode lengths and numbers of micro-batches differ by process."""
    before = base_weights()
    learner, alone = learner_after_one_update(kind)
    from rl.backends.weights import full_state

    expected = full_state(learner.model)
    assert max((expected[name] - before[name]).abs().max() for name in before) > 1e-4, "the update moved something"
    got = updated[kind]
    assert got["weights"].keys() == expected.keys()
    assert max((got["weights"][name] - expected[name]).abs().max().item() for name in expected) < 1e-6
    for name, value in alone.items():
        assert got["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def base_weights():
    from rl.backends.policy import load_policy

    model, _ = load_policy(ModelConfig(path=str(ROOT / "models" / "modchain")))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_a_whole_run_of_two_processes_resumes_exactly(fsdp, tmp_path):
    """A SCoRe run that loses its last checkpoint repeats the last step and ends with the same policy, byte for byte."""
    run_two("tests.rl.two_process_run", [str(tmp_path)], fsdp)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["totals"]["episodes"] == 96
    assert len(read_jsonl(tmp_path / "rows.jsonl")) == 60  # 20 tasks, each once greedy and twice sampled
    first = (tmp_path / "policy" / "model.safetensors").read_bytes()
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    (tmp_path / "result.json").unlink()
    run_two("tests.rl.two_process_run", [str(tmp_path)], fsdp)
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_a_signal_to_one_process_ends_both_at_the_same_step_and_one_process_goes_on(fsdp, tmp_path):
    """A signal to one process stops both after the same optimiser step, and a single process can resume the run.

    The signal is sent in the third of six batches, and the run stops after the first of the batch's two optimiser
    steps. The single process gets the rows of both and ends as if it had run alone from the start.
    """
    whole, _ = play(config(TWICE, save_every=1, save_every_updates=1), tmp_path / "whole")
    folder = tmp_path / "two"
    folder.mkdir()
    run_two("tests.rl.two_process_run", [str(folder), "TWICE", "3"], fsdp, status=75)
    newest = max(path.name for path in (folder / "checkpoints").iterdir())
    assert newest == "000002_00000005"
    resumed, _ = play(config(TWICE, save_every=1, save_every_updates=1), folder)
    assert (resumed - whole).abs().max() < 1e-5
    rows = [[without_times(row) for row in read_jsonl(path / "metrics.jsonl")] for path in (tmp_path / "whole", folder)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for one, two in zip(*rows, strict=True):
        # Values that are no numbers (counts by kind, null for a rate without data) must be equal, numbers only close.
        exact = [name for name, value in one.items() if not isinstance(value, int | float)]
        assert [two.pop(name) for name in exact] == [one.pop(name) for name in exact]
        assert two == pytest.approx(one, rel=1e-2, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("fsdp", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ddp", "fsdp2"])
def test_two_processes_go_on_where_one_was(fsdp, tmp_path):
    cfg = config(TWICE, save_every=1, save_every_updates=1)
    whole, _ = play(cfg, tmp_path / "whole")
    play(cfg, tmp_path / "one", stop_after=5)
    run_two("tests.rl.two_process_run", [str(tmp_path / "one"), "TWICE"], fsdp)
    weights = load_file(tmp_path / "one" / "policy" / "model.safetensors")
    model = Workbench.build(cfg).model
    resumed = torch.cat([weights[name].flatten() for name, _ in model.named_parameters()])
    assert (resumed - whole).abs().max() < 1e-5


def test_kinds_that_are_not_supported_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"fsdp2\.yaml"):
        Distributed(cpu=True)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="FSDP 1"):
        Distributed(cpu=True)


def test_an_error_of_one_process_ends_all_of_them(tmp_path):
    """If the engine of the second process fails, the first must stop too, or it would wait in the next collective."""
    run_two("tests.rl.two_process_errors", [str(tmp_path)], fsdp=False)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    stale = second.pop("version")
    assert stale.startswith("RunStoppedError: task ")
    assert "was sampled by version 0 of the weights, but the trainer is at version 1" in stale
    assert set(second.values()) == {"RuntimeError: the engine is out of memory"}
    said = "RunStoppedError: another process failed, so this one cannot continue: process 1: "
    assert first.pop("version") == said + stale
    assert first == dict.fromkeys(second, f"{said}RuntimeError: the engine is out of memory")
    assert set(first) == {"sample", "sleep", "weights", "validation", "evaluation"}
