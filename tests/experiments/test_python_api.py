"""The code of the docs page on Python runs as printed, and configs from keywords equal those of the command line."""

from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments import compare as compare_program
from experiments import evaluate, report, sft, study, train
from experiments.cli import CONFIGS, UserError, register_schemas, typed
from experiments.configs import config
from experiments.evidence import build
from experiments.evidence.comparison import compare
from experiments.evidence.model import Figure, Panel, Series, Table
from experiments.evidence.store import Store
from experiments.evidence.verdicts import lead, verdicts
from notebooks.run import CellError, run_cell
from rl.evaluate import play
from rl.rollout_metrics import describe, transcript
from rl.trainer import Step
from rl.workbench import Workbench
from tests.conftest import ROOT
from tests.helpers import episode, modchain_config
from tests.test_docs import blocks

SMOKE = {  # code of the page, and smaller code that is run in its place
    '"episodes": 1024, "tasks_per_step": 16': '"episodes": 64, "tasks_per_step": 8',
    'seeds=[0, 1], executor="here", training={"episodes": 12288}': (
        'seeds=[0], executor="here", training={"episodes": 192, "tasks_per_step": 8}, threads=1, cross=0, '
        'arms={"star": {"iterations": 3}}, '
        'evaluation={"n_tasks": 10, "samples_per_task": 0, "fixed_first": 0, "controls": False, "max_attempts": 0}'
    ),
}


def test_the_page_on_python_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_report", lambda *_: None)  # slow, and tested elsewhere
    (tmp_path / "models").symlink_to(ROOT / "models")
    scope, shown, used = {}, [], set()
    for code in blocks(ROOT / "docs" / "python_api.md", "python"):
        assert len(code.strip().splitlines()) <= 10
        small, found = code, [one for one in SMOKE if one in code]
        for printed in found:
            small = small.replace(printed, SMOKE[printed])
        used.update(found)
        shown.append(run_cell(small, scope)[1])
    assert used == set(SMOKE)
    assert shown[0][:2] == (True, 1.0)
    assert shown[1][0] == "wrong"
    assert (shown[2][0], shown[2][1]) == ("correct", True)
    assert shown[3] == ([6, 9], "models/repair")
    assert "<table>" in scope["episodes"][0]._repr_html_()
    assert all("<|user|>" in prompt for prompt, _ in shown[5])
    assert isinstance(scope["step"], Step)
    assert "STaR" in scope["table"]._repr_html_()
    assert scope["figure"]._repr_svg_().rstrip().endswith("</svg>")
    assert any(line.startswith("SCoRe") for line in shown[-1])
    store = scope["store"]
    assert [one.id for one in build(store, "T1")] == ["T1"]
    with pytest.raises(ValueError, match=r"^mode=gredy: not evaluated here; did you mean 'greedy'\? There is: greedy"):
        compare(store, "gredy")


def test_keywords_make_the_config_of_the_command_line():
    register_schemas()
    lines = ["env=repair", "algorithm=grpo", "algorithm.advantage=rloo", "training.episodes=1024", "seed=3"]
    lines += ["++env.options.n_train=7", "env.max_new_tokens=[3,7]"]
    with initialize_config_dir(CONFIGS, version_base=None):
        asked = typed(compose("train", lines))
    env = {"options": {"n_train": 7}, "max_new_tokens": (3, 7)}
    made = config("train", "algorithm.advantage=rloo", "env=repair", algorithm="grpo", training={"episodes": 1024},
                  seed=3, **{f"env.{key}": value for key, value in env.items()})  # fmt: skip
    assert asdict(made) == asdict(asked)


def test_texts_are_taken_as_they_are(tmp_path):
    path = str(tmp_path / r"it's, {a}=\d (1).jsonl")
    Path(path).touch()
    made = config("evaluate", env="rows", model="path", **{"env.options.path": path, "model.path": "some/model"})
    assert made.env.options["path"] == path
    made = config("train", **{"env.prompts_text": {"retry": "Look again: [x] = 'y'"}, "hub.repo": None})
    assert made.env.prompts_text == {"retry": "Look again: [x] = 'y'"}
    assert made.hub.repo is None


def test_an_override_is_a_text():
    with pytest.raises(ValueError, match="5: an override is a text, as 'seed=1'"):
        config("train", 5, env="repair")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("program", "values", "said"),
    [
        ("trian", {}, "did you mean 'train'"),
        ("train", {"evn": "repair"}, "did you mean 'env'"),
        ("train", {"env": "repiar"}, "did you mean 'repair'"),
        ("train", {"env": None}, "env=None: a name is needed here. Known: addition, "),
        ("train", {"training": {"episodse": 1}}, "did you mean 'training.episodes'"),
        ("train", {"training": {"episodes": "many"}}, "a whole number is needed here"),
        ("train", {"seed": -1}, "seed=-1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(program, values, said):
    with pytest.raises(ValueError, match=said):
        config(program, **values)


@pytest.fixture(scope="module")
def bench():
    return Workbench.build(modchain_config())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "smapled"}, "^mode=smapled: unknown; did you mean 'sampled'. Known: greedy, sampled"),
        ({"temperature": -1.0}, "^temperature=-1.0: must be at least 0"),
        ({"temperature": float("nan")}, "^temperature=nan: must be at least 0"),
        ({"n_samples": 0}, "^n_samples=0: give a number of episodes per task, at least 1"),
    ],
)
def test_what_cannot_be_played_is_refused_by_name(given, said, bench):
    with pytest.raises(ValueError, match=said):
        play(bench.rollout("test"), bench.tasks("test", 1), **given)


@pytest.mark.parametrize("tasks", ["x", None, 3, ["modchain/1"], [None]])
def test_play_takes_tasks(tasks, bench):
    with pytest.raises(TypeError, match=r"^play takes a list of tasks, as bench\.tasks\('test', 4\), not "):
        play(bench.rollout("test"), tasks)
    with pytest.raises(TypeError, match=r"^play takes a list of tasks"):
        play(bench.rollout("test"), bench.tasks("test", 1)[0])


@pytest.mark.parametrize("value", ["2", 2.0, True, None])
def test_a_number_is_a_whole_number(value, bench):
    for call in (
        lambda: bench.tasks("test", value),
        lambda: bench.rollout("test", value),
        lambda: bench.rollout("test", n_envs=value),
        lambda: play(bench.rollout("test"), bench.tasks("test", 1), n_samples=value),
        lambda: play(bench.rollout("test"), bench.tasks("test", 1), temperature=str(value)),
    ):
        with pytest.raises(ValueError, match=r"^(n|attempts|n_envs|n_samples|temperature)="):
            call()


def test_functions_of_an_episode_and_of_a_step_say_what_they_take(bench):
    episodes = play(bench.rollout("test"), bench.tasks("test", 1))
    with pytest.raises(TypeError, match=r"^transcript takes a Episode, not \[Episode.*: give one of the episodes"):
        transcript(episodes, bench.tokenizer.decode)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not a tokenizer: give its method decode"):
        transcript(episodes[0], bench.tokenizer)
    with pytest.raises(TypeError, match=r"^describe takes a Step, not \[Episode.*: give what trainer"):
        describe(episodes)  # type: ignore[arg-type]


def test_what_a_workbench_does_not_have_is_refused_by_name(bench):
    with pytest.raises(ValueError, match=r"^n=-1: give the number of tasks, or 0 for all"):
        bench.tasks("test", -1)
    with pytest.raises(ValueError, match=r"^split=tst: unknown; did you mean 'test'"):
        bench.tasks("tst")
    with pytest.raises(ValueError, match=r"^split=tst: unknown; did you mean 'test'"):
        bench.rollout("tst")
    with pytest.raises(ValueError, match=r"^attempts=-1: a whole number is needed here, at least 0"):
        bench.rollout("test", -1)
    with pytest.raises(ValueError, match=r"^env.feedback=lod: unknown"):
        bench.rollout("test", feedback="lod")
    with pytest.raises(TypeError, match=r"^Workbench.build takes a config, not 'repair'; make one with"):
        Workbench.build("repair")  # type: ignore[arg-type]


@pytest.mark.parametrize("program", [train, sft, evaluate, compare_program, study])
def test_a_program_that_is_called_without_a_config_says_how_to_make_one(program):
    name = program.__name__.rpartition(".")[2]
    said = (
        rf"experiments\.{name}\.run takes a \w+, not 'repair': make one with experiments\.configs\.config\(\"{name}\""
    )
    with pytest.raises(TypeError, match=said):
        program.run("repair")


@pytest.mark.parametrize("value", [None, 3, [], [None], b"runs"])
def test_a_store_needs_a_folder(value):
    for make in (Store, report.write_report):
        with pytest.raises(TypeError, match=r"^a report takes a folder of runs, or a list of folders, not "):
            make(value)


@pytest.mark.parametrize("value", ["runs/compared", None, ["runs"]])
def test_sentences_need_a_comparison(value):
    for make in (verdicts, lead):
        with pytest.raises(TypeError, match=r"takes a Comparison, not .*: make one with compare\(store, 'greedy'\)"):
            make(value)


def test_an_exhibit_needs_a_store(tmp_path):
    for make in (build, compare):
        with pytest.raises(TypeError, match=r"takes a Store, not .*: make one with Store\(<folder of runs>\)"):
            make(str(tmp_path), "T1")


def test_an_arm_that_there_is_not_is_refused_by_name():
    with pytest.raises(UserError, match="did you mean 'star'"):
        config("compare", include=["starr"])


def test_a_cell_that_raises_says_where():
    scope = {}
    assert run_cell("x = 2\nprint(x)\nx + 1", scope) == ("2\n", 3)
    assert run_cell("y = x", scope) == ("", None)
    with pytest.raises(CellError, match="ZeroDivisionError"):
        run_cell("y / 0", scope)


def test_html_holds_text_and_no_markup_of_the_policy():
    html = episode(error=None)._repr_html_()
    assert html.count("<tr>") == 3
    table = Table("n < 3", ["arm", "rate"], [["<b>x</b>", "1.0\n0.9, 1.1"]], id="T9", title="A & B")
    assert "<b>x</b>" not in table._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in table._repr_html_()
    figure = Figure("caption", [Panel("", "x", "y", [Series("a", [0, 1], [1, 2])])], "F9", "Nine")
    assert "Nine (F9). caption" in figure._repr_svg_()
