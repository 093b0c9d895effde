"""Self-judging: the measured accuracy of the signals of three arms, and verdicts that depend on the rows."""

from dataclasses import replace

import numpy as np
import torch

from experiments.judged_symbols import LONGEST, random_responses
from experiments.studies import self_judging
from experiments.studies.self_judging import ARMS, CLAIMS
from rl.analysis.claims import Verdict, judge


def rows(way):
    """Rows of three seeds in which every claim holds (``way`` is 1), or in which none does (-1)."""
    ends = {"self_judging": 1.0, "oracle": 1.5, "no_judge_reward": 0.5, "one_order": 0.2, "no_gate": 0.7, "blind": 0.1}
    found = []
    for seed in (1, 2, 3):
        noise = 0.001 * seed
        for arm in ARMS:
            end = way * (ends.get(arm, 0.0) + noise)
            base = {"arm": arm, "seed": seed, "step": 0, "worth": 0.0, "judge": 0.6, "judge_both_orders": 0.6}
            last = base | {"step": 9, "worth": end, "judge": 0.6 + 0.1 * end, "place_bias": 0.3 - 0.1 * end}
            found += [base, last | {"length": 6 + way * (arm == "no_gate") + noise}]
    return found


def test_contrary_rows_give_contrary_verdicts():
    for claim in CLAIMS:
        if claim.expect == "near":
            continue
        assert judge(claim, rows(1)).verdict is Verdict.HOLDS, claim.name
        assert judge(claim, rows(-1)).verdict is Verdict.DOES_NOT_HOLD, claim.name
        assert judge(claim, []).verdict is Verdict.NOT_MEASURED
    coin = next(claim for claim in CLAIMS if claim.name == "random_stays")
    assert judge(coin, rows(1)).verdict is Verdict.HOLDS
    moved = [row | {"worth": row["worth"] + row["step"]} for row in rows(1)]
    assert judge(coin, moved).verdict is Verdict.DOES_NOT_HOLD


def test_every_arm_reads_its_signal_before_it_trains(monkeypatch):
    cfg = replace(self_judging.Config(), hidden_size=8, pretrain_steps=1, steps=1, evaluate_every=1, prompts=2)
    base, rng = self_judging.prepare(cfg, 1), np.random.default_rng(0)

    def respond(model, prompts, generator):  # after one step no model has learned the format
        return random_responses(rng, len(prompts)), torch.ones(len(prompts), LONGEST + 1, dtype=torch.long)

    monkeypatch.setattr(self_judging, "respond", respond)
    for arm in ("oracle", "random", "one_order"):
        found = self_judging.run(cfg, arm, 1, base, [])
        assert [row["step"] for row in found] == [0, 1]
        assert (found[-1]["gate_kind"], found[-1]["gate_expects"]) == (self_judging.THESIS.kind(arm), arm == "oracle")
        # The oracle stays below 1, as pairs of unequal length earn nothing; after one step a judge can only guess, so
        # its signal is as good as a random one.
        assert abs(found[0]["reward_accuracy"] - (0.85 if arm == "oracle" else 0.5)) < 0.1
