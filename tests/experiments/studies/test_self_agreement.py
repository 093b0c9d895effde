"""Self-agreement: questions, beliefs and sets of four, and claims that follow the rows."""

import numpy as np
import torch

from experiments.studies import self_agreement
from experiments.studies.self_agreement import (
    ARMS,
    CLAIMS,
    D0,
    TOKENIZER,
    TOP,
    believed,
    draw,
    four,
    line,
    misread_by,
    nearby,
    of_four_verdicts,
    side_by_side,
)  # fmt: skip
from rl.analysis.claims import Verdict, judge


def test_a_belief_is_too_small_by_one_for_every_four():
    question = np.array([[D0 + 3, D0 + 4, D0 + 4, D0]])
    assert misread_by(question).tolist() == [2]
    assert TOKENIZER.decode(line(question)[0]) == "S 3 4 4 0 :"
    rng, gold = np.random.default_rng(0), np.array([11])
    assert believed(rng, question, gold, 0.0).tolist() == [11]
    assert believed(rng, question, gold, 1.0).tolist() == [9]


def test_wrong_sums_are_near_and_inside():
    rng = np.random.default_rng(1)
    _, gold = draw(rng, 2000)
    wrong = nearby(rng, gold)
    assert (np.abs(wrong - gold) <= 3).all()
    assert (wrong != gold).all()
    assert (wrong >= 0).all()
    assert (wrong <= TOP).all()


def test_a_set_of_four_holds_the_target_and_distinct_others():
    rng = np.random.default_rng(2)
    _, gold = draw(rng, 500)
    shown, place = four(rng, gold)
    assert (shown[np.arange(500), place] == gold).all()
    assert all(len(set(row)) == 4 for row in shown.tolist())
    assert set(place.tolist()) == {0, 1, 2, 3}
    others = np.repeat((gold[:, None] + 5) % (TOP + 1), 2, 1)
    shown, _ = four(rng, gold, others)
    assert (shown == others[:, :1]).any(1).all()


def test_all_orders_cancel_what_a_place_is_worth(monkeypatch):
    """A chooser that only looks at places is worth a quarter in four orders, and anything in one."""
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
    """Three seeds as the claims say (1), or the other way round (-1)."""
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
