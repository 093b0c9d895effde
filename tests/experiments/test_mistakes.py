"""Mistakes of a new user are answered by one sentence that names the key or value and the remedy.

A refused run prints no traceback and leaves no folder; a run that finishes in spite of a mistake warns about it.
"""

import errno
import importlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests import programs
from tests.conftest import ROOT

TOY = ROOT / "models" / "modchain"
SMALL = ["env=modchain", "threads=1", "evaluation.samples_per_task=0", "env.options.n_train=32"]
SMALL += ["env.options.n_validation=8", "env.options.n_test=8"]
SHORT = ["experiments.train", *SMALL, "algorithm=rloo", "training.episodes=256", "training.tasks_per_step=8"]
FEEDBACK = """
from envs import FEEDBACK

@FEEDBACK.register("shaky")
def shaky(*_):
    raise RuntimeError("nothing to say")
"""


def full(path, *_, **__):
    """Replaces ``Path.write_text`` as if the disk had no space left."""
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def no_template(folder):
    """Arguments with a model that has no chat template, as many published base models."""
    shutil.copytree(TOY, folder / "base")
    (folder / "base" / "chat_template.jinja").unlink()
    return [*SHORT, "model=path", f"model.path={folder / 'base'}"]


def broken_template(folder):
    (folder / "mine.jinja").write_text("{% for one in messages %}{{ one.content }}")
    return [*SHORT, "model=path", f"model.path={TOY}", f"model.chat_template={folder / 'mine.jinja'}"]


def no_tokenizer(folder):
    shutil.copytree(TOY, folder / "base", ignore=shutil.ignore_patterns("tokenizer*"))
    return [*SHORT, "model=path", f"model.path={folder / 'base'}"]


def of_a_run(folder):
    """Arguments that name the folder of a run as the model, instead of the policy's folder in it."""
    shutil.copytree(TOY, folder / "run" / "policy")
    return [*SHORT, "model=path", f"model.path={folder / 'run'}"]


def rows(folder, **options):
    """Arguments with a data file of the user, in words that the embedded model knows; ``options`` are the env's."""
    steps = [(i // 9 % 10, i % 9 + 1, i // 90 + 1) for i in range(60)]
    lines = [json.dumps({"question": f"{a} +{b} +{c} _ _ _", "answer": (a + b + c) % 10}) for a, b, c in steps]
    (folder / "my.jsonl").write_text("\n".join(lines))
    given = [f"env.options.{key}={value}" for key, value in options.items()]
    own = [
        "env=rows",
        f"env.options.path={folder / 'my.jsonl'}",
        "env.prompts=toy-v1",
        "env.max_new_tokens=[3]",
        *given,
    ]
    return [*own, "model=path", f"model.path={TOY}", "threads=1", "evaluation.samples_per_task=0"]


def output(folder, program, name, *made):
    """Arguments of a program that writes to ``name`` at its end, where the files ``made`` exist already."""
    for path, text in made:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    needed = {"tune": ["include=[score]"], "warm_start": ["demonstration=sums"], "pretrain_tiny": []}[program]
    return [f"experiments.{program}", *needed, *(SMALL if needed else []), f"output={folder / name}"]


def plugin(folder, name, text):
    (folder / f"{name}.py").write_text(text)
    return f"plugins=[{name}]"


REFUSED = {
    "wrong model path": (
        lambda folder: [*SHORT, "model=path", "model.path=nobody/nothing"],
        "model.path=nobody/nothing: no model folder, and not available from the hub",
    ),
    "a path that cannot be an id of the hub": (
        lambda folder: [*SHORT, "model=path", "model.path=runs/train/yesterday/policy"],
        "model.path=runs/train/yesterday/policy: no model there. Give one as",
    ),
    "a folder without a model": (
        lambda folder: [*SHORT, "model=path", f"model.path={folder}"],
        ": no model there. Give one as",
    ),
    "a run in place of its policy": (of_a_run, "that is the folder of a run; its policy is model.path="),
    "no model path": (lambda folder: [*SHORT, "model=path", "model.path="], "model.path=: no model there."),
    "a model without its tokenizer": (no_tokenizer, "has no tokenizer that can be read, such as tokenizer.json beside"),
    "an attention that is not here": (
        lambda folder: [*SHORT, "model.attention=flash_attention_2"],
        "Remove it for transformers' default",
    ),
    "an attention that there is not": (
        lambda folder: [*SHORT, "model.attention=flush"],
        "Remove it for transformers' default",
    ),
    "a chat template that is no Jinja": (broken_template, "the chat template cannot be read, line 1: "),
    "a chat template that is not there": (
        lambda folder: [*SHORT, "model.chat_template=mine.jinja"],
        "model.chat_template=mine.jinja: no such file.",
    ),
    "no chat template": (no_template, "has no chat template: set model.chat_template to"),
    "nothing to tune": (
        lambda folder: ["experiments.tune", *SMALL, "include=[]"],
        "include=[]: give at least one arm, as include=[score]",
    ),
    "nothing to compare": (
        lambda folder: ["experiments.compare", *SMALL, "include=[]"],
        "include=[]: give at least one arm, as include=[score]",
    ),
    "winners in place of a folder": (
        lambda folder: output(folder, "tune", "mine", ("mine/a.txt", "")),
        "/mine: that is a folder; name a file, as ",
    ),
    "winners in place of another file": (
        lambda folder: output(folder, "tune", "a.yaml", ("a.yaml", "name: repair")),
        "a.yaml: this file was not written by experiments.tune; name another",
    ),
    "winners in place of a text": (
        lambda folder: output(folder, "tune", "a.md", ("a.md", "# Notes\n: {")),
        "a.md: this file was not written by experiments.tune; name another",
    ),
    "winners below a file": (
        lambda folder: output(folder, "tune", "a/b/tuned.yaml", ("a", "")),
        "/a; name another place",
    ),
    "a base in place of somebody's files": (
        lambda folder: output(folder, "pretrain_tiny", "mine", ("mine/thesis.tex", "")),
        "/mine: it holds files that are no model; name a new folder, as ",
    ),
    "a base in place of a file": (
        lambda folder: output(folder, "pretrain_tiny", "a.txt", ("a.txt", "")),
        "/a.txt: that is a file; name a folder",
    ),
    "a warm model in place of somebody's files": (
        lambda folder: output(folder, "warm_start", "mine", ("mine/thesis.tex", "")),
        "/mine: it holds files that are no model; name a new folder, as ",
    ),
    "an empty split": (
        lambda folder: ["experiments.train", *rows(folder, validation=0), "algorithm=rloo"],
        "no tasks in split 'validation', which this run needs",
    ),
    "an empty test split": (
        lambda folder: ["experiments.evaluate", *rows(folder, test=0)],
        "no tasks in split 'test', which this run needs",
    ),
    "several GPUs for a job where there is none": (
        lambda folder: ["experiments.compare", *SMALL, "include=[score]", "executor_options.gpus_per_job=2"],
        "executor_options.gpus_per_job=2: has no effect, because there is no GPU here",
    ),
    "a GPU where there is none": (
        lambda folder: ["experiments.compare", *SMALL, "include=[score]", "executor_options.gpus=[0]"],
        "executor_options.gpus=['0']: there is no GPU 0 here, and no other one; remove it",
    ),
    "vLLM where there is none": (
        lambda folder: [*SHORT, "engine=vllm"],
        "engine=vllm: vLLM is not installed here; `pip install -e '.[vllm]'`",
    ),
    "a full disk": (
        lambda folder: SHORT,
        "no space left on the disk",
    ),
}


@pytest.fixture
def started(tmp_path, monkeypatch, capsys):
    """Runs a program; returns its output as one line, and its status. An exception that it does not catch is raised."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("rl.backends.engines.find_spec", lambda _: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def start(arguments):
        GlobalHydra.instance().clear()
        module = importlib.import_module(arguments[0])
        runs = [] if arguments[0] == "experiments.pretrain_tiny" else [f"runs_dir={tmp_path / 'runs'}"]
        monkeypatch.setattr("sys.argv", [*arguments, *runs])
        try:
            module.main()
            status = 0
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return " ".join((printed.out + printed.err).split()), status

    return start


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(mistake, started, tmp_path, monkeypatch):
    make, sentence = REFUSED[mistake]
    if mistake == "a full disk":
        monkeypatch.setattr(Path, "write_text", full)
    said, status = started(make(tmp_path))
    monkeypatch.undo()
    assert sentence in said
    assert status == 2, said
    assert not (tmp_path / "runs").exists(), sorted((tmp_path / "runs").rglob("*"))


def forked(folder, arguments, **env):
    """The same in a process of its own, since plugins and process groups would change the process of the tests."""
    env = os.environ | {"PYTHONPATH": str(folder)} | env
    done = programs.run(*arguments, f"runs_dir={folder / 'runs'}", env=env)
    said = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in said, said
    return said, done.returncode


def test_feedback_that_raises(tmp_path):
    said, status = forked(tmp_path, [*SHORT, plugin(tmp_path, "my_feedback", FEEDBACK), "env.feedback=shaky"])
    assert "100% of the episodes failed, more than training.max_failed_fraction=10%. First: task" in said
    assert "RuntimeError('nothing to say')" in said
    assert status == 2
    # The validation before the first step was run, so the folder is kept and its metrics say what failed.
    assert list(tmp_path.glob("runs/*/*/metrics.jsonl"))


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        here = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        said, status = forked(tmp_path, SHORT, **here)
    assert f"MASTER_PORT={port}: another program uses this port" in said
    assert "--main_process_port=" in said
    assert status == 2
    assert not (tmp_path / "runs").exists()


SAID = {
    "too few new tokens": (
        lambda folder: ["experiments.evaluate", *SMALL, "env.max_new_tokens=[1]"],
        "Try a larger env.max_new_tokens",
    ),
    "another form of answer than is read": (
        lambda folder: ["experiments.evaluate", *rows(folder, verify="math")],
        "hold no answer",
    ),
    "a learning rate that is a hundred times too large": (
        lambda folder: [*SHORT, "training.episodes=512", "algorithm.optim.lr=0.3", "training.validate_every=0"],
        "Try a learning rate (algorithm.optim.lr, offline.optim.lr) ten times smaller",
    ),
}


@pytest.mark.parametrize("mistake", SAID)
def test_a_run_that_goes_through_says_what_is_wrong_with_it(mistake, started, tmp_path):
    make, sentence = SAID[mistake]
    said, status = started(make(tmp_path))
    assert sentence in said, said
    assert status == 0
