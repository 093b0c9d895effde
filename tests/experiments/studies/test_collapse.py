"""Model collapse: the language and its checker, the loop over generations, and verdicts that depend on the rows."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from experiments.studies import collapse
from experiments.studies.collapse import ARMS, BOS, CLAIMS, END, NOUN, Config, Language, Table, Transformer, generations
from rl.analysis.claims import Verdict, judge
from tests.experiments.studies.verdicts import follow

CFG = Config(generations=5, sentences=600, n_nouns=60)


@pytest.fixture(scope="module")
def language():
    return Language(CFG)


def test_the_checker_accepts_the_language_and_no_exchanged_object(language):
    rows = language.real(500, np.random.default_rng(0))
    assert language.lawful(rows).all()
    wrong = rows.copy()
    wrong[:, 3] = NOUN + (wrong[:, 3] - NOUN + 1) % language.n  # the next noun belongs to another class
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
    """Rows of three seeds: loss and accuracy rise and all other metrics fall, or the reverse if not ``rising``."""
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
    sure, near = ([one for one in CLAIMS if (one.expect == "near") is is_near] for is_near in (False, True))
    follow(sure, rows(True), rows(False))
    names = ("loss", "tail", "table_tail")
    start = {(row["arm"], row["seed"]): row for row in rows(True) if row["step"] == 0}
    for moved, verdict in ((0.0, Verdict.HOLDS), (1.0, Verdict.DOES_NOT_HOLD)):
        ends = [row | {name: start[row["arm"], row["seed"]][name] + moved + 0.001 * row["seed"] for name in names}
                for row in rows(True) if row["step"]]  # fmt: skip
        assert [judge(one, [*start.values(), *ends]).verdict for one in near] == [verdict] * 3
    assert {judge(one, []).verdict for one in near} == {Verdict.NOT_MEASURED}


def test_each_generation_starts_from_the_same_weights_and_draws_anew(language):
    real, generator = language.real(64, np.random.default_rng(3)), torch.Generator().manual_seed(0)
    cfg = replace(CFG, steps=0)
    one, other = (Transformer(cfg, 1, language, real, generator, real) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert (one.write(50, 1.0) != other.write(50, 1.0)).any()


def test_the_gate_reads_what_the_next_model_learns():
    cfg = replace(CFG, generations=1, sentences=60, steps=2)
    base, found = collapse.prepare(cfg, 1), {}
    for arm in ("replace", "mix"):
        *_, found[arm] = collapse.run(cfg, arm, 1, base, [])
        assert found[arm]["gate_kind"] == collapse.THESIS.kind(arm)
        assert {"entropy", "distinct_answers", "length"} <= found[arm].keys()
    assert found["replace"]["gate_gap"] == 0  # the next model learns exactly what this one wrote
    assert found["mix"]["gate_gap"] > 0  # the next model learns real sentences, too
