"""Model collapse: the language and its checker, the loop over generations, and claims that follow the rows."""

from functools import partial

import numpy as np
import pytest

from experiments.studies.collapse import ARMS, BOS, CLAIMS, END, NOUN, Config, Language, Table, generations
from rl.analysis.claims import Verdict, judge

CFG = Config(generations=5, sentences=600, n_nouns=60)


@pytest.fixture(scope="module")
def language():
    return Language(CFG)


def test_the_checker_accepts_the_language_and_no_exchanged_object(language):
    rows = language.real(500, np.random.default_rng(0))
    assert language.lawful(rows).all()
    wrong = rows.copy()
    wrong[:, 3] = NOUN + (wrong[:, 3] - NOUN + 1) % language.n  # the next noun is of another class
    assert not language.lawful(wrong).any()
    assert not language.lawful(np.where(rows == END, BOS, rows)).any()
    assert 0.15 < language.frequency[language.rare].sum() <= 0.25


def test_the_table_keeps_its_types_if_everything_is_kept_and_loses_the_tail_where_it_is_cold(language):
    rng = np.random.default_rng(1)
    real = language.real(CFG.sentences, rng)[:, 1:2] - NOUN
    ends = {}
    for policy, temperature in (("replace", 1.0), ("accumulate", 1.0), ("replace", 0.8)):
        found = generations(partial(Table, language, rng), real, policy, temperature, CFG, rng)
        first, last = (found[at][0].measure(found[at][1]) for at in (0, -1))
        ends[policy, temperature] = last
        assert len(found) == CFG.generations + 1
        assert last["table_loss"] > first["table_loss"] - 0.05
    assert ends["replace", 1.0]["table_types"] < ends["accumulate", 1.0]["table_types"]
    assert ends["replace", 0.8]["table_tail"] < 0.5 * ends["replace", 1.0]["table_tail"]
    assert ends["replace", 0.8]["table_loss"] > ends["accumulate", 1.0]["table_loss"]


def test_a_checker_that_accepts_nothing_is_said(language):
    rng = np.random.default_rng(2)
    real = language.real(50, rng)[:, 1:2] - NOUN
    nothing = lambda rows: np.zeros(len(rows), bool)  # noqa: E731
    with pytest.raises(ValueError, match="more steps"):
        generations(partial(Table, language, rng), real, "verified", 1.0, CFG, rng, nothing)


def rows(rising):
    """Three seeds in which every number goes one way: loss up and the rest down, or the other way round."""
    found = []
    for seed in (1, 2, 3):
        for arm, size in zip(ARMS, (3.0, 0.1, 1.0, 2.0, 4.0), strict=True):
            for step, size_now in ((0, 0.0), (6, size + 0.01 * seed)):
                moved = size_now if rising else -size_now
                row = {"arm": arm, "seed": seed, "step": step, "loss": 9 + moved, "types": 150 - 20 * moved}
                row |= {"tail": 0.25 - 0.1 * moved, "table_tail": 0.25 - 0.1 * moved, "accuracy": 0.5 + 0.1 * moved}
                cold = {f"{name}_cold": row[name] for name in ("tail", "table_tail")}
                found.append(row | cold | {"solutions": 400 - 50 * moved})
    return found


def test_contrary_rows_give_contrary_verdicts():
    for claim in CLAIMS:
        rising, falling = (judge(claim, rows(way)).verdict for way in (True, False))
        if claim.expect == "near":
            continue
        assert {rising, falling} == {Verdict.HOLDS, Verdict.DOES_NOT_HOLD}, claim.name
        assert judge(claim, []).verdict is Verdict.NOT_MEASURED
    conserved = next(claim for claim in CLAIMS if claim.name == "tail_conserved")
    assert judge(conserved, rows(True)).verdict is Verdict.DOES_NOT_HOLD
    still = [row | {"tail": 0.25 + 0.001 * row["seed"]} for row in rows(True)]
    assert judge(conserved, still).verdict is Verdict.HOLDS
