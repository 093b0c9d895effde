"""The estimated cost of a run, its comparison with the actual cost, and the memory formulas behind it."""

import json
import time
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from envs import Split
from experiments import planned, planning
from experiments.arms import run_offline
from experiments.calibration import STARTING, calibrate, longest
from experiments.cli import UserError
from experiments.online import run_online
from experiments.plan import _OPTIONS, Planned, _keep, arms_of, read_options
from experiments.planned import PlanConfig
from experiments.planning import counted, smaller
from experiments.progress import print_table
from rl.backends.engine_hf import MAX_BYTES, HFEngine
from rl.backends.memory import Load, Sizes, kept_turns, memory
from rl.backends.sft import LARGE_HEAD
from rl.config import AlgorithmConfig, EvalConfig, ModelConfig, OfflineConfig, OptimConfig, SFTConfig, StageConfig
from rl.config.run import BudgetConfig
from rl.types import Request
from rl.workbench import make_taskset
from tests import programs
from tests.conftest import ROOT
from tests.helpers import modchain_config

OPTIONS = PlanConfig(steps=1, tasks=4)


def online(folder, **changes):
    stages = {"one": StageConfig(kl_coefs=[0.1, 0.1]), "two": StageConfig(group_size=8)}
    algorithm = AlgorithmConfig(name="x", group_size=4, minibatches=2, stages=stages)
    cfg = modchain_config(episodes=96, tasks_per_step=4, algorithm=algorithm)
    cfg.training = replace(cfg.training, validate_every=2, save_every=4)
    return replace(cfg, runs_dir=str(folder), evaluation=EvalConfig(n_tasks=8, samples_per_task=1), **changes)


def offline(folder):
    cfg, optim = online(folder), OptimConfig(schedule="linear", micro_batch_tokens=256)
    shared = {name: getattr(cfg, name) for name in ("threads", "model", "env", "engine", "evaluation", "runs_dir")}
    method = OfflineConfig(
        name="x",
        rule="star",
        rule_options={"keep_right_to_right": True},
        iterations=2,
        group_size=4,
        epochs=2,
        batch_size=8,
        optim=optim,
    )
    return SFTConfig(seed=0, name="x", offline=method, training=BudgetConfig(episodes=128), **shared)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished online run with a stored estimate; returns the estimate and the run's folder."""
    folder = tmp_path_factory.mktemp("plan")
    cfg = replace(online(folder), env=online(folder).env.settled())
    estimate, _ = calibrate(cfg, OPTIONS, {})
    _keep(cfg, estimate)
    run = folder / "arms" / "x" / "seed_3"
    run.mkdir(parents=True)
    run_online(replace(cfg, seed=3), run, lambda *_: None)
    return estimate, run


def test_the_run_keeps_its_estimate_and_says_what_it_came_to(trained):
    estimate, run = trained
    found, result = json.loads((run / "plan.json").read_text()), json.loads((run / "result.json").read_text())
    assert found["actual"]["seconds"] == result["seconds"]
    # 80 of the budget of 96: a batch of the second stage has 32 episodes, so another one would exceed the budget.
    assert estimate.episodes == result["totals"]["episodes"] == 80
    assert estimate.updates == result["totals"]["updates"]
    assert estimate.responses == result["totals"]["responses"]
    assert estimate.sampled_tokens == pytest.approx(result["totals"]["sampled_tokens"], rel=0.3)
    assert estimate.gradient_tokens == pytest.approx(result["totals"]["gradient_tokens"], rel=0.3)
    assert 0.3 < estimate.disk / found["actual"]["disk"] < 3
    assert estimate.seconds == sum(wall for name, (wall, _) in estimate.costs.items() if name != STARTING) > 0
    assert {"sampling", "update", "evaluation", "validation", "saving", STARTING} <= estimate.costs.keys()
    names = [row[0] for row in planned.compared(run)]
    assert names == [name for name, _ in planned.UNITS.values()]
    (line,) = planned.lines([run, run.parent])
    assert line[:2] == ["x", "planned\ncame to\noff by"]
    of = {name: rest for name, *rest in planned.compared(run)}
    assert line[2:] == ["\n".join(of[name]) for name in ("time", "processor time", "peak memory", "sampled tokens")]
    assert planned.lines([run, run])[0][0] == "x x 2"
    file = StringIO()
    rows = [[f"{'a' * 15} x 3", line[1], *["12 min\n11 min\n+2 %"] * 2, "0.71 GiB", "1,234,567"]]
    print_table(planned.PLANNED, rows, Console(file=file, width=80))
    assert file.getvalue().count("each run") == 1  # the header appears once, so the table was not split
    assert dict(zip(names, planned.compared(run), strict=True))["optimiser steps"][3] == "+0 %"


def test_calibrating_leaves_nothing_behind(trained):
    _, run = trained
    folder = run.parent.parent.parent
    assert sorted(path.name for path in folder.iterdir()) == ["arms", "plans"]
    assert len(list((folder / "plans").iterdir())) == 1


def test_an_offline_method_is_counted_by_what_its_rule_keeps(tmp_path):
    cfg = replace(offline(tmp_path), env=offline(tmp_path).env.settled())
    estimate, _ = calibrate(cfg, OPTIONS, {"validation": [[0, 0], [1, 1]], "evaluation": [[0, 0], [1, 1], 100.0, 0.5]})
    # 3 validations, before training and after each of 2 rounds; the known 1 s of each is not measured again.
    assert estimate.costs["validation"] == [3.0, 3.0]
    assert estimate.costs["evaluation"] == [8.0, 8.0]
    before = time.process_time()
    result = run_offline(cfg, tmp_path, lambda *_: None)
    assert 0 < result.cpu_seconds <= time.process_time() - before  # without what this process used before the run
    assert estimate.episodes == result.totals["episodes"] == 128
    assert estimate.updates == pytest.approx(result.totals["updates"], rel=0.5)
    assert estimate.gradient_tokens == pytest.approx(result.totals["gradient_tokens"], rel=0.5)
    assert not (tmp_path / "plan.json").exists()  # no estimate was stored for this run


def test_counting_alone_takes_answers_as_long_as_they_may_be(tmp_path):
    found = counted(replace(online(tmp_path), env=online(tmp_path).env.settled()), PlanConfig(calibrate=False))
    # 80 of the budget of 96, as in the run itself: another batch of the second stage would exceed the budget.
    assert (found.episodes, found.responses, found.sampled_tokens) == (80, 160, 800)
    assert found.updates == 2 * (3 + 1)
    assert not found.costs
    found = counted(replace(offline(tmp_path), env=offline(tmp_path).env.settled()), PlanConfig(calibrate=False))
    assert (found.episodes, found.sampled_tokens, found.gradient_tokens) == (128, 1280, 2560)


def test_recorded_conversations_are_counted_instead_of_the_budget(tmp_path):
    cfg = offline(tmp_path)
    cfg = replace(cfg, env=cfg.env.settled())
    tasks = make_taskset(cfg.env).load(Split.TRAIN)[:12]
    told = [{"messages": [{"role": "assistant", "content": ": 1"}] * (1 + i % 2)} for i in range(12)]
    path = tmp_path / "theirs.jsonl"
    lines = (json.dumps(one | {"task_id": task.id}) for one, task in zip(told, tasks, strict=True))
    path.write_text("\n".join(lines))
    method = replace(cfg.offline, conversations=str(path), iterations=1)
    found = counted(replace(cfg, offline=method), PlanConfig(calibrate=False))
    # 18 attempts of two tokens and the end of the turn each; two epochs of 12 conversations in batches of 8.
    assert (found.episodes, found.responses, found.sampled_tokens) == (12, 18, 54)
    assert (found.updates, found.gradient_tokens) == (4, 108)


SIZES = Sizes(1000, 0, 8, 32, 2, 8, 100, 4)
LOAD = Load(10, [5, 5], 2, rows=4, update_rows=8, group=4)


def test_the_parts_of_memory_are_those_of_the_config(tmp_path):
    cfg = online(tmp_path)
    found = memory(cfg, SIZES, LOAD)
    assert found.update["weights"] == found.update["gradients"] == found.update["reference"] == 4000
    assert found.update["optimiser"] == found.sampling["optimiser"] == 8000
    assert "gradients" not in found.sampling
    assert memory(cfg, SIZES, LOAD, processes=4, sharded=True).update["optimiser"] == 2000
    lora = memory(cfg, replace(SIZES, adapters=10), LOAD)
    assert lora.update["optimiser"] == 80
    assert "reference" not in lora.update  # the policy without its adapters serves as the reference
    critic = replace(
        cfg, algorithm=replace(cfg.algorithm, advantage="gae", critic=replace(cfg.algorithm.critic, kind="separate"))
    )
    assert memory(critic, SIZES, LOAD).update["critic"] == 16000
    whole = memory(replace(cfg, algorithm=replace(cfg.algorithm, kl="full")), SIZES, LOAD).update["logits"]
    assert whole > 3 * found.update["logits"]
    again = replace(cfg.algorithm, optim=replace(cfg.algorithm.optim, gradient_checkpointing=True))
    assert memory(replace(cfg, algorithm=again), SIZES, LOAD).update["activations"] < found.update["activations"]
    assert memory(cfg, SIZES, LOAD).peak == max(sum(found.update.values()), sum(found.sampling.values()))
    tuning = memory(offline(tmp_path), SIZES, LOAD)
    assert tuning.update["logits"] > found.update["logits"]  # of all tokens, and also in float32
    # With a large vocabulary, logits are computed for learned tokens alone: 10 of 22.
    large = replace(SIZES, vocabulary=LARGE_HEAD)
    small = replace(SIZES, vocabulary=LARGE_HEAD - 1)
    of = [memory(offline(tmp_path), one, LOAD).update["logits"] / one.vocabulary for one in (large, small)]
    assert of[0] / of[1] == pytest.approx(10 / 22)
    assert set(memory(_with_vllm(cfg), SIZES, LOAD).sampling) == {
        "weights", "optimiser", "reference",
    }  # fmt: skip


def test_turns_that_have_ended_wait_however_few_rows_are_decoded_together(tmp_path):
    # Bytes of a row's first turn, with the message after it (17 tokens) and the cache's spare columns.
    cfg, room = online(tmp_path), 2 * 2 * 8 * 4 * (1.25 * 17 + 16)
    load = replace(LOAD, rows=300)
    # A stored row keeps its whole batch's cache in memory. Whenever half of a batch has ended, the rest goes into a
    # copy, so all these caches together take twice the rows' own room.
    assert kept_turns(1024, SIZES, load, True) == kept_turns(32, SIZES, load, True) == 600 * room
    # With a single turn, stored rows are never used again. The rows of the batch that is being decoded are left out
    # here, because they are counted with that batch.
    single, of_one = replace(load, answers=[5]), 2 * 2 * 8 * 4 * (1.25 * 15 + 16)
    assert kept_turns(1024, SIZES, single, True) == 300 * of_one
    assert kept_turns(200, SIZES, single, True) == 400 * of_one
    # The store stops at the engine's limit, which does not count the spare columns.
    many = replace(load, rows=10**9)
    assert kept_turns(32, SIZES, many, True) == pytest.approx(MAX_BYTES * (1.25 * 17 + 16) / 17)
    few = replace(cfg, engine=replace(cfg.engine, max_batch_size=32))
    kept, fewer = (memory(one, SIZES, load).sampling["key-value cache"] for one in (cfg, few))
    assert kept - fewer == pytest.approx(268 * 2 * 2 * 8 * 4 * (1.25 * 22 + 16))
    # A later turn reads only the new tokens, a first turn its whole prompt: three float32 tensors of both widths.
    later, first = (memory(cfg, SIZES, one).sampling["reading prompts"] for one in (load, single))
    assert (later, first) == (300 * 3 * 3 * (32 + 8) * 4, 300 * 10 * 3 * (32 + 8) * 4)


def test_the_store_of_a_batch_whose_rows_end_one_after_another_is_as_large_as_planned(modchain):
    model, tokenizer, *_ = modchain
    ends = set(range(0, len(tokenizer), 3))
    engine, sizes = HFEngine(model, ends, 0), Sizes.of(ModelConfig(path=str(ROOT / "models" / "modchain")))
    # At this temperature all tokens are equally likely and a third of them are stops, so a third of the rows ends at
    # each step.
    engine.submit([Request(i, (1, 2, 3, 4, 5, 6), 24, 1000.0, seed=i) for i in range(256)])
    mean = sum(len(one.action_ids) for one in engine.step()) / 256
    batches = {id(one.layers): one.layers for one in engine._store.kept.values()}.values()
    held = sum(x.untyped_storage().nbytes() for layers in batches for pair in layers for x in pair)
    assert len(batches) > 3
    # Rows that continue do so in a copy of the cache, so the store holds more than the rows' own room, but at most
    # twice as much, which is what the plan assumes.
    planned_bytes = kept_turns(1024, sizes, Load(6, [mean, 1], 0, rows=256, update_rows=1), True)
    assert 0.6 < held / planned_bytes <= 1


def test_weights_that_are_packed_to_decode_are_a_second_copy(tmp_path):
    cfg, packed = online(tmp_path), replace(SIZES, packed=900)
    long = replace(cfg, env=replace(cfg.env, max_new_tokens=[64]))
    assert memory(long, packed, LOAD).sampling["weights to decode with"] == 3600
    assert "weights to decode with" not in memory(cfg, packed, LOAD).sampling  # packing does not pay off for few tokens
    assert "weights to decode with" not in memory(long, packed, LOAD, on_cpu=False).sampling


def test_the_longest_episode_says_how_long_question_and_answers_are():
    turns = [[((1, 2), (3,))], [((1, 2, 3), (4, 5)), ((1, 2, 3, 4, 5, 0, 0, 0), (6,))], []]
    played = [SimpleNamespace(turns=[SimpleNamespace(prompt_ids=p, action_ids=a) for p, a in one]) for one in turns]
    assert longest(played) == (3, [2, 1], 3)
    assert longest(played[2:]) is None


def _with_vllm(cfg):
    return replace(cfg, engine=replace(cfg.engine, name="vllm"))


def test_sizes_are_those_of_the_loaded_model(modchain):
    model, *_ = modchain
    found = Sizes.of(ModelConfig(path=str(ROOT / "models" / "modchain")))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (found.vocabulary, found.layers) == (model.config.vocab_size, model.config.num_hidden_layers)


def test_what_makes_a_run_smaller_is_ordered_by_what_it_saves(tmp_path, monkeypatch):
    real = Sizes(135_000_000, 0, 576, 1536, 30, 192, 49152, 4)
    monkeypatch.setattr(Sizes, "of", lambda model: replace(real, bytes=2 if model.dtype == "bfloat16" else 4))
    cfg = replace(online(tmp_path), env=online(tmp_path).env.settled())
    options = PlanConfig(calibrate=False, memory_gib=1e-3)
    estimate = counted(cfg, options)
    lines = list(smaller(Planned("x", cfg, 1, estimate), estimate.peak_memory, 1, 0.0, options, _OPTIONS))
    assert [line.split("=")[0].rpartition(".")[2] for line in lines] == [
        "dtype",
        "gradient_checkpointing",
        "fused_head",
    ]
    assert all(line.split("=")[0].startswith(("algorithm.optim.", "algorithm.", "model.", "engine.")) for line in lines)
    room = estimate.peak_memory - 0.6  # GiB: the first change saves more, the last one less
    some = list(smaller(Planned("x", cfg, 1, estimate), estimate.peak_memory, 1, room, options, _OPTIONS))
    fits = [line.endswith("(then it fits)") for line in some]
    assert (fits[0], fits[-1]) == (True, False)


def test_a_comparison_is_its_arms(tmp_path):
    from hydra import compose, initialize_config_dir

    from experiments.cli import CONFIGS, register_schemas, typed

    register_schemas()
    with initialize_config_dir(CONFIGS, version_base=None):
        cfg = typed(compose("compare", ["env=modchain", "include=[star,score]", "seeds=[7,8]", f"runs_dir={tmp_path}"]))
    assert [(name, runs) for name, _, runs in arms_of(cfg, "compare")] == [("base", 1), ("star", 2), ("score", 2)]


def test_options_that_are_none_are_named():
    assert read_options(["plan.steps=3", "plan.calibrate=false"]) == PlanConfig(calibrate=False, steps=3)
    with pytest.raises(UserError, match=r"unknown key 'plan.calbrate'; did you mean 'plan.calibrate'"):
        read_options(["plan.calbrate=false"])
    with pytest.raises(UserError, match=r"^plan.steps=abc: a whole number is needed here$"):
        read_options(["plan.calibrate=false", "plan.steps=abc"])
    with pytest.raises(UserError, match=r"^plan.calibrate=maybe: true or false is needed here$"):
        read_options(["plan.calibrate=maybe", "plan.steps=3"])
    with pytest.raises(UserError, match=r"plan.steps=0: must be positive"):
        read_options(["plan.steps=0"])


def test_the_program_says_what_does_not_fit_and_leaves_nothing(tmp_path):
    arguments = ["train", "env=modchain", "plan.calibrate=false", "plan.memory_gib=0.01", f"runs_dir={tmp_path}/runs"]
    done = programs.run("experiments.plan", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It does not fit" in done.stdout
    assert "engine.max_batch_size=256" in done.stdout
    assert not list(tmp_path.iterdir())
    done = programs.run("experiments.plan", "trian", "env=modchain")
    assert done.returncode == 2
    assert "one of train, sft, compare" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("limit", "used", "gib"), [("8589934592", "3221225472", 5.0), ("1073741824", "2147483648", 0.0)]
)
def test_a_container_has_the_room_of_its_limit_less_what_is_used(limit, used, gib, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "CGROUP", tmp_path)
    monkeypatch.setattr(planning.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert planning.device(PlanConfig()) == ("This machine", 1024.0, True)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    assert planning.device(PlanConfig())[1] == 1024.0
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert planning.device(PlanConfig())[1] == gib
