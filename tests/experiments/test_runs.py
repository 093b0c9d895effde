"""Entry points other than the comparison, run from the command line on the embedded model."""

import json
import subprocess
import sys

import pytest

from rl.tracking import read_jsonl
from tests import programs
from tests.conftest import ROOT

SMALL = [
    "env.options.n_train=64",
    "env.options.n_validation=10",
    "env.options.n_test=20",
    "training.episodes=192",
    "training.tasks_per_step=8",
    "evaluation.samples_per_task=2",
]


def run(module, *arguments, **kwargs):
    return programs.run(f"experiments.{module}", *arguments, **kwargs)


def test_train_then_evaluate_the_policy(tmp_path):
    done = run("train", f"runs_dir={tmp_path}", "algorithm=reinforce", "algorithm.group_size=1", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "acc@t1" in done.stdout
    (folder,) = (tmp_path / "train").iterdir()
    steps = [r for r in read_jsonl(folder / "metrics.jsonl") if "policy/loss" in r]
    assert len(steps) == 192 // 8
    assert {"rollout/env_error", "rollout/no_answer_t1", "policy/kl_ref_t2", "time/verification"} <= set(steps[0])
    episode = read_jsonl(folder / "episodes.jsonl")[0]
    assert len(episode["turns"][1]["action_ids"]) == len(episode["turns"][1]["sampler_logprobs"])
    info = json.loads((folder / "run.json").read_text())
    assert info["packages"]["trl"] == "1.16.0"

    evaluated = run(
        "evaluate", f"runs_dir={tmp_path}", "model=path", f"model.path={folder}/policy", *SMALL[:3], SMALL[-1]
    )
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    (second,) = (tmp_path / "evaluate").iterdir()
    results = [json.loads((path / "result.json").read_text()) for path in (folder, second)]
    assert results[0]["greedy"] == results[1]["greedy"]  # the saved policy is the trained one
    assert results[0]["sampled"] == results[1]["sampled"]


@pytest.mark.slow
def test_multirun_sweeps(tmp_path):
    small = [argument for argument in SMALL if "tasks_per_step" not in argument]  # offline rounds have no steps
    done = run("sft", "-m", f"runs_dir={tmp_path}", "offline=star_plus,pair_sft", "offline.iterations=1", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    results = sorted((tmp_path / "sft").glob("*_multirun/*/result.json"))
    assert [json.loads(path.read_text())["arm"] for path in results] == ["STaR+", "Pair-SFT"]


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    import signal
    import time

    command = [
        sys.executable,
        "-m",
        "experiments.train",
        f"runs_dir={tmp_path}",
        "training.episodes=1000000",
        *SMALL[:3],
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        # A shell's background job, as this test may be, ignores Ctrl-C, and its children would inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while process.poll() is None:
        metrics = list(tmp_path.glob("train/*/metrics.jsonl"))
        if metrics and len(metrics[0].read_text().splitlines()) > 2:
            break
        time.sleep(0.2)
    output = ""
    for _ in range(4):  # the signal can get lost, so it is sent again, but late enough for the program to save
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=60)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130, output
    assert "interrupted" in output
    (folder,) = (tmp_path / "train").iterdir()
    assert (folder / "policy_interrupted" / "model.safetensors").exists()
    assert not (folder / "result.json").exists()


def test_a_person_can_write_a_program_of_several_lines():
    program = "```python\ndef f(xs):\n    return xs[99]\n```\n"
    done = run("play", "env=tinycode", input=2 * program)
    assert "IndexError" in done.stdout  # the result of the visible tests, shown between the attempts
    assert "answer def f(xs):" in done.stdout
    assert "return xs[99]" in done.stdout  # rich would read brackets as markup
    assert "1 episode," in done.stdout


def test_a_person_can_play():
    done = run("play", input=": 1\n: 2\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "check" in done.stdout
    assert "1 episode," in done.stdout


@pytest.mark.slow
def test_pretraining_makes_a_model_that_loads(tmp_path):
    for toy in ("modchain", "addition", "repair", "mend"):
        done = run("pretrain_tiny", f"toy={toy}", "steps=5", "batch_size=8", f"output={tmp_path / toy}")
        assert done.returncode == 0, done.stdout + done.stderr
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(tmp_path / toy)
        assert sum(p.numel() for p in model.parameters()) < 1_000_000
        assert AutoTokenizer.from_pretrained(tmp_path / toy).chat_template
