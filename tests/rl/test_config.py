"""Impossible numbers are refused with their key, in every config and in the options of every registered function."""

import math
from dataclasses import fields, is_dataclass
from numbers import Real

import pytest

from envs.between import BETWEEN
from envs.self_correct import FEEDBACK, STOP_RULES
from experiments import base_schema
from experiments import schema as entry_schema
from experiments.executors import EXECUTORS
from experiments.planned import PlanConfig
from experiments.search import OBJECTIVES, SAMPLERS
from rewards.sandboxes import SandboxOptions
from rl import config as schema
from rl.advantages import ADVANTAGES
from rl.curriculum import CURRICULA
from rl.group_rewards import GROUP_REWARDS
from rl.kl import KLS
from rl.losses import IMPORTANCE, LOSSES, NORMALISERS
from rl.offline import KEEP_RULES
from rl.token_masks import TOKEN_MASKS

BASE = {
    "AlgorithmConfig": {"name": "x"},
    "OfflineConfig": {"name": "x", "rule": "dpo"},
    "CriticConfig": {"kind": "shared"},
    "LoraConfig": {"rank": 4},
    "EngineConfig": {"name": "vllm_http", "urls": ["http://x"], "weights_dir": "x"},
    "TrackingConfig": {"conversations": 1},
}
ANY_SIGN = {"reward_weights", "progress_alpha", "weight", "right", "wrong", "no_answer", "malformed"}
MAY_BE_ZERO = {
    "StageConfig": "share attempts kl_coefs kl_balance group_size temperature offline_first_attempts",
    "CriticConfig": "clip lr warmup_steps",
    "AlgorithmConfig": "off_policy_mask dynamic_sampling",
    "OptimConfig": "weight_decay warmup_steps betas",
    "BudgetConfig": "tokens updates keep_episodes",
    "TrainingConfig": "tokens updates keep_episodes validate_every save_every save_every_updates max_failed_fraction "
    "max_sampler_gap",
    "EvalConfig": "n_tasks samples_per_task max_attempts fixed_first",
    "LoraConfig": "rank",
    "TrackingConfig": "conversations",
    "Running": "smoothing explore",
    "Band": "smoothing explore low high",
    "CovarianceBand": "share low high",
    "TopCovariance": "share",
    "ModelConfig": "context_length",
    "EngineConfig": "retries sleep_level",
    "EnvConfig": "attempts",
    "PlanConfig": "memory_gib",
    "RunConfig": "seed threads",
    "TrainConfig": "seed threads",
    "SFTConfig": "seed threads",
    "Discount": "turn_gamma",
    "GroupScale": "turn_gamma",
    "TurnLambda": "turn_gamma turn_lam",
    "TokenLambda": "turn_gamma turn_lam gamma lam",
    "ArmsConfig": "seed threads seeds retries",
    "CompareConfig": "cross",
    "BetweenOptions": "max_new_tokens",
    "LocalOptions": "workers threads",
    "SubmititOptions": "gpus_per_job",
    "RayOptions": "gpus_per_job",
    "MajorityOptions": "least",
    "OutcomeOptions": "decay repeats",
    "SandboxOptions": "total_s wall_s output_kb workers retries",
    "PretrainConfig": "seed second_weight length_class",
    "PlayConfig": "seed",
    "StudyConfig": "seeds retries",
    "CheckConfig": "seed threads shown golds",
    "WatchConfig": "newest",
    "ReportConfig": "page_episodes",
}
LOOKUPS = (ADVANTAGES, LOSSES, NORMALISERS, KLS, IMPORTANCE, TOKEN_MASKS, CURRICULA)
LOOKUPS += (GROUP_REWARDS, KEEP_RULES, FEEDBACK, STOP_RULES, BETWEEN, EXECUTORS, SAMPLERS, OBJECTIVES)
OPTIONS = {type(lookup.options(name, {})) for lookup in LOOKUPS for name in lookup if not name.startswith("test_")}
CLASSES = [cls for module in (schema, entry_schema, base_schema) for cls in vars(module).values() if is_dataclass(cls)]
CLASSES = list(dict.fromkeys([*CLASSES, PlanConfig, SandboxOptions]))
CLASSES.remove(entry_schema.ArmsConfig)  # a base class, whose fields are checked with those of each program
# Sorted by module and name, since workers that run the tests in parallel must collect them in the same order.
CLASSES += sorted(OPTIONS - {type(None)}, key=lambda cls: (cls.__module__, cls.__qualname__))


def numbers(cls):
    """Names and defaults of the numeric fields of a config."""
    default = cls(**BASE.get(cls.__name__, {}))
    for item in fields(cls):
        value = getattr(default, item.name)
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Real) and not isinstance(inner, bool):
            yield item.name, value


ROWS = [(cls, name, value) for cls in CLASSES for name, value in numbers(cls)]


def with_value(cls, name, default, number):
    value = [number, *default[1:]] if isinstance(default, list) else number
    return cls(**(BASE.get(cls.__name__, {}) | {name: value}))


@pytest.mark.parametrize(("cls", "name", "default"), ROWS, ids=lambda row: getattr(row, "__name__", str(row)))
def test_every_number_is_checked(cls, name, default):
    wrong = [math.nan, math.inf, -math.inf] + ([] if name in ANY_SIGN else [-1, -0.001])
    zeros = " ".join(MAY_BE_ZERO.get(kind.__name__, "") for kind in cls.__mro__).split()
    if name not in zeros and name not in ANY_SIGN:
        wrong.append(0)
    for number in wrong:
        with pytest.raises(ValueError, match=name):
            with_value(cls, name, default, number)
    with_value(cls, name, default, default[0] if isinstance(default, list) else default)


def test_the_table_is_long_and_names_only_what_exists():
    assert len(ROWS) > 60
    known = {cls.__name__: {item.name for item in fields(cls)} for cls in [*CLASSES, entry_schema.ArmsConfig]}
    for name, names in MAY_BE_ZERO.items():
        assert set(names.split()) <= known[name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schema.OptimConfig(betas=[0.9, 1.0]), "betas"),
        (lambda: schema.OptimConfig(betas=[0.9]), "betas"),
        (lambda: schema.OptimConfig(schedule="lineal"), "use constant, linear, cosine"),
        (lambda: schema.OptimConfig(mixed_precision="fp16"), "use no, bf16"),
        (lambda: schema.CriticConfig("both"), "use none, shared, separate"),
        (lambda: schema.StageConfig(reference="next"), "use base, previous"),
        (lambda: schema.StageConfig(kl_targets=[0.1, 0.0]), "kl_targets"),
        (lambda: schema.StageConfig(reward_weights=[], kl_coefs=[]), "one entry per turn"),
        (lambda: schema.TrainingConfig(select="first"), "use last, best"),
        (lambda: schema.TrainingConfig(max_failed_fraction=1.5), r"max_failed_fraction=1\.5"),
        (lambda: schema.EnvConfig(seeds={"train": -5}), r"env\.seeds\.train=-5: must be at least 0"),
        (lambda: schema.EnvConfig(seeds={"train": None}), r"env\.seeds\.train=null: a whole number is needed here"),
        (lambda: schema.EnvConfig(prompts_text={"system": 3}), r"env\.prompts_text\.system=3: a text is needed here"),
        (lambda: schema.EngineConfig("vllm", gpu_memory_utilization=1.5), "gpu_memory_utilization"),
        (lambda: LOSSES.options("ppo", {"clip_low": 1.5}), "clip_low"),
        (lambda: IMPORTANCE.options("token", {"cap": 0.5}), "cap"),
        (lambda: schema.AlgorithmConfig(name="x", kl="full", kl_in_reward=True), "kl_in_reward"),
        (lambda: schema.AlgorithmConfig(name="x", stages={"a": schema.StageConfig(optim={"lr": -1.0})}), "optim.lr"),
        (lambda: schema.AlgorithmConfig(name="x", stages={"a": schema.StageConfig(optim={"rate": 1.0})}), "rate"),
    ],
)
def test_other_values_that_cannot_be(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# Left out: configs whose types only OmegaConf's schema checks, and classes of packages with checks of their own.
TYPED = [cls for cls in CLASSES if cls.__name__ not in ("HubConfig", "PushConfig")]
TYPED = [cls for cls in TYPED if cls.__module__.split(".")[0] not in ("envs", "rewards")]


@pytest.mark.parametrize("cls", TYPED, ids=lambda cls: cls.__name__)
def test_nothing_but_what_is_declared(cls):
    """Wrong types are refused even where OmegaConf checks none: in configs made in Python and in function options."""
    base = BASE.get(cls.__name__, {})
    default = cls(**base)
    plain = {name: value for name, value in vars(default).items() if type(value) in (bool, int, float)}
    for name, value in plain.items():
        for wrong in (None, "many", 0 if isinstance(value, bool) else True, 2.5 if type(value) is int else None):
            with pytest.raises(ValueError, match=rf"{name}=.*is needed here"):
                cls(**(base | {name: wrong}))


@pytest.mark.parametrize(
    ("lookup", "name", "given", "message"),
    [
        (ADVANTAGES, "grpo", {"scale": 0}, r"algorithm\.advantage_options\.scale=0: true or false is needed here"),
        (LOSSES, "ppo", {"clip_low": None}, r"algorithm\.loss_options\.clip_low=null: a number is needed here"),
        (
            EXECUTORS,
            "submitit",
            {"gpus_per_job": None},
            r"executor_options\.gpus_per_job=null: a whole number is needed",
        ),
    ],
)
def test_options_of_another_type_are_refused_by_their_whole_key(lookup, name, given, message):
    with pytest.raises(ValueError, match=message):
        lookup.options(name, given)


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"lrr": 1.0}, r"^algorithm\.stages\.first\.optim\.lrr: .*did you mean 'lr'"),
        ({"lr": -1.0}, r"^algorithm\.stages\.first\.optim\.lr=-1\.0: must be positive"),
        ({"schedule": "up"}, r"^algorithm\.stages\.first\.optim\.schedule=up: use constant"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_optimiser_of_a_stage_is_refused_by_the_stages_key(optim, message, share):
    stages = {"first": schema.StageConfig(share=share, optim=optim), "then": schema.StageConfig()}
    with pytest.raises(ValueError, match=message):
        schema.AlgorithmConfig(name="x", stages=stages)
