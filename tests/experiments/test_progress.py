"""What a person reads in a terminal: tables that fit, notes on budgets and failures, and what to do after Ctrl-C."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO

import pytest
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console

import experiments
from experiments.arms import ArmResult
from experiments.cli import UserError, entry_point
from experiments.folders import open_run
from experiments.progress import Display, duration, print_table, shown_run, skipped_stages, uneven_budget
from experiments.stopping import Stopping
from rl.analysis.rows import broken_off
from rl.analysis.statistics import summarise
from rl.backends import hub
from rl.config import AlgorithmConfig, OfflineConfig, RunConfig, SFTConfig, StageConfig, TrainConfig, TrainingConfig
from rl.tracking import write_text
from tests.conftest import ROOT
from tests.helpers import row


def printed(width, header, rows, title=""):
    file = StringIO()
    print_table(header, rows, Console(file=file, width=width), title)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width):
    header = ["arm", *(f"a rate with a long name {i}" for i in range(9))]
    rows = [[f"arm {k}", *(f"+{k}{i}.5 [+1{i}.0, +{i}9.9]" for i in range(9))] for k in range(3)]
    text = printed(width, header, rows, "title")
    assert all(cell in text for row in rows for cell in row)
    assert max(map(len, text.split("\n"))) <= width
    assert text.count("title") == 1


def test_a_run_of_which_nothing_can_be_counted_ends_with_its_reason(tmp_path, capsys):
    broken = replace(row("base", 0, "a", failed=True), broken_by="step: ValueError('no verdict')")
    good = row("base", 0, "b")

    def played(*rows):
        def run(cfg, folder, report):
            summary = {key: value for key, value in summarise(rows).items() if value == value}
            return ArmResult(
                "base", 0, {"episodes": 0, "seconds": {}}, greedy=summary, notes={"broken_off": broken_off(rows)}
            )

        return run

    shown_run(RunConfig(name="x"), tmp_path / "some", "base", played(broken, good, good))
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: 1 of 3 episodes was broken off and counts in no rate: step: ValueError('no verdict')" in said
    with pytest.raises(UserError, match=r"^not one episode.*2 of 2 episodes were broken off.*no verdict"):
        shown_run(RunConfig(name="x"), tmp_path / "all", "base", played(broken, broken))
    assert "broken off" not in capsys.readouterr().out, "the reason is said once, by the error"
    assert broken_off([good]) == ""


def test_a_budget_that_is_no_multiple_of_a_step_is_said():
    def asked(**budget):
        return TrainConfig(
            name="x",
            algorithm=AlgorithmConfig(group_size=8),
            training=TrainingConfig(tasks_per_step=128, **budget),
        )

    assert uneven_budget(asked(episodes=2048)) == uneven_budget(asked(tokens=999)) == ""
    assert uneven_budget(RunConfig(name="x")) == ""
    assert uneven_budget(asked(episodes=1500)).startswith(
        "training.episodes=1500 is no multiple of training.tasks_per_step * algorithm.group_size, so this run samples "
        "1,024 episodes"
    )
    # The budget is a multiple of a batch with the algorithm's groups, but not of one with the stage's larger groups.
    large = asked(episodes=3072)
    large.algorithm.stages = {"main": StageConfig(group_size=16)}
    assert "leaves 1,024 episodes over, too few for a further batch" in uneven_budget(large)
    assert "so this run samples 2,048 episodes" in uneven_budget(large)
    offline = SFTConfig(name="x", offline=OfflineConfig(iterations=3, group_size=4))
    offline.training.episodes = 100
    assert "so this run samples 96 episodes" in uneven_budget(offline)


def test_a_stage_for_which_the_budget_has_no_step_is_said():
    def asked(*shares, group_size=0, **budget):
        stages = {f"stage{i}": StageConfig(share=share) for i, share in enumerate(shares, 1)}
        stages["stage1"].group_size = group_size
        algorithm = AlgorithmConfig(group_size=8, minibatches=2, stages=stages)
        return TrainConfig(name="x", algorithm=algorithm, training=TrainingConfig(tasks_per_step=128, **budget))

    assert skipped_stages(asked(1, 1, episodes=1024)) == (
        "training.episodes=1024 has no step for algorithm.stages.stage1: give at least training.episodes=2048, or make "
        "a step smaller (training.tasks_per_step)"
    )
    assert skipped_stages(asked(1, 1, updates=2)) == (
        "training.updates=2 has no step for algorithm.stages.stage1: give at least training.updates=4"
    )
    # A stage with large groups can use up the budget that the next stage needs for its first step.
    assert "stages.stage2: give at least training.episodes=4096" in skipped_stages(
        asked(1, 1, group_size=24, episodes=3072)
    )
    enough = [asked(1, 1, episodes=2048), asked(1, 0, 1, updates=4), asked(1, 1, group_size=24, episodes=4096)]
    unknown = [asked(1, 1, tokens=9), RunConfig(name="x"), SFTConfig(name="x", offline=OfflineConfig())]
    assert {skipped_stages(cfg) for cfg in enough + unknown} == {""}


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    from huggingface_hub import constants

    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    hub.no_answer.cache_clear()
    try:
        assert "does not answer: Name or service not known" in hub.no_answer()
        hub.no_answer()
        assert len(asked) == 1
        assert constants.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    finally:
        hub.no_answer.cache_clear()


def test_ctrl_c_while_modules_load_is_one_line(capsys, tmp_path):
    experiments._quietly(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted while the program was loading; nothing was begun\n"
    (tmp_path / "ctrl_c.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "plugins=[ctrl_c]", f"runs_dir={tmp_path}/runs"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.strip() == "interrupted; the same command starts over"
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.fixture
def listens():
    """Makes this process react to Ctrl-C, which is ignored if the tests run as a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("program", "number", "said", "status"),
    [
        ("train", signal.SIGINT, "interrupted; what is done is kept in {0}: continue with the same command", 130),
        (
            "train",
            signal.SIGINT,
            "interrupted; no checkpoint was written yet: the same command and resume={0} begin again with the first ep",
            130,
        ),
        (
            "train",
            signal.SIGTERM,
            "stopped by a signal; what is done is kept in {0}: continue with the same command",
            75,
        ),
        (
            "evaluate",
            signal.SIGUSR1,
            "stopped by a signal; what is done is kept in {0}: the same command starts over",
            75,
        ),
        ("evaluate", signal.SIGTERM, "stopped by a signal; nothing was computed yet, and {0} is removed", 75),
    ],
)
def test_an_end_from_outside_says_where_the_run_is_and_how_it_goes_on(
    program, number, said, status, tmp_path, monkeypatch, capsys, listens
):
    found, before = [], signal.getsignal(signal.SIGTERM)

    def run(cfg):
        with open_run(cfg, program) as folder:
            found.append(folder)
            if "nothing" not in said:
                (folder / "metrics.jsonl").write_text("{}")
            if "kept" in said:
                (folder / "checkpoints" / "000001_00000001").mkdir(parents=True)
            os.kill(os.getpid(), number)
            time.sleep(1)

    monkeypatch.setattr("sys.argv", [program, f"runs_dir={tmp_path}"])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        entry_point(program)(run)()
    assert end.value.code == status
    assert capsys.readouterr().out.replace("\n", "").startswith(said.format(found[0]))
    assert found[0].exists() == ("nothing" not in said)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("train", "interrupted; the same command starts over"),
        ("pretrain_tiny", "interrupted; the same command starts over"),
        *((name, "interrupted") for name in ("check", "play", "watch", "push", "report", "export", "thesis", "plan")),
    ],
)
def test_only_a_program_that_starts_a_run_says_that_it_starts_over(program, said, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    main = importlib.import_module(f"experiments.{program}").main
    monkeypatch.setattr("experiments.cli.typed", stopped)  # Ctrl-C before a run has its folder
    monkeypatch.setattr("sys.argv", [program, *(["train"] if program == "plan" else [])])
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().out.strip() == said


def test_a_program_without_a_config_says_that_it_was_interrupted(tmp_path):
    """``experiments.doctor`` and ``experiments.prepare_smollm2`` leave Ctrl-C to the hook of the package."""
    code = "import experiments, sys\nsys.excepthook = experiments._quietly\n"
    for rest, said in (
        ("raise KeyboardInterrupt", "interrupted while the program was loading; nothing was begun\n"),
        ("def main():\n    raise KeyboardInterrupt\nmain()", "interrupted\n"),
    ):
        done = subprocess.run([sys.executable, "-c", code + rest], capture_output=True, text=True, cwd=ROOT)
        assert done.stderr == said


def test_a_run_that_is_stopped_within_a_comparison_says_how_the_comparison_goes_on(tmp_path, monkeypatch, capsys):
    """With executor=here a signal reaches a run of the comparison; only the comparison's folder can be resumed."""

    def run(cfg):
        with open_run(cfg, "compare") as folder:
            (folder / "arms").mkdir()
            with Stopping(folder / "arms") as stopping:
                os.kill(os.getpid(), signal.SIGTERM)
                stopping.check(lambda: write_text(folder / "arms" / "metrics.jsonl", "{}"))

    monkeypatch.setattr("sys.argv", ["compare", f"runs_dir={tmp_path}", "include=[score]"])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        entry_point("compare")(run)()
    (folder,) = (tmp_path / "compare").iterdir()
    assert end.value.code == 75
    how = f"what is done is kept in {folder}: continue with the same command and resume={folder}"
    assert capsys.readouterr().out.replace("\n", "") == f"stopped by a signal; {how}"


def test_the_time_left_of_a_comparison_is_told_and_quiet_tells_nothing(capsys, monkeypatch):
    out = Console(file=StringIO())
    with Display(out, one_run=False) as display:
        display.ended("a/0", 2)
        display.ended("b/0", 2)
        display.ended("c/0", 1, crashed=True)
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"finished a/0 \(1/2, about [\d.,]+ (s|min|h) left\)", first)
    assert second == "finished b/0 (2/2)"
    assert third == "crashed c/0 (1/1)"
    assert [duration(n) for n in (5, 600, 36000)] == ["5 s", "10 min", "10.0 h"]
    monkeypatch.setenv("ERRATA_QUIET", "1")
    with Display(out) as display:
        display.reporter("a")("training", 0.5, {"rollout/episodes": 3})
        display.reporter("a")("validation", 1.0, {"eval/validation/n": 3, "rollout/episodes": 3})
        display.ended("a/0", 2)
    assert capsys.readouterr().out == out.file.getvalue() == ""  # type: ignore[attr-defined]
