"""Post-completion learning: rewards against values by hand, verdicts that depend on the rows, and a run of seconds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.studies import post_completion as study
from rl.analysis.claims import judge

GOOD = {
    "rl_only": {"accuracy": 0.9, "brier": 0.18},
    "pcl_brier": {"accuracy": 0.9, "auroc_told": 0.7, "brier": 0.12},
    "rl_published": {"share_of_ones": 0.99, "auroc_told": 0.5, "told_when_wrong": 0.99},
    "rl_brier": {"told_when_wrong": 0.5},
}
BAD = {
    "rl_only": {"accuracy": 0.9, "brier": 0.12},
    "pcl_brier": {"accuracy": 0.8, "auroc_told": 0.5, "brier": 0.18},
    "rl_published": {"share_of_ones": 0.4, "auroc_told": 0.7, "told_when_wrong": 0.3},
    "rl_brier": {"told_when_wrong": 0.5},
}


def rows(ends):
    start = {"accuracy": 0.6, "auroc_told": 0.6, "brier": 0.2, "share_of_ones": 0.5, "told_when_wrong": 0.5}
    return [
        {"arm": arm, "seed": seed, "step": step, **{key: value + seed / 10_000 for key, value in values.items()}}
        for arm, end in ends.items()
        for seed in (0, 1, 2)
        for step, values in ((0, start), (120, end))
    ]


@pytest.mark.parametrize(("ends", "verdict"), [(GOOD, "holds"), (BAD, "does not hold")])
def test_the_verdicts_follow_the_rows(ends, verdict):
    found = [judge(claim, rows(ends)) for claim in study.CLAIMS]
    assert [str(one.verdict) for one in found] == [verdict] * len(study.CLAIMS)
    assert all(one.line.startswith(verdict) for one in found)


def test_without_rows_nothing_can_be_told():
    assert {str(judge(claim, []).verdict) for claim in study.CLAIMS} == {"not measured"}


def test_an_honest_probability_earns_most_from_the_brier_score_and_the_published_reward_errs_at_an_honest_no():
    told, true = torch.tensor([0.0, 0.25, 1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    assert study.brier_reward(told, true).tolist() == [1.0, 0.9375, 0.0, 0.0, 1.0]
    # The published reward for telling 0 at a wrong answer is 0/0, counted as nothing. Any other told score of a wrong
    # answer earns 0.5 for the format.
    assert study.published_reward(told, true).tolist() == [0.0, 0.5, 0.5, 0.5, 1.0]
    grid = torch.linspace(0, 1, study.SCORES)
    for chance in grid.tolist():
        expected = chance * study.brier_reward(grid, torch.ones(5)) + (1 - chance) * study.brier_reward(
            grid, torch.zeros(5)
        )
        assert grid[expected.argmax()].item() == chance


def test_questions_have_the_sum_that_they_say():
    prompts, sums, sixes = study.draw(np.random.default_rng(0), 200)
    words = [study.TOKENIZER.convert_ids_to_tokens(row) for row in prompts.tolist()]
    digits = [[int(word) for word in row if word.isdigit()] for row in words]
    assert sums.tolist() == [sum(one) for one in digits]
    assert sixes.tolist() == [one.count(6) for one in digits]
    assert {len(one) for one in digits} == {2, 3, 4, 5}
    seen, new = (
        {tuple(row) for row in study.draw(np.random.default_rng(1), 2000, test)[0].tolist()} for test in (False, True)
    )
    assert not seen & new


def test_every_arm_runs_and_the_same_seed_gives_the_same_numbers():
    small = {"answer_steps": 2, "score_steps": 2, "rl_steps": 1, "questions": 4, "group": 2, "n_test": 20}
    cfg = replace(study.Config(), **small, width=8)
    base, samples = study.prepare(cfg, 1), []
    for arm in study.ARMS:
        found = study.run(cfg, arm, 1, base, samples)
        assert [row["step"] for row in found] == [0, 1]
        assert math.isfinite(found[1]["brier"])
        assert found[1]["gate_kind"] == "oracle"
        assert {"entropy", "distinct_answers", "length", "reward_accuracy"} <= found[0].keys()
    again = study.run(cfg, arm, 1, study.prepare(cfg, 1), [])
    assert str(again) == str(found)
    assert len(samples) == 20 * len(study.ARMS)
