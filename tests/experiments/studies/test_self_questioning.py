"""Self-questioning: votes and rewards by hand, verdicts that depend on the rows, and runs of a few steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.posed_sums import D0, END, answer
from experiments.studies import self_questioning as study
from experiments.studies.self_questioning import Answered, in_band, paid
from tests.experiments.studies.verdicts import follow


def group(*sums, gold=(72,)):
    """Answers to one problem, given as sums; a negative sum stands for a malformed answer."""
    answers = answer(np.abs(np.array(sums)))[None]
    answers[0, :, 3] = torch.where(torch.tensor(sums) < 0, D0, END)
    formed = answers[..., 3] == END
    same = (answers[:, :, None] == answers[:, None]).all(-1) & formed[:, None]
    right = torch.tensor([[one in gold for one in sums]])
    return Answered(np.array([4725]), answers, right, formed, same.sum(-1) * formed)


@pytest.mark.parametrize(
    ("sums", "votes", "rewards", "says", "band"),
    [
        ((72, 72, 72, 62), [3, 3, 3, 1], [1, 1, 1, 0], True, True),
        ((62, 62, 62, 62), [4, 4, 4, 4], [1, 1, 1, 1], True, False),
        ((72, 72, 62, 62), [2, 2, 2, 2], [0, 0, 0, 0], False, True),  # half is no majority, so there is no signal
        ((72, 62, 61, 60), [1, 1, 1, 1], [0, 0, 0, 0], False, False),
        ((-72, -72, -72, 62), [0, 0, 0, 1], [0, 0, 0, 0], False, False),  # malformed answers do not vote
    ],
)
def test_more_than_half_of_a_group_pays_and_a_tie_says_nothing(sums, votes, rewards, says, band):
    found = group(*sums)
    assert found.votes.tolist() == [votes]
    reward, signal = paid("vote", found, torch.Generator())
    assert reward.tolist() == [rewards]
    assert signal.tolist() == [[says] * 4]
    assert in_band(found).tolist() == [band]
    assert paid("truth", found, torch.Generator())[0].tolist() == [[float(one == 72) for one in sums]]
    assert paid("form", found, torch.Generator())[0].tolist() == [[float(one > 0) for one in sums]]


# Final accuracy of each arm, from 0.6 at the start, in rows where all claims hold.
ENDS = {"majority": 0.7, "band": 0.75, "oracle": 0.9, "form": 0.6, "random": 0.6, "frozen": 0.68, "weak": 0.1}
ENDS |= {"no_penalty": 0.4, "hurried": 0.1, "hurried_oracle": 0.8, "weak_oracle": 0.8}


def rows(true):
    """Rows of three seeds in which every claim holds, or in which none does."""
    found = []
    for arm, end in ENDS.items():
        for seed in (0, 1, 2):
            noise, moved = seed / 1000, end - 0.6
            row = {"arm": arm, "seed": seed, "greedy": 0.7, "accuracy": 0.6, "vote": 0.8, "entropy": 0.3}
            row |= {"set_accuracy": 0.6, "set_initial_vote": 0.8, "set_wrong_votes": 0.3, "in_band": 0.5}
            late = {"accuracy": (0.6 + moved if true else 0.6 - moved) + noise, "entropy": 0.2 if true else 0.4}
            if not true and arm in ("no_penalty", "hurried"):
                late["accuracy"] = 0.9 + noise
            late |= {"set_accuracy": (0.8 if true else 0.95) + noise, "set_wrong_votes": (0.2 if true else 0.5) + noise}
            late |= {"greedy": (0.8 if true else 0.6) + noise, "in_band": (0.6 if (arm == "band") == true else 0.4)}
            late["in_band"] += noise * (arm == "band")
            late["entropy"] += noise
            if not true:
                row["vote"] = 0.4 if arm == "majority" else 0.8
            found += [row | {"step": 0}, row | late | {"step": 9}]
    return found


def test_the_verdicts_follow_the_rows():
    follow(study.CLAIMS, rows(True), rows(False))


def test_every_arm_runs_and_the_same_seed_gives_the_same_numbers():
    small = {"pretrain_steps": 25, "steps": 2, "proposals": 8, "group": 4, "n_test": 8, "measure_every": 1}
    cfg = replace(study.Config(), **small, width=16, propose_every=1)
    base, samples = study.prepare(cfg, 1), []
    before = str(base.finished.state_dict())
    for arm in study.ARMS:
        found = study.run(cfg, arm, 1, base, samples)
        assert [row["step"] for row in found] == list(range(3 if study.CELLS[arm].penalty else 5))
        assert found[-1]["gate_kind"] == study.THESIS.kind(arm)
        if "oracle" in arm:  # nan if no problem has right and wrong answers
            assert not found[0].get("reward_accuracy", 1.0) < 1.0
        assert ("set_accuracy" in found[-1]) == (arm == "frozen")
    assert str(base.finished.state_dict()) == before
    again = study.prepare(cfg, 1)
    assert str(study.run(cfg, "band", 1, base, [])) == str(study.run(cfg, "band", 1, again, []))
    assert " + " in samples[0]["prompt"]
