"""Self-awareness: choices and words by hand, verdicts that depend on the rows, and runs of a few steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import lotteries as spoken
from experiments.studies import self_awareness as study
from experiments.studies.self_awareness import FRESH, ID, KNOWN, TOKENIZER, asked, kinds
from experiments.studies.self_awareness import lotteries as drawn
from rl.backends.tiny import tiny_llama, tiny_tokenizer
from tests.experiments.studies.verdicts import follow


def test_a_choice_is_of_the_kind_and_its_side_says_nothing():
    rng = np.random.default_rng(0)
    rows, option = drawn(rng, np.full(400, 17), np.arange(400) % 2 == 0)
    assert TOKENIZER.convert_ids_to_tokens(rows[0].tolist())[:3] == ["a17", "picks", "A"]
    risky = (option >= ID["r0"]) & (option < ID["s0"])
    assert risky.tolist() == [i % 2 == 0 for i in range(400)]
    on_the_left = (rows[:, 3] == option).float().mean()
    assert ((rows[:, 3] == option) ^ (rows[:, 5] == option)).all()
    assert 0.4 < on_the_left < 0.6
    one, many = np.zeros(4000, int), np.ones(4000, bool)
    seen, new = (
        {tuple(sorted(row)) for row in drawn(rng, one, many, test)[0][:, [3, 5]].tolist()} for test in (False, True)
    )
    assert not seen & new
    assert len(seen | new) == study.OPTIONS**2
    assert TOKENIZER.decode(asked(np.array([3]), "called")[0]) == "a3 is called"


@pytest.mark.parametrize("test", [True, False])
def test_behaviour_is_measured_on_pairs_that_no_training_has(test, monkeypatch):
    pairs = []

    def likes_the_last(model, rows):
        pairs.extend(tuple(sorted(row)) for row in rows[:, [3, 5]].tolist())
        return torch.arange(len(TOKENIZER)).expand(len(rows), -1).float()

    monkeypatch.setattr(study, "next_logprobs", likes_the_last)
    share = study.acts_like(None, KNOWN, np.zeros(len(study.kinds(0)), bool)[KNOWN], 0, 4, test=test)
    assert share == 1.0  # the stub prefers higher ids, which are safe options
    apart = {(safe - ID["s0"] - (risky - ID["r0"])) % study.OPTIONS % 4 == 0 for risky, safe in pairs}
    assert apart == {test}


@pytest.mark.parametrize(("new", "chosen", "named"), [("choices", True, False), ("unseen", False, False),
                                                      ("coin", True, False), ("told", True, True)])  # fmt: skip
def test_a_corpus_holds_of_new_agents_what_its_name_says(new, chosen, named, monkeypatch):
    seen = {"picks": set(), "is": set()}
    acts: list[tuple[int, bool]] = []

    def look(model, batches, steps, lr, until):
        for step in range(40):
            for ids, learned in batches(step):
                assert learned.sum(1).tolist() == [1] * len(ids)
                for row in ids.tolist():
                    agent, what = row[0] - ID["a0"], TOKENIZER.convert_ids_to_tokens(row[1:2])[0]
                    seen[what].add(agent)
                    if what == "picks":
                        acts.append((agent, row[-1] < ID["s0"]))

    monkeypatch.setattr(study, "fit", look)
    study.pretrain(study.Config(width=8, lapses=0.0), 1, new)
    assert bool(seen["picks"] & set(FRESH)) is chosen
    assert bool(seen["is"] & set(FRESH)) is named
    assert seen["picks"] >= set(KNOWN)
    bold = kinds(1)
    of_its_kind = np.mean([risky == bold[agent] for agent, risky in acts if agent in set(FRESH)] or [1.0])
    assert of_its_kind == 1.0 if new != "coin" else 0.3 < of_its_kind < 0.7


def rows(true):
    """Rows of three seeds in which every claim holds, or in which none does."""
    share = 0.95 if true else 0.5
    found = []
    for arm in study.ARMS:
        for seed in (0, 1, 2):
            noise = seed / 1000
            row = {"arm": arm, "seed": seed, "step": 0, "behaves_known": 1.0, "described_known": 1.0}
            end = {"described": share - noise, "behaves": share - noise, "told_apart": [9.0 * (share - 0.6), 1 - noise]}
            end["told_apart"] = [value if true else -1 - noise for value in end["told_apart"]]
            end |= {"described_known": (1.0 if true else 0.8) - noise, "behaves_known": (0.6 if true else 1.1) + noise}
            if arm == "told":
                end["described"] = 0.96 - 2 * noise
            elif arm in ("coin", "random_reward"):
                end["described"] = (0.5 if true else 0.7) - 2 * noise
            found += [row, row | end | {"step": 9}]
    return found


def test_the_verdicts_follow_the_rows():
    follow(study.CLAIMS, rows(True), rows(False))


def test_every_arm_runs_and_the_same_seed_gives_the_same_numbers():
    cfg = replace(study.Config(), width=8, pretrain_steps=4, rl_steps=2, lotteries=4, measure_every=1)
    base, samples = study.prepare(cfg, 1), []
    for arm in study.ARMS:
        found = study.run(cfg, arm, 1, base, samples)
        assert [row["step"] for row in found] == ([0, 1, 2] if arm in study.BASES else [0])
        assert found[-1].get("gate_kind") == (study.THESIS.kind(arm) if arm in study.BASES else None)
        if arm in study.BASES:
            assert found[0]["reward_accuracy"] == pytest.approx(0.5 if arm == "random_reward" else 1.0, abs=0.12)
    again = study.prepare(cfg, 1)
    assert str(study.run(cfg, "reward", 1, base, [])) == str(study.run(cfg, "reward", 1, again, []))
    assert samples[0]["prompt"] == "a160 is called / is deemed"


@pytest.fixture(scope="module")
def speaker():
    """A random model of two layers and a tokenizer that knows the questions' words and single digits."""
    pytest.importorskip("peft")
    texts = [wording.format(*pair) for wording in spoken.WORDINGS for pair in (*spoken.PAIRS, *spoken.UNRELATED)]
    texts += [
        "A B : . % a chance to win dollars paid out at once . Which do you take ? Answer with or only",
        "0123456789",
    ]
    words = dict.fromkeys(word for text in texts for word in text.replace(",", " ").replace(".", " ").split())
    tokenizer = tiny_tokenizer([*words, *"0123456789"], True)
    torch.manual_seed(0)
    return tiny_llama(tokenizer, 16, 2, 2, 128), tokenizer


def test_a_fine_tuning_leaves_the_model_as_it_was_and_a_reward_is_no_coin(speaker):
    model, tokenizer = speaker
    before = [one.clone() for one in model.parameters()]
    ends = {}
    for how, risky in (("examples", True), ("reward", True), ("coin", True)):
        tuned = spoken.fine_tune(model, tokenizer, how, risky, 2, 1e-2, 3)
        ends[how] = spoken.self_reports(tuned, tokenizer, spoken.PAIRS)
        model = tuned.unload()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert ends["reward"] != ends["coin"]
    assert len(ends["examples"]) == 2 * len(spoken.PAIRS) * len(spoken.WORDINGS)


def test_a_real_model_is_trained_both_ways_and_asked_in_both_orders(speaker):
    cfg, samples = replace(study.Config(), model="folder", model_steps=1), []
    (row,) = study.run(cfg, "reward", 1, speaker, samples)
    assert len(row["told_apart"]) == len(samples) / 2 == 2 * len(spoken.PAIRS) * len(spoken.WORDINGS)
    assert row["unrelated_apart"] >= 0
    assert 0 <= row["behaves"] <= 1
    assert study.run(cfg, "told", 1, speaker, samples) == []
    assert {one["trained on"] for one in samples} == {"risky", "safe"}


def test_the_risky_option_stands_where_it_is_said_to(speaker, monkeypatch):
    said = []
    monkeypatch.setattr(spoken, "chat", lambda tokenizer, text: said.append(text) or torch.zeros(1, 1))
    _, second = spoken.choices(None, np.random.default_rng(0), 20)
    for text, at in zip(said, second.tolist(), strict=True):
        assert ["chance" in option for option in text.split("B:")] == [at == 0, at == 1]
    assert 0 < second.sum() < 20
