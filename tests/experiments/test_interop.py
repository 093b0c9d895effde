"""The docs page on other tools runs as printed: exports of a stored comparison, conversations, and a trainer of TRL."""

import json
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import envs
from envs import Split
from experiments.arms import run_base, run_offline
from experiments.cli import CONFIGS, register_schemas, typed
from experiments.export import export
from experiments.keys import open_free_mappings
from rl.config import RunConfig, SFTConfig, TrainConfig
from tests.conftest import ROOT
from tests.experiments.test_evidence import stored  # noqa: F401
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "interop.md"


def test_exports_and_frame_run_as_printed(stored, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    place = Path("runs/compared/arms/score")
    place.mkdir(parents=True)
    (place / "seed_0").symlink_to(stored / "arms" / "score" / "seed_0")
    Path("runs/compared/config.yaml").symlink_to(stored / "config.yaml")
    commands = [shlex.split(line.partition("#")[0]) for line in blocks(PAGE, "bash")[0].splitlines()]
    for *program, run, to in commands:
        assert program == ["python", "-m", "experiments.export"]
        paths = export(Path(run.removeprefix("run=")), to.removeprefix("to="))
        assert paths
        assert all(path.exists() for path in paths)
    exec(blocks(PAGE, "python")[0], {})
    assert "score" in capsys.readouterr().out


SMALL = ["env.options.n_train=40", "env.options.n_validation=4", "env.options.n_test=4"]


def composed(program, schema, arguments):
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        return typed(compose(program, open_free_mappings(arguments, schema)))


def test_conversations_are_read_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(ROOT / "models")
    options = {"n_train": 40, "n_validation": 4, "n_test": 4}
    with Path("theirs.jsonl").open("w") as file:
        for split in (Split.TRAIN, Split.TEST):
            for task in envs.make("errata/modchain-v1", options=options, split=split).tasks:
                said = (task.question, f": {(int(task.gold) + 1) % 10}", "again", f": {task.gold}")
                roles = ("user", "assistant") * 2
                messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
                file.write(json.dumps({"messages": messages}) + "\n")
    learn, judge = [shlex.split(line.partition("#")[0])[3:] for line in blocks(PAGE, "bash")[1].splitlines()]
    with pytest.raises(ValueError, match="about a task of the split train, and no task of that split is read here"):
        run_base(composed("evaluate", RunConfig, [*judge, *SMALL]), tmp_path, lambda *_: None)
    lines = Path("theirs.jsonl").read_text().splitlines(keepends=True)
    Path("theirs.jsonl").write_text("".join(lines[40:]))
    result = run_base(composed("evaluate", RunConfig, [*judge, *SMALL]), tmp_path, lambda *_: None)
    assert (result.sampled["accuracy_t1"], result.sampled["accuracy_t2"]) == (0.0, 1.0)
    Path("theirs.jsonl").write_text("".join(lines[:40]))
    (tmp_path / "sft").mkdir()
    learn += [*SMALL, "evaluation.samples_per_task=0", "offline.epochs=1"]
    result = run_offline(composed("sft", SFTConfig, learn), tmp_path / "sft", lambda *_: None)
    assert result.notes["rounds"][0]["kept"] == 40


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")
def test_the_trainer_of_trl_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(ROOT / "models")
    scope = {}
    exec(blocks(PAGE, "python")[1], scope)
    assert scope["trainer"].state.global_step == 1


def test_commands_of_other_environments_compose():
    for line in blocks(PAGE, "bash")[2].splitlines():
        cfg = composed("train", TrainConfig, shlex.split(line)[3:])
        assert cfg.env.id in ("errata/verifiers-v1", "errata/openenv-v1")
