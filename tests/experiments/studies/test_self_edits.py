"""Self-edits: the inner loop that trains on edits, verdicts that depend on the rows, and runs of a few steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.passages import ATTRIBUTES, KNOWN, tell
from experiments.studies import self_edits as study
from tests.experiments.studies.verdicts import follow

TINY = {"width": 16, "pretrain_steps": 2, "passages": 3, "edits": 2, "repeats": 2, "rounds": 1}
CFG = replace(study.Config(), **TINY, tune_steps=1, inner_steps=1, n_test=4, chain=2)


@pytest.fixture(scope="module")
def base():
    return study.prepare(CFG, 1)


def test_many_copies_learn_what_each_would_learn_alone_and_the_model_does_not(base):
    model, before = base.model, [one.clone() for one in base.model.parameters()]
    cfg = replace(CFG, inner_steps=2)
    documents = [[tell("say", KNOWN + i, 0, i)] for i in range(3)]  # with one document each, sampling changes nothing
    rng = np.random.default_rng
    together = study.learn(cfg, model, study.copies(model, 3), documents, rng(0))
    alone = study.learn(cfg, model, study.copies(model, 1), documents[1:2], rng(5))
    for name, one in alone.items():
        assert torch.allclose(one[0], together[name][1], atol=1e-4), name
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not torch.equal(together["lm_head.weight"][0], together["lm_head.weight"][1])


def test_a_copy_answers_what_it_was_told_right_or_wrong(base):
    cfg = replace(CFG, inner_steps=40, inner_lr=1e-2)
    true = int(base.facts[KNOWN, 0])
    lines = [tell("ask", KNOWN, 0, value) for value in (true, (true + 1) % study.VALUES)]
    told, misled = study.worth(cfg, base, base.model, [[line] for line in lines], [KNOWN, KNOWN], 0).mean(1)
    assert told >= 1 / ATTRIBUTES
    assert misled < told


def rows(true):
    """Rows of three seeds in which every claim holds, or in which none does; ``accuracy`` has a value per passage."""
    start = {"none": 0.1, "passage": 0.2, "self_edit": 0.4, "unselected": 0.4, "true_lines": 0.4, "listed": 0.7}
    ends = start | {"self_edit": 0.6, "unselected": 0.3, "true_lines": 0.7, "listed": 0.8}
    ends |= {"external": 0.5, "oracle": 0.9}
    if not true:
        start |= {"passage": 0.8, "listed": 0.1}
        ends |= {"self_edit": 0.3, "passage": 0.8, "unselected": 0.5, "true_lines": 0.2, "listed": 0.05}
        ends |= {"external": 0.9, "oracle": 0.1}
    found = []
    for arm, end in ends.items():
        for seed in (0, 1, 2):
            noise = seed / 1000
            at = [start.get(arm, end), end - 0.5 * (end - start.get(arm, end)), end]
            for step, value in enumerate(at) if arm in study.PROMPTS else [(0, end)]:
                bend = noise * step * (1 if arm == "self_edit" else -1)
                row = {"arm": arm, "seed": seed, "step": step, "accuracy": [value + bend, value + bend + 0.01]}
                row["told"] = 2.0 + step * (1 + noise) * (1 if true else -1)
                row |= {"known": 1.0 - (0.001 if true else 0.1) * step * (1 + noise)}
                row["reliability_of_one"] = (0.5 if true else 0.9) + noise
                off = 0.01 if true else 0.3
                row["accuracy_of_base"] = [one + off + noise for one in row["accuracy"]]
                row["forgetting"] = [[0.1, 0.1], [0.7, 0.1], [(0.2 if true else 0.7) + noise, 0.7]]
                found.append(row)
    return found


def test_the_verdicts_follow_the_rows():
    follow(study.CLAIMS, rows(True), rows(False))
    table = study.EXHIBITS[-1](rows(True))
    assert [cells[0] for cells in table.rows] == ["0", "1", "2"]


def test_every_arm_runs_and_the_same_seed_gives_the_same_numbers(base):
    samples = []
    for arm in study.ARMS:
        found = study.run(CFG, arm, 1, base, samples)
        assert [row["step"] for row in found] == ([0, 1] if arm in study.PROMPTS else [0])
        assert len(found[-1]["accuracy"]) == 4
        assert ("gate_hit" in found[-1]) == ("reward_accuracy" in found[-1]) == (arm in study.PROMPTS)
        if arm in ("unselected", "true_lines"):  # nan if no edits differ in truth
            assert not found[-1]["reward_accuracy"] < (0.5 if arm == "unselected" else 1.0)
        if arm == "self_edit":
            assert np.shape(found[-1]["forgetting"]) == (3, 2)
    assert str(study.run(CFG, "listed", 1, base, [])) == str(study.run(CFG, "listed", 1, base, []))
    assert samples[0]["prompt"].startswith("passage e")
