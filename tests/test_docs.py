"""Examples in the documentation run as printed, and the files, modules and functions named in it exist."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rl.config import TrainingConfig
from tests import programs
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def test_a_new_environment_in_forty_lines_runs_as_printed(tmp_path):
    page = ROOT / "docs" / "new_environment.md"
    (code,) = blocks(page, "python")
    assert len(code.strip().splitlines()) <= 40
    (tmp_path / "my_envs.py").write_text(code)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    check, commands = blocks(page, "bash")
    done = subprocess.run(
        [sys.executable, *check.split()[1:]], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0
    play = commands.splitlines()[0].split()
    assert play[:3] == ["python", "-m", "experiments.play"]
    done = programs.run(*play[2:], env=env, input="<answer>x</answer>\n" * 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Write [a-j]{5} backwards", done.stdout)
    assert "wrong" in done.stdout


PIECES = (
    "my_advantage",
    "my_loss",
    "my_feedback",
    "my_role",
    "my_rule",
    "my_engine",
    "my_figure",
    "my_game",
    "my_study",
)


@pytest.mark.slow(40)
def test_what_is_added_from_outside_runs_as_printed(tmp_path):
    page = ROOT / "docs" / "extending.md"
    codes = blocks(page, "python")
    for name, code in zip(PIECES, codes, strict=True):
        assert f"`{name}.py`" in page.read_text()
        assert len(code.strip().splitlines()) <= (60 if name == "my_study" else 25)
        (tmp_path / f"{name}.py").write_text(code)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for line in "".join(blocks(page, "bash")).splitlines():
        _, *arguments = shlex.split(line.replace("runs/", f"{tmp_path}/runs/"))
        if arguments[0] == "-m":
            arguments = arguments[1:]
        else:  # a script that the page defines, which is run as a module
            arguments[0] = arguments[0].removesuffix(".py")
        if arguments[0].startswith("experiments.") and arguments[0] != "experiments.report":
            arguments += [f"runs_dir={tmp_path / 'runs'}", "evaluation.n_tasks=20", "evaluation.samples_per_task=0"]
            # A quarter of the episodes in total and per step, so that the number of steps stays as printed.
            episodes = next(int(one.partition("=")[2]) for one in arguments if one.startswith("training.episodes="))
            arguments += [f"training.episodes={episodes // 4}"]
            if arguments[0] == "experiments.train":
                arguments += [f"training.tasks_per_step={TrainingConfig().tasks_per_step // 4}"]
            if "env=custom" not in arguments:
                arguments += ["env.options.n_validation=20"]
        done = programs.run(*arguments, env=env)
        assert done.returncode == 0, line + done.stdout + done.stderr
    logged = [path.read_text() for path in (tmp_path / "runs").glob("*/*/metrics.jsonl")]
    assert any("policy/price" in text for text in logged)
    assert any('"eval/validation/longer":' in text for text in logged)
    assert list((tmp_path / "runs" / "lengths").glob("exhibits/F20*.svg"))
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["oracle", "majority", "coin"]


def test_the_examples_of_verification_say_what_the_page_says():
    math, code = blocks(ROOT / "docs" / "verification.md", "python")
    scope = {}
    exec(math, scope)
    assert scope["score_math"](r"So x = \boxed{\sqrt{8}}.", gold=r"2\sqrt{2}").reason == "exact_value"
    assert scope["future"].result().verdict == "correct"
    exec(code, scope)
    assert (scope["score"].verdict, scope["score"].observation) == ("correct", "The shown test passes.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_named_in_the_docs_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", re.sub(r"(?s)^```.*?^```", "", text, flags=re.MULTILINE)):
        place = page.parent / link
        notebook = ROOT / "notebooks" / f"{place.stem}.ipynb"  # the site generates a page from every notebook
        assert place.exists() or (place.parent == ROOT / "docs" / "notebooks" and notebook.exists()), link
    for name in re.findall(r"`((?:rl|envs|rewards|experiments|configs|tests|docs|models)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m ((?:experiments|benchmarks|rewards)[\w.]*)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def names_in(path: Path) -> set[str]:
    """Names of a module's top-level functions and classes, and of methods as ``Class.method``."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_named_in_the_docs_exist(page):
    found = re.findall(r"`([\w/]+\.py)::([\w.]+)`", page.read_text())
    if page.name == "walkthrough.md":
        assert len(found) > 25
    for file, name in found:
        assert name in names_in(ROOT / file), f"{file}::{name}"
