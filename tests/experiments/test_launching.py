"""Runs of several processes and many runs at once: accelerate configs, launchers, sweeps and cluster scripts."""

import json
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import HydraException

from experiments.cli import CONFIGS, register_schemas
from tests import programs
from tests.conftest import ROOT
from tests.rl.test_distributed import run_two

TINY = [
    *("algorithm=rloo", "algorithm.group_size=4", "training.tasks_per_step=4", "training.episodes=32", "threads=1"),
    *("training.validate_every=0", "evaluation.n_tasks=10", "evaluation.samples_per_task=0", "training.save_every=1"),
]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_reads_its_configs(path):
    from accelerate.commands.config import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    if config.fsdp_config:
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [[], ["--use_fsdp", "--fsdp_version=2"]], ids=["ddp", "fsdp2"])
def test_two_processes_are_started_where_there_is_no_gpu(sharded, tmp_path):
    script = tmp_path / "says.py"
    # Each process makes a file, since the printed lines of two processes can be mixed.
    script.write_text(
        "import os, pathlib; rank, size = os.environ.get('RANK'), os.environ.get('WORLD_SIZE')\n"
        "pathlib.Path(__file__).with_name(f'{rank} of {size}').touch()"
    )
    config = ROOT / "configs" / "accelerate" / "two_cpus.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *sharded]
    command += ["--main_process_port=0", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert sorted(path.name for path in tmp_path.glob("* of *")) == ["0 of 2", "1 of 2"], done.stderr


@pytest.mark.parametrize("launcher", ["joblib", "submitit", "ray"])
def test_launchers_compose_where_their_plugin_is_installed(launcher):
    register_schemas()
    names = {"joblib": "joblib", "submitit": "submitit_slurm", "ray": "ray"}
    with initialize_config_dir(CONFIGS, version_base=None):
        try:
            cfg = compose("train", [f"launcher={launcher}", "hydra.mode=MULTIRUN"], return_hydra_config=True)
        except HydraException as error:
            assert "Could not find 'hydra/launcher" in str(error)  # noqa: PT017
            pytest.skip(f"the Hydra plugin for {launcher} is not installed")
    assert cfg.hydra.runtime.choices["hydra/launcher"] == names[launcher]
    assert Plugins.instance()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "slurm").glob("*.sbatch")), ids=lambda p: p.stem)
def test_cluster_scripts_are_shell(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.slow
def test_a_run_goes_on_by_itself_and_a_changed_config_is_named(tmp_path):
    def run(*more):
        return programs.run("experiments.train", *TINY, f"runs_dir={tmp_path}", "name=x", *more)

    first = run()
    assert first.returncode == 0, first.stdout + first.stderr
    (folder,) = (tmp_path / "x").iterdir()
    (folder / "result.json").unlink()
    before = (folder / "policy" / "model.safetensors").read_bytes()
    changed = run(f"resume={folder}", "algorithm.optim.lr=1e-4")
    assert changed.returncode == 2
    assert "algorithm.optim.lr (was 0.001, is 0.0001)" in changed.stdout.replace("\n", " ")
    again = run("resume=auto")
    assert again.returncode == 0, again.stdout + again.stderr
    assert [path.name for path in (tmp_path / "x").iterdir()] == [folder.name]
    assert (folder / "policy" / "model.safetensors").read_bytes() == before
    finished = run(f"resume={folder}")
    assert finished.returncode == 2
    assert "is finished" in finished.stdout
    missing = run("resume=nowhere")
    assert missing.returncode == 2
    assert "there is no such file or folder" in missing.stdout


@pytest.mark.slow
def test_a_sweep_runs_in_processes_of_its_own(tmp_path):
    command = [sys.executable, "-m", "experiments.train", "-m", "launcher=joblib", "seed=3,4", *TINY]
    done = subprocess.run([*command, f"runs_dir={tmp_path}", "name=x"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = sorted(tmp_path.glob("x/*_multirun/*/result.json"))
    assert [json.loads(path.read_text())["seed"] for path in results] == [3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_make_one_run(fsdp, tmp_path):
    run_two("experiments.train", [*TINY, f"runs_dir={tmp_path}", "name=x"], fsdp)
    (folder,) = (tmp_path / "x").iterdir()
    assert json.loads((folder / "result.json").read_text())["greedy"]["n"] == 10
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 10
    assert (folder / "policy" / "config.json").exists()
