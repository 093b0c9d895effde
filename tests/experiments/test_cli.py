"""Wrong input from a user is refused in one sentence, if possible before torch is loaded, and leaves no folder."""

import importlib.util
import json
import os
import subprocess
import sys
from urllib.error import URLError

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments.cli import (
    _ENTRY_POINTS,
    CONFIGS,
    UserError,
    expanded,
    known_keys,
    register_schemas,
    typed,
    with_stored,
)
from experiments.keys import explain, open_free_mappings, unknown
from experiments.refusals import of_arm
from tests import programs
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def hydra():
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        yield


def test_resuming_a_comparison_takes_what_it_was_started_with_unless_given_anew(tmp_path):
    command = ["compare.py", "include=[star]", "++env.options.n_train=64", "env=modchain", "-m", "resume=elsewhere"]
    (tmp_path / "run.json").write_text(json.dumps({"command": command}))
    again = [f"resume={tmp_path}", "include=[score]"]
    assert with_stored(again, "compare") == ["++env.options.n_train=64", "env=modchain", *again]
    assert with_stored(["include=[score]"], "compare") == ["include=[score]"]
    assert with_stored(["resume=nowhere"], "compare") == ["resume=nowhere"]


def test_a_home_behind_a_key_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["model.path=~/base", "runs_dir=~/runs", "env.options.path=a~/b", "~tuned", "name=~", "--help"]
    changed = [new for old in given if (new := expanded(old)) != old]
    assert changed == ["model.path=/home/me/base", "runs_dir=/home/me/runs"]


def refusal(entry, *overrides):
    """Composes a config that must be refused and returns the message that a user would see."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIGS, version_base=None), pytest.raises(Exception) as caught:  # noqa: PT011
        typed(compose(entry, open_free_mappings(overrides, _ENTRY_POINTS[entry])))
    return explain(caught.value, known_keys(entry, overrides))


@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize(
    ("entry", "key", "value", "near"),
    [
        ("train", "training.episods", "64", "training.episodes"),
        ("train", "algorithm.optim.learning_rate", "3", "algorithm.optim.lr"),
        ("train", "training.lr", "3", "algorithm.optim.lr"),
        ("train", "lr", "3", "algorithm.optim.lr"),
        ("train", "algorithm.stages.stage1.groupsize", "4", "algorithm.stages.stage1.group_size"),
        ("train", "algorithm.stages.stage1.kl_coef", "[1,1]", "algorithm.stages.stage1.kl_coefs"),
        ("train", "algorithm.optim.learningrate", "4", "algorithm.optim.lr"),
        ("train", "engine.optins.swap_space", "3", "engine.options.swap_space"),
        ("train", "engine.max_batchsize", "3", "engine.max_batch_size"),
        ("train", "model.chat_template_kwarg.enable_thinking", "false", "model.chat_template_kwargs.enable_thinking"),
        ("train", "env.prompt_text.retry", "a", "env.prompts_text.retry"),
        ("train", "evaluation.sample_per_task", "2", "evaluation.samples_per_task"),
        ("train", "evaluation.transfr.longer.attempts", "2", "evaluation.transfer.longer.attempts"),
        ("compare", "arms.score.stages.stage1.groupsize", "4", "arms.score.stages.stage1.group_size"),
        ("compare", "arms.star.rule_option.keep_right_to_right", "true", "arms.star.rule_options.keep_right_to_right"),
        ("compare", "arms.wait.stylo", "a", "arms.wait.style"),
        ("compare", "executor_option.gpus", "[0]", "executor_options.gpus"),
        ("train", "algorithm.group_sise", "4", "algorithm.group_size"),
        ("train", "model.lora.rnak", "4", "model.lora.rank"),
        ("train", "sede", "3", "seed"),
        ("train", "env.optoins.n_train", "3", "env.options.n_train"),
        ("train", "hydra.run.dri", "here", "hydra.run.dir"),
        ("sft", "offline.iteration", "2", "offline.iterations"),
        ("compare", "arms.star.iteration", "5", "arms.star.iterations"),
        ("play", "sed", "3", "seed"),
        ("report", "rnu", "here", "run"),
        ("watch", "onec", "true", "once"),
        ("pretrain_tiny", "step", "3", "steps"),
    ],
)
def test_a_key_that_is_not_there_is_refused_whole_with_the_nearest(entry, key, value, near, sign):
    if key.startswith("hydra") and sign:
        return  # hydra's keys are not composed here; the commands below cover them
    text = refusal(entry, f"{sign}{key}={value}")
    assert text.startswith(f"unknown key {key!r}; did you mean {near!r}?")
    assert "append" not in text
    assert "+" not in text


@pytest.mark.parametrize(
    ("entry", "key", "beside"),
    [
        ("train", "model.device", "model has: path, "),
        ("evaluate", "evaluation.limit", "evaluation has: split, "),
        ("compare", "tracking.backends", "The config has: seed, "),
        ("compare", "arms.score.optim.foo.bar", "arms.score.optim has: lr, "),
    ],
)
def test_a_key_that_resembles_none_is_refused_with_what_can_be_given_there(entry, key, beside):
    assert refusal(entry, f"+{key}=1").startswith(f"unknown key {key!r}\n{beside}")


def test_a_key_of_a_study_is_refused_with_the_nearest():
    assert "did you mean 'settings.steps'?" in refusal("study", "study=collapse", "setting.steps=3")
    assert "did you mean 'study.sizes.tiny'?" in refusal("study", "study=collapse", "study.size.tiny=3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~training.episodes", "training.episodes cannot be removed"),
        ("~trainin.episodes", "unknown key 'trainin.episodes'"),
        ("+training.episodes=64", "training.episodes is there already: give its value without the +"),
        ("algoritm=score", "unknown key 'algoritm'; did you mean 'algorithm'?"),
        ("algorithm=scroe", "algorithm=scroe: unknown; did you mean 'score'?"),
        ("debug=overfitt", "debug=overfitt: unknown; did you mean 'overfit'?"),
        ("experiment=smollm2_chain_sums", "did you mean 'smollm2_chain_sum'?"),
        ("launcher=zzz", "launcher=zzz: unknown. Known: joblib, ray, submitit"),
        ("toy=modchain", "unknown key 'toy'"),
        ("++algorithm.optim={lr: 3, rate: 4}", "unknown key 'algorithm.optim.rate'"),
        ("++algorithm.stages={stage3: {shar: 1}}", "unknown key 'algorithm.stages.stage3.shar'"),
        (
            "++algorithm.stages.stge2.share=1",
            "unknown key 'algorithm.stages.stge2'; did you mean 'algorithm.stages.stage2'?",
        ),
        ("++algorithm.stages.stage3.share=1", "Give a new one with all its values: 'algorithm.stages={stage3: {...}}'"),
        ("++algorithm.terms={entropy: {wieght: 1}}", "did you mean 'algorithm.terms.entropy.weight'?"),
        (
            "algorithm.stages.main.groupsize=4",
            "unknown key 'algorithm.stages.main'\nalgorithm.stages has: stage1, stage2",
        ),
        (
            "++algorithm.terms.entropy.weight=1",
            "Give a new one with all its values: 'algorithm.terms={entropy: {...}}'",
        ),
        ("plugins=[no_such_module]", "plugins: there is no module 'no_such_module'"),
        ("model.path=./nowhere", "model.path=./nowhere: no model there"),
    ],
)
def test_what_cannot_be_done_to_a_config_is_said(override, message):
    assert message in refusal("train", override)


def test_plugins_are_imported_before_the_config_is_checked(tmp_path, monkeypatch):
    (tmp_path / "a_plugin.py").write_text("import envs.prompts\nenvs.prompts.SEEN_BY_A_TEST = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert typed(compose("train", ["plugins=[a_plugin]"])).plugins == ["a_plugin"]
    assert sys.modules["a_plugin"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.group_size=1", "rloo compares the episodes of a task"),
        ("algorithm.optim.lr=-1", "optim.lr=-1.0"),
        ("env.feedback=loud", "env.feedback=loud"),
        ("env.max_new_tokens=[]", "max_new_tokens is empty"),
        ("evaluation.split=train", "evaluation.split=train"),
        ("model.dtype=int8", "model.dtype=int8"),
        ("algorithm.kl=kk", "kk"),
        ("seed=abc", "seed=abc: a whole number is needed here"),
        ("env.max_new_tokens=3", "env.max_new_tokens=3: a list is needed here, as env.max_new_tokens=[3]"),
        ("env.feedback=[none]", "env.feedback=[none]: one value is needed here, not a list"),
        ("tracking=[wandb]", "it holds keys of its own, backends, "),
        ("model.lora=8", "model.lora=8: it holds keys of its own, "),
        ("training.health.cut_off=0.2", "training.health.cut_off=0.2: limits are given by name"),
        ("evaluation.transfer=addition", "it holds keys of its own; give one as evaluation.transfer.<name>=<value>"),
        ("evaluation.transfer.longer=addition", "evaluation.transfer.longer=addition: say what differs from env"),
        (
            "evaluation.transfer.longer.option.n_test=2",
            "evaluation.transfer.longer.option: there is no such key; did you",
        ),
        (
            "evaluation.transfer.longer.options.n_tset=2",
            "evaluation.transfer.longer.options.n_tset: errata/modchain-v1 has",
        ),
        ("evaluation.transfer.longer.attempts=two", "evaluation.transfer.longer.attempts: Value 'two'"),
        ("training.health=off", "training.health=off: it holds keys of its own"),
        ("env.prompts_text.system=Hello, you", "for a text with a comma \"env.prompts_text.system='Hello, you'\""),
        ("env.options.path=my file(1).jsonl", "or brackets in quotes, \"env.options.path='my file(1).jsonl'\""),
        ("my.jsonl", "my.jsonl: an override is <key>=<value>"),
        ("model=path", "model.path is missing: give it as model.path=<value>"),
        ("env=", "env=: unknown. Known: addition, "),
        ("env.options.n_trian=3", "did you mean 'n_train'?"),
        ("env.options.path=./nowhere.jsonl", "env.options.path=./nowhere.jsonl: there is no such file or folder in "),
        ("resume=./nowhere", "resume=./nowhere: there is no such file or folder; use a run's folder, or auto"),
        ("evaluation.conversations=./no.jsonl", "evaluation.conversations=./no.jsonl: there is no such file or folder"),
        ("evaluation.greedy=perhaps", "evaluation.greedy=perhaps: true or false is needed here"),
    ],
)
def test_a_wrong_value_is_named(override, message):
    assert message in refusal("train", override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: mine\noptions:\n  path: my.jsonl\n   verify: number\n",
            "mine.yaml, line 4, column 10: no valid YAML (",
        ),
        ("name: mine\noptions: {path: my.jsonl\n", "mine.yaml, line 3, column 1: no valid YAML ("),
        ("name: mine\nname: yours\n", "mine.yaml, line 2, column 1: no valid YAML (found duplicate key name)"),
        ("name: mine\tb: [\x01]\n", "mine.yaml"),
        ("defaults: [rowz]\n", "env/mine.yaml: its defaults name env/rowz, and there is no such file; `python -m exp"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_one_sentence(text, message, tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text(text)
    said = programs.run("experiments.train", "--config-dir", str(tmp_path), "env=mine", f"runs_dir={tmp_path / 'runs'}")
    assert said.returncode == 2
    assert message in " ".join(said.stdout.split())
    assert len(said.stdout.splitlines()) < 4
    assert not (tmp_path / "runs").exists()


def test_the_keys_that_there_are_stand_once():
    said = unknown("env.opshuns", ["env.options", "env.name", "env.options", "env.name"])
    assert said.splitlines()[1] == "env has: options, name"


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ("optim.lr=-1.0: must be positive", "arms.score.optim.lr=-1.0: must be positive"),
        ("algorithm.epochs=0: must be positive", "arms.score.epochs=0: must be positive"),
        ("env.attempts=1: SCoRe needs two", "arms.score: env.attempts=1: SCoRe needs two"),
    ],
)
def test_what_is_said_of_an_arm_names_the_whole_key(said, whole):
    assert of_arm("score", said) == whole


LIGHT = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(sorted({"torch", "transformers"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments.train", "+hydra.foo=3"], "unknown key 'hydra.foo'"),
        (["experiments.train", "++training.episods=64", "+optim.learning_rate=3"], "'optim.learning_rate'"),
        (["experiments.train", "model=path", "model.path=./nowhere"], "no model there"),
        (["experiments.train", "--help"], "python -m experiments.list"),
        (["experiments.sft", "offline.iteration=3"], "'offline.iterations'"),
        (["experiments.evaluate", "evaluation.limit=8"], "'evaluation.limit'"),
        (["experiments.play", "--help"], "Random seed that selects the tasks and their order."),
        (["experiments.pretrain_tiny", "step=3"], "'steps'"),
        (["experiments.compare", "env=rows", "env.options.path=./nowhere.jsonl"], "there is no such file or folder"),
        (["experiments.tune", "trials=0"], "error: trials=0: must be positive"),
        (["experiments.train", "training.episodes=0"], "error: training.episodes=0: must be positive"),
        (["experiments.compare", "arms.score.optim.lr=-1"], "error: arms.score.optim.lr=-1.0: must be positive"),
        (["experiments.compare", "arms.star.iterations=0"], "error: arms.star.iterations=0: must be positive"),
        (["experiments.compare", "arms.dpo.beta=-1"], "error: arms.dpo.beta=-1.0: must be positive"),  # not in include
        (["experiments.compare", "arms.dpo.rule=stars"], "arms.dpo.rule=stars: unknown; did you mean 'star'?"),
        (["experiments.compare", "arms.scroe.optim.lr=1"], "arms.scroe: there is no such arm; did you mean 'score'?"),
        (["experiments.tune", "arms.mine.kind=onlin"], "arms.mine: there is no such arm"),
        (["experiments.compare", "include=[score,score]"], "include=['score', 'score']: give each arm once"),
        (
            ["experiments.compare", "include=[score,grpo]", "arms.grpo.name=SCoRe"],
            "arms.grpo.name=SCoRe: arms.score has the same name; give each arm its own",
        ),
        (["experiments.compare", "executor_options.gpus=0"], "executor_options.gpus=0: a list is needed here"),
        (["experiments.plan", "train", "plan.steps=0"], "error: plan.steps=0: must be positive"),
        (["experiments.plan", "train", "plan.processes=2"], "plan.processes: real steps run in one process; set plan"),
        (["experiments.study"], "study is missing: give it as study=<one of these>. Known: collapse, "),
        (["experiments.study", "study=skills", "settings.stesp=3"], "settings.stesp: unknown; did you mean"),
        (
            ["experiments.study", "study=self_edits", "settings.rounds=0"],
            "error: settings.rounds=0: use a whole number",
        ),
        (["experiments.study", "study=self_judging", "settings.judgments=3"], "settings.judgments=3: use an even num"),
        (
            ["experiments.study", "study=self_edits", "size=full", "settings.rank=two"],
            "settings.rank=two: use a whole num",
        ),
        (["experiments.pretrain_tiny", "corpus.shy=3"], "corpus.shy: modchain has no such argument. It has: rare, "),
        (
            ["experiments.train", "algorithm.advantage=rlooo"],
            "algorithm.advantage=rlooo: unknown; did you mean 'rloo'?",
        ),
        (["experiments.compare", "comparison=repiar"], "comparison=repiar: unknown; did you mean 'repair'? Known: "),
        (
            ["experiments.compare", "resume=tests"],
            "resume=tests: no run was started in it; use a run's folder, or auto",
        ),
        (["experiments.train", "env.options.n_train=x"], "env.options.n_train=x: a whole number is needed here"),
        (["experiments.tune", "space=nosuch"], "space=nosuch: unknown. Known: default"),
    ],
)
def test_it_is_answered_before_torch_is_loaded_and_leaves_no_folder(arguments, message, tmp_path):
    extra = [] if arguments[0] in ("experiments.play", "experiments.pretrain_tiny") else [f"runs_dir={tmp_path}/runs"]
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments, *extra], capture_output=True, text=True, cwd=ROOT)
    assert message in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Error executing job" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (RuntimeError("engine.urls: no answer: [Errno 111] refused"), URLError(OSError(111, "refused"))),
        (ImportError("env=openenv needs the package openenv"), ModuleNotFoundError("No module named 'openenv'")),
        (ValueError("resume: errata.json cannot be read: kind"), KeyError("kind")),
    ],
)
def test_an_error_that_says_its_reason_says_it_once(said, cause):
    with pytest.raises(type(said)) as caught:
        raise said from cause
    assert explain(caught.value) == str(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["env=repair", "engine=vllm_http", "engine.urls=[http://127.0.0.1:9]", "engine.weights_dir=."], "refused"),
        (
            ["env=openenv", "env.options.url=http://127.0.0.1:9", "model=path", "model.path=models/modchain"],
            "env=openenv needs the package openenv",
        ),
    ],
)
def test_what_a_machine_lacks_is_one_sentence(arguments, message, tmp_path):
    if "openenv" in message and importlib.util.find_spec("openenv"):
        pytest.skip("openenv is installed")
    done = programs.run("experiments.evaluate", *arguments, f"runs_dir={tmp_path}", "threads=1")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(message) == 1


@pytest.mark.slow
def test_an_environment_that_ends_the_program_when_it_is_built_is_named(tmp_path):
    (tmp_path / "exits.py").write_text(
        "import sys, gymnasium\n"
        "class Exits(gymnasium.Env):\n"
        "    def __init__(self): sys.exit(0)\n"
        "gymnasium.register('Exits-v0', entry_point=Exits)\n"
    )
    arguments = ["experiments.train", "env=custom", "env.id=exits:Exits-v0", "env.attempts=2", "algorithm=rloo"]
    arguments += ["model.path=models/modchain", f"runs_dir={tmp_path / 'runs'}", "threads=1"]
    done = programs.run(*arguments, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    said = (done.stdout + done.stderr).replace("\n", "")
    assert done.returncode == 2, said
    assert "exits.py, line 3 ended the program with SystemExit(0)" in said


PLUGINS = {
    "fails": (
        "raise RuntimeError('no licence')",
        "fails fails when it is imported: RuntimeError: no licence, .*fails.py line 1",
    ),
    "exits": ("import sys; sys.exit(4)", "exits fails when it is imported: SystemExit: 4"),
    "half": ("import nothing_of_that_name", "half fails when it is imported: ModuleNotFoundError: No module named"),
    "odd": ("def f(:", "odd fails when it is imported: SyntaxError"),
    "twice": ("from rl.losses import LOSSES\nLOSSES.register('ppo')(print)", "twice fails when it is imported"),
    "missing": (None, "there is no module 'missing' in "),
    "missing.part": (None, "there is no module 'missing.part' in "),
    "fails.part": (None, "there is no module 'fails.part' in |fails.part fails when it is imported"),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_that_cannot_be_imported_is_one_sentence(name, tmp_path, monkeypatch):
    for module, (text, _) in PLUGINS.items():
        if text is not None:
            (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"^plugins: {PLUGINS[name][1]}"):
        typed(compose("train", [f"plugins=[{name}]"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments.job", "nowhere"], "nowhere is no job's folder"),
        (["experiments.train", "algorithm.group_sise=4"], "did you mean 'algorithm.group_size'"),
        (["experiments.train", "algorithm=scroe"], "score"),
        (["experiments.train", "model=path", "model.path=./nowhere"], "no model there"),
        (["experiments.compare", "include=[scoer]"], "did you mean 'score'"),
        (["experiments.compare", "training.episodes=5000"], "cannot be spent equally"),
        (["experiments.train", "env.options.n_trian=3"], "did you mean 'n_train'"),
        (
            ["experiments.evaluate", "evaluation.n_tasks=100000"],
            "evaluation.n_tasks=100000: errata/modchain-v1 has 1,000 tasks",
        ),
        (["experiments.play", "split=tset"], "tset"),
        (["experiments.pretrain_tiny", "toy=nothing"], "modchain"),
        (["experiments.pretrain_tiny", "name=nothing"], "name=nothing: unknown"),
        (["experiments.report", "run=nowhere"], "run=nowhere: there is no such folder"),
        (["experiments.compare", "match=tokens"], "training.tokens="),
        (["experiments.compare", "training.updates=5"], "match=updates"),
        (["experiments.compare", "match=updates", "training.updates=61"], "training.updates cannot be spent equally"),
        (["experiments.compare", "match=time"], "use samples, tokens, updates"),
        (["experiments.compare", "include=[self_refine]"], "has no words for env.prompts=toy-v1"),
    ],
)
def test_mistakes_end_with_a_message_and_status(arguments, message, tmp_path):
    extra = (
        []
        if arguments[0].split(".")[1] in ("play", "pretrain_tiny", "report", "job")
        else [f"runs_dir={tmp_path}/runs"]
    )
    done = programs.run(*arguments, *extra)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Error executing job" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
