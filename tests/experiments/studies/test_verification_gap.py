"""The generation-verification gap: families by hand, claims against contrary rows, and a run of seconds."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.studies import verification_gap as study
from rl.analysis.claims import judge

START = {"accuracy": 0.45, "pass_k": 0.98, "auroc": 0.95}
GOOD = {
    "own": (0.4, 0.1, {"accuracy": 0.6, "pass_k": 0.9, "auroc": 0.5}),
    "own_replay": (0.4, 0.1, {"accuracy": 0.6, "pass_k": 0.9, "auroc": 0.9}),
    "no_filter": (0.4, 0.01, {}),
    "oracle": (0.4, 0.15, {}),
    "young": (-0.1, 0.0, {}),
    "facts": (-0.1, -0.4, {}),
}
BAD = {
    "own": (-0.1, -0.05, {"accuracy": 0.3, "pass_k": 1.0, "auroc": 0.9}),
    "own_replay": (-0.1, -0.05, {"accuracy": 0.3, "pass_k": 1.0, "auroc": 0.5}),
    "no_filter": (-0.1, 0.0, {}),
    "oracle": (-0.1, 0.15, {}),
    "young": (0.2, 0.0, {}),
    "facts": (0.3, 0.2, {}),
}


def rows(cells, slope):
    found = []
    for arm, (gap, gain, end) in cells.items():
        for seed in (0, 1, 2):
            noise, levels = seed / 10_000, {"3": 0.1, "4": 0.2, "5": 0.3}
            gains = {level: 0.05 + (slope + noise) * value for level, value in levels.items()}
            start = {key: value + noise for key, value in START.items()}
            found.append({"arm": arm, "seed": seed, "step": 0, "gap": gap + noise, "gap_by_level": levels, **start})
            row = {"arm": arm, "seed": seed, "step": 1, "first_gain": gain + 2 * noise, "gain_by_level": gains}
            found.append(row | {key: value + 2 * noise for key, value in end.items()})
    return found


@pytest.mark.parametrize(("cells", "slope", "verdict"), [(GOOD, 0.5, "holds"), (BAD, -0.5, "does not hold")])
def test_the_verdicts_follow_the_rows(cells, slope, verdict):
    found = {claim.name: str(judge(claim, rows(cells, slope)).verdict) for claim in study.CLAIMS}
    assert found == {claim.name: verdict for claim in study.CLAIMS}


def test_without_rows_nothing_can_be_told():
    assert {str(judge(claim, []).verdict) for claim in study.CLAIMS} == {"cannot tell"}


def test_sums_are_checked_by_the_oracle_and_held_out_ones_are_never_drawn_for_training():
    sums, rng = study.Sums(), np.random.default_rng(0)
    question = np.array([[8, 3, 5, 2, 0, 0, 0]])
    for answer, right in (
        ([3, 5, 0, 0, 0, 0], True),
        ([3, 0, 2, 0, 0, 0], False),
        ([5, 3, 0, 0, 0, 0], False),
        ([0, 5, 2, 1, 0, 0], False),
    ):
        assert sums.right(question, np.array([answer]) + study.N0).tolist() == [right]
    (train, subset, level), (test, _, _) = (sums.draw(rng, 400, test=held_out) for held_out in (False, True))
    assert len(train) == len(test) == 400
    assert not set(map(tuple, train)) & set(map(tuple, test))
    assert sums.right(train, subset + study.N0).all()
    assert (level == (train[:, 1:] > 0).sum(1)).all()
    flipped = sums.wrong(rng, train, subset.copy())
    assert sums.right(train, flipped + study.N0).mean() < 0.3
    assert not sums.is_answer(np.array([[study.N0] * 5 + [study.T0]]))[0]


def test_facts_of_a_seed_are_fixed_and_a_quarter_is_never_stated():
    facts = study.Facts(1)
    assert (facts.value == study.Facts(1).value).all()
    assert np.bincount(facts.band).tolist() == [64, 64, 64, 64]
    stated = facts.rows(np.random.default_rng(0), 500)[0][0].numpy()
    keys = (stated[:, 1] - study.K0) * study.KEYS + stated[:, 2] - study.K0
    assert (facts.band[keys] > 0).all()
    assert facts.right(keys, stated[:, 4:5]).all()


def test_every_arm_runs_and_the_same_seed_gives_the_same_numbers():
    small = {"pretrain_steps": 3, "young_step": 1, "n_solutions": 50, "k": 2, "n_eval": 8, "n_filtered": 8}
    cfg = replace(study.Config(), **small, width=8, tune_steps=1)
    base, samples = study.prepare(cfg, 1), []
    for arm in study.ARMS:
        found = study.run(cfg, arm, 1, base, samples)
        assert [row["step"] for row in found] == list(range(3 if study.CELLS[arm].many_rounds else 2))
        assert ("gate_hit" in found[1]) == (study.CELLS[arm].keep == "own")
    assert str(study.run(cfg, arm, 1, study.prepare(cfg, 1), [])) == str(found)
    assert samples[0]["prompt"].startswith("S t")
