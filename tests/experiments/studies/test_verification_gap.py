"""The generation-verification gap: verdicts that depend on the rows, rounds without training, and a run of seconds."""

from dataclasses import replace

import pytest

from experiments.studies import verification_gap as study
from rl.analysis.claims import judge
from rl.analysis.thesis import known
from tests.experiments.studies.verdicts import follow

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
            found.append(row | {"trained": 1.0} | {key: value + 2 * noise for key, value in end.items()})
    return found


def test_the_verdicts_follow_the_rows():
    follow(study.CLAIMS, rows(GOOD, 0.5), rows(BAD, -0.5))


def test_a_round_that_trained_nothing_is_no_gain():
    """The second of three seeds keeps too little to train in round 1, so claims about gains use the other two seeds."""
    trained = [
        {key: value for key, value in row.items() if key not in ("first_gain", "gain_by_level", "trained")}
        if (row["arm"], row["seed"], row["step"]) == ("own", 1, 1) else row
        for row in rows(GOOD, 0.5)
    ]  # fmt: skip
    assert sorted(study.slope_over_levels(trained)) == [0, 2]
    assert study.share_of_oracle(trained) == pytest.approx({0: 0.1 / 0.15, 2: 0.1004 / 0.1504})
    found = {one.name: judge(one, trained).n_seeds for one in study.CLAIMS}
    assert (found["one round helps"], found["it is the verdicts"], found["pass@1 rises"]) == (2, 2, 3)
    by_arm = {one.arm: known(one.gain, trained) for one in study.THESIS.arms}
    assert by_arm["own"] == pytest.approx({0: 0.15, 2: 0.1502})  # gain of all rounds together
    (of_first_round,) = study.THESIS.also.values()
    assert known(of_first_round, trained) == pytest.approx({0: 0.1, 2: 0.1004})


def test_every_arm_runs_and_the_same_seed_gives_the_same_numbers():
    small = {"pretrain_steps": 3, "young_step": 1, "n_solutions": 50, "k": 2, "n_eval": 8, "n_filtered": 8}
    cfg = replace(study.Config(), **small, width=8, tune_steps=1)
    base, samples = study.prepare(cfg, 1), []
    for arm in study.ARMS:
        found = study.run(cfg, arm, 1, base, samples)
        assert [row["step"] for row in found] == list(range(3 if study.CELLS[arm].many_rounds else 2))
        assert found[1]["gate_kind"] == study.THESIS.kind(arm)
        assert {"entropy", "distinct_answers", "length"} <= found[0].keys()
        if not found[1]["trained"]:
            assert "first_gain" not in found[1]
            assert found[1].get("gate_hit") is None
    assert str(study.run(cfg, arm, 1, study.prepare(cfg, 1), [])) == str(found)
    assert samples[0]["prompt"].startswith("S t")
