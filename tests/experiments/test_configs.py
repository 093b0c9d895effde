"""Every config composes with every program that takes it, and every config key and registered name is described."""

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace

import pytest
from hydra import compose, initialize_config_dir
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
)
from experiments.compare import plan
from experiments.help import described
from experiments.jobs import Job
from experiments.keys import open_free_mappings
from experiments.pretrain_tiny import CORPORA, arguments, make_corpus
from rl import config as schema
from rl.advantages import ADVANTAGES
from rl.losses import LOSSES
from rl.offline import KEEP_RULES
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
    """Every command of an entry point that a docs page prints in a code block or table, as program and overrides."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text().replace("\\\n", " ")
        # experiments.plan stands before the name of another program and takes plan.* options besides.
        text = re.sub(r" plan\.\S+", "", text.replace("experiments.plan ", "experiments."))
        for entry, rest in re.findall(r"python -m experiments\.(\w+)([^`\n]*)", text):
            arguments = shlex.split(re.sub(r"<[^>]*>", "placeholder", rest), comments=True)
            given = [one for one in arguments if "=" in one and not one.startswith("-") and not one.endswith("=...")]
            # Commands that need files of their page are run by that page's own tests.
            foreign = any(one.startswith("plugins=") or "my_" in one for one in arguments)
            if entry in _ENTRY_POINTS and given and not foreign:
                yield pytest.param(entry, given, id=f"{page.stem}: {entry} {' '.join(given)}"[:90])


@pytest.mark.parametrize(("entry", "given"), printed_commands())
def test_every_printed_command_composes(entry, given, tmp_path):
    first = [one if re.search(r"[\[{]", one) else one.split(",")[0] for one in given]  # the first job of a sweep
    cfg = OmegaConf.to_object(compose(entry, open_free_mappings(first, _ENTRY_POINTS[entry])))
    if entry == "compare":
        assert plan(cfg, tmp_path)


@pytest.mark.parametrize("debug", options("debug"))
@pytest.mark.parametrize("entry", ["train", "sft", "compare"])
def test_every_debug_config_composes(entry, debug, tmp_path):
    cfg = typed(compose(entry, [f"debug={debug}"]))
    assert cfg.name.startswith("debug")
    assert cfg.training.episodes < 10_000
    if entry == "compare":
        assert plan(cfg, tmp_path)  # raises if an arm cannot spend this budget exactly


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
    # Other tests may have registered names in this process that the list's own process does not know.
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
    assert set(cfg.include) < set(cfg.arms)  # other algorithms can be included by name
    assert all(isinstance(cfg.arms[name], schema.AlgorithmConfig) for name in ("ppo", "turn_ppo", "grpo", "dapo"))


@pytest.mark.parametrize("override", ["env.options.p_set=0.3", "+env.options.p_set=0.3", "++env.options.p_set=0.3"])
def test_free_mappings_take_new_keys_with_and_without_a_plus(override):
    cfg = typed(
        compose(
            "train", open_free_mappings([override, "evaluation.transfer.far.options.n_test=1"], _ENTRY_POINTS["train"])
        )
    )
    assert cfg.env.options["p_set"] == 0.3
    assert cfg.evaluation.transfer == {"far": {"options": {"n_test": 1}}}


def test_stages_and_terms_are_added_in_one_line():
    lines = ["algorithm.stages={stage3: {share: 0.5}}", "algorithm.terms={entropy: {weight: 0.01}}"]
    cfg = typed(compose("train", open_free_mappings(lines, _ENTRY_POINTS["train"])))
    assert [stage.share for stage in cfg.algorithm.stages.values()] == [1.0, 1.0, 0.5]
    assert cfg.algorithm.terms["entropy"].weight == 0.01


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


@pytest.mark.parametrize(
    "overrides", [f"env={env}" for env in ("repair", "mend", "modchain", "addition")] + ["debug=default"]
)
def test_the_process_of_every_job_reads_the_config_that_its_comparison_wrote(overrides, tmp_path):
    """A config that a comparison accepts must not be refused by the process of any of its jobs, such as the base's."""
    jobs = plan(typed(compose("compare", [overrides])), tmp_path)
    for job in jobs:
        if job.seed == min(one.seed for one in jobs if one.arm.name == job.arm.name):  # seeds differ in nothing else
            job.write()
            read = Job.read(job.folder)
            assert (read.kind, read.arm.config) == (job.kind, job.arm.config)


@pytest.mark.parametrize("toy", options("toy"))
def test_what_a_toy_sets_its_corpus_takes_and_nothing_else(toy):
    cfg = typed(compose("pretrain_tiny", [f"toy={toy}"]))
    assert make_corpus(cfg)
    for name, default in arguments(CORPORA[cfg.name]).items():
        assert make_corpus(replace(cfg, corpus={name: default}))
        with pytest.raises(UserError, match=rf"corpus\.{name}=x"):
            make_corpus(replace(cfg, corpus={name: "x"}))
    with pytest.raises(UserError, match=r"corpus\.nosuch"):
        make_corpus(replace(cfg, corpus={"nosuch": 1}))
