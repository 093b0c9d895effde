"""The tutorial on own data runs as printed; the jobs of its comparison run at smoke size, in this process."""

import contextlib
import json
import re
import shlex

import pytest
from hydra import compose, initialize_config_dir

from experiments import check
from experiments.cli import CONFIGS, UserError, register_schemas, typed
from experiments.compare import plan
from experiments.keys import open_free_mappings
from experiments.schema import CheckConfig, CompareConfig
from tests.conftest import ROOT
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "own_data.md"
SMOKE = ["training.episodes=128", "training.tasks_per_step=8", "include=[score]", "seeds=[0]", "threads=1"]
SMOKE += ["training.validate_every=0", "evaluation.n_tasks=8", "evaluation.samples_per_task=0", "cross=0"]
SMOKE += ["evaluation.controls=false", "evaluation.max_attempts=0", "evaluation.fixed_first=0"]
SECOND = ("errata/rows-v1: 336 train, 49 validation, 111 test; 2 attempts", "golds that were graded earn 1.")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Writes the page's files as printed; returns its commands by program and by environment or comparison."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    for code in blocks(PAGE, "python"):
        exec(code, {})
    for name, text in zip(("env/mine", "env/my_sums", "experiment/my_sums"), blocks(PAGE, "yaml"), strict=True):
        (tmp_path / "my_configs" / f"{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my_configs" / f"{name}.yaml").write_text(text)
    words = [shlex.split(line) for block in blocks(PAGE, "bash") for line in block.splitlines()]
    found = [one[2:] for one in words if one[1] == "-m" and "--config-dir" in one]
    return {(program, "my_sums" if "=my_sums" in " ".join(rest) else "mine"): rest for program, *rest in found}


def composed(program, schema, arguments):
    """The config that a printed command composes; its ``--config-dir`` becomes a search path."""
    at = arguments.index("--config-dir")
    overrides = [*arguments[:at], *arguments[at + 2 :], f"hydra.searchpath=[file://{arguments[at + 1]}]"]
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        return typed(compose(program, open_free_mappings(overrides, schema)))


def test_what_check_prints_is_what_the_page_shows(commands, capsys):
    check.main.run(composed("check", CheckConfig, commands["experiments.check", "mine"]))
    printed = capsys.readouterr()
    said = [line.split() for line in (printed.out + printed.err).splitlines()]
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    shown = next(text for language, text in fences if not language and "errata/rows-v1" in text)
    # Lines about sampled episodes are left out: what is sampled depends on rounding errors, so machines differ.
    sampled = re.compile(r"\||solver|turn|Episode of|[12] +20 ")
    lines = [line.split() for line in shown.splitlines() if line.strip() and not sampled.search(line)]
    assert len(lines) > 5
    for line in lines:
        assert line in said, line


def test_the_jobs_of_the_comparison_run(commands, tmp_path):
    cfg = composed("compare", CompareConfig, [*commands["experiments.compare", "mine"], *SMOKE])
    jobs = plan(cfg, tmp_path / "compared")
    assert [job.arm.name for job in jobs] == ["base", "score"]
    for job in jobs:
        job.folder.mkdir(parents=True)
        job.arm.run(job.seed, job.folder, lambda *_: None)
        rows = [json.loads(line) for line in (job.folder / "rows.jsonl").read_text().splitlines()]
        assert {row["task_id"].partition("/")[0] for row in rows} == {"my.jsonl"}
        result = json.loads((job.folder / "result.json").read_text())
        assert result["totals"].get("episodes", 0) == (0 if job.arm.name == "base" else 128)


def test_the_second_file_and_its_comparison_are_what_the_page_says(commands, tmp_path, capsys):
    """Checks the page's numbers on its data with a tiny model; SmolLM2 is not in the repository and was run by hand."""
    tiny = ["model=path", "model.path=models/modchain", "samples=2"]
    with contextlib.suppress(UserError):  # the tiny model has no words for English
        check.main.run(composed("check", CheckConfig, [*commands["experiments.check", "my_sums"], *tiny]))
    said = capsys.readouterr()
    for line in SECOND:
        assert line in said.out
        assert line in PAGE.read_text()
    asked = [commands[f"experiments.{program}", "my_sums"] for program in ("plan", "compare")]
    assert asked[0] == ["compare", *asked[1]]
    jobs = plan(composed("compare", CompareConfig, [*asked[1], *tiny[:2]]), tmp_path / "compared")
    assert [job.arm.name for job in jobs] == ["base", "iterated_rft", "naive_multiturn"]
    assert {job.arm.config.env.name for job in jobs} == {"my_sums"}
