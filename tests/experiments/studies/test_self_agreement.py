"""Self-agreement: scores of each way of asking by hand, and verdicts that depend on the rows."""

from dataclasses import replace

import numpy as np
import torch

from experiments.studies import self_agreement
from experiments.studies.self_agreement import ARMS, CLAIMS, draw, line, of_four_verdicts, side_by_side
from rl.analysis.claims import Verdict, judge


def test_all_orders_cancel_what_a_place_is_worth(monkeypatch):
    """A preference for places alone must not count: it scores 1/4 over all four orders, but 0.1 or 0.7 in one order."""
    monkeypatch.setattr(
        self_agreement, "choice", lambda model, q, shown: np.tile([0.7, 0.1, 0.1, 0.1], (len(shown), 1))
    )
    question, gold = draw(np.random.default_rng(3), 200)
    all_orders = side_by_side(None, question, gold, None, np.random.default_rng(4), 4)
    one = side_by_side(None, question, gold, None, np.random.default_rng(4), 1)
    assert np.allclose(all_orders, 0.25)
    assert set(one.round(1).tolist()) == {0.1, 0.7}


def test_four_verdicts_are_divided_by_their_sum(monkeypatch):
    question, gold = draw(np.random.default_rng(5), 50)
    monkeypatch.setattr(self_agreement, "p_yes", lambda model, q, answer: np.where(answer == gold, 0.8, 0.4))
    score = of_four_verdicts(None, question, gold, gold[:, None], np.random.default_rng(6))
    assert np.allclose(score, 0.8 / 2.0)
    assert torch.is_tensor(line(question))


def rows(way):
    """Rows of three seeds in which the claims hold (``way`` is 1), or in which they do not (-1)."""
    found = []
    for seed in (1, 2, 3):
        n = 0.001 * seed
        auroc = {"auroc_side": 0.7 + way * 0.1, "auroc_single": 0.7 + n, "auroc_one_order": 0.71 + n}
        auroc |= {"auroc_normalised": 0.72 + n, "auroc_with_4_side": 0.5 + way * (0.1 + n)}
        ece = {"ece_single": 0.3 + n, "ece_side": 0.3 - way * 0.1}
        found.append({"arm": "base", "seed": seed, "step": 0, "bias": way * (0.3 + n)} | auroc | ece)
        for arm in ARMS[1:]:
            moved = way * ({"oracle": 0.2, "random": 0.0}.get(arm, -0.15) + n)
            base = {"arm": arm, "seed": seed, "step": 0, "accuracy": 0.67, "own_yes": 0.6}
            end = {"accuracy": 0.67 + moved, "own_yes": 0.6 - moved, "yes_to_anything": 0.9 + way * 0.05 + n}
            found += [base, base | {"step": 9} | end | {"without_4": 0.52}]
    return found


def test_contrary_rows_give_contrary_verdicts():
    for claim in CLAIMS:
        assert judge(claim, []).verdict is Verdict.NOT_MEASURED
        if claim.name == "random_stays":
            drifted = [row | {"accuracy": row.get("accuracy", 0) + row["step"]} for row in rows(1)]
            assert judge(claim, drifted).verdict is Verdict.DOES_NOT_HOLD
        else:
            assert judge(claim, rows(-1)).verdict is Verdict.DOES_NOT_HOLD, claim.name
        assert judge(claim, rows(1)).verdict is Verdict.HOLDS, claim.name


def test_every_arm_reads_its_signal_before_it_trains():
    cfg = replace(self_agreement.Config(), hidden_size=8, pretrain_steps=2, questions=40, steps=1, evaluate_every=1)
    base = self_agreement.prepare(cfg, 1)
    for arm in ARMS[1:]:
        found = self_agreement.run(cfg, arm, 1, base, [])
        assert found[-1]["gate_kind"] == self_agreement.THESIS.kind(arm)
        assert {"reward_accuracy", "entropy", "distinct_answers", "length"} <= found[0].keys()
        if arm in ("oracle", "random"):
            assert abs(found[0]["reward_accuracy"] - (1.0 if arm == "oracle" else 0.5)) < 0.1
