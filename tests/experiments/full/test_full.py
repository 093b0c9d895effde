"""Studies at size full: they compose, state expectations and costs; dry runs finish and judge no claim."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from experiments.cli import UserError
from experiments.full import Expected, carried
from experiments.full.cost import H100, Work
from experiments.full.plan import lines, page, planned
from experiments.full.shapes import SHAPES, parameters_of, write_dry_model
from experiments.schema import StudyChoice, StudyConfig
from experiments.studies import FULL, STUDIES, load, settings_of
from experiments.study import announce, plan, run_study, write_study
from experiments.thesis import read_studies
from rl.analysis.claims import Verdict
from tests.conftest import ROOT

PUBLISHED = {
    "Qwen/Qwen2.5-1.5B": 1.54,
    "Qwen/Qwen2.5-3B-Instruct": 3.09,
    "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "Qwen/Qwen3-8B": 8.19,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8.03,
}
"""Parameters in billions, as stated by the model cards."""


def config(name, **changed):
    cfg = StudyConfig(study=StudyChoice(name, {"full": {}, "tiny": {}}), size="full", seeds=[3, 4])
    return replace(cfg, **changed)


@pytest.mark.parametrize("name", sorted(FULL))
def test_every_study_composes_at_full_and_says_what_it_expects_and_costs(name):
    study: Any = load(name, "full")
    cfg = settings_of(study, {})
    found = planned(name, cfg, 3)
    assert 1e9 < found["parameters"] < 1e10
    assert found["gpu_hours"] > 0
    assert found["gpu_hours_at_measured_shares"] > found["gpu_hours"]
    assert {one["claim"] for one in found["expected"]} == {claim.name for claim in study.CLAIMS}
    assert all(one["why"] and one["verdict"] in ("holds", "does not hold", "open") for one in found["expected"])
    assert set(study.work(cfg)) == set(study.ARMS) <= set(load(name).ARMS)
    told = "\n".join(lines(found))
    assert cfg.model in told
    assert all(claim.name in told for claim in load(name).CLAIMS)
    # A dry run changes only known settings, and costs less.
    dry = settings_of(study, study.DRY)
    assert planned(name, dry, 1)["gpu_hours"] < found["gpu_hours"] / 10
    for text in [one.sentence for one in study.CLAIMS] + [getattr(one, "caption", "") for one in study.EXHIBITS]:
        text.format(**{field.name: getattr(cfg, field.name) for field in fields(cfg)})


def test_all_studies_have_one_and_the_page_says_so():
    assert set(FULL) == {name for name in STUDIES if name != "made_up"}
    said = "python -m experiments.full.plan > docs/full_sizes.md"
    assert (ROOT / "docs" / "full_sizes.md").read_text(encoding="utf-8") == page(), said


def test_twice_the_tokens_or_the_parameters_cost_twice_as_much():
    work = Work(sampled=1e6, read=2e6, trained=3e6)
    assert H100.hours(8e9, 2 * work) == pytest.approx(2 * H100.hours(8e9, work))
    assert H100.hours(16e9, work) == pytest.approx(2 * H100.hours(8e9, work))
    # One hour at the share of the peak that training reaches, with six operations per token and parameter.
    tokens = 3600 * H100.peak * H100.training / 6 / 8e9
    assert H100.hours(8e9, Work(trained=tokens)) == pytest.approx(1.0)
    # A pass for few rows is limited by memory bandwidth: it takes as long as reading two bytes per parameter.
    assert H100.hours(8e9, Work(passes=3600 * H100.bandwidth / 16e9)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "setting"),
    [("self_judging", "prompts"), ("skills", "contexts"), ("self_questioning", "proposals"), ("collapse", "blocks")],
)
def test_hours_follow_from_the_settings(name, setting):
    study: Any = load(name, "full")
    cfg = settings_of(study, {})
    arms = study.work(cfg), study.work(replace(cfg, **{setting: 2 * getattr(cfg, setting)}))
    sampled = [sum(one.sampled for one in work.values()) for work in arms]
    assert 1.5 * sampled[0] < sampled[1] <= 2 * sampled[0]


def test_architectures_have_the_published_sizes():
    for model, billions in PUBLISHED.items():
        assert parameters_of(model) / 1e9 == pytest.approx(billions, abs=0.006)
    with pytest.raises(ValueError, match=r"settings\.model=nowhere: use a folder"):
        parameters_of("nowhere")


def test_something_expected_of_no_claim_is_refused():
    with pytest.raises(ValueError, match="made up"):
        carried(load("skills").CLAIMS, [Expected("made up", Verdict.HOLDS, "no reason")])


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-7B", "meta-llama/Meta-Llama-3-8B-Instruct", "Qwen/Qwen3-8B"])
def test_random_weights_have_the_architecture(model, tmp_path):
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(write_dry_model(model, tmp_path))
    shape = SHAPES[model]
    assert found.model_type == shape["model_type"]
    assert found.tie_word_embeddings == shape["tie_word_embeddings"]
    assert found.num_attention_heads > found.num_key_value_heads


def dry(name, folder, **settings):
    """Runs a study's dry run in this process and returns its result; ``settings`` make the run smaller still."""
    cfg = config(name, settings=settings)
    (job,) = plan(cfg, folder)
    study: Any = load(name, "full")
    write_dry_model(settings_of(study, {}).model, folder / "dry_model")
    job.write()
    job.arm.run(job.seed, job.folder, lambda *_: None)
    write_study(cfg, [job], folder)
    return json.loads((folder / "study.json").read_text())


SMALLER = {
    "skills": {"contexts": 1, "tests": 2},
    "collapse": {"generations": 1, "blocks": 9},
    "seeded_generation": {"instances": 6, "n_test": 2},
}


@pytest.mark.parametrize("name", SMALLER)
def test_a_dry_run_goes_from_end_to_end_and_judges_no_claim(name, tmp_path):
    result = dry(name, tmp_path, **SMALLER[name])
    study: Any = load(name, "full")
    assert result["dry_run"] is True
    assert {row["arm"] for row in result["rows"]} == set(study.ARMS)
    assert {claim["verdict"] for claim in result["claims"]} == {"not measured"}
    assert result["plan"]["setting"]["model"] in SHAPES
    said = (tmp_path / "report.html").read_text()
    assert "no number here means anything" in said
    assert "The gate was right" not in said
    within_the_estimate(study, result)


def within_the_estimate(study, result):
    """Asserts that no token count exceeds the formula for answers of maximal length, and samples reach half of it."""
    work = study.work(settings_of(study, result["settings"]))
    for row in result["rows"]:
        for what in ("sampled", "read", "trained"):
            if f"{what}_tokens" in row:
                most = getattr(work[row["arm"]], what)
                assert row[f"{what}_tokens"] <= most
                assert what != "sampled" or row["sampled_tokens"] >= 0.5 * most, (row["arm"], most)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FULL) - set(SMALLER)))
def test_all_other_dry_runs_go_from_end_to_end(name, tmp_path):
    result = dry(name, tmp_path)
    assert {row["arm"] for row in result["rows"]} == set(load(name, "full").ARMS)
    assert {claim["verdict"] for claim in result["claims"]} == {"not measured"}
    within_the_estimate(load(name, "full"), result)


def test_the_thesis_leaves_a_dry_run_out_and_says_so(tmp_path, capsys):
    result = {"study": "skills", "size": "full", "dry_run": True, "claims": [], "rows": []}
    (tmp_path / "study.json").write_text(json.dumps(result))
    assert read_studies(tmp_path, "full") == {}
    assert "left out, a dry run on random weights says nothing about skills" in capsys.readouterr().out


def test_only_a_full_size_has_a_dry_run_and_a_folder_stays_what_it_was(tmp_path):
    for word in (True, False):
        with pytest.raises(ValueError, match=f"dry_run={str(word).lower()}: size=tiny always runs for real"):
            config("skills", size="tiny", dry_run=word)
    stored = "study: {name: skills}\nsize: full\ndry_run: null\nseeds: [3]\n"
    (tmp_path / "config.yaml").write_text(stored)
    with pytest.raises(UserError, match="was started with size=full; continue"):
        run_study(config("skills", dry_run=False), tmp_path)


def test_the_plan_is_said_before_anything_runs(capsys):
    announce(config("skills"), settings_of(load("skills", "full"), {}))
    said = capsys.readouterr().out
    assert "Qwen/Qwen2.5-7B-Instruct, 7.62B parameters" in said
    assert "GPU hours" in said
    assert "Dry run" in said


def test_a_value_is_said_by_a_whole_word_and_no_value_is_part_of_another():
    from experiments.full.self_edits import FACTS, says

    assert says("They collect old Clocks.", "clocks")
    assert not says("They collect old clocks.", "locks")
    values = [value for _, _, several in FACTS for value in several]
    assert not [(one, other) for one in values for other in values if one != other and says(one, other)]


def test_a_list_is_the_line_with_commas_in_any_case():
    from experiments.full.seeded_generation import Instance, words_of

    words = words_of("Sure! Here are five fruits:\nApple, pear, Plum, fig, mango\nEnjoy.", 5)
    assert words == ("apple", "pear", "plum", "fig", "mango")
    assert Instance("fruits", words, words_of("Plum", 1)[0], True).truth


def test_an_answer_is_compared_with_the_next_that_is_one(monkeypatch):
    import numpy as np

    from envs import Task
    from experiments.full import self_agreement
    from experiments.full.problems import Answered

    asked = []
    monkeypatch.setattr(
        self_agreement, "p_first", lambda speaker, texts: asked.append(texts) or np.full(len(texts), 0.7)
    )
    keys = np.array([["1", None, "2"], [None, "3", None]], object)
    found = Answered([Task("a", "a?", "1"), Task("b", "b?", "3")], [], np.zeros((2, 3), bool), keys)
    nobody: Any = None
    scores = self_agreement.earned("side_by_side", nobody, found, np.random.default_rng(0))
    assert scores.tolist() == [[0.5, 0.5, 0.5]] * 2  # both orders are asked, so a preference for a place cancels
    assert "None" not in "".join(asked[0] + asked[1])
    assert [len(one) for one in asked] == [2, 2]


@pytest.mark.parametrize("size", ["", "full"])
def test_judgments_are_shared_out_over_both_orders(size):
    with pytest.raises(ValueError, match=r"settings\.judgments=1: use an even number"):
        settings_of(load("self_judging", size), {"judgments": 1})


def test_a_dry_run_stands_for_the_architectures_that_it_knows(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"can imitate qwen2, qwen3, llama, not gpt2; dry_run=false"):
        write_dry_model(str(tmp_path), tmp_path / "dry")
    with pytest.raises(ValueError, match=r"settings\.model=.*use a folder with a model"):
        write_dry_model(str(tmp_path / "nothing"), tmp_path / "dry")
