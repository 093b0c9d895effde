"""Every health check finds its problem in a scripted log and reports start and end; a healthy log has no finding."""

import re
from dataclasses import replace

import pytest

from experiments.run_health import Health
from rl.config import BudgetConfig, TrainingConfig
from rl.health import CHECKS, PAGE, History, limits
from tests.conftest import ROOT

N = 40


def step(i, **changes):
    """Metrics of step ``i`` of a healthy run, which improves slowly; ``changes`` override some of them."""
    risen = i / N
    row = {
        "step": i,
        "stage": 0,
        "optim/lr": 1e-4,
        "optim/grad_norm": 0.5 + 0.1 * (i % 3),
        "optim/skipped": 0.0,
        "policy/entropy": 0.5 - 0.3 * risen,
        "policy/clip_fraction": 0.02,
        "policy/sampler_gap": 1e-4,
        "group/mixed_fraction": 0.8,
        "group/all_correct_fraction": 0.1 + 0.1 * risen,
        "group/all_wrong_fraction": 0.1 - 0.1 * risen,
        "rollout/failed_fraction": 0.0,
        "rollout/masked_fraction": 0.01,
        "data/c_to_c_copied": 0.3,
        "data/c_to_c_rewritten": 0.05,
        "data/c_to_i": 0.05,
        "data/i_to_i_copied": 0.3 - 0.2 * risen,
        "data/i_to_c": 0.1 + 0.2 * risen,
        "time/sampling": 20.0,
        "time/verification": 5.0,
        "time/update": 40.0,
        "time/other": 1.0,
    }
    for k in (1, 2):
        row |= {
            f"rollout/accuracy_t{k}": 0.4 + 0.1 * k * risen,
            f"rollout/truncated_t{k}": 0.02,
            f"rollout/no_answer_t{k}": 0.05,
            f"rollout/tokens_t{k}": 40.0 + 10 * risen,
            f"rollout/verifier_timeout_t{k}": 0.0,
            f"policy/kl_ref_t{k}": 3.0 * risen,
        }
    return row | changes


def validation(i, accuracy=None, **rates):
    accuracy = 0.4 + 0.2 * i / N if accuracy is None else accuracy
    rates = {"n": 200, "accuracy_t1": 0.4, "accuracy_t2": accuracy, "truncated_fraction": 0.0} | rates
    return {"step": i, **{f"eval/validation/{name}": rate for name, rate in rates.items()}}


def played(change, checks=None, group_sizes=(8,)):
    """Findings in a healthy run of which ``change(step)`` overrides metrics in steps 10 to 29."""
    health = Health(checks or {}, group_sizes)
    for i in range(N):
        health.add(step(i, **(change(i) if 10 <= i < 30 else {})), i / N)
    return health.findings


SICK = {
    "cut_off": lambda i: {"rollout/truncated_t2": 0.9, "rollout/no_answer_t2": 0.9},
    "no_answer": lambda i: {"rollout/no_answer_t1": 0.8},
    "longer": lambda i: {"rollout/tokens_t1": 200.0},
    "copied": lambda i: {"data/c_to_c_copied": 0.4, "data/i_to_i_copied": 0.59},
    "always_changed": lambda i: {"data/c_to_i": 0.35, "data/c_to_c_copied": 0.0},
    "all_right": lambda i: {"group/mixed_fraction": 0.02, "group/all_correct_fraction": 0.97},
    "all_wrong": lambda i: {"group/mixed_fraction": 0.0, "group/all_wrong_fraction": 1.0},
    "failed": lambda i: {"rollout/failed_fraction": 0.05},
    "masked": lambda i: {"rollout/masked_fraction": 0.8},
    "entropy_collapse": lambda i: {"policy/entropy": 0.001},
    "entropy_explosion": lambda i: {"policy/entropy": 4.0},
    "far_from_reference": lambda i: {"policy/kl_ref_t2": 300.0},
    "clipped": lambda i: {"policy/clip_fraction": 0.7},
    "sampler_gap": lambda i: {"policy/sampler_gap": 0.1},
    "gradient_spike": lambda i: {"optim/grad_norm": 400.0} if i == 20 else {},
    # A step without a finite norm is no spike, and none after it is judged by what came before it.
    "skipped_steps": lambda i: {"optim/skipped": 0.5, "optim/grad_norm": float("nan")},
    "learning_rate": lambda i: {"rollout/accuracy_t1": 0.01, "rollout/accuracy_t2": 0.0},
    "slow_verifier": lambda i: {"time/verification": 300.0},
    "verifier_timeouts": lambda i: {"rollout/verifier_timeout_t2": 0.2},
}


@pytest.mark.parametrize("name", SICK)
def test_a_check_finds_what_it_is_for_and_nothing_else_does(name):
    (found,) = played(SICK[name])
    assert found.check == name
    assert 10 <= found.begun < 30
    assert found.ended in ((21,) if name == "gradient_spike" else range(30, 37))
    assert re.search(r"\d", found.said)
    assert found.line.endswith(f". {PAGE}#{name}")
    assert "Usual cause: " in found.line and ". Try " in found.line  # noqa: PT018


def test_accuracy_that_rises_in_training_and_falls_in_validation():
    def run(at_the_end):
        health = Health({})
        for i in range(N):
            health.add(step(i), i / N)
            if i % 10 == 9:
                health.add(validation(i, 0.6 if i < 35 else at_the_end), i / N)
        return [one.check for one in health.findings]

    assert run(0.3) == ["overfitting"]
    assert run(0.55) == []


def test_every_check_has_its_case_here_and_its_section_in_the_docs():
    assert {*SICK, "overfitting"} == {name for name in CHECKS if not name.startswith("test_")}
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for name in (*SICK, "overfitting"):
        assert f"{{#{name}}}" in page, name


def test_a_good_run_is_not_spoken_of():
    assert played(lambda i: {}) == []
    # Copies early in the run are no finding.
    assert played(lambda i: {"data/c_to_c_copied": 0.99, "data/i_to_i_copied": 0.0} if i < 15 else {}) == []
    assert played(SICK["all_wrong"], group_sizes=(1,)) == []  # nothing is compared, so no group lacks a signal
    assert played(lambda i: SICK["all_wrong"](i) | {"stage": 1}, group_sizes=(8, 1)) == []
    (found,) = played(lambda i: SICK["all_wrong"](i) | {"stage": 1}, group_sizes=(1, 8))
    assert found.check == "all_wrong"
    without = {name: float("nan") for name in step(0) if name not in ("step", "stage", "optim/lr")}
    assert played(lambda i: without) == []
    assert Health({}).add({"step": 0, "rollout/episodes": 3}, 0.0) == ([], [])


def test_it_is_told_when_it_begins_and_when_it_is_over_and_again_if_it_comes_back():
    health, told = Health({}, (8,)), []
    for i in range(30):
        sick = i in (5, 6, 15, 16)
        begun, over = health.add(step(i, **({"rollout/failed_fraction": 0.3} if sick else {})), 0.1)
        told += [(i, one.check) for one in begun] + [(i, f"no {one.check}") for one in over]
    assert told == [(5, "failed"), (7, "no failed"), (15, "failed"), (17, "no failed")]
    assert [(one.begun, one.ended) for one in health.findings] == [(5, 7), (15, 17)]


def test_a_stage_of_its_own_has_gradients_of_its_own():
    health = Health({}, (8,))
    for i in range(20):
        health.add(step(i, **({"stage": 1, "optim/grad_norm": 900.0} if i >= 10 else {})), 0.1)
    assert health.findings == []


def test_validations_are_looked_at_where_there_are_no_steps():
    health = Health({})
    begun, _ = health.add(validation(1, truncated_fraction=0.95, no_answer_fraction=0.95), 0.5)
    assert [one.check for one in begun] == ["cut_off"]
    _, over = health.add(validation(2, truncated_fraction=0.1, no_answer_fraction=0.9), 1.0)
    assert [one.check for one in over] == ["cut_off"]
    assert (health.findings[-1].check, health.findings[-1].said[:4]) == ("no_answer", "80 %")


OFFLINE = {
    "cut_off": {"truncated_fraction": 0.9},
    "no_answer": {"no_answer_fraction": 0.9},
    "always_changed": {"break_rate": 0.9},
    "learning_rate": {"accuracy_t1": 0.1, "accuracy_t2": 0.0},
}


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_method_that_logs_only_validations_is_watched_too(name):
    health = Health({})
    for i in range(3):
        begun, over = health.add(validation(i, 0.4, break_rate=0.1), i / 6)
        assert (begun, over) == ([], [])
    health.add(validation(3, **OFFLINE[name]), 0.5)  # a single round may fail, as methods that restart recover
    for i in range(4, 10):
        health.add(validation(i, **OFFLINE[name]), i / 10)
    (found,) = health.findings
    assert found.check == name
    assert found.ended is None
    early = Health({})
    early.add(validation(0, 0.4, break_rate=0.1), 0.0)
    (found,), _ = early.add(validation(1, **OFFLINE[name]), 1.0)
    assert found.check == name  # the only round of a method that has one


def test_one_evaluation_is_no_training_that_went_wrong():
    assert Health({}).add(validation(0, 0.0, accuracy_t1=0.5, break_rate=1.0), 1.0) == ([], [])


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), None])
def test_a_gradient_without_a_finite_norm_neither_is_a_spike_nor_hides_the_next_one(norm):
    health = Health({}, (8,))
    for i in range(10):
        health.add(step(i), 0.1)
    assert health.add(step(10, **{"optim/grad_norm": norm}), 0.1) == ([], [])
    (found,), _ = health.add(step(11, **{"optim/grad_norm": 400.0}), 0.1)
    assert found.check == "gradient_spike"
    assert health.add(step(12, **{"optim/grad_norm": norm}), 0.1) == ([], [found])


def test_a_validation_without_an_episode_is_not_the_best_one():
    health = Health({})
    for i, accuracy in enumerate((float("nan"), 0.6, 0.6, 0.3)):
        for k in range(10):
            health.add(step(10 * i + k), 0.1)
        health.add(validation(10 * i + 9, accuracy), 0.1)
    assert [one.check for one in health.findings] == ["overfitting"]


def test_limits_are_chosen_and_switched_off():
    assert played(SICK["failed"], {"failed": {"above": 0.1}}) == []
    assert played(SICK["failed"], {"failed": None}) == []
    assert [one.check for one in played(lambda i: {}, {"masked": {"above": 0.001}})] == ["masked"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"health": {"cut_of": {}}}, r"training.health=cut_of: unknown; did you mean 'cut_off'"),
        ({"health": {"cut_off": {"abov": 1}}}, r"training.health.cut_off.abov: .*did you mean 'above'"),
        ({"health": {"cut_off": {"above": -1.0}}}, r"training.health.cut_off.above=-1.0: must be at least 0"),
        ({"stop_on": ["cutoff"]}, r"did you mean 'cut_off'"),
        ({"stop_on": ["failed"], "health": {"failed": None}}, r"failed is switched off"),
    ],
)
def test_a_check_that_there_is_not_is_refused(given, message):
    for config in (BudgetConfig, TrainingConfig):
        with pytest.raises(ValueError, match=message):
            config(**given)


def test_a_check_of_ones_own_is_asked_like_the_others():
    if "test_rich" not in CHECKS:

        @CHECKS.register("test_rich", options=limits(above=1.0), cause="luck", remedy="patience")
        def rich(history: History, *, above: float) -> str:
            """Rewards above a limit."""
            reward = history.mean("reward/raw_t1", 1)
            return f"reward {reward}" if reward is not None and reward > above else ""

    (found,) = played(lambda i: {"reward/raw_t1": 2.0})
    assert found.line == f"reward 2.0. Usual cause: luck. Try patience. {PAGE}#test_rich"
    assert replace(found, ended=None).to_json() == {"check": "test_rich", "from": 10, "to": None, "said": found.line}
