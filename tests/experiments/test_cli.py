"""What a user types: every config composes, and mistakes are named."""

import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments import schema as entry_schema
from experiments.cli import CONFIGS, explain, known_keys, register_schemas, typed
from rl import config as schema
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
    assert cfg.offline.rule in schema.Rule
    assert cfg.offline.keep_right_to_right == (offline.endswith("_plus") or offline == "iterated_rft")


@pytest.mark.parametrize("env", options("env"))
@pytest.mark.parametrize("entry", ["train", "sft", "evaluate", "compare", "play"])
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
    from experiments.compare import plan

    cfg = OmegaConf.to_object(compose("compare", ["env=gsm8k", "run=[self_refine,wait,star]", "seeds=[0,1]"]))
    jobs = {(job.arm, job.seed): job.config for job in plan(cfg, tmp_path)}
    assert list(jobs) == [("base", 0), ("self_refine", 0), ("wait", 0), ("star", 0), ("star", 1)]
    assert jobs["self_refine", 0].env.prompts == "math-refine-v1"
    assert jobs["base", 0].env.prompts == "math-v1"


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(experiment):
    text = (ROOT / "configs" / "experiment" / f"{experiment}.yaml").read_text()
    entry = next((name for name in ("compare", "evaluate") if f"experiments.{name}" in text), "train")
    cfg = OmegaConf.to_object(compose(entry, [f"experiment={experiment}"]))
    assert cfg.name == experiment


def test_a_data_sets_own_parameters_are_added():
    overrides = ["env=reasoning_gym", "env.dataset=chain_sum", "+env.options.params={min_terms: 2, max_terms: 2}"]
    cfg = OmegaConf.to_object(compose("evaluate", overrides))
    assert cfg.env.task_options["params"] == {"min_terms": 2, "max_terms": 2}
    assert cfg.env.task_options["dataset"] == "chain_sum"


def test_the_comparison_holds_typed_arms():
    cfg = OmegaConf.to_object(compose("compare", ["arms.star.lr=2e-3", "arms.score.stages.0.kl_coefs=[1.0,0.0]"]))
    assert isinstance(cfg.arms["star"], schema.OfflineConfig)
    assert isinstance(cfg.arms["score"], schema.AlgorithmConfig)
    assert cfg.arms["star"].lr == 2e-3
    assert set(cfg.run) < set(cfg.arms)  # the default comparison, and every other algorithm by name
    assert all(isinstance(cfg.arms[name], schema.AlgorithmConfig) for name in ("ppo", "turn_ppo", "grpo", "dapo"))


@pytest.mark.parametrize(
    ("entry", "override", "near"),
    [
        ("train", "algorithm.group_sise=4", "group_size"),
        ("train", "optim.learning_rat=1", None),
        ("train", "training.episode=5", "episodes"),
        ("compare", "arms.star.iteration=5", "iterations"),
        ("train", "algorithm.stages=[{reward_weight: [1.0, 1.0]}]", "reward_weights"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest(entry, override, near):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (Hydra raises several types; the text is what counts)
        OmegaConf.to_object(compose(entry, [override]))
    text = explain(caught.value)
    assert override.split("=")[0].split(".")[-1] in text or "reward_weight" in text
    if near is not None:
        assert f"did you mean '{near}'" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.group_size=1", "rloo compares the episodes of a task"),
        ("optim.lr=-1", "optim.lr=-1.0"),
        ("env.feedback=loud", "env.feedback=loud"),
        ("env.max_new_tokens=[]", "max_new_tokens is empty"),
        ("evaluation.split=train", "evaluation.split=train"),
        ("model.dtype=int8", "model.dtype=int8"),
        ("algorithm.kl=kk", "kk"),
        ("seed=abc", "abc"),
    ],
)
def test_a_wrong_value_is_named(override, message):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        typed(compose("train", [override]))
    assert message in explain(caught.value)


def test_every_config_field_is_documented_and_known():
    keys = known_keys()
    assert {"group_size", "micro_batch_tokens", "keep_right_to_right"} <= set(keys)
    for node in (*vars(schema).values(), *vars(entry_schema).values()):
        if not is_dataclass(node) or not (node.__doc__ or "").count("Args:"):
            continue
        for item in fields(node):
            if item.name not in {f.name for base in node.__mro__[1:] if is_dataclass(base) for f in fields(base)}:
                assert f"{item.name}:" in node.__doc__ or is_dataclass(getattr(node, item.name, None)) or item.name in (
                    "model", "env", "engine", "evaluation", "optim", "training", "algorithm", "offline", "tracking",
                ), f"{node.__name__}.{item.name} has no docstring line"  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments.train", "algorithm.group_sise=4"], "did you mean 'group_size'"),
        (["experiments.train", "algorithm=scroe"], "score"),
        (["experiments.train", "model=path", "model.path=./nowhere"], "no model there"),
        (["experiments.compare", "run=[scoer]"], "did you mean 'score'"),
        (["experiments.compare", "training.episodes=5000"], "cannot be spent equally"),
        (["experiments.train", "env.options.n_trian=3"], "did you mean 'n_train'"),
        (["experiments.evaluate", "evaluation.n_tasks=100000"], "100000 tasks"),
        (["experiments.play", "split=tset"], "tset"),
        (["experiments.pretrain_tiny", "toy=nothing"], "modchain"),
        (["experiments.pretrain_tiny", "name=nothing"], "there is no such toy"),
        (["experiments.report", "run=nowhere"], "not the folder of a comparison"),
        (["experiments.compare", "match=tokens"], "training.tokens="),
        (["experiments.compare", "training.updates=5"], "match=updates"),
        (["experiments.compare", "match=updates", "training.updates=61"], "training.updates cannot be spent equally"),
        (["experiments.compare", "match=time"], "use samples, tokens, updates"),
        (["experiments.compare", "run=[self_refine]"], "has no words for env.prompts=toy-v1"),
    ],
)
def test_mistakes_end_with_a_message_and_status(arguments, message, tmp_path):
    extra = [] if arguments[0].split(".")[1] in ("play", "pretrain_tiny", "report") else [f"runs_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", *arguments, *extra], capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
