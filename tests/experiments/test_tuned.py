"""The file of chosen values: whose values a tuning may replace, and what is written into it."""

import pytest
from omegaconf import OmegaConf

from experiments.cli import UserError
from experiments.compare import say_before
from experiments.tune import main, tune, write_winners
from experiments.tuned import setting_of
from tests.experiments.conftest import STARTED


def test_what_another_tuning_chose_for_other_arms_stays(make, tmp_path):
    first = make("trials=3", "include=[star]")
    before = write_winners(first, tune(first, tmp_path / "a"), tmp_path / "a")
    second = make("trials=2", "include=[score]")
    after = write_winners(second, tune(second, tmp_path / "b"), tmp_path / "b")
    assert after["arms"]["star"] == before["arms"]["star"]
    assert {arm: record["trials"] for arm, record in after["tuning"].items()} == {"star": 3, "score": 2}


HAND = "# @package _global_\n# Chosen by hand, with two more trials.\n"
STAR = {"trials": 4, "seeds": [1000], "episodes": 9216, "objective": "last_accuracy", "untuned": 0.5, "tuned": 0.6}
VALUES = {"arms": {"star": {"epochs": 6}, "ppo": {"epochs": 2}}, "tuning": {"star": STAR, "ppo": STAR}}


def earlier(folder, head=HAND, arms=VALUES["arms"], **changed):
    """Overrides of a tuning of star into a file with values of star and ppo; ``changed`` is changed in star's record.

    Where ``changed`` is ``record=None``, the file has no record of star.
    """
    record = {} if changed == {"record": None} else {"star": STAR | changed}
    path = folder / "earlier.yaml"
    path.write_text(head + OmegaConf.to_yaml(OmegaConf.create({"arms": arms, "tuning": {"ppo": STAR} | record})))
    same = ["env=repair", "include=[star]", "trials=4", f"output={path}", f"runs_dir={folder}/runs"]
    return path, [*same, "training.episodes=9216", "training.tasks_per_step=64"]


UPDATES = ["match=updates", "training.updates=384"]
TOKENS = ["match=tokens", "training.tokens=5000"]
SETTING = "model.path=models/repair env=repair env.attempts=2"
OTHER = "would replace values in this file: those of star"


@pytest.mark.parametrize(
    ("record", "overrides", "message"),
    [
        ({}, ["trials=3"], f"3 trials with training.episodes=9216 {OTHER}, chosen by 4 trials with"),
        ({}, ["training.episodes=4608"], f"training.episodes=4608 {OTHER}, chosen by .* training.episodes=9216. Name"),
        ({}, ["training.episodes=18432", "trials=8"], OTHER),
        ({}, TOKENS, f"4 trials with training.tokens=5000 {OTHER}"),
        ({}, UPDATES, f"4 trials with training.updates=384, training.episodes=9216 {OTHER}"),
        ({"budget": "training.tokens=5000"}, [], f"{OTHER}, chosen by 4 trials with training.tokens=5000"),
        ({"budget": "training.tokens=6000"}, TOKENS, OTHER),
        ({"budget": "training.updates=192, training.episodes=9216"}, UPDATES, OTHER),
        (
            {"setting": "model.path=mine env=repair env.attempts=2"},
            [],
            f"{OTHER}, chosen by 4 trials .* for model.path=mine",
        ),
        ({"setting": SETTING}, ["model.path=models/mend"], f"{OTHER}, chosen by 4 trials .* for {SETTING}. Name"),
        ({"record": None}, ["trials=9"], f"{OTHER}, of which no tuning is recorded"),
        ({"trials": "many"}, [], "was not written by experiments.tune"),
    ],
)
def test_values_that_another_budget_or_more_trials_chose_are_not_replaced(make, tmp_path, record, overrides, message):
    path, same = earlier(tmp_path, **record)
    before = path.read_text()
    with pytest.raises(UserError, match=message) as said:
        main.run(make(*same, *overrides))
    assert path.read_text() == before
    assert not STARTED
    assert not (tmp_path / "runs").exists()
    if OTHER in message:
        remedies = ("output=configs/tuned/mine.yaml", "tuned=mine", "resume=<its folder>", "remove these arms")
        assert all(remedy in str(said.value) for remedy in remedies)


@pytest.mark.parametrize(
    ("record", "overrides"),
    [
        ({}, []),
        ({}, ["trials=6"]),
        ({"setting": SETTING}, []),
        ({"setting": SETTING}, ["env.options.n_train=500"]),
        ({"episodes": 9200}, ["training.episodes=9200"]),
        ({"episodes": 9216}, ["training.episodes=9220"]),  # rounded down to whole groups
        ({"budget": "training.episodes=9216", "episodes": 9000}, []),
        ({"budget": "training.tokens=5000"}, TOKENS),
        ({"budget": "training.updates=384, training.episodes=9216"}, UPDATES),
        ({}, ["include=[score]", "trials=1", "training.episodes=512"]),  # an arm that is not in the file
    ],
)
def test_as_many_trials_with_the_same_budget_and_new_arms_are_written(make, tmp_path, record, overrides):
    path, same = earlier(tmp_path, **record)
    main.run(make(*same, *overrides))
    cfg = make(*same, *overrides)
    (arm,) = cfg.include
    found = OmegaConf.load(path)
    assert found.tuning[arm].trials == cfg.trials
    assert found.tuning[arm].budget.startswith("training.")
    assert found.tuning[arm].setting == setting_of(cfg)
    assert (found.arms.ppo, found.tuning.ppo) == (VALUES["arms"]["ppo"], STAR)
    # The comments stay, because ppo's values do, and say which arm they do not describe any more.
    since = f"# After the lines above were written, experiments.tune chose the values of {arm}\n"
    assert path.read_text().startswith(HAND + since + "arms:")


def test_a_resumed_tuning_writes_its_file_again_but_not_with_fewer_trials(make, tmp_path):
    path, same = earlier(tmp_path)
    main.run(make(*same))
    (folder,) = (tmp_path / "runs" / "tune").iterdir()
    for trials in (4, 6):
        main.run(make(*same, f"trials={trials}", f"resume={folder}"))
        assert OmegaConf.load(path).tuning.star.trials == trials
    assert path.read_text().count("chose the values of star\n") == 1
    with pytest.raises(UserError, match="chosen by 6 trials"):
        main.run(make(*same, "trials=5", f"resume={folder}"))
    with pytest.raises(UserError, match=r"trials=5: .* has 6 for every arm; give trials=6 or more"):
        main.run(make(*same, "trials=5", f"output={tmp_path}/other.yaml", f"resume={folder}"))


def test_a_resumed_tuning_of_other_arms_keeps_those_of_its_folder(make, tmp_path):
    _, same = earlier(tmp_path)
    main.run(make(*same))
    (folder,) = (tmp_path / "runs" / "tune").iterdir()
    before = (folder / "trials.md").read_text().splitlines()
    STARTED.clear()
    main.run(make(*same, "include=[score]", f"resume={folder}"))
    assert set(STARTED) == {f"score.{i}" for i in range(4)}
    assert (folder / "trials.md").read_text().splitlines()[: len(before)] == before
    assert OmegaConf.load(folder / "config.yaml").include == ["star", "score"]
    assert OmegaConf.load(folder / "tuned.yaml").tuning.keys() == {"star", "score"}


def test_experiments_of_comparisons_can_be_tuned(make):
    for experiment in ("smollm2_sums", "ablations", "estimators"):
        # The experiment's own model is made by a user.
        cfg = make(f"experiment={experiment}", "model=path", "model.path=models/repair", program="tune")
        assert (cfg.name, cfg.seeds, cfg.tuning) == (experiment, [1000], {})


def test_a_tuning_may_start_from_the_values_of_another_one_with_its_seed(make):
    cfg = make("env=repair", "include=[star]", "tuned=repair", program="tune")
    assert (cfg.seeds, cfg.tuning["star"].seeds) == ([1000], [1000])
    with pytest.raises(ValueError, match="star was tuned with 1000"):
        make("env=repair", "include=[star]", "seeds=[1000]", program="compare")


def test_a_comparison_says_that_its_values_were_tuned_for_something_else(make, capsys):
    for path, said in (("models/repair", ""), ("models/mend", "the tuned values were chosen for")):
        cfg = make("env=repair", "include=[star]", f"model.path={path}", program="compare")
        cfg.tuning["star"].setting = setting_of(make("env=repair", program="compare"))
        say_before(cfg, [])
        found = " ".join(capsys.readouterr().out.split())
        assert (said in found) if said else ("tuned values" not in found)


def test_comments_go_with_the_last_of_the_values_that_they_describe(make, tmp_path):
    path, same = earlier(tmp_path, head="# Mine.\n")
    main.run(make(*same))
    assert path.read_text().startswith("# @package _global_\n# Mine.\n# After the lines above")
    main.run(make(*same, "include=[score]"))
    assert "chose the values of star, score\n" in path.read_text()
    path.write_text(HAND + OmegaConf.to_yaml(OmegaConf.create({"arms": {}, "tuning": {"star": STAR}})))
    main.run(make(*same))
    assert path.read_text().startswith("# @package _global_\n# Values that experiments.tune chose on validation")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "that is a folder; name a file, as .*/mine.yaml"),
        ("a_file/x.yaml", "no file can be made in .*a_file"),
        ("a_file/b/c/x.yaml", "no file can be made in .*a_file"),
        ("/proc/x.yaml", "no file can be made in /proc"),
        ("/proc/a/x.yaml", "no file can be made in /proc"),
        ("n" * 250 + ".yaml", "no file can be made in"),  # a file may have such a name, its temporary one is too long
        ("device.yaml", "this cannot be overwritten"),
        ("none.yaml", "was not written by experiments.tune"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_first_trial(make, tmp_path, name, message):
    (tmp_path / "a_file").touch()
    (tmp_path / "device.yaml").symlink_to("/dev/null")
    (tmp_path / "none.yaml").write_text("# Nothing is tuned.\n{}\n")
    with pytest.raises(UserError, match=f"^output={tmp_path / name}: .*{message}"):
        main.run(make("include=[star]", f"output={tmp_path / name}", f"runs_dir={tmp_path}/runs"))
    assert not STARTED
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "message"), [("a_file/x.yaml", "it cannot be written .*a_file"), ("b.yaml", OTHER)])
def test_what_became_unwritable_meanwhile_costs_no_chosen_value(make, tmp_path, name, message):
    cfg = make("include=[star]", "trials=2", f"output={tmp_path / name}")
    found = tune(cfg, tmp_path / "run")
    (tmp_path / "a_file").touch()
    earlier(tmp_path)[0].rename(tmp_path / "b.yaml")
    with pytest.raises(UserError, match=f"{message}.* The chosen values are kept in {tmp_path}/run/tuned.yaml"):
        write_winners(cfg, found, tmp_path / "run")
    kept = OmegaConf.load(tmp_path / "run" / "tuned.yaml")
    assert OmegaConf.to_container(kept.arms.star) == found[0].winner().changed
    assert set(kept.tuning) == {"star"}
    assert (tmp_path / "run" / "tuned.yaml").read_text().startswith("# @package _global_\n")
