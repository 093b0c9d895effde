"""Self-judging: can one network be actor and judge, and improve as both from its own pairwise verdicts?

SERL (Ou et al., arXiv 2511.07922) lets a model write N responses to a prompt and compare every pair in both orders. The
actor is paid the share of comparisons that it wins, if lengths are alike (Copeland, length gate); the judge is paid for
agreeing with the order that all its verdicts together give. Two group-normalised policy gradients are added up.

Here a response is five to eight symbols. Its worth, which nobody but the evaluation knows, is the mean quality of its
symbols for the prompt. The base writes at random and has seen noisy comparisons, slightly biased for length and place,
until its sampled verdicts are right 62 times in 100. The world is one for all seeds, so that they can be compared. A
prompt is one of four contexts and one of four others; four of the sixteen, one for each context, are kept for the
evaluation.

Left out: reasoning before the verdict, instructions of a language, and the schedule over epochs. An order of the truth
(``oracle``), a coin (``random``), and a judge whose symbols are scrambled (``blind``, right half of the time) pay the
same actor; ``no_judge_reward``, ``one_order`` and ``no_gate`` each leave one part out.
"""

import copy
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

from rl.analysis.claims import Claim, Figure, ahead, first, grown, last, minus
from rl.analysis.copeland import agreement, copeland, ordered_pairs
from rl.analysis.thesis import Thesis, trained
from rl.backends.blocks import Learned, adam, as_batch, fit, learn_last, next_logprobs, policy_loss, sample, take_step
from rl.backends.tiny import tiny_gpt2, tiny_tokenizer
from rl.types import derive_seed


@dataclass
class Config:
    """Of the study.

    Args:
        world: Seed of the qualities.
        hidden_size: Width of the network.
        judge_accuracy: Of sampled verdicts, at which pretraining stops.
        pretrain_steps: Most steps until there.
        steps: Optimiser steps of every arm.
        lr: Learning rate of the arms.
        prompts: Per step.
        responses: N, per prompt.
        judgments: K, per unordered pair.
        evaluate_every: Steps.
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


# Responses to a prompt are compared with each other.
RANGES = {"world": (0, inf), "judge_accuracy": (0, 1), "responses": (2, inf)}


# The layout:  actor  A c d : x3 x1 ... <end>      judge  J c d : x3 x1 ... _ | x2 ... _ ? first|second

SYMBOLS, CONTEXTS, SHORTEST, LONGEST = 8, 4, 5, 8
MALFORMED = -0.5
"""Below the worst reward of a tournament: else an actor can win by not taking part."""
TOKENIZER = tiny_tokenizer(
    [
        *(f"x{i}" for i in range(SYMBOLS)),
        *(f"{kind}{i}" for kind in "cd" for i in range(CONTEXTS)),
        *("_", "A", "J", ":", "|", "?", "first", "second"),
    ],
    spaced=True,
)
ID = TOKENIZER.get_vocab()
END, X0, C0, D0, FIRST, SECOND = (ID[word] for word in ("<|end|>", "x0", "c0", "d0", "first", "second"))


class World:
    """What responses are worth, and which prompts are trained on; prompts are numbers, responses rows of symbols."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        by_c, by_d = rng.normal(size=(CONTEXTS, 1, SYMBOLS)), rng.normal(size=(1, CONTEXTS, SYMBOLS))
        self.quality = ((by_c + by_d) / np.sqrt(2)).reshape(-1, SYMBOLS)
        orders = [rng.permutation(SYMBOLS) for _ in range(300)]
        self.scrambled = orders[int(np.argmin([max(self.alike(one)) for one in orders]))]
        """Symbols that say nothing about the quality of those they stand for."""
        self.test = np.arange(CONTEXTS) * CONTEXTS + rng.permutation(CONTEXTS)
        """A prompt for each c and each d, never judged in training, and written for only at random, by the base."""
        self.train = np.setdiff1d(np.arange(CONTEXTS**2), self.test)

    def alike(self, order: np.ndarray) -> tuple[float, float]:
        """How far exchanged symbols keep their quality: |correlation| over all prompts, and in the mean over prompts.

        An actor learns first what is good for most prompts, so a judge that keeps the mean is not blind.
        """
        every = np.corrcoef(self.quality.ravel(), self.quality[:, order].ravel())[0, 1]
        means = np.corrcoef(self.quality.mean(0), self.quality[:, order].mean(0))[0, 1]
        return float(abs(every)), float(abs(means))

    def worth(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Mean quality of the symbols; -1 marks an empty place."""
        there = responses >= 0
        quality = np.take_along_axis(self.quality[prompts], np.maximum(responses, 0), 1)
        return (quality * there).sum(1) / np.maximum(there.sum(1), 1)


def lengths(responses: np.ndarray) -> np.ndarray:
    """Of responses, 0 for malformed ones."""
    return (responses >= 0).sum(-1)


def random_responses(rng: np.random.Generator, n: int) -> np.ndarray:
    """``[n, LONGEST]``."""
    responses = rng.integers(0, SYMBOLS, (n, LONGEST))
    return np.where(np.arange(LONGEST) < rng.integers(SHORTEST, LONGEST + 1, (n, 1)), responses, -1)


def opening(prompts: np.ndarray, role: str) -> np.ndarray:
    """``[n, 4]`` tokens that both roles begin with."""
    n = len(prompts)
    columns = (np.full(n, ID[role]), C0 + prompts // CONTEXTS, D0 + prompts % CONTEXTS, np.full(n, ID[":"]))
    return np.stack(columns, 1)


def question(prompts: np.ndarray, one: np.ndarray, other: np.ndarray, seen_as: np.ndarray | None) -> torch.Tensor:
    """What the judge reads; ``seen_as`` exchanges the symbols before it does."""
    if seen_as is not None:
        one, other = (np.where(r >= 0, seen_as[np.maximum(r, 0)], -1) for r in (one, other))
    shown, n = [np.where(r >= 0, r + X0, ID["_"]) for r in (one, other)], len(prompts)
    bar, mark = np.full((n, 1), ID["|"]), np.full((n, 1), ID["?"])
    return torch.from_numpy(np.concatenate([opening(prompts, "J"), shown[0], bar, shown[1], mark], 1))


def respond(model: Any, prompts: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, torch.Tensor]:
    """Responses, -1 all through where the form is wrong, and the very tokens that were sampled."""
    tokens = sample(model, torch.from_numpy(opening(prompts, "A")), LONGEST + 1, 1.0, generator, END)
    ids = tokens.numpy()
    symbols = np.cumprod((ids >= X0) & (ids < X0 + SYMBOLS), 1).astype(bool)
    n = symbols.sum(1)
    formed = (n > 0) & (n <= LONGEST) & (ids[np.arange(len(ids)), np.minimum(n, LONGEST)] == END)
    return np.where(symbols & formed[:, None], ids - X0, -1)[:, :LONGEST], tokens


@torch.no_grad()
def says_first(model: Any, prompts: np.ndarray, one: np.ndarray, other: np.ndarray, seen_as: Any = None) -> np.ndarray:
    """Probability of the verdict ``first``."""
    logprobs = next_logprobs(model, question(prompts, one, other, seen_as))
    return torch.sigmoid(logprobs[:, FIRST] - logprobs[:, SECOND]).numpy()


class Base(NamedTuple):
    """What all arms of a seed start from."""

    world: World
    model: Any


def prepare(cfg: Config, seed: int) -> Base:
    """Random responses, and comparisons of them, until the judge is as good as it is to be.

    The skill comes in a jump at a time that depends on the seed: a fixed number of steps gave judges between .49 and
    .60. Comparisons are biased by length (.15 of worth a symbol) and by place (.1), and one in twenty is a coin's.
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
    """On random pairs: sampled verdicts, both orders averaged before the verdict, and how often it says ``first``."""
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


def run(cfg: Config, arm: str, seed: int, base: Base, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Responses, a tournament, two rewards, one step."""
    world, model = base.world, copy.deepcopy(base.model)
    optimizer, rows = adam(model, cfg.lr), []
    of_arms = derive_seed(seed, "arms")
    rng, generator = np.random.default_rng(of_arms), torch.Generator().manual_seed(of_arms)
    n, pairs = cfg.responses, ordered_pairs(cfg.responses, both_orders=arm != "one_order")
    one, other = pairs.T
    k = cfg.judgments * n * (n - 1) // 2 // len(pairs)  # judgments of each order
    pair_of = np.minimum(one, other) * n + np.maximum(one, other)
    seen_as = world.scrambled if arm == "blind" else None
    hits: list[float] = []
    for step in range(cfg.steps + 1):
        if step % cfg.evaluate_every == 0 or step == cfg.steps:
            rows.append({"arm": arm, "seed": seed, "step": step} | evaluate(model, world, seed, seen_as, samples, step))
            if hits:
                rows[-1]["reward_accuracy"] = float(np.mean(hits))
            hits = []
        if step == cfg.steps:
            return rows
        asked = rng.choice(world.train, cfg.prompts)
        responses, tokens = respond(model, np.repeat(asked, n), generator)
        worth_BN = world.worth(np.repeat(asked, n), responses).reshape(-1, n)
        responses_BNL = responses.reshape(-1, n, LONGEST)
        bad_BN = lengths(responses_BNL) == 0

        shown = [responses_BNL[:, who].reshape(-1, LONGEST) for who in (one, other)]
        asked_BO = np.repeat(asked, len(pairs))
        chance = says_first(model, asked_BO, shown[0], shown[1], seen_as).reshape(len(asked), -1, 1)
        votes_BOK = (rng.random((*chance.shape[:2], k)) < (0.5 if arm == "random" else chance)).astype(float)
        truth_BO = np.sign(worth_BN[:, one] - worth_BN[:, other])
        paying = np.repeat((1 + truth_BO)[..., None] / 2, k, 2) if arm == "oracle" else votes_BOK
        gate = np.inf if arm == "no_gate" else 0.2
        rewards_BN = copeland(paying, pairs, np.maximum(lengths(responses_BNL), 1), gate)
        rewards_BN[bad_BN] = MALFORMED
        agrees_BOK = agreement(votes_BOK, pairs, rewards_BN)
        ordered = np.sign(rewards_BN[:, one] - rewards_BN[:, other])
        if (told := (ordered != 0) & (truth_BO != 0)).any():
            hits.append(float((ordered == truth_BO)[told].mean()))
            if step == 0:  # before anything was learned
                rows[0]["reward_accuracy"] = hits[0]

        groups = torch.arange(len(tokens)) // n
        openings = torch.from_numpy(opening(np.repeat(asked, n), "A"))
        loss, _ = policy_loss(model, as_batch(openings, tokens, torch.from_numpy(rewards_BN).flatten(), groups), "grpo")
        if arm != "no_judge_reward":  # the K judgments of an unordered pair are compared with each other
            verdicts = torch.from_numpy(np.where(votes_BOK > 0.5, FIRST, SECOND)).reshape(-1, 1)
            group = np.repeat((np.arange(len(asked))[:, None] * n * n + pair_of).ravel(), k)
            formed = np.repeat(~(bad_BN[:, one] | bad_BN[:, other]).ravel(), k)
            prompts = question(asked_BO, shown[0], shown[1], seen_as).repeat_interleave(k, 0)
            paid = torch.from_numpy(agrees_BOK).flatten()
            batch = as_batch(prompts, verdicts, paid, torch.from_numpy(group), torch.from_numpy(formed))
            loss = loss + policy_loss(model, batch, "grpo")[0]
        take_step(model, optimizer, loss)
    return rows


@torch.no_grad()
def evaluate(
    model: Any, world: World, seed: int, seen_as: Any, samples: list[dict[str, Any]], step: int
) -> dict[str, float]:
    """On held-out prompts: hidden worth of fresh responses, their form and variety, and the judge."""
    of_tests = derive_seed(seed, "tests")
    rng, generator = np.random.default_rng(of_tests), torch.Generator().manual_seed(of_tests)
    prompts = rng.choice(world.test, 600)
    responses, tokens = respond(model, prompts, generator)
    worth, formed = world.worth(prompts, responses), lengths(responses) > 0
    _, entropy = policy_loss(
        model, as_batch(torch.from_numpy(opening(prompts, "A")), tokens, torch.zeros(600), torch.arange(600) // 4)
    )
    seen = rng.choice(world.train, 300)
    on_seen = world.worth(seen, respond(model, seen, generator)[0])
    for i in range(6):
        about, text = (str(TOKENIZER.decode(ids)) for ids in (opening(prompts[i : i + 1], "A")[0], tokens[i].tolist()))
        said = text.replace("<|pad|>", "").strip()
        samples.append({"step": step, "prompt": about, "answer": said, "worth": float(worth[i])})
    return {
        "worth": float(worth[formed].mean()) if formed.any() else float("nan"),
        "worthy": float((worth[formed] > 0).sum() / len(responses)),
        "worthy_trained": float((on_seen > 0).mean()),
        "length": float(lengths(responses)[formed].mean()) if formed.any() else 0.0,
        "distinct": len({tuple(one) for one in responses}) / len(responses),
        "malformed": float(1 - formed.mean()),
        "entropy": entropy.item(),
        "judge_trained": judge_accuracy(model, world, world.train, rng, seen_as)["judge"],
    } | judge_accuracy(model, world, world.test, rng, seen_as)


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
