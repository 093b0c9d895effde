"""Instruction extraction: filters, the saved pairs, and verdicts that depend on the rows."""

from dataclasses import replace

import numpy as np
import pytest

import envs
from envs import Split
from experiments.studies import instruction_extraction as study
from rl.analysis.thesis import points
from rl.backends import hub
from tests.experiments.studies.verdicts import follow

CFG = study.Config(width=16, corpus=300, teacher_steps=120, pairs=80, student_steps=5, sure=0.0)


def test_arms_keep_what_they_say_and_the_saved_pairs_are_rows(tmp_path):
    cfg = replace(CFG, export=str(tmp_path))
    base = study.prepare(cfg, 1)
    kept = {}
    assert study.run(cfg, "bare_prefix", 1, base, []) == []
    for arm in ("raw", "filtered", "deduplicated", "checked", "real"):
        samples: list = []
        found = study.run(cfg, arm, 1, base, samples)
        kept[arm] = found[-1]["n"]
        assert {row.get("step", 0) for row in found} == {0, 1}
        assert samples or arm == "checked"
        assert found[-1]["gate_kind"] == study.THESIS.kind(arm)
        assert (found[-1]["gate_hit"] is None) == (found[-1]["n"] == 0)  # no student was trained
    assert 0 < kept["deduplicated"] <= kept["filtered"] <= kept["raw"]
    assert kept["checked"] <= kept["filtered"]  # with sure=0 no pair is dropped as unsure
    hub.register()
    options = {"path": str(tmp_path / "real" / "seed_1"), "verify": "exact"}
    tasks = envs.make_taskset("errata/rows-v1", options).load(Split.TRAIN)
    assert tasks[0].question.split()[0] == "please" or tasks[0].question.split()[0].startswith("f")
    assert tasks[0].gold in "01234"


def test_no_student_starts_as_a_teacher_does(monkeypatch):
    begun, base = [], study.prepare(CFG, 1)
    monkeypatch.setattr(study, "taught", lambda pairs, steps, batch, width, seed, places: begun.append(seed))
    monkeypatch.setattr(study, "accuracy", lambda model, pairs: np.ones(1, bool))
    for seed in range(1, 20):
        study.run(CFG, "real", seed, base, [])
    assert not set(begun) & set(range(30))
    assert len(set(begun)) == 19


def rows(way):
    """Rows of three seeds in which every claim holds (``way`` is 1), or in which none does (-1)."""
    good = way > 0
    students = {
        "raw": 0.80, "filtered": 0.80 + 0.02 * way, "deduplicated": 0.80 + 0.05 * way, "raw_cold": 0.8 - 0.1 * way,
        "checked": 0.80 + 0.02 * way + 0.1 * (not good), "real": 0.84, "shuffled": 0.2 if good else 0.7,
    }  # fmt: skip
    found = []
    for seed in (1, 2, 3):
        noise = 0.0001 * seed
        for arm, ends in students.items():
            cold = arm == "raw_cold"
            row = {"arm": arm, "seed": seed, "step": 0, "usable": 0.9 if good else 0.3, "accuracy": 0.85}
            row |= {"rare_share": 0.13 - 0.08 * way * cold + (0.1 * (not good) * (arm == "real")) + noise}
            row |= {"answers_right": 0.9 + 0.05 * way * cold + noise, "text_accuracy": 0.9, "accuracy_uniform": 0.8}
            found += [row, row | {"step": 1, "accuracy": ends + noise, "accuracy_uniform": ends - 0.1 + noise}]
        bare = 0.1 if good else 0.5
        found.append({"arm": "bare_prefix", "seed": seed, "step": 0, "usable": [bare + noise] * 3})
    return found


def test_contrary_rows_give_contrary_verdicts():
    follow(study.CLAIMS, rows(1), rows(-1))


def test_the_thesis_reads_student_minus_teacher():
    found = {one.arm: one for one in points("s", study.THESIS, [row for row in rows(1) if row["seed"] == 1])}
    assert found["deduplicated"].gain == pytest.approx(0.0, abs=0.001)
    assert found["real"].reward_accuracy == 1.0
