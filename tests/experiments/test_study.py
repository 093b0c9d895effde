"""The frame of studies: what runs, what is kept, what is written; with a study that has no model."""

import json

import pytest

from experiments.cli import UserError
from experiments.evidence.studies import overview
from experiments.schema import StudyChoice, StudyConfig
from experiments.studies import load, run_seed, settings_of
from experiments.study import chosen, plan, write_study
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


def test_what_a_study_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"settings\.gian: unknown; did you mean 'gain'"):
        settings_of(load("made_up"), {"gian": 1.0})
    cfg = config()
    cfg.size = "smok"
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        chosen(cfg)
    with pytest.raises(ValueError, match=r"study\.name=collaps"):
        load("collaps")
