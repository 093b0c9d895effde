"""Upload of policies to a stub hub: the card says what a reader must know, and a failed upload loses nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.cli import UserError, resolved_yaml
from experiments.online import run_online
from experiments.push import model_card, push, refuse_early
from rl.config import AlgorithmConfig, HubConfig
from rl.tracking import describe_run
from tests.conftest import ROOT
from tests.helpers import modchain_config

COMMAND = ["experiments/train.py", "algorithm=score", "seed=3", "env.prompts_text.retry=try again"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of two steps."""
    cfg = modchain_config(seed=3, algorithm=AlgorithmConfig(name="SCoRe", group_size=4))
    folder = tmp_path_factory.mktemp("push") / "run"
    folder.mkdir()
    describe_run(folder, resolved_yaml(cfg), COMMAND)
    run_online(cfg, folder, lambda *_: None)
    return folder


class Hub:
    """Stub of ``HfApi`` that records the calls, and raises ``fails`` on upload."""

    def __init__(self, fails=None):
        self.calls, self._fails = [], fails

    def __call__(self):
        return self

    def create_repo(self, repo, **kwargs):
        self.calls.append((repo, kwargs))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, *, repo_id, folder_path, **_):
        if self._fails is not None:
            raise self._fails
        self.calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_for_tests")
    return hub


def test_the_card_says_base_arm_rates_command_and_config(folder):
    card, result = model_card(folder), json.loads((folder / "result.json").read_text())
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "transformers"
    assert "base_model" not in metadata, "a folder of this machine is no model of the hub"
    assert "modchain" in metadata["tags"]
    measured = {row["name"]: row["value"] for row in metadata["model-index"][0]["results"][0]["metrics"]}
    assert measured["greedy accuracy_t2"] == result["greedy"]["accuracy_t2"]
    assert f"| `accuracy_t2` | {100 * result['greedy']['accuracy_t2']:.1f} |" in body
    assert "| arm | SCoRe, seed 3 |" in body
    assert "models/modchain`" in body
    assert "'env.prompts_text.retry=try again'" in body, "the command can be pasted"
    assert "group_size: 4" in body
    assert "64, " in body.split("sampled episodes, optimiser steps |")[1].splitlines()[0]


def test_a_model_of_the_hub_is_named_as_base(folder, tmp_path):
    for name in ("run.json", "result.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    text = (folder / "config.yaml").read_text().replace(str(ROOT / "models" / "modchain"), "Qwen/Qwen2.5-0.5B")
    (tmp_path / "config.yaml").write_text(text)
    assert "base_model: Qwen/Qwen2.5-0.5B" in model_card(tmp_path)


def test_policy_and_card_are_uploaded_together(folder, hub):
    assert push(folder, "me/mine", private=True) == "https://huggingface.co/me/mine"
    (created, uploaded) = hub.calls
    assert created == ("me/mine", {"private": True, "exist_ok": True})
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(uploaded[1])


def test_a_hub_that_fails_costs_nothing_and_says_how_to_try_again(folder, hub):
    before = (folder / "policy" / "model.safetensors").read_bytes()
    hub._fails = OSError("503 Server Error\nwith a page of HTML")
    with pytest.raises(UserError, match=r"me/mine: the hub refused the policy: 503 Server Error\. The run is comp"):
        push(folder, "me/mine", private=False)
    with pytest.raises(UserError, match=rf"experiments\.push run={folder} repo=me/mine private=false$"):
        push(folder, "me/mine", private=False)
    assert (folder / "policy" / "model.safetensors").read_bytes() == before


def test_without_a_token_nothing_begins(folder, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refuse_early(None)
    with pytest.raises(UserError, match=r"no token for the Hugging Face hub\. Run `hf auth login` or set HF_TOKEN"):
        refuse_early("me/mine")
    with pytest.raises(UserError, match=r"no token.*The run is complete"):
        push(folder, "me/mine", private=True)
    assert hub.calls == []


def test_what_is_no_finished_run_is_no_policy(folder, tmp_path, hub):
    with pytest.raises(UserError, match=r"no finished run there: run\.json is missing"):
        push(tmp_path, "me/mine", private=True)
    for name in ("run.json", "result.json", "config.yaml"):
        (tmp_path / name).write_text((folder / name).read_text())
    with pytest.raises(UserError, match="there is no policy in it"):
        push(tmp_path, "me/mine", private=True)


@pytest.mark.parametrize("repo", ["mine", "/mine", "me/", "me/my/own"])
def test_names_that_are_none_are_refused(repo):
    with pytest.raises(ValueError, match=r"hub\.repo=.*: write it as <owner>/<name>"):
        HubConfig(repo)
    with pytest.raises(ValueError, match=r"hub\.private=False: has no effect"):
        HubConfig(private=False)


@pytest.mark.slow
@pytest.mark.parametrize("program", [["train", "algorithm=rloo"], ["sft", "offline=star"]], ids=["train", "sft"])
def test_a_program_without_a_token_ends_before_it_samples(program, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{program[0]}", program[1], "hub.repo=me/mine", f"runs_dir={tmp_path}"],
        cwd=ROOT, env=env | {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no token for the Hugging Face hub" in done.stdout.replace("\n", " ")
    assert not list(tmp_path.rglob("metrics.jsonl"))
