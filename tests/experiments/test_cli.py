"""What a user types: every config composes, and mistakes are named."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from experiments import schema as entry_schema
from experiments.cli import (
    _ENTRY_POINTS,
    CONFIGS,
    UserError,
    composed,
    known_keys,
    register_schemas,
    typed,
    with_stored,
)
from experiments.compare import plan
from experiments.help import described
from experiments.keys import explain, open_free_mappings
from rl import config as schema
from rl.advantages import ADVANTAGES
from rl.losses import LOSSES
from rl.offline import KEEP_RULES
from tests import programs
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def hydra():
    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        yield


def options(group):
    return sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))


@pytest.mark.parametrize("algorithm", options("algorithm"))
def test_every_algorithm_composes(algorithm):
    cfg = OmegaConf.to_object(compose("train", [f"algorithm={algorithm}"]))
    assert isinstance(cfg, schema.TrainConfig)
    assert isinstance(cfg.algorithm, schema.AlgorithmConfig)
    assert cfg.algorithm.name


@pytest.mark.parametrize("offline", options("offline"))
def test_every_offline_method_composes(offline):
    cfg = OmegaConf.to_object(compose("sft", [f"offline={offline}"]))
    assert cfg.offline.rule in KEEP_RULES
    kept = cfg.offline.rule_options.get("keep_right_to_right", False)
    assert kept == (offline.endswith("_plus") or offline == "iterated_rft")


@pytest.mark.parametrize("env", options("env"))
@pytest.mark.parametrize(
    "entry", ["train", *(pytest.param(one, marks=pytest.mark.slow) for one in ("sft", "evaluate", "compare", "play"))]
)
def test_every_environment_composes_with_every_entry_point(entry, env):
    own = ["env.id=errata/modchain-v1"] if env == "custom" else []
    cfg = OmegaConf.to_object(compose(entry, [f"env={env}", *own]))
    assert cfg.env.id.startswith("errata/")


def test_published_data_lie_below_one_folder():
    cfg = OmegaConf.to_object(compose("evaluate", ["env=gsm8k", "data_dir=/somewhere"]))
    assert cfg.env.options["path"] == "/somewhere/gsm8k"
    cfg = OmegaConf.to_object(compose("train", ["experiment=score_code_qwen2.5_coder_1.5b", "data_dir=/somewhere"]))
    assert cfg.evaluation.transfer["humaneval"]["options"]["path"] == "/somewhere/humaneval"


def test_arms_that_only_ask_get_one_job_with_their_own_words(tmp_path):
    cfg = OmegaConf.to_object(compose("compare", ["env=gsm8k", "include=[self_refine,wait,star]", "seeds=[0,1]"]))
    jobs = {(job.arm.name, job.seed): job.arm.config for job in plan(cfg, tmp_path)}
    assert list(jobs) == [("base", 0), ("self_refine", 0), ("wait", 0), ("star", 0), ("star", 1)]
    assert jobs["self_refine", 0].env.prompts == "math-refine-v1"
    assert jobs["base", 0].env.prompts == "math-v1"


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment):
    text = (ROOT / "configs" / "experiment" / f"{experiment}.yaml").read_text()
    entry = next((name for name in ("compare", "evaluate", "warm_start") if f"experiments.{name}" in text), "train")
    cfg = OmegaConf.to_object(compose(entry, [f"experiment={experiment}"]))
    assert cfg.name == experiment


def printed_commands():
    """Every command of an entry point that a page prints, in blocks and in tables, without what only runs know."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text().replace("\\\n", " ")
        # A plan is in front of another program, with options of its own.
        text = re.sub(r" plan\.\S+", "", text.replace("experiments.plan ", "experiments."))
        for entry, rest in re.findall(r"python -m experiments\.(\w+)([^`\n]*)", text):
            arguments = shlex.split(re.sub(r"<[^>]*>", "placeholder", rest), comments=True)
            given = [one for one in arguments if "=" in one and not one.startswith("-") and not one.endswith("=...")]
            foreign = any(one.startswith("plugins=") or "my_" in one for one in arguments)  # run by their pages' tests
            if entry in _ENTRY_POINTS and given and not foreign:
                yield pytest.param(entry, given, id=f"{page.stem}: {entry} {' '.join(given)}"[:90])


@pytest.mark.parametrize(("entry", "given"), printed_commands())
def test_every_printed_command_composes(entry, given, tmp_path):
    first = [one if re.search(r"[\[{]", one) else one.split(",")[0] for one in given]  # of a sweep
    cfg = OmegaConf.to_object(compose(entry, open_free_mappings(first, _ENTRY_POINTS[entry])))
    if entry == "compare":
        assert plan(cfg, tmp_path)


def test_resuming_a_comparison_takes_what_it_was_started_with_unless_given_anew(tmp_path):
    command = ["compare.py", "include=[star]", "++env.options.n_train=64", "env=modchain", "-m", "resume=elsewhere"]
    (tmp_path / "run.json").write_text(json.dumps({"command": command}))
    again = [f"resume={tmp_path}", "include=[score]"]
    assert with_stored(again) == ["++env.options.n_train=64", "env=modchain", *again]
    assert with_stored(["include=[score]"]) == ["include=[score]"]
    assert with_stored(["resume=nowhere"]) == ["resume=nowhere"]


@pytest.mark.parametrize("debug", options("debug"))
@pytest.mark.parametrize("entry", ["train", "sft", "compare"])
def test_every_debug_config_composes(entry, debug, tmp_path):
    cfg = typed(compose(entry, [f"debug={debug}"]))
    assert cfg.name.startswith("debug")
    assert cfg.training.episodes < 10_000
    if entry == "compare":
        assert plan(cfg, tmp_path)  # all arms of the default comparison can spend this budget alike


def test_what_there_is_is_listed_with_a_line_each_and_without_torch():
    code = "import sys; from experiments.list import sections; print(sections()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    found = ast.literal_eval(done.stdout)
    assert {
        "env",
        "algorithm",
        "offline",
        "model",
        "engine",
        "debug",
        "executor",
        "env.feedback",
        "env.prompts",
    } <= set(found)
    assert {"local", "here", "submitit", "ray"} == set(found["executor"])
    # Other tests of this process may have registered more than the list's own process knows.
    for key, lookup in (("algorithm.loss", LOSSES), ("algorithm.advantage", ADVANTAGES), ("offline.rule", KEEP_RULES)):
        own = {name for name, value in lookup.items() if value.__module__.startswith("rl.")}
        assert found[key].keys() == own
    empty = [f"{key}={name}" for key, entries in found.items() for name, line in entries.items() if not line]
    assert not empty


def test_the_list_is_narrowed_and_takes_modules_of_others():
    command = [sys.executable, "-m", "experiments.list"]
    done = subprocess.run(
        [*command, "arms", "--plugins", "tests.experiments.made_up_arms"], capture_output=True, text=True, cwd=ROOT
    )
    assert "made_up" in done.stdout
    assert "algorithm" not in done.stdout
    missing = subprocess.run([*command, "nothing"], capture_output=True, text=True, cwd=ROOT)
    assert missing.returncode == 1
    assert "error: nothing: unknown" in missing.stderr
    assert "Known: env, " in missing.stderr
    for name in ("nothing", "nothing.at.all"):
        absent = subprocess.run([*command, "arms", "--plugins", name], capture_output=True, text=True, cwd=ROOT)
        assert absent.stderr.strip() == f"error: --plugins: there is no module '{name}' here"


def test_a_data_sets_own_parameters_are_added():
    overrides = ["env=reasoning_gym", "env.dataset=chain_sum", "+env.options.params={min_terms: 2, max_terms: 2}"]
    cfg = OmegaConf.to_object(compose("evaluate", overrides))
    assert cfg.env.task_options["params"] == {"min_terms": 2, "max_terms": 2}
    assert cfg.env.task_options["dataset"] == "chain_sum"


def test_the_comparison_holds_typed_arms():
    cfg = OmegaConf.to_object(
        compose("compare", ["arms.star.optim.lr=2e-3", "arms.score.stages.stage1.kl_coefs=[1,0]"])
    )
    assert isinstance(cfg.arms["star"], schema.OfflineConfig)
    assert isinstance(cfg.arms["score"], schema.AlgorithmConfig)
    assert cfg.arms["star"].optim.lr == 2e-3
    assert set(cfg.include) < set(cfg.arms)  # the default comparison, and every other algorithm by name
    assert all(isinstance(cfg.arms[name], schema.AlgorithmConfig) for name in ("ppo", "turn_ppo", "grpo", "dapo"))


def refusal(entry, *overrides):
    """What is printed when a config is refused."""
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
        ("train", "model.device", "cuda", "model.revision"),
        ("train", "training.lr", "3", "algorithm.critic.lr"),
        ("train", "algorithm.group_sise", "4", "algorithm.group_size"),
        ("train", "model.lora.rnak", "4", "model.lora.rank"),
        ("train", "sede", "3", "seed"),
        ("train", "env.optoins.n_train", "3", "env.options.n_train"),
        ("train", "hydra.run.dri", "here", "hydra.run.dir"),
        ("sft", "offline.iteration", "2", "offline.iterations"),
        ("evaluate", "evaluation.limit", "8", "evaluation.split"),
        ("compare", "arms.star.iteration", "5", "arms.star.iterations"),
        ("play", "sed", "3", "seed"),
        ("report", "rnu", "here", "run"),
        ("watch", "onec", "true", "once"),
        ("pretrain_tiny", "step", "3", "steps"),
    ],
)
def test_a_key_that_is_not_there_is_refused_whole_with_the_nearest(entry, key, value, near, sign):
    if key.startswith("hydra") and sign:
        return  # no part of what is composed here; see the commands below
    text = refusal(entry, f"{sign}{key}={value}")
    assert text.startswith(f"unknown key {key!r}; did you mean {near!r}?")
    assert "append" not in text
    assert "+" not in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~training.episodes", "training.episodes cannot be taken away"),
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
        ("++algorithm.stages.stage3.share=1", "A new one is given whole: 'algorithm.stages={stage3: {...}}'"),
        ("++algorithm.terms.entropy.weight=1", "A new one is given whole: 'algorithm.terms={entropy: {...}}'"),
        ("plugins=[no_such_module]", "plugins: there is no module 'no_such_module'"),
        ("model.path=./nowhere", "model.path=./nowhere: no model there"),
    ],
)
def test_what_cannot_be_done_to_a_config_is_said(override, message):
    assert message in refusal("train", override)


@pytest.mark.parametrize("override", ["env.options.p_set=0.3", "+env.options.p_set=0.3", "++env.options.p_set=0.3"])
def test_free_mappings_take_new_keys_with_and_without_a_plus(override):
    cfg = typed(
        compose("train", open_free_mappings([override, "evaluation.transfer.far.options.n=1"], _ENTRY_POINTS["train"]))
    )
    assert cfg.env.options["p_set"] == 0.3
    assert cfg.evaluation.transfer == {"far": {"options": {"n": 1}}}


def test_stages_and_terms_are_added_in_one_line():
    lines = ["algorithm.stages={stage3: {share: 0.5}}", "algorithm.terms={entropy: {weight: 0.01}}"]
    cfg = typed(compose("train", open_free_mappings(lines, _ENTRY_POINTS["train"])))
    assert [stage.share for stage in cfg.algorithm.stages.values()] == [1.0, 1.0, 0.5]
    assert cfg.algorithm.terms["entropy"].weight == 0.01


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
        ("training.health=off", "training.health=off: it holds keys of its own"),
        ("env.prompts_text.system=Hello, you", "for a text with a comma \"env.prompts_text.system='Hello, you'\""),
        ("env.options.path=my file(1).jsonl", "stands in quotes, \"env.options.path='my file(1).jsonl'\""),
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


def test_every_config_field_is_documented_and_known():
    assert {"algorithm.group_size", "algorithm.optim.micro_batch_tokens", "hydra.run.dir"} <= set(known_keys("train"))
    for node in (*vars(schema).values(), *vars(entry_schema).values()):
        if not is_dataclass(node) or not (node.__doc__ or "").count("Args:"):
            continue
        for item in fields(node):
            if item.name not in {f.name for base in node.__mro__[1:] if is_dataclass(base) for f in fields(base)}:
                assert f"{item.name}:" in node.__doc__ or is_dataclass(getattr(node, item.name, None)) or item.name in (
                    "model", "env", "engine", "evaluation", "optim", "training", "algorithm", "offline", "tracking",
                ), f"{node.__name__}.{item.name} has no docstring line"  # fmt: skip


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
        (["experiments.play", "--help"], "Which of them, in which order."),
        (["experiments.pretrain_tiny", "step=3"], "'steps'"),
        (["experiments.compare", "env=rows", "env.options.path=./nowhere.jsonl"], "there is no such file or folder"),
        (["experiments.study"], "study is missing: give it as study=<one of these>. Known: collapse, "),
    ],
)
def test_it_is_answered_before_torch_is_loaded_and_leaves_no_folder(arguments, message, tmp_path):
    extra = [] if arguments[0] in ("experiments.play", "experiments.pretrain_tiny") else [f"runs_dir={tmp_path}/runs"]
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments, *extra], capture_output=True, text=True, cwd=ROOT)
    assert message in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Error executing job" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("entry", _ENTRY_POINTS)
def test_help_says_something_of_every_key(entry):
    cfg = composed(entry)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra")
    lines = {key: text for key, _, text in described(cfg)}
    assert {item.name for item in fields(OmegaConf.get_type(cfg))} <= lines.keys()
    assert (
        entry != "train" or {"algorithm.optim.lr", "algorithm.stages.<name>.share", "model.lora.rank"} <= lines.keys()
    )
    assert not [key for key, text in lines.items() if not text.strip()]
    assert not [key for key, text in lines.items() if ":data:" in text or "``" in text]


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
        (["experiments.evaluate", "evaluation.n_tasks=100000"], "100000 tasks"),
        (["experiments.play", "split=tset"], "tset"),
        (["experiments.pretrain_tiny", "toy=nothing"], "modchain"),
        (["experiments.pretrain_tiny", "name=nothing"], "there is no such toy"),
        (["experiments.report", "run=nowhere"], "no finished run"),
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
