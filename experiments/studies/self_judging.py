"""Self-judging: can one network be actor and judge, and improve in both roles from its own pairwise verdicts?

SERL (Ou et al., arXiv 2511.07922) lets a model write N responses to a prompt and compare every pair in both orders. A
response's reward is the share of its comparisons that it wins against responses of similar length (Copeland, length
gate). A verdict is rewarded for agreeing with the order that all verdicts together give. The group-normalised policy
gradients of actor and judge are added.

Here a response is five to eight symbols. Its worth, which the network never sees, is the mean quality of its symbols
for the prompt. The base writes random responses, and learns noisy comparisons, slightly biased for length and place,
until 62 % of its sampled verdicts are right. All seeds use the same qualities, so that they can be compared. A prompt
combines one of four contexts with one of four other contexts; four of the sixteen prompts, one for each context, are
kept for the evaluation.

Left out: reasoning before the verdict, instructions in natural language, and the schedule over epochs. In control arms
the true order (``oracle``), a coin (``random``), or a judge that reads scrambled symbols (``blind``, right half of the
time) rewards the same actor. ``no_judge_reward``, ``one_order`` and ``no_gate`` each leave out one part of the method.
"""

import copy
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.judged_symbols import (
    CONTEXTS,
    END,
    FIRST,
    LONGEST,
    SECOND,
    TOKENIZER,
    X0,
    World,
    lengths,
    opening,
    question,
    random_responses,
    respond,
    says_first,
)
from rl.analysis.claims import Claim, Figure, ahead, first, grown, last, minus
from rl.analysis.copeland import agreement, copeland, ordered_pairs
from rl.analysis.gate import QUESTIONS, Gate, mean_told, signal_accuracy
from rl.analysis.thesis import Thesis, trained
from rl.backends.blocks import Learned, adam, as_batch, fit, learn_last, policy_loss, take_step
from rl.backends.tiny import tiny_gpt2
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        world: Seed of the symbols' qualities.
        hidden_size: Width of the network.
        judge_accuracy: Share of right sampled verdicts at which pretraining stops.
        pretrain_steps: Most steps of pretraining.
        steps: Optimiser steps of every arm.
        lr: Learning rate of the arms.
        prompts: Prompts of each step.
        responses: N, the number of responses to each prompt.
        judgments: K, the number of verdicts on each unordered pair of responses.
        evaluate_every: Steps between two evaluations.
    """

    world: int = 1
    hidden_size: int = 32
    judge_accuracy: float = 0.62
    pretrain_steps: int = 1500
    steps: int = 150
    lr: float = 3e-4
    prompts: int = 12
    responses: int = 4
    judgments: int = 4
    evaluate_every: int = 50

    def __post_init__(self) -> None:
        if self.judgments % 2:
            raise ValueError(f"settings.judgments={self.judgments}: use an even number, half for each order")


# Responses to a prompt are compared with each other, so there must be at least two.
RANGES = {"world": (0, inf), "judge_accuracy": (0, 1), "responses": (2, inf)}


MALFORMED = -0.5
"""Reward of a malformed response. It is below every reward of a tournament, so that not taking part cannot pay off."""


class Base(NamedTuple):
    """What all arms of a seed share: the qualities of the symbols, and the model that they start from."""

    world: World
    model: Any


def prepare(cfg: Config, seed: int) -> Base:
    """Trains the base on random responses and on comparisons of these, until the judge is good enough.

    Judging is learned suddenly, at a step that depends on the seed: a fixed number of steps gave judges with accuracies
    between .49 and .60. Comparisons are biased by length (.15 of worth per symbol) and by place (.1), and one in twenty
    is decided by a coin.
    """
    torch.manual_seed(seed)
    rng, world = np.random.default_rng(seed), World(cfg.world)
    model = tiny_gpt2(TOKENIZER, cfg.hidden_size, 2, 4, 32)

    def batch(step: int) -> list[Learned]:
        prompts, one, other = rng.choice(world.train, 96), random_responses(rng, 96), random_responses(rng, 96)
        margin = world.worth(prompts, one) - world.worth(prompts, other) + 0.15 * (lengths(one) - lengths(other))
        first_wins = np.where(rng.random(96) < 0.05, rng.random(96) < 0.5, margin + 0.1 > 0)
        verdicts = torch.from_numpy(np.where(first_wins, FIRST, SECOND))[:, None]
        judged = torch.cat([question(prompts, one, other, None), verdicts], 1)
        written = random_responses(rng, 48)
        body = np.concatenate([np.where(written >= 0, written + X0, 0), np.zeros((48, 1), int)], 1)
        body[np.arange(48), lengths(written)] = END
        told = torch.from_numpy(np.concatenate([opening(rng.integers(0, CONTEXTS**2, 48), "A"), body], 1))
        return [learn_last(judged, 1), (told, (told > 0) & (torch.arange(told.shape[1]) >= 4))]

    def good_enough(step: int) -> bool:
        if step % 25:
            return False
        return judge_accuracy(model, world, world.train, np.random.default_rng(0))["judge"] >= cfg.judge_accuracy

    fit(model, batch, cfg.pretrain_steps, 4e-3, good_enough)
    return Base(world, model)


def judge_accuracy(
    model: Any, world: World, about: np.ndarray, rng: np.random.Generator, seen_as: Any = None
) -> dict[str, float]:
    """Accuracy on random pairs of sampled verdicts and of the mean over both orders, and the bias for a place."""
    prompts, one, other = rng.choice(about, 1000), random_responses(rng, 1000), random_responses(rng, 1000)
    truth = world.worth(prompts, one) > world.worth(prompts, other)
    there, back = says_first(model, prompts, one, other, seen_as), says_first(model, prompts, other, one, seen_as)
    return {
        "judge": float(np.mean([np.where(truth, there, 1 - there), np.where(truth, 1 - back, back)])),
        "judge_both_orders": float(((there + 1 - back > 1) == truth).mean()),
        "says_first": float((there + back).mean() / 2),
        "place_bias": float(abs((there + back).mean() / 2 - 0.5)),
    }


ARMS = ("self_judging", "oracle", "random", "no_judge_reward", "one_order", "no_gate", "blind")


class Played(NamedTuple):
    """N responses to each of B prompts, K verdicts on each of their O ordered pairs, and the actor's rewards.

    Args:
        prompts: ``[B]`` prompts.
        responses: ``[B, N, LONGEST]`` symbols.
        tokens: ``[B * N, LONGEST + 1]`` tokens as they were sampled.
        pairs: ``[O, 2]`` indices of the responses that are shown first and second.
        votes: ``[B, O, K]`` verdicts, 1 if the response that is shown first wins.
        rewards: ``[B, N]`` rewards of the actor.
        worth: ``[B, N]`` hidden worth; ``nan`` for malformed responses.
    """

    prompts: np.ndarray
    responses: np.ndarray
    tokens: torch.Tensor
    pairs: np.ndarray
    votes: np.ndarray
    rewards: np.ndarray
    worth: np.ndarray


def tournament(
    cfg: Config, arm: str, base: Base, model: Any, asked: np.ndarray, rng: np.random.Generator, generator: Any
) -> Played:
    """Samples responses and verdicts on every pair, and computes the share of comparisons that each response wins."""
    world, n, pairs = base.world, cfg.responses, ordered_pairs(cfg.responses, both_orders=arm != "one_order")
    one, other = pairs.T
    k = cfg.judgments * n * (n - 1) // 2 // len(pairs)  # judgments of each order
    responses, tokens = respond(model, np.repeat(asked, n), generator)
    responses_BNL = responses.reshape(-1, n, LONGEST)
    worth_BN = world.worth(np.repeat(asked, n), responses).reshape(-1, n)
    bad_BN = lengths(responses_BNL) == 0

    shown = [responses_BNL[:, who].reshape(-1, LONGEST) for who in (one, other)]
    chance = says_first(model, np.repeat(asked, len(pairs)), shown[0], shown[1], exchanged(arm, world))
    chance_BO1 = chance.reshape(len(asked), -1, 1)
    votes_BOK = (rng.random((*chance_BO1.shape[:2], k)) < (0.5 if arm == "random" else chance_BO1)).astype(float)
    truth_BO1 = np.sign(worth_BN[:, one] - worth_BN[:, other])[..., None]
    paying = np.repeat((1 + truth_BO1) / 2, k, 2) if arm == "oracle" else votes_BOK
    rewards_BN = copeland(paying, pairs, np.maximum(lengths(responses_BNL), 1), np.inf if arm == "no_gate" else 0.2)
    rewards_BN[bad_BN] = MALFORMED
    return Played(asked, responses_BNL, tokens, pairs, votes_BOK, rewards_BN, np.where(bad_BN, np.nan, worth_BN))


def exchanged(arm: str, world: World) -> np.ndarray | None:
    """The symbols that the judge sees in place of the real ones; ``None`` if it sees the real ones."""
    return world.scrambled if arm == "blind" else None


def loss_of(arm: str, base: Base, model: Any, played: Played) -> torch.Tensor:
    """Policy-gradient losses of actor and judge; a verdict is rewarded for agreeing with the order of the rewards."""
    b, n, _ = played.responses.shape
    groups, openings = torch.arange(b * n) // n, torch.from_numpy(opening(np.repeat(played.prompts, n), "A"))
    paid = torch.from_numpy(played.rewards).flatten()
    loss, _ = policy_loss(model, as_batch(openings, played.tokens, paid, groups), "grpo")
    if arm == "no_judge_reward":
        return loss
    one, other = played.pairs.T
    k, bad_BN = played.votes.shape[2], np.isnan(played.worth)
    shown = [played.responses[:, who].reshape(-1, LONGEST) for who in (one, other)]
    asked = np.repeat(played.prompts, len(played.pairs))
    read = question(asked, shown[0], shown[1], exchanged(arm, base.world)).repeat_interleave(k, 0)
    verdicts = torch.from_numpy(np.where(played.votes > 0.5, FIRST, SECOND)).reshape(-1, 1)
    # The K verdicts on an unordered pair form one group, whose members are compared with each other.
    pair_of = np.minimum(one, other) * n + np.maximum(one, other)
    group = np.repeat((np.arange(b)[:, None] * n * n + pair_of).ravel(), k)
    formed = np.repeat(~(bad_BN[:, one] | bad_BN[:, other]).ravel(), k)
    agrees = torch.from_numpy(agreement(played.votes, played.pairs, played.rewards)).flatten()
    batch = as_batch(read, verdicts, agrees, torch.from_numpy(group), torch.from_numpy(formed))
    return loss + policy_loss(model, batch, "grpo")[0]


def run(cfg: Config, arm: str, seed: int, base: Base, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reads the gate, then trains actor and judge: each step samples a tournament and makes one update."""
    world, model = base.world, copy.deepcopy(base.model)
    optimizer, rows = adam(model, cfg.lr), []
    of_arms = derive_seed(seed, "arms")
    rng, generator = np.random.default_rng(of_arms), torch.Generator().manual_seed(of_arms)

    def play(about: np.ndarray, n: int) -> Played:
        return tournament(cfg, arm, base, model, rng.choice(about, n), rng, generator)

    n_read = QUESTIONS // 2  # prompts; each has several pairs
    for_gate, first = play(world.test, n_read), play(world.train, n_read)
    gate, accuracies = Gate.read(for_gate.worth > 0, for_gate.rewards), [signal_accuracy(first.rewards, first.worth)]
    for step in range(cfg.steps + 1):
        if step % cfg.evaluate_every == 0 or step == cfg.steps:
            rows.append({"step": step} | evaluate(model, world, seed, exchanged(arm, world), samples, step))
            rows[-1]["reward_accuracy"] = mean_told(accuracies)
            accuracies.clear()
        if step < cfg.steps:
            played = play(world.train, cfg.prompts)
            accuracies.append(signal_accuracy(played.rewards, played.worth))
            take_step(model, optimizer, loss_of(arm, base, model, played))
    rows[-1] |= gate.outcome(rows[-1]["worthy"] - rows[0]["worthy"], arm, THESIS.kind(arm))
    return rows


@torch.no_grad()
def evaluate(
    model: Any, world: World, seed: int, seen: Any, samples: list[dict[str, Any]], step: int
) -> dict[str, float]:
    """Measures new responses and the judge on held-out prompts; ``_trained`` columns on training prompts."""
    of_tests = derive_seed(seed, "tests")
    rng, generator = np.random.default_rng(of_tests), torch.Generator().manual_seed(of_tests)
    prompts = rng.choice(world.test, 600)
    responses, tokens = respond(model, prompts, generator)
    worth, formed = world.worth(prompts, responses), lengths(responses) > 0
    _, entropy = policy_loss(
        model, as_batch(torch.from_numpy(opening(prompts, "A")), tokens, torch.zeros(600), torch.arange(600) // 4)
    )
    others = rng.choice(world.train, 300)
    on_trained = world.worth(others, respond(model, others, generator)[0])
    for i in range(6):
        about, text = (str(TOKENIZER.decode(ids)) for ids in (opening(prompts[i : i + 1], "A")[0], tokens[i].tolist()))
        said = text.replace("<|pad|>", "").strip()
        samples.append({"step": step, "prompt": about, "answer": said, "worth": float(worth[i])})
    return {
        "worth": float(worth[formed].mean()) if formed.any() else float("nan"),
        "worthy": float((worth[formed] > 0).sum() / len(responses)),
        "worthy_trained": float((on_trained > 0).mean()),
        "length": float(lengths(responses)[formed].mean()) if formed.any() else 0.0,
        "distinct": len({tuple(one) for one in responses}) / len(responses),
        "malformed": float(1 - formed.mean()),
        "entropy": entropy.item(),
        "judge_trained": judge_accuracy(model, world, world.train, rng, seen)["judge"],
    } | judge_accuracy(model, world, world.test, rng, seen)


PAPER = "arXiv 2511.07922"
# fmt: off
CLAIMS = (
    Claim("actor_rises", "The actor improves on its own verdicts (hidden worth of a response)",
          grown("self_judging", "worth"), paper=PAPER),
    Claim("judge_rises", "The judge improves with it (share of sampled verdicts that are right)",
          grown("self_judging", "judge"), paper=PAPER),
    Claim("judge_passes_itself", "The judge ends better than the mean of its two orders was at the start",
          minus(last("self_judging", "judge"), first("self_judging", "judge_both_orders"))),
    Claim("judge_reward_helps_actor", "The judge's reward raises the actor's worth (against no_judge_reward)",
          ahead("self_judging", "no_judge_reward", "worth"), paper=PAPER),
    Claim("judge_reward_helps_judge", "The judge's reward keeps the judge better (against no_judge_reward)",
          ahead("self_judging", "no_judge_reward", "judge"), paper=PAPER),
    Claim("both_orders_help", "Judging in both orders keeps the judge better (against one_order)",
          ahead("self_judging", "one_order", "judge"), paper=PAPER),
    Claim("one_order_drifts", "Judging in one order drifts to one place (|P(first) - 1/2|, by how much more)",
          ahead("one_order", "self_judging", "place_bias"), paper=PAPER),
    Claim("gate_holds_length", "Without the length gate responses are longer (symbols, the difference)",
          ahead("no_gate", "self_judging", "length"), paper=PAPER),
    Claim("blind_helps_less", "A judge that is right half of the time helps the actor less (worth, the difference)",
          ahead("self_judging", "blind", "worth")),
    Claim("random_stays", "A coin's verdicts leave the actor within .1 of where it was (worth)",
          grown("random", "worth"), "near", margin=0.1),
    Claim("oracle_is_better", "Verdicts of the truth raise the worth further (oracle minus self_judging)",
          ahead("oracle", "self_judging", "worth")),
)
# fmt: on

THESIS = Thesis(
    "SERL", "pairwise verdicts of its own on its responses", "nothing: the judge is the model", False, "self_judging",
    (*trained("self", "self_judging", "no_judge_reward", "one_order", "no_gate", gain="worthy"),
     *trained("oracle", "oracle", gain="worthy"), *trained("control", "random", "blind", gain="worthy")),
    "share of responses of positive hidden worth",
)  # fmt: skip

EXHIBITS = (
    Figure("The actor", "step", "worth", x_label="optimiser step", y_label="hidden worth of a response"),
    Figure("The judge", "step", "judge", x_label="optimiser step", y_label="sampled verdicts that are right"),
    Figure("Both orders averaged", "step", "judge_both_orders", x_label="optimiser step", y_label="share right"),
    Figure("Which place wins", "step", "says_first", x_label="optimiser step", y_label="P(first)"),
    Figure("Length", "step", "length", x_label="optimiser step", y_label="symbols"),
    Figure("Distinct responses", "step", "distinct", x_label="optimiser step", y_label="share of 600"),
    Figure(
        "Reward against truth", "step", "reward_accuracy", x_label="optimiser step", y_label="pairs ordered rightly"
    ),
    Figure("Entropy of the actor", "step", "entropy", x_label="optimiser step", y_label="nats per token"),
)
