"""Container files, the version lock and CI agree with the project, and the doctor reports what a machine lacks.

Nothing is built or started.
"""

import ast
import re
import shlex
import tomllib

import pytest
import yaml
from hydra import compose, initialize_config_dir
from packaging.requirements import Requirement

from experiments import doctor
from experiments.cli import CONFIGS, register_schemas, typed
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
TARGETS = re.findall(r"^([\w%-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_starts_from_an_exact_version_and_uses_what_is_there(name):
    text = (ROOT / name).read_text()
    base = re.findall(r"^FROM (\S+)$", text, re.MULTILINE)
    assert len(base) == 1
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base[0])
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    assert set(re.findall(r"\bmake ([\w-]+)", re.sub(r"install .*", "", text))) <= set(TARGETS)
    for extras in re.findall(r"'\.\[(.+)\]'", text):
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    packages = set(
        re.findall(r'"([\w.]+)"', (ROOT / "pyproject.toml").read_text().split("packages = [")[1].split("]")[0])
    )
    made = {folder.replace("/", ".") for folder in re.search(r"mkdir -p ([\w/ ]+?)(?: \\| &&)", text)[1].split()}
    assert packages == {".".join(one.split(".")[:n]) for one in made for n in (1, 2)}


def test_the_replicas_are_where_the_trainer_looks_and_speak_as_it_wants():
    trainer = shlex.split(COMPOSE["trainer"]["command"].replace("${MODEL}", str(ROOT / "models" / "modchain")))
    assert trainer[:3] == ["python", "-m", "experiments.train"]
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        cfg = typed(compose("train", trainer[3:]))
    replicas = {name: one for name, one in COMPOSE.items() if name != "trainer"}
    assert cfg.engine.urls == [f"http://{name}:8000" for name in replicas]
    assert COMPOSE["trainer"]["depends_on"].keys() == replicas.keys()
    documented = re.search(
        r"VLLM_SERVER_DEV_MODE=1.*?WeightReceiver", (ROOT / "docs/engines.md").read_text(), re.DOTALL
    )
    for one in replicas.values():
        assert set(re.findall(r"--[\w-]+(?: [\w.]+)?", one["command"])) == set(
            re.findall(r"--[\w-]+(?: [\w.]+)?", documented[0])
        )
        assert one["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
        assert f"{cfg.engine.weights_dir}" in [volume.split(":")[1] for volume in one["volumes"]]
        assert one["expose"] == ["8000"]
        assert "ports" not in one  # the endpoint that replaces the weights must not be reachable from outside
    gpus = [one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for one in COMPOSE.values()]
    assert sorted(gpus) == [["0"], ["1"], ["2"]]


def test_the_lock_holds_a_version_of_everything_that_fits():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines)
    known = {name.lower().replace("_", "-"): version for name, version in locked.items()}
    extras = [
        one
        for extra in ("lora", "sweep", "slurm", "tracking", "dev", "docs")
        for one in PROJECT["optional-dependencies"][extra]
    ]
    for line in (*PROJECT["dependencies"], *extras):
        wanted = Requirement(line)
        assert wanted.specifier.contains(known[wanted.name.lower()], prereleases=True), line


def test_ci_is_one_script_and_the_versions_are_those_of_the_project():
    jobs = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert runs["check"] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100
    ours, others = (
        " ".join(re.findall(r"\bmake ([a-z -]+)", text)).split()
        for text in ((ROOT / ".ci/run").read_text(), "\n".join(runs["versions"]))
    )
    assert {"test", "test-slow", "docs", "test-vllm"} <= set(ours) <= set(TARGETS)
    assert {"test", "test-slow"} <= set(others) <= set(TARGETS)
    (oldest, newest) = doctor.PYTHONS
    versions = [f"3.{minor}" for minor in range(oldest[1], newest[1] + 1)]
    assert [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one] == versions
    assert ["3.11", *jobs["versions"]["strategy"]["matrix"]["python"]] == versions
    for folder in ("rewards", "envs", "rl", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), feature_version=oldest)


def test_the_doctor_names_what_a_command_lacks(monkeypatch, capsys):
    well = {name: lambda: doctor.Found(True, "there") for name in doctor.CHECKS}
    monkeypatch.setattr("sys.argv", ["doctor"])
    monkeypatch.setattr(doctor, "CHECKS", well | {"peft": lambda: doctor.Found(False, "not there", "install .[lora]")})
    assert doctor.main() == 0
    said = capsys.readouterr().out
    assert re.search(r"model\.lora\.rank +needs peft", said)
    assert re.search(r"experiments\.tune +yes", said)
    assert "install .[lora]" in said
    made = {"smollm2": lambda: doctor.Found(False, "not prepared", "make demo-real")}
    monkeypatch.setattr(doctor, "CHECKS", well | made)
    assert doctor.main() == 0
    assert re.search(r"make demo-real +yes, and makes the model first", capsys.readouterr().out)
    monkeypatch.setattr(doctor, "CHECKS", well | {"disk": lambda: doctor.Found(False, "full")})
    assert doctor.main() == 1
    assert capsys.readouterr().out.count("needs disk") == len(doctor.COMMANDS)
    assert {name for needed in doctor.COMMANDS.values() for name in needed} <= doctor.CHECKS.keys()


def test_the_doctor_sees_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "PYTHONS", ((3, 99), (3, 99)))
    assert "make setup PYTHON=python3.99" in doctor.python().remedy
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch==0.1", "no-such-package>=1", "vllm; extra == 'vllm'"])
    found = doctor.packages()
    assert not found.works
    assert "no-such-package>=1 (not installed)" in found.said
    assert "torch==0.1 (2." in found.said
    assert "vllm" not in found.said
    monkeypatch.setattr(doctor, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(doctor, "installed", lambda _: "2.13.0+cpu")
    assert "built for CPUs" in doctor.gpu().said
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor.chromium().said == "chromium, chromedriver not found"
    assert not doctor.slurm().works
    monkeypatch.setattr(doctor, "Sandbox", lambda **_: (_ for _ in ()).throw(doctor.SandboxError("no isolation")))
    assert doctor.sandbox().said == "no isolation"
