"""A path that is empty, leads elsewhere, or names a file for a folder is refused by its key, and nothing is left."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments.cli import CONFIGS, UserError, _about, entry_point, key_of, register_schemas, typed
from experiments.configs import config
from experiments.evidence.store import Store
from experiments.refusals import refuse_given_places, refuse_unusable_runs_dir
from rl.rendering import TemplateError
from tests import programs
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("runs_dir=", "runs_dir=: it is empty; name a folder, as runs_dir=runs"),
        ("runs_dir=''", "runs_dir=: it is empty"),
        ("+runs_dir=' '", "runs_dir= : it is empty"),
        ("name=", "name=: it is empty; give a name, as name=mine"),
        ("name=../../x", "name=../../x: it names no folder below runs_dir"),
        ("name=a/../../x", "name=a/../../x: it names no folder below runs_dir"),
        ("name=/x", "name=/x: it names no folder below runs_dir"),
        ("name=.", "name=.: it names no folder below runs_dir"),
        ("resume=", "resume=: it is empty; use a run's folder, or auto"),
        ("output=", "output=: it is empty; name a folder or file"),
        ("run=", "run=: it is empty; name a folder of runs"),
        ("hydra.run.dir=", "hydra.run.dir=: it is empty"),
    ],
)
def test_a_place_that_is_none_is_refused_before_hydra_makes_folders(given, message):
    with pytest.raises(UserError) as caught:
        refuse_given_places(["env=modchain", given])
    assert str(caught.value).startswith(message)


def test_other_places_are_taken():
    refuse_given_places(
        ["runs_dir=.", "name=mine/of.today..", "out=", "--multirun", "resume=auto", "run=[a,b]", "seed="]
    )


@pytest.mark.parametrize("given", ["runs_dir=", "name=../../x"])
def test_a_program_makes_no_folder_there(given, tmp_path, monkeypatch, capsys):
    def run(cfg):
        raise AssertionError(cfg)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", given])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        entry_point("train")(run)()
    assert end.value.code == 2
    assert f"error: {given}: it " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "values", "message"),
    [
        ("evaluate", {"runs_dir": ""}, "runs_dir=: it is empty"),
        ("train", {"name": "../x"}, "name=../x: it names no folder below runs_dir"),
        ("compare", {"name": ""}, "name=: it is empty"),
        ("study", {"study": "collapse", "runs_dir": " "}, "runs_dir= : it is empty"),
        ("pretrain_tiny", {"output": ""}, "output=: it is empty"),
        ("thesis", {"comparisons": ""}, "comparisons=: it is empty"),
        ("watch", {"run": ""}, "run=: it is empty"),
    ],
)
def test_configs_from_python_and_files_are_checked_too(program, values, message):
    with pytest.raises(UserError) as caught:
        config(program, **values)
    assert str(caught.value).startswith(message)


def test_a_file_in_place_of_the_folder_of_runs_is_refused_before_anything_is_planned(tmp_path):
    (tmp_path / "file").touch()
    for given in (tmp_path / "file", tmp_path / "file" / "deeper"):
        done = programs.run("experiments.plan", "train", "env=modchain", f"runs_dir={given}", "plan.calibrate=false")
        said = done.stdout.replace("\n", "")
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"runs_dir={given}: {tmp_path / 'file'} is a file where a folder is needed".replace(" ", "") in (
            said.replace(" ", "")
        )
        assert "It fits" not in done.stdout


def test_a_folder_of_runs_that_cannot_be_written_is_refused_by_a_plan(tmp_path, monkeypatch):
    refuse_unusable_runs_dir(str(tmp_path / "new"), "train", must_be_writable=True)
    monkeypatch.setattr("os.access", lambda *_: False)
    refuse_unusable_runs_dir(str(tmp_path / "new"), "train")
    with pytest.raises(UserError, match=f"runs_dir={tmp_path}/new: this user cannot write to {tmp_path};"):
        refuse_unusable_runs_dir(str(tmp_path / "new"), "train", must_be_writable=True)


def caught(do):
    with pytest.raises(OSError) as error:  # noqa: PT011
        do()
    return error.value


def test_an_error_about_a_path_says_what_is_needed_there(tmp_path):
    file = tmp_path / "file"
    file.touch()
    needed = f"{file} is a file where a folder is needed; name another folder"
    assert _about(caught(lambda: file.mkdir(exist_ok=True))) == needed
    assert _about(caught(lambda: (file / "a" / "b").mkdir(parents=True))) == needed
    assert _about(caught(tmp_path.read_text)) == "that is a folder where a file is needed; name a file"
    assert _about(caught((tmp_path / "none").read_text)).startswith("there is no such file or folder")
    assert _about(PermissionError(13, "Permission denied", "/x")) == (
        "Permission denied; give a place that this user can read and write"
    )
    assert _about(OSError(5, "Input/output error", "/x")).startswith("Input/output error; give a file or folder")


def test_hydras_folder_that_is_a_file_is_said_to_need_a_folder(tmp_path):
    (tmp_path / "file").touch()
    done = programs.run("experiments.evaluate", "env=modchain", f"hydra.run.dir={tmp_path / 'file'}")
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "is a file where a folder is needed" in said
    assert "hydra.run.dir=" in said


def test_a_folder_of_runs_that_is_missing_or_a_file_is_named_with_its_key(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=f"^run={tmp_path}/none: there is no such folder; use runs/<name>"):
        Store(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=f"^run={tmp_path}/file: that is a file; name the folder of runs"):
        Store(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=rf"^run={tmp_path}: no finished run \(a folder with a result.json\)"):
        Store([tmp_path])


def test_a_chat_template_that_cannot_be_read_is_refused_before_torch_is_loaded(tmp_path):
    (tmp_path / "own.jinja").write_text("x")
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base=None):
        for given, said in ((tmp_path, "that is a folder; give a Jinja file"), (tmp_path / "none", "no such file")):
            with pytest.raises(TemplateError, match=rf"model\.chat_template={given}: {said}"):
                typed(compose("evaluate", [f"model.chat_template={given}"]))
        typed(compose("evaluate", [f"model.chat_template={tmp_path / 'own.jinja'}"]))


@pytest.mark.parametrize("given", ["model.chat_template={0}", "model.chat_template=trl:qwen"])
def test_the_refusal_of_a_chat_template_loads_no_torch(given, tmp_path):
    code = (
        "import sys, experiments.evaluate as program\n"
        "try:\n    program.main()\n"
        "finally:\n    print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    arguments = [given.format(tmp_path), f"runs_dir={tmp_path / 'runs'}"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert "model.chat_template=" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given", ["runs_dir={file}", "runs_dir={file}/below", "hydra.run.dir={file}/run"])
def test_a_file_in_place_of_a_folder_is_named_with_its_key(tmp_path, given):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    override = given.format(file=file)
    done = programs.run("experiments.compare", override)
    assert done.returncode == 2
    assert f"error: {override}: {file}" in " ".join(done.stdout.split())
    assert file.read_text() == "mine"


def test_the_key_of_a_path_is_the_override_that_names_it_most_closely(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["x", "seed=0", "data_dir=.", "++env.options.path=data/my.jsonl", "runs_dir='out'"])
    assert key_of("data/my.jsonl") == "env.options.path=data/my.jsonl: "
    assert key_of(str(tmp_path / "out" / "train")) == "runs_dir='out': "
    assert key_of("/etc/passwd") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["experiments.watch", "run=nowhere"],
        ["experiments.watch", "run={tests}", "once=true"],
        ["experiments.report", "run=nowhere"],
        ["experiments.play"],
        ["experiments.pretrain_tiny", "steps=0"],
        ["experiments.train", "--help"],
        ["experiments.train", "--cfg", "job"],
        ["experiments.job", "--help"],
        ["experiments.prepare_smollm2", "--help"],
        ["experiments.list", "env"],
    ],
)
def test_no_program_leaves_a_file_where_it_is_started(arguments, tmp_path):
    arguments = [one.format(tests=ROOT / "tests") for one in arguments]
    programs.run(*arguments, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
