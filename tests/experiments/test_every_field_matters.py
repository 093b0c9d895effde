"""Every config field has an effect: a run reads it, or the config is refused where the field could do nothing.

Real runs of a few steps on the embedded model record which config fields are read outside the schema (which only
validates and copies values). A field that no run reads would be an option without effect.
"""

import ast
import sys
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from experiments import schema as entry_schema
from experiments.arms import run_base, run_offline
from experiments.base_schema import PretrainConfig
from experiments.online import run_online
from rl import config as schema
from rl.config import (
    AlgorithmConfig,
    CriticConfig,
    EngineConfig,
    EvalConfig,
    LoraConfig,
    OfflineConfig,
    OptimConfig,
    SFTConfig,
    StageConfig,
    TermConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
)
from tests.conftest import ROOT
from tests.helpers import modchain_config

SCHEMA = [cls for cls in vars(schema).values() if is_dataclass(cls)]
# "<string>" is the code that dataclasses generate: printing or comparing a config object does not use its fields.
COPIERS = ("rl/config/", "dataclasses.py", "omegaconf", "copy.py", "experiments/cli.py", "rl/checkpoint.py", "<string>")
SERVED = {
    # Read by the vLLM engines, which are started by their own tests (tests/rl/test_engine_vllm*.py).
    "EngineConfig": {
        "dtype", "enforce_eager", "gpu_memory_utilization", "options", "prefix_caching", "retries", "sleep_level",
        "timeout_s", "urls", "weights_dir",
    },
    # Read by the program around a run: where its folder is, which run it resumes, where its policy is uploaded.
    "TrainConfig": {"name", "resume", "runs_dir", "data_dir", "plugins", "hub"},
    "SFTConfig": {"name", "resume", "plugins", "runs_dir", "data_dir", "hub"},
    # Read after a run has finished (tests/experiments/test_push.py).
    "HubConfig": {"repo", "private"},
    "RunConfig": {"name", "plugins", "runs_dir", "data_dir"},
    # The name appears in paths and tables; the other fields are read by the config itself, which derives values.
    "EnvConfig": {"name", "dataset", "options"},
    "AlgorithmConfig": {"advantage", "advantage_options", "loss", "loss_options", "stages", "terms"},
    # Read only with adapters (tests/rl/test_policy.py), with a tracker (tests/rl/test_tracking.py), or after a
    # non-finite step (tests/rl/test_interruptions.py).
    "LoraConfig": {"alpha", "targets"},
    "TrackingConfig": {"project"},
    "TrainingConfig": {"nonfinite"},
}  # fmt: skip


@contextmanager
def reads(found):
    """Adds ``(class, field)`` to ``found`` whenever a field of a config object is read outside the schema."""
    saved = {}
    for cls in SCHEMA:
        names = {item.name for item in fields(cls)}

        def read(self, name, names=names):
            if name in names:
                caller = sys._getframe(1).f_code.co_filename
                if not any(part in caller for part in COPIERS):
                    found.add((type(self).__name__, name))
            return object.__getattribute__(self, name)

        saved[cls] = cls.__dict__.get("__getattribute__")
        cls.__getattribute__ = read
    try:
        yield
    finally:
        for cls, original in saved.items():
            if original is None:
                del cls.__getattribute__
            else:
                cls.__getattribute__ = original


def reachable(cls):
    """An entry point's config class and all config classes that are nested in it."""
    found, queue = [], [cls]
    while queue:
        node = queue.pop()
        if is_dataclass(node) and node not in found:
            found.append(node)
            for hint in get_type_hints(node).values():
                queue += [hint, *get_args(hint)]
    return found


def unread(cls, found, idle=()):
    """Fields below an entry point that no run has read, except those in ``SERVED`` and those in ``idle``."""
    expected = {(node.__name__, item.name) for node in reachable(cls) for item in fields(node)}
    served = {(name, field) for name, names in SERVED.items() for field in names}
    return sorted(expected - found - served - set(idle))


ONLINE = {
    "critic of its own": {
        "algorithm": AlgorithmConfig(
            name="x",
            group_size=4,
            advantage="gae",
            critic=CriticConfig("separate", lr=1e-3, clip=0.2, warmup_steps=1),
            whiten=True,
            minibatches=2,
            off_policy_mask=5.0,
            importance="token",
            terms={"entropy": TermConfig(weight=0.01)},
        )
    },
    "shared trunk": {
        "algorithm": AlgorithmConfig(
            name="x", group_size=2, advantage="turn_gae", critic=CriticConfig("shared", detach=True)
        )
    },
    "stages": {
        "algorithm": AlgorithmConfig(
            name="x",
            group_size=4,
            dynamic_sampling=1,
            stages={
                "one": StageConfig(kl_coefs=[0.1, 0.1], kl_targets=[0.1, 0.1], offline_first_attempts=0.5),
                "two": StageConfig(kl_balance=1.0, keep_optimizer=True, advantage="grpo"),
            },
        )
    },
}


def online_config(algorithm):
    cfg = modchain_config(tasks_per_step=2, algorithm=algorithm, episodes=4 * 2 * algorithm.group_size)
    cfg.training = replace(cfg.training, validate_every=2, select="best", save_every=2, save_every_updates=3)
    cfg.tracking = TrackingConfig(conversations=1, conversations_every=2)
    cfg.evaluation = EvalConfig(
        n_tasks=4, samples_per_task=1, max_attempts=3, controls=True, fixed_first=4, transfer={"x": {"attempts": 2}}
    )
    return cfg


def offline_config(**offline):
    cfg = online_config(AlgorithmConfig(name="x", group_size=4))
    shared = {name: getattr(cfg, name) for name in ("threads", "model", "env", "engine", "evaluation")}
    optim = OptimConfig(schedule="linear", micro_batch_tokens=256)
    method = OfflineConfig(name="x", optim=optim, group_size=4, epochs=1, batch_size=8, **offline)
    return SFTConfig(seed=0, name="x", offline=method, training=schema.BudgetConfig(episodes=64), **shared)


@pytest.mark.slow
def test_online_runs_read_every_field(tmp_path):
    found = set()
    with reads(found):
        for name, changes in ONLINE.items():
            (tmp_path / name).mkdir()
            run_online(online_config(**changes), tmp_path / name, lambda *_: None)
    assert unread(TrainConfig, found) == []


@pytest.mark.slow
def test_offline_runs_read_every_field(tmp_path):
    found = set()
    with reads(found):
        for rule, options in (("star", {"keep_right_to_right": True}), ("verify", {}), ("dpo", {})):
            config = offline_config(rule=rule, rule_options=options)
            (tmp_path / rule).mkdir()
            run_offline(config, tmp_path / rule, lambda *_: None)
    assert unread(SFTConfig, found, [("EnvConfig", "group_reward_options")]) == []


@pytest.mark.slow
def test_an_evaluation_reads_every_field(tmp_path):
    found = set()
    cfg = online_config(AlgorithmConfig(name="x", group_size=4))
    shared = {name: getattr(cfg, name) for name in ("threads", "model", "env", "engine", "evaluation")}
    with reads(found):
        run_base(schema.RunConfig(seed=0, name="x", **shared), tmp_path, lambda *_: None)
    idle = [("EnvConfig", "group_reward"), ("EnvConfig", "group_reward_options"), ("EvalConfig", "fixed_first")]
    assert unread(schema.RunConfig, found, idle) == []


@pytest.mark.parametrize(
    ("cls", "modules"),
    [
        (entry_schema.CompareConfig, "compare jobs arms online train cli executors"),
        (entry_schema.TuneConfig, "tune compare jobs arms online train cli executors"),
        (PretrainConfig, "pretrain_tiny tiny_training"),
        (entry_schema.PlayConfig, "play"),
        (entry_schema.PushConfig, "push"),
        (entry_schema.WatchConfig, "watch"),
        (entry_schema.ReportConfig, "report"),
        (entry_schema.StudyConfig, "study executors"),
        (entry_schema.ThesisConfig, "thesis"),
    ],
)
def test_programs_read_the_fields_of_their_own(cls, modules):
    """A program ignores none of its options: ``cfg.<field>`` occurs in its modules for every field of its config."""
    read = set()
    for module in modules.split():
        tree = ast.parse((ROOT / "experiments" / f"{module}.py").read_text(encoding="utf-8"))
        read |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cfg"
        }
    free = {"name", "resume", "runs_dir", "data_dir", "plugins"}  # read outside of these modules
    assert {item.name for item in fields(cls)} - read - free == set()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoraConfig(alpha=3.0), r"model\.lora\.alpha.*rank=0"),
        (lambda: LoraConfig(targets=["q_proj"]), r"model\.lora\.targets.*rank=0"),
        (lambda: EngineConfig(urls=["http://x"]), r"engine\.urls.*engine\.name=hf"),
        (lambda: EngineConfig(sleep_level=1), r"engine\.sleep_level.*engine\.name=hf"),
        (lambda: EngineConfig("vllm", retries=1), r"engine\.retries.*engine\.name=vllm"),
        (lambda: EvalConfig(samples_per_task=0, temperature=0.5), r"evaluation\.temperature"),
        (lambda: AlgorithmConfig(name="x", epochs=1, minibatches=1, importance_options={"cap": 3.0}), "no such option"),
        (lambda: TrainingConfig(validate_every=0, select="best"), "validate_every"),
    ],
)  # fmt: skip
def test_what_would_do_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_served_exists():
    for name, names in SERVED.items():
        assert names <= {item.name for item in fields(getattr(schema, name))}
    assert Path(ROOT / "tests" / "rl" / "test_engine_vllm.py").exists()
