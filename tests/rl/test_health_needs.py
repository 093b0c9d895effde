"""``training.stop_on`` of a check that can find nothing in a run is refused, whatever the kind of run."""

from dataclasses import replace

import pytest

from rl.config import AlgorithmConfig, EnvConfig, OfflineConfig, SFTConfig, StageConfig, TrainingConfig
from rl.health import CHECKS
from rl.health_needs import idle, notes_on_stops, refuse_idle_stops, without_idle_stops
from rl.refusals import notes, refuse_run
from tests.helpers import modchain_config, named

OFFLINE = {"cut_off", "no_answer", "always_changed", "learning_rate"}
NO_KL = StageConfig(kl_coefs=[0.0, 0.0])


def online(attempts=2, training=None, **algorithm):
    method = AlgorithmConfig(**({"name": "x", "group_size": 4, "minibatches": 2} | algorithm))
    given = {"episodes": 64, "tasks_per_step": 8, "nonfinite": "skip"} | (training or {})
    cfg = modchain_config(algorithm=method)
    env = replace(cfg.env, attempts=attempts).settled()
    return replace(cfg, algorithm=method, training=TrainingConfig(**given), env=env)


def offline(attempts=2, **training):
    env = EnvConfig(id="errata/modchain-v1", attempts=attempts).settled()
    method = OfflineConfig(name="x", rule="relabel", group_size=4, iterations=2)
    return SFTConfig(name="x", env=env, offline=method, training=TrainingConfig(**({"episodes": 64} | training)))


BUILT_IN = [name for name in CHECKS if not name.startswith("test_")]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_check_can_stop_an_online_run_that_has_what_it_needs(name):
    refuse_run(online(training={"stop_on": [name]}))


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_offline_method_is_stopped_only_by_checks_that_read_validations(name):
    cfg = offline(stop_on=[name])
    if name in OFFLINE:
        refuse_run(cfg)
    else:
        with pytest.raises(
            ValueError, match=rf"^training.stop_on={name}: would never .*offline.*here: cut_off, no_ans"
        ):
            refuse_run(cfg)


@pytest.mark.parametrize(
    ("cfg", "names", "because"),
    [
        (online(attempts=1), ["copied", "always_changed"], "no second attempt"),
        (offline(attempts=1), ["always_changed"], "no second attempt"),
        (online(group_size=1, advantage="reinforce"), ["all_right", "all_wrong"], "algorithm.group_size=1"),
        (online(training={"validate_every": 0}), ["overfitting"], "training.validate_every=0"),
        (online(stages=named(NO_KL)), ["far_from_reference"], "kl_coefs above 0"),
        (online(minibatches=1), ["clipped"], "one optimiser step per batch"),
        (online(training={"nonfinite": "stop"}), ["skipped_steps"], "training.nonfinite=stop ends the run"),
    ],
)
def test_what_a_run_does_not_have_stops_nothing(cfg, names, because):
    can = OFFLINE if isinstance(cfg, SFTConfig) else set(BUILT_IN)
    assert {name for name in BUILT_IN if not idle(cfg, name)} == can - set(names)
    for name in names:
        with pytest.raises(ValueError, match=rf"training.stop_on={name}: would never end a run, because .*{because}"):
            refuse_run(replace(cfg, training=replace(cfg.training, stop_on=[name])))


def test_one_stage_that_has_it_is_enough():
    two = named(replace(NO_KL, attempts=1, group_size=1), StageConfig(kl_coefs=[0.1, 0.1]))
    cfg = online(advantage="reinforce", stages=two, training={"stop_on": ["copied", "all_right", "far_from_reference"]})
    refuse_run(cfg)


def test_limits_of_a_check_that_finds_nothing_are_said():
    health = {"clipped": {"above": 0.1}, "cut_off": {"above": 0.1}, "masked": None, "failed": {}}
    said = [note for note in notes(offline(health=health)) if "health" in note]
    assert [note.partition(":")[0] for note in said] == ["training.health.clipped does nothing"]
    assert not [note for note in notes(online(training={"health": health})) if "health" in note]


def test_arms_of_a_comparison_get_the_checks_that_can_stop_them():
    stops = ["cut_off", "clipped", "gradient_spike"]
    arms = {
        "a": online(training={"stop_on": stops}),
        "b": online(minibatches=1, training={"stop_on": stops}),
        "c": offline(stop_on=stops),
    }
    refuse_idle_stops(stops, list(arms.values()))
    assert [without_idle_stops(cfg).training.stop_on for cfg in arms.values()] == [
        stops,
        ["cut_off", "gradient_spike"],
        ["cut_off"],
    ]
    said = [note.partition(":")[0] for note in notes_on_stops(arms, stops)]
    assert said == [f"training.stop_on={name} does nothing in {arm}" for name, arm in
                    (("clipped", "b"), ("clipped", "c"), ("gradient_spike", "c"))]  # fmt: skip
    with pytest.raises(ValueError, match=r"training.stop_on=clipped: would never .*optimiser step"):
        refuse_idle_stops(stops, [arms["b"], arms["c"]])
    refuse_idle_stops(stops, [])  # arms that are not trained have nothing to stop


def test_a_check_of_ones_own_says_what_it_needs_or_is_taken_everywhere(monkeypatch):
    assert "offline method" in idle(offline(), "failed")
    monkeypatch.setitem(CHECKS._facts, "failed", {})
    assert not idle(offline(), "failed")
    monkeypatch.setitem(CHECKS._facts, "failed", {"needs": "stps"})
    with pytest.raises(ValueError, match="failed needs=stps: unknown; did you mean 'steps'"):
        idle(online(), "failed")
