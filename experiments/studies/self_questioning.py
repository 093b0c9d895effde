"""Can a network improve on problems that it poses itself, if the reward is the agreement of its own answers?

Self-questioning language models (Chen et al., arXiv 2508.03682): a proposer writes problems, and a solver answers each
problem several times and is rewarded for agreeing with the majority. The proposer is rewarded for problems that are
neither trivial nor hopeless. TTRL (Zuo et al., arXiv 2504.16084) is the solver's part on a fixed set of problems. On a
single problem, a majority vote can teach only the answer that the model already prefers. Accuracy above that of the
initial vote must therefore be transfer from other problems.

Smallest version: one GPT-2 of two layers writes whole lines ``Q 4 7 + 2 5 = 0 7 2``: sampling after ``Q`` makes it the
proposer, and sampling after ``=`` the solver. A fifth of all sums is held out, each in both orders, and proposed
problems that are held out are masked. The reward is the majority vote (more than half of eight answers; without such a
majority there is no signal), the truth (``oracle``), the form alone (``form``), or a coin (``random``). ``band`` also
trains the proposer. ``frozen`` uses the vote on 48 given sums. ``no_penalty`` trains without the KL penalty and for
twice as many steps, and ``hurried`` also with five times the learning rate. ``weak`` starts from an earlier checkpoint
with about half the accuracy. ``hurried_oracle`` and ``weak_oracle`` are the same with the truth as reward.

Simplified: there is no chain of thought, proposer and solver share prompt and weights, and the proposer's reward is 1
for a problem on which some, but not all, answers agree. The gate reads the votes (accuracy of the most frequent answer
minus the mean accuracy), or whatever else is the arm's reward.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.posed_sums import (
    FOR_STOPPING,
    FOR_TESTS,
    HELD_OUT,
    ID,
    N_ANSWER,
    N_PROBLEM,
    TOKENIZER,
    Answered,
    ask,
    corpus,
    measure,
    on_the_set,
    question,
    read,
    right_answer,
    show,
)
from rl.analysis.claims import Claim, Figure, Row, ahead, first, grown, last, minus
from rl.analysis.gate import QUESTIONS, Gate, mean_told, signal_accuracy
from rl.analysis.thesis import Thesis, trained
from rl.backends.blocks import as_batch, divergence, fit, learn_last, policy_loss, sample, take_step
from rl.backends.tiny import tiny_gpt2
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of the GPT-2, which has two layers.
        noise: Share of the corpus that is wrong, up to half of it by a forgotten carry.
        target: Held-out accuracy at temperature 1 at which pre-training stops.
        weak_target: Held-out accuracy at temperature 1 at which the weak checkpoint is taken.
        pretrain_steps: Most steps of pre-training.
        proposals: Number of problems that are posed in a step.
        group: Number of answers to each problem.
        steps: Steps of reinforcement learning; arms without the KL penalty have twice as many.
        rl_lr: Learning rate of reinforcement learning; five times as high in ``hurried`` and ``hurried_oracle``.
        penalty: Coefficient of the KL to the initial model, in nats per token; 0 in ``no_penalty`` and both hurried
            arms.
        propose_every: Steps between two updates of the proposer in ``band``.
        n_frozen: Number of problems of ``frozen``.
        n_test: Number of held-out test problems; the gate reads as many other held-out problems.
        measure_every: Steps between two measurements.
    """

    width: int = 48
    noise: float = 0.05
    target: float = 0.68
    weak_target: float = 0.3
    pretrain_steps: int = 2500
    proposals: int = 32
    group: int = 8
    steps: int = 100
    rl_lr: float = 1e-4
    penalty: float = 0.1
    propose_every: int = 5
    n_frozen: int = 48
    n_test: int = 400
    measure_every: int = 25


RANGES = {
    **dict.fromkeys(("noise", "target", "weak_target"), (0, 1)),
    "group": (2, inf),  # an answer is compared with the others of its group
    "penalty": (0, inf),
    "n_test": (1, len(FOR_TESTS) // 2),
    "n_frozen": (1, int((~HELD_OUT).sum())),
}


@dataclass
class Base:
    """Two checkpoints of one pre-training: the finished model and an earlier, weak one."""

    finished: Any
    weak: Any


def prepare(cfg: Config, seed: int) -> Base:
    """Trains the base on lines with errors, until held-out answers at temperature 1 are right often enough."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model = tiny_gpt2(TOKENIZER, cfg.width, 2, 4, 12)
    weak: list[Any] = []

    def good_enough(step: int) -> bool:
        if step == 0 or step % 10:
            return False
        asked = np.repeat(FOR_STOPPING, 2)
        told = sample(model, question(asked), N_ANSWER, 1.0, generator)
        accuracy = float((told == right_answer(asked)).all(1).float().mean())
        if not weak and accuracy >= cfg.weak_target:
            weak.append(copy.deepcopy(model))
        return accuracy >= cfg.target

    fit(model, lambda step: [corpus(rng, 96, cfg.noise)], cfg.pretrain_steps, 3e-3, until=good_enough)
    return Base(model, weak[0] if weak else copy.deepcopy(model))


# ---------------------------------------------------------------- votes, rewards, arms


def paid(kind: str, found: Answered, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rewards ``[N, K]``, 0 or 1, and a mask of those that count: a vote without a majority of over half does not."""
    everywhere = torch.ones_like(found.formed)
    if kind == "vote":
        majority = found.votes * 2 > found.votes.shape[1]
        return majority.float(), majority.any(1, keepdim=True) & everywhere
    truths = {"truth": found.right, "form": found.formed}
    coin = torch.rand(found.formed.shape, generator=generator) < 0.5
    return (coin if kind == "coin" else truths[kind]).float(), everywhere


def in_band(found: Answered) -> Tensor:
    """``[N]`` bool: whether a problem is worth posing, since some of its answers agree, but not all of them."""
    most = found.votes.max(1).values
    return (most > 1) & (most < found.votes.shape[1])


@dataclass(frozen=True)
class Arm:
    """The solver's reward in an arm, and the arm's other differences."""

    reward: str = "vote"
    proposer: bool = False
    frozen: bool = False
    penalty: bool = True
    hurried: bool = False
    weak: bool = False


CELLS = {
    "majority": Arm(),
    "band": Arm(proposer=True),
    "oracle": Arm("truth"),
    "form": Arm("form"),
    "random": Arm("coin"),
    "frozen": Arm(frozen=True),
    "no_penalty": Arm(penalty=False),
    "hurried": Arm(penalty=False, hurried=True),
    "hurried_oracle": Arm("truth", penalty=False, hurried=True),
    "weak": Arm(weak=True),
    "weak_oracle": Arm("truth", weak=True),
}
ARMS = tuple(CELLS)


@dataclass
class Played:
    """The samples of one step: proposals, answers to the usable ones, the answers' rewards, and which rewards count."""

    proposed: Tensor
    usable: np.ndarray
    found: Answered
    reward: Tensor
    signal: Tensor

    def meters(self) -> dict[str, float]:
        """Accuracy of the rewards that count, share of rewards that do not, and share of problems in the band."""
        truth = torch.where(self.signal, self.found.right.float(), torch.nan)
        return {
            "reward_accuracy": signal_accuracy(self.reward.numpy(), truth.numpy()),
            "masked": 1 - float(self.signal.float().mean()),
            "in_band": float(in_band(self.found).float().mean()),
            "usable": float(self.usable.mean()),
        }


def play(
    cell: Arm, model: Any, fixed: np.ndarray, n: int, k: int, rng: np.random.Generator, generator: torch.Generator
) -> Played | None:
    """Samples problems from the proposer or the frozen set, and k answers to each; ``None`` if no problem is usable."""
    if cell.frozen:
        problems, usable = rng.choice(fixed, n), np.ones(n, bool)
        proposed = question(problems)[:, 1:]
    else:
        proposed = sample(model, torch.full((n, 1), ID["Q"]), N_PROBLEM, 1.0, generator)
        problems, usable = read(proposed)
    if not usable.any():
        return None
    found = ask(model, problems[usable], k, generator)
    return Played(proposed, usable, found, *paid(cell.reward, found, generator))


def loss_of(cfg: Config, cell: Arm, model: Any, reference: Any, played: Played, step: int) -> Tensor:
    """Loss of a step: the solver's policy gradient, the KL penalty, and in some steps the proposer's gradient."""
    found, groups = played.found, torch.arange(len(played.found.problems)).repeat_interleave(cfg.group)
    prompts, answers = question(found.problems).repeat_interleave(cfg.group, 0), found.answers.flatten(0, 1)
    loss, _ = policy_loss(model, as_batch(prompts, answers, played.reward.flatten(), groups, played.signal.flatten()))
    if cell.penalty:
        told = learn_last(torch.cat([prompts, answers], 1), N_ANSWER)
        loss = loss + cfg.penalty * divergence(model, reference, *told)
    if cell.proposer and step % cfg.propose_every == 0:
        n, usable = cfg.proposals, torch.from_numpy(played.usable)
        worth = torch.zeros(n)
        worth[usable] = in_band(found).float()
        opening, one_group = torch.full((n, 1), ID["Q"]), torch.zeros(n, dtype=torch.long)
        loss = loss + policy_loss(model, as_batch(opening, played.proposed, worth, one_group, usable))[0]
    return loss


def run(cfg: Config, arm: str, seed: int, base: Base, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reads the gate, then trains: each step samples problems and answers, computes rewards and makes one update."""
    cell = CELLS[arm]
    reference = base.weak if cell.weak else base.finished
    model, steps = copy.deepcopy(reference), cfg.steps if cell.penalty else 2 * cfg.steps
    lr = cfg.rl_lr * (5 if cell.hurried else 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    of_arms = derive_seed(seed, "arms")
    rng, generator = np.random.default_rng(of_arms), torch.Generator().manual_seed(of_arms)
    held_out = rng.permutation(FOR_TESTS)
    test, for_gate = held_out[: cfg.n_test], held_out[cfg.n_test : 2 * cfg.n_test]
    fixed = rng.choice(np.flatnonzero(~HELD_OUT), cfg.n_frozen, replace=False)

    asked = ask(model, for_gate, cfg.group, generator)
    scores = asked.votes if cell.reward == "vote" else paid(cell.reward, asked, generator)[0]
    gate = Gate.read(asked.right.numpy(), scores.numpy())
    at_start = ask(model, fixed, 64, generator)  # the first vote on the frozen set
    rows, seen, log = [], set[int](), []
    for step in range(steps + 1):  # step 0 only measures the signal before training
        n = cfg.proposals if step else QUESTIONS
        played = play(cell, model, fixed, n, cfg.group, rng, generator)
        if played is not None:
            log.append(played.meters())
            if step:
                seen |= set(played.found.problems.tolist())
                take_step(model, optimizer, loss_of(cfg, cell, model, reference, played, step))
        if step % cfg.measure_every == 0 or step == steps:
            row = measure(model, test, cfg.group, derive_seed(seed, "measure"))
            if step == steps:
                show(model, test, cfg.group, derive_seed(seed, "measure"), step, samples)
            if cell.frozen:
                row |= on_the_set(model, fixed, at_start, generator)
            for name in log[0] if log else ():
                row[name] = mean_told([one[name] for one in log])
            rows.append(row | {"step": step, "distinct_problems": len(seen)})
            log.clear()
    rows[-1] |= gate.outcome(rows[-1]["accuracy"] - rows[0]["accuracy"], arm, THESIS.kind(arm))
    return rows


# ---------------------------------------------------------------- what is claimed


def lost_since_its_best(rows: Sequence[Row], arm: str) -> dict[int, float]:
    """Statistic of each seed: highest held-out accuracy during training minus the final one."""
    ends = last(arm, "accuracy")(rows)
    return {
        seed: max(row["accuracy"] for row in rows if (row["arm"], row["seed"]) == (arm, seed)) - float(np.mean(end))
        for seed, end in ends.items()
    }


SQLM, TTRL = "arXiv 2508.03682", "arXiv 2504.16084"
CLAIMS = (
    Claim("own questions teach", "Paid by the majority on problems of its own, the model answers held-out ones better.",
          grown("majority", "accuracy"), paper=SQLM),
    Claim("greedy answers too", "Greedy answers to held-out problems get better, too.", grown("majority", "greedy")),
    Claim("it is not the form", "The majority teaches more than well-formed answers.",
          ahead("majority", "form"), paper=SQLM),
    Claim("the truth teaches more", "The truth as reward teaches more than the majority.",
          ahead("oracle", "majority")),
    Claim("below the first vote", "What is taught ends below the accuracy of the vote before training.",
          minus(last("majority", "accuracy"), first("majority", "vote")), expect="below", paper=f"not so in {TTRL}"),
    Claim("posing in the band helps", "A proposer paid for problems in the band makes a better solver.",
          ahead("band", "majority"), paper=SQLM),
    Claim("posing moves into the band", "That proposer poses more problems in the band than one that is not paid.",
          ahead("band", "majority", "in_band"), paper=SQLM),
    Claim("a frozen set stops at its vote", "On the frozen set accuracy ends within 5 points of the first vote of 64.",
          minus(last("frozen", "set_accuracy"), first("frozen", "set_initial_vote")), "near", margin=0.05),
    Claim("wrong votes are locked in", "Frozen problems whose first vote was wrong are answered worse at the end.",
          grown("frozen", "set_wrong_votes"), expect="below"),
    Claim("a frozen set generalises", "Trained on the frozen set alone, held-out accuracy rises.",
          grown("frozen", "accuracy"), paper=TTRL),
    Claim("it narrows", "The entropy of held-out answers falls.", grown("majority", "entropy"), expect="below"),
    Claim("and turns", "Trained on without a KL penalty, held-out accuracy ends more than 5 points below its best.",
          lambda rows: lost_since_its_best(rows, "no_penalty"), than=0.05, paper="sudden collapse: arXiv 2505.21444"),
    Claim("a hurry ruins it", "At five times the learning rate it ends more than 5 points below its best.",
          lambda rows: lost_since_its_best(rows, "hurried"), than=0.05, paper="sudden collapse: arXiv 2505.21444"),
    Claim("it is the vote, not the hurry", "At that rate the truth as reward ends more than 5 points above the vote.",
          ahead("hurried_oracle", "hurried"), than=0.05),
    Claim("a weak base unlearns", "From a weak base the same vote lowers held-out accuracy.",
          grown("weak", "accuracy"), expect="below"),
    Claim("though it could learn", "From that base the truth as reward ends higher than the vote.",
          ahead("weak_oracle", "weak")),
)  # fmt: skip

THESIS = Thesis(
    "SQLM", "the majority of its own answers to its own problems", "nothing: the vote is the model's", False, "band",
    (*trained("self", "band", "majority", "frozen", "no_penalty", "hurried", "weak"),
     *trained("oracle", "oracle", "weak_oracle", "hurried_oracle"), *trained("control", "form", "random")),
)  # fmt: skip

SHORT = ("majority", "band", "oracle", "form", "random", "frozen")
LONG = ("majority", "no_penalty", "hurried", "hurried_oracle", "weak", "weak_oracle")
EXHIBITS = (
    Figure("Held-out problems", "step", ("accuracy", "greedy"), SHORT,
           "Accuracy on sums that are left out of training, sampled at temperature 1 and greedy.", "optimiser step",
           "share right"),
    Figure("How often the reward is true", "step", ("reward_accuracy", "masked"), SHORT,
           "reward_accuracy: share of pairs of answers to a training problem that the reward ranks as the truth does; "
           f"masked: share of answers without a signal. Over {QUESTIONS} problems at step 0, later over the problems "
           "since the previous measurement.", "optimiser step", "share"),
    Figure("What becomes of variety", "step", ("entropy", "distinct_answers", "distinct_problems"), SHORT,
           "Entropy in nats per answer token, distinct answers among {group}, distinct problems posed so far.",
           "optimiser step"),
    Figure("Without the KL penalty, and from a weak base", "step", ("accuracy", "reward_accuracy", "entropy"), LONG,
           "Accuracy and entropy on held-out problems; accuracy of the reward on training problems.",
           "optimiser step"),
    Figure("The frozen set", "step", ("set_accuracy", "set_wrong_votes"), ("frozen",),
           "Accuracy on the given problems, and on those whose first majority vote was wrong (set_wrong_votes).",
           "optimiser step", "share right"),
)  # fmt: skip
