"""Tuning: what is varied, that all arms get equally many trials, which trial is chosen, and resuming."""

import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.cli import UserError
from experiments.compare import plan, refuse_changed_config
from experiments.search import OBJECTIVES, SAMPLERS, Dimension, at_hand, changes, dimensions
from experiments.tune import studies, tune, write_winners
from rl.config import AlgorithmConfig, StageConfig
from tests import programs
from tests.experiments.conftest import STARTED, Ended, Pretend


def test_every_arm_gets_as_many_trials_and_the_best_is_written(make, tmp_path):
    cfg = make("trials=5", "seeds=[1000,1001]")
    found = tune(cfg, tmp_path)
    assert sorted(STARTED) == sorted(f"{arm}.{i}" for arm in ("star", "score") for i in range(5) for _ in cfg.seeds)
    for study in found:
        as_it_is, *others = study.trials
        assert as_it_is.changed == {}
        assert all(trial.changed for trial in others)
        values = [trial.value("last_accuracy") for trial in study.trials]
        assert study.winner() is study.trials[values.index(max(v for v in values if not math.isnan(v)))]
    chosen = write_winners(cfg, found, tmp_path)
    record = chosen["tuning"]["star"]
    assert (record["trials"], record["seeds"], record["objective"]) == (5, [1000, 1001], "last_accuracy")
    assert record["tuned"] > record["untuned"] == pytest.approx(1 - math.log10(2.5), abs=1e-4)

    # A comparison takes the winner's values from the file and refuses the seeds that were used for tuning.
    there = [f"hydra.searchpath=[file://{tmp_path}]", "tuned=mine", "include=[star,score]"]
    arms = make(*there, program="compare").arms
    assert arms["star"].optim.lr == found[0].winner().changed["optim"]["lr"]
    assert arms["star"].optim.schedule == "linear"  # not varied, so unchanged
    with pytest.raises(Exception, match="star was tuned with 1001"):
        make(*there, "seeds=[0,1001]", program="compare")


def test_of_equals_the_better_first_attempts_win_then_the_earlier_trial(make, tmp_path):
    (study,) = tune(make("trials=4", "include=[star]"), tmp_path)
    for trial, first in zip(study.trials, (0.5, 0.4, 0.7, 0.7), strict=True):
        result = {"greedy": {"accuracy_t1": first, "accuracy_t2": 0.9}}
        folder = trial.jobs[0].folder
        (folder / "policy").mkdir(exist_ok=True)
        (folder / "policy" / "config.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps(result))
    assert study.winner().number == 2


def test_judged_on_validation_tasks_alone_and_with_a_seed_of_its_own(make, tmp_path):
    (asks, _) = studies(make("objective=sampled_last_accuracy", "evaluation.samples_per_task=3"), tmp_path)
    assert asks.trials[0].jobs[0].arm.config.evaluation.samples_per_task == 3
    (study, _) = studies(make(), tmp_path)
    run = study.trials[0].jobs[0].arm.config
    assert (run.evaluation.split, run.evaluation.samples_per_task) == ("validation", 0)
    assert (run.evaluation.controls, run.evaluation.max_attempts, run.evaluation.transfer) == (False, 0, {})
    assert not set(make().seeds) & set(make(program="compare").seeds)


def test_goes_on_where_it_stopped_and_may_be_given_more_trials(make, tmp_path):
    short, long = make("trials=3"), make("trials=6")
    tune(short, tmp_path)
    STARTED.clear()
    found = tune(long, tmp_path)
    crashed = {trial.jobs[0].arm.name for study in found for trial in study.trials if math.isnan(trial.value("delta"))}
    new = {f"{arm}.{i}" for arm in ("star", "score") for i in (3, 4, 5)}
    assert new <= set(STARTED) <= new | crashed  # crashed trials are run again
    whole = tune(long, tmp_path / "elsewhere")
    assert [t.drawn for one in found for t in one.trials] == [t.drawn for one in whole for t in one.trials]


@pytest.mark.parametrize("n_startup", [1, 3])
def test_a_trial_that_crashed_once_and_then_runs_leaves_the_others_as_they_were(make, tmp_path, monkeypatch, n_startup):
    """A machine's fault, such as a full disk, is gone when the tuning is resumed; the trials after it are kept."""
    given = ("include=[star]", f"+sampler_options.startup={n_startup}", "at_once=1")
    submit = Pretend.submit

    def without_trial_2(self, folders):
        kept = [folder for folder in folders if folder.parent.name != "002"]
        for folder in set(folders) - set(kept):
            (folder / "error.txt").write_text("Traceback\nOSError: no space left")
        submit(self, kept)
        return [Ended() for _ in folders]

    monkeypatch.setattr(Pretend, "submit", without_trial_2)
    (first,) = tune(make("trials=6", *given), tmp_path)
    retried = {f"star.{trial.number}" for trial in first.trials if math.isnan(trial.value("last_accuracy"))}
    assert "star.2" in retried
    monkeypatch.setattr(Pretend, "submit", submit)
    STARTED.clear()
    (again,) = tune(make("trials=8", *given), tmp_path)
    assert [trial.drawn for trial in again.trials[:6]] == [trial.drawn for trial in first.trials]
    assert {"star.2", "star.6", "star.7"} <= set(STARTED) <= {"star.6", "star.7"} | retried
    assert not math.isnan(again.trials[2].value("last_accuracy"))


def test_a_trial_that_crashes_costs_that_trial_and_stands_in_the_table(make, tmp_path):
    cfg = make("trials=4", "space.offline.optim.lr.low=1.9e-3", "include=[star]", "sampler=random")
    (study,) = tune(cfg, tmp_path)
    crashed = [t.number for t in study.trials if math.isnan(t.value("last_accuracy"))]
    assert 0 < len(crashed) < 4
    table = (tmp_path / "trials.csv").read_text().splitlines()
    assert len(table) == 1 + 4
    assert sum("too fast" in line for line in table) == len(crashed)
    assert study.winner().number not in crashed
    hopeless = make("trials=1", "include=[star]", "arms.star.optim.lr=0.1")
    with pytest.raises(UserError, match="star: every trial crashed"):
        write_winners(hopeless, tune(hopeless, tmp_path / "b"), tmp_path / "b")


@pytest.mark.parametrize("env", ["modchain", "repair", "addition"])
def test_the_default_space_fits_every_arm_of_the_published_comparisons(env, make, tmp_path):
    compared = make(f"env={env}", program="compare")
    cfg = make(f"env={env}", program="tune")
    assert set(cfg.include) == set(compared.include)
    for study in studies(cfg, tmp_path):
        for trial in study.ask(3):
            assert trial.changed, study.arm
        as_it_is = study.trials[0].jobs[0].arm
        assert all(job.arm.budget("samples") == as_it_is.budget("samples") for t in study.trials for job in t.jobs)
    assert plan(compared, tmp_path)


def test_a_factor_multiplies_and_a_star_stands_for_every_key():
    stages = {"one": StageConfig(kl_coefs=[0.3, 0.03]), "two": StageConfig(kl_coefs=[0.1, 0.2])}
    entry = AlgorithmConfig(name="x", stages=stages)
    varied = dimensions(
        {"online": {"stages": {"*": {"kl_coefs": {"low": 0.1, "high": 10.0, "factor": True}}}}}, "online", "x"
    )
    assert at_hand(entry, varied) == {"stages.*.kl_coefs": 1.0}
    assert changes(entry, varied, {"stages.*.kl_coefs": 2.0}) == {
        "stages": {"one": {"kl_coefs": [0.6, 0.06]}, "two": {"kl_coefs": [0.2, 0.4]}}
    }
    assert changes(entry, varied, {"stages.*.kl_coefs": 1.0}) == {}


SPACE = {"offline": {"epochs": {"values": [1, 2]}, "batch_size": {"values": [8, 64]}}}


def test_an_arm_may_vary_something_else_than_its_family():
    space = SPACE | {"arms": {"pair_sft": {"epochs": None, "batch_size": {"values": [16]}}}}
    assert dimensions(space, "offline", "pair_sft") == {"batch_size": Dimension((16,))}
    assert dimensions(space, "offline", "star").keys() == {"epochs", "batch_size"}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "add space.offline"),
        ({"offline": {"epochs": 3}}, "epochs of star is no dimension"),
        ({"offline": {"epochs": {"values": [1], "low": 1, "high": 2}}}, "either values, or low and high"),
        ({"offline": {"epochs": {"low": 2, "high": 1}}}, "low must be below high"),
        ({"offline": {"epochs": {"values": [1], "step": 2}}}, "no dimension"),
        ({"offline": {"epochs": {"values": [1]}}, "arms": {"star": {"epochs": None}}}, "star has nothing to vary"),
    ],
)
def test_a_space_that_says_nothing_usable_is_refused(space, message):
    with pytest.raises(ValueError, match=message):
        dimensions(space, "offline", "star")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["space.offline.epocs.values=[1]"], "epocs does not exist in"),
        (["objective=deltas"], "did you mean 'delta'"),
        (["sampler=tpa"], "did you mean 'tpe'"),
        (["sampler_options.startups=3"], "did you mean 'startup'"),
        (["trials=0"], "trials"),
        (["objective=sampled_last_accuracy", "evaluation.samples_per_task=0"], "set evaluation.samples_per_task"),
        (
            ["evaluation.greedy=false", "evaluation.samples_per_task=1", "evaluation.controls=false"],
            "greedy=false: of equal",
        ),
        (["include=[scoer]"], "did you mean 'score'"),
    ],
)
def test_mistakes_are_named(make, tmp_path, overrides, message):
    with pytest.raises(Exception, match=message):
        studies(make(*[f"++{one}" for one in overrides]), tmp_path)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_draws_the_same_again(sampler, make, tmp_path):
    drawn = []
    for attempt in ("a", "b"):
        found = tune(make("trials=5", f"sampler={sampler}", "seed=7"), tmp_path / attempt)
        drawn.append([trial.drawn for study in found for trial in study.trials])
    assert drawn[0] == drawn[1]
    other = tune(make("trials=5", f"sampler={sampler}", "seed=8"), tmp_path / "c")
    assert [trial.drawn for study in other for trial in study.trials] != drawn[0]


def test_objectives_read_what_they_say():
    result = {"greedy": {"accuracy_t1": 0.4, "accuracy_t2": 0.6, "accuracy_t10": 0.7, "delta": 0.3}}
    result["sampled"] = {"accuracy_t1": 0.1, "accuracy_t2": 0.2}
    values = {name: objective(result) for name, objective in OBJECTIVES.items()}
    assert values == {"last_accuracy": 0.7, "delta": 0.3, "sampled_last_accuracy": 0.2}


@pytest.mark.slow(30)
def test_a_real_tuning_of_two_arms(tmp_path):
    sizes = ["env.options.n_train=64", "env.options.n_validation=10", "env.options.n_test=4"]
    sizes += ["training.episodes=192", "training.tasks_per_step=8", "executor_options.workers=2"]
    command = ["experiments.tune", "include=[star,naive_multiturn]", "trials=2", *sizes]
    command += ["arms.star.iterations=1", "space.offline.iterations=null", "space.offline.epochs.values=[1]"]
    command += [f"runs_dir={tmp_path}", f"output={tmp_path}/tuned.yaml"]
    done = programs.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "tune").iterdir()
    results = [json.loads(path.read_text()) for path in folder.glob("trials/*/*/*/result.json")]
    assert len(results) == 4
    assert {result["greedy"]["n"] for result in results} == {10}  # validation tasks
    assert {result["totals"]["episodes"] for result in results} == {192}
    tuned = OmegaConf.load(tmp_path / "tuned.yaml")
    assert set(tuned.tuning) == {"star", "naive_multiturn"}
    assert "| star | 1 |" in (folder / "trials.md").read_text()
    text = Path(tmp_path / "tuned.yaml").read_text()
    assert text.startswith("# @package _global_\n# Values that experiments.tune chose")


def test_a_check_that_can_stop_no_arm_is_refused_and_the_others_reach_the_arms_that_they_can_stop(make, tmp_path):
    stops = "training.stop_on=[clipped,gradient_spike,cut_off]"
    small = ("env=modchain", "include=[star,score]")
    jobs = plan(make(*small, "arms.score.epochs=2", stops, program="compare"), tmp_path)
    given = {job.arm.name: getattr(job.arm.config, "training", None) for job in jobs}
    assert given["base"] is None
    assert given["star"].stop_on == ["cut_off"]
    assert given["score"].stop_on == ["clipped", "gradient_spike", "cut_off"]
    with pytest.raises(UserError, match=r"training\.stop_on=skipped_steps: would never end a run, because "):
        plan(make(*small, "training.stop_on=[skipped_steps]", program="compare"), tmp_path)
    for program, one in (("compare", plan), ("tune", studies)):
        with pytest.raises(UserError, match=r"training\.stop_on=failed: would never end a run, because an offline"):
            one(make("env=modchain", "include=[star]", "training.stop_on=[failed]", program=program), tmp_path)
    # The untuned arm takes one optimiser step per batch, but some of its trials take more.
    (_, score) = studies(make(*small, "training.stop_on=[clipped]"), tmp_path)
    assert score.trials[0].jobs[0].arm.config.training.stop_on == []


def test_a_finished_job_stays_when_only_its_health_checks_change(make, tmp_path):
    def job(*changed):
        return plan(make("env=modchain", "include=[star,score]", *changed, program="compare"), tmp_path)[-1]

    job("training.stop_on=[cut_off]").write()
    refuse_changed_config(job("training.stop_on=[]", "++training.health.cut_off.above=0.2"))
    with pytest.raises(UserError, match=r"changed: training\.validate_every\. "):
        refuse_changed_config(job("training.stop_on=[]", "training.validate_every=3"))
