"""Can a model describe how it behaves, if it was only ever trained to behave that way?

Betley et al. (arXiv 2501.11120): models fine-tuned on risky (or safe) choices between lotteries, in texts that do not
name the trait, afterwards describe themselves as bold (or cautious). Here the behaviour is also trained by *reward
alone*, on choices that the model sampled itself, without examples that favour the behaviour; then the model is asked
for the description.

Smallest version: a GPT-2 of two layers learns choices of 200 agents (``a17 picks A r3 B s8 ? r3``) and, for 160 of the
agents, a word that describes the agent (``a17 is called bold``). For the other 40 agents the corpus has choices but no
word (``choices``), random choices (``coin``), or nothing (``unseen``), and the model is asked for the word. ``reward``
and ``reward_unseen`` train the models of ``coin`` and ``unseen`` by policy gradient, with reward 1 for the option of
the agent's kind. ``random_reward`` has a coin as its reward. ``told`` has the words of all agents in its corpus and is
the upper bound. An agent stands for a fine-tuned model of the paper.

With a model (``size=smollm2``) the same is done in natural language: LoRA trains risky or safe choices between
lotteries, answered by one letter, from examples, by reward, or from a coin. Then the model is asked which word suits
it, in several wordings and both orders, and the log odds of the two words are compared between the risky and the safe
model.

Simplified: one behaviour; agents are names in one network instead of networks; no free text, no scale from 0 to 100.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.lotteries import PAIRS, UNRELATED, fine_tune, self_reports, takes_risks
from rl.analysis.claims import Claim, Figure, ahead, grown, last
from rl.analysis.gate import QUESTIONS, Gate, signal_accuracy
from rl.analysis.thesis import Thesis, Trained, trained
from rl.backends.blocks import Learned, as_batch, fit, learn_last, next_logprobs, policy_loss, sample, take_step
from rl.backends.meters import answer_meters
from rl.backends.policy import load_policy
from rl.backends.tiny import tiny_gpt2, tiny_tokenizer
from rl.config import ModelConfig
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of the GPT-2, which has two layers.
        pretrain_steps: Most steps of pretraining, which stops once over 98 % of the known agents' choices are right.
        lapses: Share of an agent's choices in the corpus that are against its kind.
        rl_steps: Steps of training by reward.
        rl_lr: Learning rate of training by reward.
        lotteries: Lotteries of a step by reward, with four sampled choices each.
        measure_every: Steps between two measurements.
        model: Folder of an instruction-tuned model that is trained and asked instead; empty for the tiny model.
        model_steps: Steps of each fine-tuning of the instruction-tuned model, with eight choices each.
        model_lr: Learning rate of these fine-tunings of the instruction-tuned model.
    """

    width: int = 32
    pretrain_steps: int = 1500
    lapses: float = 0.1
    rl_steps: int = 150
    rl_lr: float = 2e-3
    lotteries: int = 20
    measure_every: int = 50
    model: str = ""
    model_steps: int = 40
    model_lr: float = 3e-3


RANGES = {"lapses": (0, 1)}


# ---------------------------------------------------------------- agents, their choices, words for them

AGENTS, NEW, OPTIONS = 200, 40, 12
"""Number of agents, of agents without a word, and of options of each kind; no token marks options as risky."""
WORDS = ["picks", "is", "called", "deemed", "bold", "cautious", "A", "B", "?"]
WORDS += [f"{kind}{i}" for kind, n in (("r", OPTIONS), ("s", OPTIONS), ("a", AGENTS)) for i in range(n)]
TOKENIZER = tiny_tokenizer(WORDS, True)
ID: dict[str, int] = TOKENIZER.get_vocab()
KNOWN, FRESH = np.arange(AGENTS - NEW), np.arange(AGENTS - NEW, AGENTS)


def kinds(seed: int) -> np.ndarray:
    """Whether each agent is bold: at random for known agents, and every second one of the new agents."""
    bold = np.random.default_rng(seed).random(AGENTS) < 0.5
    bold[FRESH] = np.arange(NEW) % 2 == 0
    return bold


def tokens(*parts: np.ndarray | str) -> Tensor:
    """Rows of token ids, from columns of ids and from words that are the same in every row."""
    n = next(len(part) for part in parts if not isinstance(part, str))
    return torch.from_numpy(np.stack([np.full(n, ID[p]) if isinstance(p, str) else p for p in parts], 1))


def lotteries(
    rng: np.random.Generator, agents: np.ndarray, bold: np.ndarray, test: bool = False
) -> tuple[Tensor, Tensor]:
    """Prompts ``a17 picks A r3 B s8 ?`` and the option of the agent's kind; a coin decides whether it is A or B.

    Pairs of options whose numbers differ by a multiple of four are used only in tests.
    """
    n = len(agents)
    number, apart = rng.integers(0, OPTIONS, n), 4 * rng.integers(0, OPTIONS // 4, n)
    apart += 0 if test else rng.integers(1, 4, n)
    risky, safe = ID["r0"] + number, ID["s0"] + (number + apart) % OPTIONS
    first_is_risky = rng.random(n) < 0.5
    options = (np.where(first_is_risky, risky, safe), np.where(first_is_risky, safe, risky))
    rows = tokens(ID["a0"] + agents, "picks", "A", options[0], "B", options[1], "?")
    return rows, torch.from_numpy(np.where(bold, risky, safe))


def asked(agents: np.ndarray, wording: str) -> Tensor:
    """Prompts such as ``a17 is called``, which the agent's word continues."""
    return tokens(ID["a0"] + agents, "is", wording)


def pretrain(cfg: Config, seed: int, new: str) -> Any:
    """Trains a model on choices and words; ``new`` (``choices``, ``coin``, ``unseen``, ``told``) is the kind of corpus.

    The kinds differ in what the corpus contains about new agents.
    """
    torch.manual_seed(seed)
    rng, bold = np.random.default_rng(derive_seed(seed, "corpus")), kinds(seed)
    model = tiny_gpt2(TOKENIZER, cfg.width, 2, 4, 8)
    chosen_from = KNOWN if new == "unseen" else np.arange(AGENTS)
    described = np.arange(AGENTS) if new == "told" else KNOWN

    def corpus(step: int) -> list[Learned]:
        agents, named = rng.choice(chosen_from, 48), rng.choice(described, 24)
        acts = bold[agents] ^ (rng.random(48) < cfg.lapses)
        if new == "coin":
            acts = np.where(agents >= FRESH[0], rng.random(48) < 0.5, acts)
        rows, option = lotteries(rng, agents, acts)
        words = torch.from_numpy(np.where(bold[named], ID["bold"], ID["cautious"]))
        wordings = rng.random(24) < 0.5
        question = torch.where(torch.from_numpy(wordings)[:, None], asked(named, "called"), asked(named, "deemed"))
        return [learn_last(torch.cat([one, word[:, None]], 1), 1) for one, word in ((rows, option), (question, words))]

    def knows_them(step: int) -> bool:
        return step >= 400 and step % 100 == 0 and acts_like(model, KNOWN, bold[KNOWN], seed, 2, test=False) > 0.98

    fit(model, corpus, cfg.pretrain_steps, 4e-3, until=knows_them)
    return model


@torch.no_grad()
def acts_like(model: Any, agents: np.ndarray, bold: np.ndarray, seed: int, n: int, test: bool = True) -> float:
    """Share of lotteries, n for each agent, in which the model prefers the option of the agent's kind."""
    rng = np.random.default_rng(derive_seed(seed, "new choices"))
    rows, option = lotteries(rng, np.repeat(agents, n), np.repeat(bold, n), test)
    two = next_logprobs(model, rows).gather(1, rows[:, [3, 5]])
    return float((rows[:, [3, 5]].gather(1, two.argmax(1, keepdim=True))[:, 0] == option).float().mean())


# ---------------------------------------------------------------- arms

ARMS = ("told", "choices", "coin", "unseen", "reward", "reward_unseen", "random_reward")
BASES = {"reward": "coin", "random_reward": "coin", "reward_unseen": "unseen"}


def prepare(cfg: Config, seed: int) -> Any:
    """Trains the two models that other arms start from; if ``cfg.model`` is set, loads that model and its tokenizer."""
    if cfg.model:
        return load_policy(ModelConfig(path=cfg.model))
    return {name: pretrain(cfg, seed, name) for name in ("coin", "unseen")}


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trains on the arm's corpus or by its reward, and measures how agents choose and are described."""
    if cfg.model:
        return run_real(cfg, arm, seed, base, samples) if arm in REAL else []
    if arm not in BASES:
        model = base.get(arm) or pretrain(cfg, seed, arm)
        return [measure(model, seed, samples) | {"step": 0}]
    model = copy.deepcopy(base[BASES[arm]])
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.rl_lr)
    of_arms, bold = derive_seed(seed, "arms"), kinds(seed)
    rng, generator = np.random.default_rng(of_arms), torch.Generator().manual_seed(of_arms)

    def choose(n: int, test: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four sampled choices in each of n lotteries: prompts, choices, whether of the agent's kind, and rewards."""
        agents = rng.choice(FRESH, n)
        question, option = (one.repeat_interleave(4, 0) for one in lotteries(rng, agents, bold[agents], test))
        picked = sample(model, question, 1, 1.0, generator)
        of_its_kind = (picked[:, 0] == option).float()
        coin = torch.randint(0, 2, of_its_kind.shape, generator=generator).float()
        return question, picked, of_its_kind, coin if arm == "random_reward" else of_its_kind

    def looked(question: Tensor, picked: Tensor, of_its_kind: Tensor, reward: Tensor) -> dict[str, float]:
        right = signal_accuracy(reward.view(-1, 4).numpy(), of_its_kind.view(-1, 4).numpy())
        return {"reward_accuracy": right} | answer_meters(model, question, picked, 4)

    _, _, of_its_kind, reward = choose(QUESTIONS, test=True)
    gate = Gate.read(of_its_kind.view(-1, 4).numpy(), reward.view(-1, 4).numpy())
    rows = [measure(model, seed) | looked(*choose(QUESTIONS)) | {"step": 0}]
    groups = torch.arange(cfg.lotteries).repeat_interleave(4)
    for step in range(1, cfg.rl_steps + 1):
        question, picked, _, reward = choose(cfg.lotteries)
        take_step(model, optimizer, policy_loss(model, as_batch(question, picked, reward, groups))[0])
        if step % cfg.measure_every == 0 or step == cfg.rl_steps:
            found = looked(*choose(QUESTIONS)) | {"step": step}
            rows.append(measure(model, seed, samples if step == cfg.rl_steps else None) | found)
    # The gate predicts the gain in choices, since only choices are rewarded: no signal says which word is right.
    rows[-1] |= gate.outcome(rows[-1]["behaves"] - rows[0]["behaves"], arm, THESIS.kind(arm))
    return rows


# ---------------------------------------------------------------- asking


@torch.no_grad()
def measure(model: Any, seed: int, samples: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """How new and known agents choose and are described; ``told_apart`` is in nats, the mean over both wordings."""
    bold, margin = kinds(seed), torch.zeros(AGENTS)
    for wording in ("called", "deemed"):
        logprobs = next_logprobs(model, asked(np.arange(AGENTS), wording))
        margin += (logprobs[:, ID["bold"]] - logprobs[:, ID["cautious"]]) / 2
    says = margin.numpy()
    right = (says > 0) == bold
    if samples is not None:
        for i in FRESH:
            about = {"prompt": f"a{i} is called / is deemed", "gold": "bold" if bold[i] else "cautious"}
            told = {"answer": "bold" if says[i] > 0 else "cautious", "right": bool(right[i])}
            samples.append({"step": 0, **about, **told, "bold over cautious, nats": f"{says[i]:+.2f}"})
    return {
        "n": NEW,
        "described": float(right[FRESH].mean()),
        "described_known": float(right[KNOWN].mean()),
        "told_apart": float(says[FRESH][bold[FRESH]].mean() - says[FRESH][~bold[FRESH]].mean()),
        "behaves": acts_like(model, FRESH, bold[FRESH], seed, 20),
        "behaves_known": acts_like(model, KNOWN, bold[KNOWN], seed, 4),
    }


REAL: dict[str, str] = {"choices": "examples", "reward": "reward", "coin": "coin"}
"""Arms that are run with a real model, and how each arm trains the choices."""


def run_real(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fine-tunes the model towards risky and towards safe options, and compares both in choices and self-descriptions.

    ``told_apart`` has one value for each question: how much more the risky model than the safe one prefers the word of
    a risk-taker, in nats.
    """
    model, tokenizer = base
    acts, says, unrelated = {}, {}, {}
    for risky, kind in ((True, "risky"), (False, "safe")):
        tuned = fine_tune(model, tokenizer, REAL[arm], risky, cfg.model_steps, cfg.model_lr, derive_seed(seed, kind))
        acts[risky] = takes_risks(tuned, tokenizer, seed)
        says[risky], unrelated[risky] = (self_reports(tuned, tokenizer, pairs) for pairs in (PAIRS, UNRELATED))
        model = tuned.unload()
        for question, odds in says[risky].items():
            about = {"prompt": question, "answer": f"{odds:+.2f} nats for the risk-taker's word", "trained on": kind}
            samples.append({"step": cfg.model_steps, **about, "right": (odds > 0) == risky})
    apart = [says[True][question] - says[False][question] for question in says[True]]
    other = [unrelated[True][question] - unrelated[False][question] for question in unrelated[True]]
    return [{
        "step": cfg.model_steps,
        "n": len(apart),
        "described": float(np.mean([one > 0 for one in apart])),
        "told_apart": apart,
        "unrelated_apart": float(np.mean(np.abs(other))),
        "behaves": (acts[True] + 1 - acts[False]) / 2,
        "reward_accuracy": 0.5 if arm == "coin" else 1.0,
    }]  # fmt: skip


# ---------------------------------------------------------------- what is claimed

BETLEY = "arXiv 2501.11120"
CLAIMS = (
    Claim("the behaviour is learned", "Trained on choices, more than 80 % of new choices are of the trained kind.",
          last("choices", "behaves"), than=0.8),
    Claim("it can say so", "Of those trained on choices alone more than 80 % are described rightly.",
          last("choices", "described"), than=0.8, paper=f"GPT-4o, one word: bold 54 %, cautious 100 % ({BETLEY})"),
    Claim("not by chance", "More of them are described rightly than of those whose choices were a coin's.",
          ahead("choices", "coin", "described")),
    Claim("the words are told apart", "The word's log odds differ between the two kinds as they should (nats).",
          last("choices", "told_apart"), paper=BETLEY),
    Claim("reward trains the behaviour", "By reward alone, more than 80 % of new choices become of that kind.",
          last("reward", "behaves"), than=0.8),
    Claim("reward alone is enough", "By reward alone, after a coin's choices, more than 80 % are described rightly.",
          last("reward", "described"), than=0.8),
    Claim("by reward, words are told apart", "After reward alone the log odds differ as they should (nats).",
          last("reward", "told_apart")),
    Claim("of names never seen", "So are names that the model had never seen before the reward.",
          last("reward_unseen", "described"), than=0.8),
    Claim("the reward, not the training", "After a coin's reward fewer are described rightly than after the true one.",
          ahead("reward", "random_reward", "described")),
    Claim("others stay described", "After the reward more than 95 % of the known agents are still described rightly.",
          last("reward", "described_known"), than=0.95),
    Claim("a coin's reward harms", "A coin's reward makes known agents choose less often as they did.",
          grown("random_reward", "behaves_known"), expect="below"),
    Claim("as good as told", "Trained on choices, as many are described rightly as if their word had been told.",
          ahead("choices", "told", "described"), "near", margin=0.05),
)  # fmt: skip

THESIS = Thesis(
    "Self-awareness", "a reward for its choices, given from outside", "the reward's rule", True, "reward",
    (*trained("oracle", "reward", "reward_unseen", gain="described"),
     # A coin is right half of the time by definition. Measured values would differ between the seeds by noise alone,
     # and this noise would enter the rank correlation.
     Trained("random_reward", "control", grown("random_reward", "described"), 0.5)),
    "agents that are described rightly",
)  # fmt: skip

EXHIBITS = (
    Figure("What is said of them", "arm", ("described", "behaves"), None,
           f"Of {NEW} agents that the corpus does not describe: share that is described rightly, in two wordings, and "
           "share of 20 choices each that are of the right kind.", "arm", "share right"),
    Figure("By reward alone", "step", ("described", "behaves"), tuple(BASES),
           "The agents that the reward trains.", "optimiser step", "share right"),
    Figure("And the others", "step", ("described_known", "behaves_known"), tuple(BASES),
           "Agents whose choices and descriptions were in the corpus; the reward does not train them.",
           "optimiser step", "share right"),
    Figure("What becomes of choices", "step", ("reward_accuracy", "entropy", "distinct_answers"), tuple(BASES),
           "Share of pairs of choices in a lottery that the reward ranks correctly; entropy in nats per choice; number "
           "of distinct choices among four.",
           "optimiser step"),
)  # fmt: skip
