"""The code that all studies share, tested with a study without a model: what is run, resumed, written and refused."""

import json
import re
from dataclasses import asdict, fields

import pytest
from omegaconf import OmegaConf

from experiments.cli import UserError
from experiments.evidence.studies import curves, overview
from experiments.schema import StudyChoice, StudyConfig
from experiments.studies import FULL, STUDIES, load, part_of, run_seed, settings_of
from experiments.study import chosen, plan, write_study
from rl.analysis.claims import Figure
from tests.conftest import ROOT
from tests.experiments import made_up_study


def config(**settings):
    sizes = {"smoke": {"gain": 0.1}, "tiny": {}}
    return StudyConfig(study=StudyChoice("made_up", sizes), size="smoke", seeds=[3, 4], settings=settings)


def finish(cfg, folder):
    jobs = plan(cfg, folder)
    for job in jobs:
        job.write()
        job.arm.run(job.seed, job.folder, lambda *_: None)
        assert job.is_done
        assert type(job).read(job.folder) == job
    return jobs


def test_a_study_leaves_claims_tables_figures_and_a_page(tmp_path):
    folder = tmp_path / "one"
    findings = write_study(config(), finish(config(), folder), folder)
    assert [str(one.verdict) for one in findings] == ["not measured", "holds"]
    assert findings[0].sentence == "The own reward helps 0.1 of the way."
    assert findings[1].by_seed == pytest.approx({3: 0.1, 4: 0.1})
    stored = json.loads((folder / "study.json").read_text())
    assert stored["settings"] == {"gain": 0.1, "stop_at": ""}
    assert [(row["arm"], row["seed"], row["step"]) for row in stored["rows"]][:4] == [
        ("own", 3, 0), ("own", 3, 1), ("oracle", 3, 0), ("oracle", 3, 1),
    ]  # fmt: skip
    assert stored["rows"][1]["lost"] is None
    assert {path.name for path in (folder / "exhibits").glob("*.*")} >= {"T1.md", "T3.csv", "F1.svg", "F2.png"}
    page = (folder / "report.html").read_text()
    assert '"badges":[{"text":"holds","tone":"good"}],"said":"The oracle helps more.' in page
    assert "The gate was right in 2 of 2" in page
    assert "made_up: made up" in overview(tmp_path)[0].html


def test_an_interrupted_seed_goes_on_with_the_arms_that_are_left(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run_seed("made_up", {"stop_at": "oracle"}, 3, tmp_path, lambda *_: None)
    before = (tmp_path / "own.json").stat()
    run_seed("made_up", {}, 3, tmp_path, lambda *_: None)
    assert (tmp_path / "own.json").stat() == before
    assert len(json.loads((tmp_path / "result.json").read_text())["rows"]) == 4
    monkeypatch.setattr(made_up_study, "prepare", lambda cfg, seed: pytest.fail("nothing is left to do"))
    run_seed("made_up", {}, 3, tmp_path, lambda *_: None)


ZERO_IS_NO_COUNT = "use a whole number of at least 1"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("verification_gap", {"k": (0, ZERO_IS_NO_COUNT), "keep_above": (1.0, "use a number from 0.001 to 0.999")}),
        ("verification_gap", {"young_step": (451, "use at most settings.pretrain_steps=450")}),
        ("self_agreement", {"questions": (0, ZERO_IS_NO_COUNT), "habit": (1.5, "use a number from 0 to 1")}),
        ("self_agreement", {"hidden_size": (20, "use a multiple of 8"), "lr": (0, "use a number above 0")}),
        ("collapse", {"generations": (0, ZERO_IS_NO_COUNT), "zipf": ("abc", "use a number")}),
        ("collapse", {"cold": ("nan", "use a number that is finite")}),
        ("post_completion", {"n_test": (-1, ZERO_IS_NO_COUNT), "group": (1, "use a whole number of at least 2")}),
        ("self_judging", {"steps": (0, ZERO_IS_NO_COUNT), "responses": (1, "use a whole number of at least 2")}),
        ("self_questioning", {"proposals": (0, ZERO_IS_NO_COUNT), "penalty": (-0.1, "use a number of at least 0")}),
        (
            "self_questioning",
            {"n_test": (10_000, "use a whole number from 1 to "), "rl_lr": (0.0, "use")},
        ),
        ("self_awareness", {"lotteries": (0, ZERO_IS_NO_COUNT), "model_lr": (-1e-3, "use a number above 0")}),
        ("instruction_extraction", {"pairs": (0, ZERO_IS_NO_COUNT), "wrong": (2.0, "use a number from 0 to 1")}),
        ("self_edits", {"rounds": (0, ZERO_IS_NO_COUNT), "n_test": (81, "there are 130 passages for both; use fewer")}),
        ("seeded_generation", {"instances": (0, ZERO_IS_NO_COUNT), "width": (2.5, "use a whole number")}),
        ("skills", {"tests": (1, "use a whole number of at least 2"), "iterations": (0, ZERO_IS_NO_COUNT)}),
        ("skills", {"zipf": ("inf", "use a number that is finite"), "tasks": (None, "use a whole number")}),
    ],
)
def test_a_setting_out_of_its_range_is_refused_with_its_name(name, wrong):
    for key, (value, instead) in wrong.items():
        with pytest.raises(ValueError, match=rf"settings\.{key}={value}\b.*{re.escape(instead)}"):
            settings_of(load(name), {key: value})


def test_every_size_of_every_study_is_in_range_and_every_count_has_one():
    found = set()
    for path in sorted((ROOT / "configs/study").glob("*.yaml")):
        stored = OmegaConf.load(path)
        if "sizes" not in stored:
            continue
        study = load(stored.name)
        found.add(stored.name)
        for given in stored.sizes.values():
            settings_of(study, given)
        for key, value in asdict(settings_of(study, {})).items():
            if type(value) is int:
                with pytest.raises(ValueError, match=rf"settings\.{key}=-1: use "):
                    settings_of(study, {key: -1})
        # Sentences and captions must name only settings that exist.
        for text in [one.sentence for one in study.CLAIMS] + [getattr(one, "caption", "") for one in study.EXHIBITS]:
            assert "{" not in text.format(**asdict(settings_of(study, {})))
    assert found == {name for name in STUDIES if name != "made_up"}


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "made_up"])
def test_what_is_read_of_a_study_before_torch_is_loaded_is_what_it_has(name):
    for lookup in (STUDIES, FULL):
        study, read = load(name, "full" if lookup is FULL else ""), part_of(lookup[name], {"Config", "RANGES"})
        shown = [[(one.name, one.type, one.default) for one in fields(it)] for it in (study.Config, read["Config"])]
        assert shown[0] == shown[1]
        assert getattr(study, "RANGES", None) == read.get("RANGES")


def test_one_seed_is_named_and_not_counted():
    assert curves(Figure("x", "step", "y"), [{"arm": "a", "seed": 7, "step": 0, "y": 1.0}]).caption == "Seed 7."


def test_what_a_study_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"settings\.gian: unknown; did you mean 'gain'"):
        settings_of(load("made_up"), {"gian": 1.0})
    cfg = config()
    cfg.size = "smok"
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        chosen(cfg)
    with pytest.raises(ValueError, match=r"study\.name=collaps"):
        load("collaps")
