"""Kinds of revision, which of them offline arms keep, preference pairs, and STaR's rule in online training."""

import pytest
import torch

from rl.analysis.revisions import EDIT_BINS, Kind, Revision, edit_histogram, edit_ratio, kind_shares
from rl.backends.preferences import PreferenceRow, fine_tune_on_pairs
from rl.backends.sft import IGNORED
from rl.config import AlgorithmConfig, OfflineConfig, OptimConfig, StageConfig
from rl.offline import keep_pairs, keep_verified, prefer
from tests.helpers import batch, credit, episode


def test_the_six_kinds():
    kinds = {
        Revision("a", "b", False, True): Kind.FIXED,
        Revision("a", "b", True, False): Kind.BROKEN,
        Revision("a", "a", True, True): Kind.RIGHT_COPIED,
        Revision("a", "b", True, True): Kind.RIGHT_REWRITTEN,
        Revision("a", "a", False, False): Kind.WRONG_COPIED,
        Revision("a", "b", False, False): Kind.WRONG_REWRITTEN,
    }
    assert all(revision.kind is kind for revision, kind in kinds.items())
    shares = {name: ratio.value for name, ratio in kind_shares(list(kinds)).items()}
    assert shares == {f"data/{kind.value}": pytest.approx(1 / 6) for kind in Kind}


def test_edit_ratios_fall_into_bins():
    # "abcd" and "abxy" share "ab": 4 of 8 characters match, so half of the text is edited.
    assert edit_ratio("abcd", "abxy") == pytest.approx(0.5)
    assert edit_ratio("same", "same") == 0.0
    assert edit_ratio("ab", "xy") == 1.0
    found = edit_histogram([Revision("abcd", "abxy", False, True), Revision("ab", "xy", False, True)])
    assert found["i_to_c"][EDIT_BINS // 2] == 1
    assert found["i_to_c"][-1] == 1
    assert sum(map(sum, found.values())) == 2


def test_what_is_kept_says_what_it_shows():
    rows = keep_pairs([episode((0.0, 0.0)), episode((1.0, 0.0))], 0, list, keep_right_to_right=True, per_task=8)
    assert sorted(row.revision.kind for row in rows) == [Kind.RIGHT_COPIED, Kind.FIXED]


def test_verify_then_revise_judges_and_then_repeats_or_replaces():
    # Every first attempt is 10 20, wrong in one episode and right in the other; token 7 means right, 8 means wrong.
    episodes = [episode((0.0, 0.0)), episode((1.0, 0.0)), episode((0.0, 0.0), task_id="hopeless")]
    rows = keep_verified(episodes, 0, lambda said: [len(said)], per_task=8, says_right=7 * "x", says_wrong=8 * "x")
    assert [row.labels for row in rows] == [(*[IGNORED] * 5, 7, 10, 20), (*[IGNORED] * 5, 8, 10, 20)]
    assert {row.revision.kind for row in rows} == {Kind.RIGHT_COPIED, Kind.FIXED}


def test_preferences_set_a_right_attempt_against_ones_own_wrong_second_one():
    episodes = [episode((0.0, 0.0)), episode((1.0, 0.0)), episode((1.0, 1.0)), episode((0.0, 0.0), task_id="hopeless")]
    rows = prefer(episodes, 0, list, per_task=8)
    assert len(rows) == 2  # i->i and c->i of the solvable task
    assert {(row.prompt_ids, row.chosen_ids, row.rejected_ids) for row in rows} == {
        ((1, 2, 10, 20, 5), (11, 21), (11, 21))  # ``episode`` writes the same tokens for every reward
    }
    assert {row.revision.draft_right for row in rows} == {True, False}
    assert len(prefer(episodes, 0, list, per_task=1)) == 1
    # Without a right second attempt, a right first attempt is the preferred answer.
    (row,) = prefer([episode((0.0, 0.0)), episode((1.0, 0.0))], 0, list, per_task=1)
    assert row.chosen_ids == (10, 20)


@pytest.mark.slow
def test_dpo_makes_the_chosen_answer_likelier_than_the_rejected_one():
    from rl.backends.policy import load_policy
    from rl.config import ModelConfig
    from tests.conftest import ROOT

    torch.manual_seed(0)
    model, tokenizer = load_policy(ModelConfig(path=str(ROOT / "models" / "modchain")))
    prompt = (1, 13, 33, 25, 25, 27, 19, 2, 37, 11, 3, 1, 39, 2)
    chosen, rejected = (37, 13, 3), (37, 11, 3)

    def margin():
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([[*prompt, 37]])).logits[0, -1], -1)
        return float(logprobs[chosen[1]] - logprobs[rejected[1]])

    before = margin()
    config = OfflineConfig(name="dpo", rule="dpo", epochs=1, batch_size=4, optim=OptimConfig(lr=1e-3))
    rows = [PreferenceRow(prompt, chosen, rejected)] * 8
    outcome = fine_tune_on_pairs(model, tokenizer, rows, config, seed=0, n_steps=6)
    assert margin() > before + 1.0
    assert outcome["steps"] == 6
    assert outcome["gradient_tokens"] == pytest.approx(6 * 4 * 6)  # six steps of four rows of 3 + 3 tokens


def test_imitation_learns_last_attempts_that_are_right_with_weight_one():
    rows = batch([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]], n_turns=[2, 2, 2, 1])
    stage = StageConfig(advantage="imitation", kl_coefs=[0.0, 0.0])
    found, _ = credit(rows, AlgorithmConfig(name="x", group_size=2), stage)
    # One prompt token, then one token per turn; the fourth episode ends with its only attempt, which is right.
    assert found.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
