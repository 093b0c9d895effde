"""Seeded generation: the world and its oracle, the steps in a run of seconds, and verdicts that depend on the rows."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.studies import seeded_generation as study
from rl.analysis.thesis import points
from tests.experiments.studies.verdicts import follow

CFG = study.Config(width=16, steps=4, instances=40, student_steps=3, n_test=50)


def test_real_instances_are_readable_and_labelled_by_the_oracle():
    rng = np.random.default_rng(0)
    real = study.draw(rng, 400)
    assert real.readable().all()
    assert (real.label == real.truth()).all()
    sloppy = study.draw(rng, 4000, mislabelled=0.25)
    assert sloppy.readable().all()
    assert 0.7 < (sloppy.label == sloppy.truth()).mean() < 0.8


def test_the_rule_of_form_by_hand():
    domain, seed = np.array([study.C0 + 1]), study.X0 + np.array([[4, 5, 6, 7, 11]])
    fine = study.Instances(domain, seed, np.array([study.X0 + 8]), np.array([study.NO]))
    assert fine.readable().tolist() == [True]
    assert fine.truth().tolist() == [study.NO]
    for wrong in (
        replace(fine, domain=np.array([study.YES])),
        replace(fine, seed=study.X0 + np.array([[4, 5, 6, 7, 4]])),
        replace(fine, seed=study.X0 + np.array([[4, 5, 6, 7, 12]])),  # x12 belongs to another domain
        replace(fine, claim=np.array([study.END])),
        replace(fine, label=np.array([study.MARK])),
    ):
        assert wrong.readable().tolist() == [False]
    layout = fine.rows(study.ASK, "domain", "seed", "claim", "label").tolist()
    assert study.TOKENIZER.convert_ids_to_tokens(layout[0]) == ["ask", "c1", "x4", "x5", "x6", "x7", "x11", "x8", "no"]


def test_every_instance_is_counted_and_what_cannot_be_read_is_not_learned(monkeypatch):
    base = study.prepare(CFG, 1)
    base["written"] = study.draw(np.random.default_rng(1), 40, mislabelled=0.25)
    base["written"].claim[:4] = study.END
    base["labels"] = np.where(base["written"].truth() == study.YES, study.YES, study.NO)
    learned = {}
    monkeypatch.setattr(study, "student_accuracy", lambda cfg, data, test, seed: learned.update({arm: data}) or 0.5)
    rows = {}
    for arm in study.ARMS:
        samples: list = []
        rows[arm] = study.run(CFG, arm, 1, base, samples)
        assert rows[arm][-1]["gate_kind"] == study.THESIS.kind(arm)
        assert len(samples) == 40
    last = rows["corrected"][-1]
    assert (last["n"], last["failed"]) == (36, pytest.approx(0.1))
    assert last["label_after"] == 1.0
    assert last["label_after"] - last["label_before"] == pytest.approx(last["i_to_c"] - last["c_to_i"])
    assert (last["mended"], last["broken"]) == (1.0, 0.0)  # these and their sum have separate claims
    assert rows["agreeing"][-1]["n"] == round(36 * last["label_before"])
    assert (learned["true_labels"].label == learned["true_labels"].truth()).all()
    assert rows["real"][-1]["reward_accuracy"] == 1.0


def test_a_run_of_seconds_gives_the_same_numbers_twice():
    first, second = (study.run(CFG, "real", 1, study.prepare(CFG, 1), []) for _ in range(2))
    assert first == second
    assert 0 <= first[-1]["accuracy"] <= 1


def rows(way):
    """Rows of three seeds in which every claim holds (``way`` is 1), or in which none does (-1)."""
    ends = {"corrected": 0.95, "written": 0.8, "agreeing": 0.95, "whole": 0.8, "true_labels": 0.95, "real": 0.95}
    if way < 0:
        ends = {"corrected": 0.7, "written": 0.8, "agreeing": 0.8, "whole": 0.8, "true_labels": 0.9, "real": 0.9}
    found = []
    for seed in (1, 2, 3):
        for arm, end in (ends | {"coin": 0.5 if way > 0 else 0.8}).items():
            row = {"arm": arm, "seed": seed, "step": 0, "accuracy": 0.9, "reward_accuracy": 0.9}
            row |= {"failed": 0.02 if way > 0 else 0.3}
            after = {"label_after": 0.85 + 0.1 * way, "label_before": 0.85}
            after |= {"mended": 0.5 + 0.4 * way, "broken": 0.05 - 0.02 * way}
            found += [row, row | after | {"step": 1, "accuracy": end + 0.0001 * seed * (arm == "corrected")}]
    return found


def test_contrary_rows_give_contrary_verdicts():
    follow(study.CLAIMS, rows(1), rows(-1))


def test_the_thesis_reads_student_minus_writer():
    found = {one.arm: one for one in points("s", study.THESIS, [row for row in rows(1) if row["seed"] == 1])}
    assert found["corrected"].gain == pytest.approx(0.0501)
    assert (found["true_labels"].reward_accuracy, found["coin"].kind) == (1.0, "control")
