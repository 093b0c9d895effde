"""Can a model learn to score its own answer honestly, after the answer, at no cost to the answer itself?

Post-completion learning (Fei et al., arXiv 2507.20252): after its answer the model writes an evaluation of the answer,
trained by a mixture of reinforcement and supervised learning on the same rollout. At inference, generation stops at the
separator before the evaluation, so that the answer costs no additional tokens.

Smallest version: sums of two to five digits, without intermediate steps. A completion is ``answer | score``, one token
each, with five scores from 0 to 1. In most questions of the corpus the sixes are read as fives, so that a verifiable
reward has something to teach. Answer and separator are rewarded for accuracy. The score has a reward of its own: one
minus the squared error (Brier), which an honest probability maximises, or the published consistency, ``1 - mean over
[accuracy, format] of |true - told| / max(true, told)``. For a wrong answer that is honestly scored 0, the latter is
0/0, which is an error in the public code and earns 0 here. In the oracle arm the score is trained with the truth of
each answer as a supervised label; in the random arm a coin rewards it.

Simplified: the evaluation is a single score without words, its part on "format" is right by construction, credit is
given per region instead of per completion, and there is no KL penalty.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.scored_sums import END, S0, SCORES, SEPARATOR, T0, TOKENIZER, column, complete, draw, scored
from rl.analysis.calibration import auroc, brier
from rl.analysis.claims import Claim, Figure, ahead, grown, last
from rl.analysis.gate import QUESTIONS, Gate, mean_told
from rl.analysis.thesis import Thesis, trained
from rl.backends.blocks import (
    Learned,
    as_batch,
    fit,
    learn_last,
    next_logprobs,
    policy_loss,
    sample,
    take_step,
    token_losses,
)
from rl.backends.meters import answer_meters
from rl.backends.tiny import tiny_llama
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of the Llama, which has two layers.
        answer_steps: Supervised steps on answers of the corpus.
        score_steps: Supervised steps on answers, and on scores of the model's own answers.
        score_noise: Share of the scores in supervised training that are random, as if a fallible person wrote them.
        misread: Share of the corpus's questions in which all sixes are read as fives.
        rl_steps: Steps of reinforcement learning.
        questions: Questions of each step of reinforcement learning.
        group: Completions of each question.
        rl_lr: Learning rate of reinforcement learning.
        score_weight: Weight of the supervised loss on scores, in the arms that have one.
        n_test: Number of test questions.
        measure_every: Steps between two measurements.
    """

    width: int = 32
    answer_steps: int = 300
    score_steps: int = 250
    score_noise: float = 0.25
    misread: float = 0.6
    rl_steps: int = 120
    questions: int = 48
    group: int = 8
    rl_lr: float = 5e-4
    score_weight: float = 0.5
    n_test: int = 2000
    measure_every: int = 40


# The baseline of a completion is the mean reward of the others in its group: a group of one would teach nothing.
RANGES = {"score_noise": (0, 1), "misread": (0, 1), "group": (2, inf), "score_weight": (0, inf)}


# ---------------------------------------------------------------- the base: a sloppy corpus, then scores of own answers


def prepare(cfg: Config, seed: int) -> Any:
    """Trains the base on answers, then on answers and on mostly true scores of the model's own answers."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(derive_seed(seed, "scores"))
    model = tiny_llama(TOKENIZER, cfg.width, 2, 4, 16)

    def corpus(n: int) -> Learned:
        prompts, sums, sixes = draw(rng, n)
        told = sums - sixes * (rng.random(n) < cfg.misread)
        return learn_last(torch.cat([prompts, column(told + T0, n), column(SEPARATOR, n)], 1), 2)

    def with_scores(step: int) -> Sequence[Learned]:
        prompts, sums, _ = draw(rng, 96)
        own = sample(model, prompts, 1, 1.0, generator)[:, 0]
        right = own == torch.from_numpy(sums) + T0
        noise = torch.rand(96, generator=generator) < cfg.score_noise
        score = torch.where(noise, torch.randint(0, SCORES, (96,), generator=generator), right.long() * (SCORES - 1))
        return [corpus(96), scored(prompts, own, score)]

    fit(model, lambda step: [corpus(128)], cfg.answer_steps, 4e-3)
    fit(model, with_scores, cfg.score_steps, 2e-3, warmup=10)
    return model


# ---------------------------------------------------------------- what a self-score earns


def brier_reward(told: Tensor, right: Tensor) -> Tensor:
    """One minus the squared error, a proper reward: its expectation is largest for an honest probability."""
    return 1 - (told - right) ** 2


def published_reward(told: Tensor, right: Tensor) -> Tensor:
    """The published consistency of [accuracy, format]; format is always 1 and told as 1, and 0/0 earns 0."""
    larger = torch.maximum(told, right)
    return torch.where(larger > 0, 1 - (told - right).abs() / larger.clamp(min=1e-9) / 2, 0.0)


REWARDS = {"brier": brier_reward, "published": published_reward}
ARMS = ("rl_only", "pcl_brier", "pcl_published", "rl_brier", "rl_published", "oracle_labels", "random_reward")


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """RL of the answer; the arm decides how the score is trained: by a reward, a supervised loss, both, or neither."""
    reward = next((REWARDS[name] for name in REWARDS if arm.endswith(name)), None)
    supervised = cfg.score_weight if arm.startswith("pcl") or arm == "oracle_labels" else 0.0
    of_arms = derive_seed(seed, "arms")
    rng, generator = np.random.default_rng(of_arms), torch.Generator().manual_seed(of_arms)
    model = copy.deepcopy(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.rl_lr, betas=(0.9, 0.99), weight_decay=0.01)
    for_gate = complete(model, QUESTIONS, cfg.group, rng, generator, test=True)
    gate = Gate.read(for_gate.grouped(for_gate.correct), for_gate.grouped(for_gate.paid))
    log = [complete(model, QUESTIONS, cfg.group, rng, generator).meters()]
    rows: list[dict[str, Any]] = [measure(cfg, model, seed) | log.pop() | {"step": 0}]
    groups = torch.arange(cfg.questions).repeat_interleave(cfg.group)
    for step in range(1, cfg.rl_steps + 1):
        done = complete(model, cfg.questions, cfg.group, rng, generator)
        prompts, new, correct, told, is_score = done.prompts, done.new, done.correct, done.told, done.is_score
        log.append(done.meters())
        loss, _ = policy_loss(model, as_batch(prompts, new[:, :2], done.paid, groups))
        if reward is not None or arm == "random_reward":
            coin = torch.randint(0, 2, (len(new),), generator=generator).float()
            earned = torch.where(is_score, coin if reward is None else reward(told, correct), 0.0)
            after = torch.cat([prompts, new[:, :2]], 1)
            # policy_loss is a mean over tokens: halved, the score's token weighs as much as each of the answer's two.
            loss = loss + policy_loss(model, as_batch(after, new[:, 2:], earned, groups))[0] / 2
        if supervised:  # a supervised loss on the same rollout
            ids, learned = scored(prompts, new[:, 0], correct.long() * (SCORES - 1))
            loss = loss + supervised * token_losses(model, ids, learned).mean()
        take_step(model, optimizer, loss)

        if step % cfg.measure_every == 0 or step == cfg.rl_steps:
            found = {name: mean_told([one[name] for one in log]) for name in log[0]} | {"step": step}
            rows.append(measure(cfg, model, seed, samples if step == cfg.rl_steps else None) | found)
            log.clear()
    # The kind is "oracle" in every arm, since the truth rewards the answers; the model's scores do not reward anything.
    rows[-1] |= gate.outcome(rows[-1]["accuracy"] - rows[0]["accuracy"], arm, "oracle")
    return rows


# ---------------------------------------------------------------- measuring: stopped at the separator, and the score


@torch.no_grad()
def measure(cfg: Config, model: Any, seed: int, samples: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Accuracy with generation stopped at the separator, and how well scores separate right from wrong own samples."""
    prompts, sums, _ = draw(np.random.default_rng(10_000), cfg.n_test, test=True)
    generator, right = torch.Generator().manual_seed(derive_seed(seed, "measure")), torch.from_numpy(sums) + T0
    greedy, own = sample(model, prompts, 2, 0.0, generator), sample(model, prompts, 2, 1.0, generator)
    after = torch.cat([prompts, own[:, :1], column(SEPARATOR, len(own))], 1)
    shares = next_logprobs(model, after)[:, S0 : S0 + SCORES].softmax(-1)
    expected = (shares * torch.linspace(0, 1, SCORES)).sum(-1).numpy()
    told = torch.multinomial(shares, 1, generator=generator)[:, 0].numpy() / (SCORES - 1)
    correct = (own[:, 0] == right).numpy()
    groups = prompts[:100].repeat_interleave(cfg.group, 0)
    if samples is not None:
        words = TOKENIZER.convert_ids_to_tokens
        for i in range(min(100, len(own))):
            samples.append({
                "step": cfg.rl_steps,
                "prompt": " ".join(words(prompts[i].tolist())),
                "answer": " ".join([*words(own[i].tolist()), f"s{round(told[i] * 4)}"]),
                "gold": f"t{sums[i]}",
                "right": bool(correct[i]),
                "expected score": f"{expected[i]:.2f}",
            })  # fmt: skip
    of_wrong = told[~correct]
    return {
        "n": cfg.n_test,
        "accuracy": float((greedy[:, 0] == right).float().mean()),
        "accuracy_sampled": float(correct.mean()),
        "stops_at_separator": float((greedy[:, 1] == SEPARATOR).float().mean()),
        "auroc_told": auroc(told, correct),
        "auroc_expected": auroc(expected, correct),
        "brier": brier(expected, correct),
        "told_when_wrong": float(of_wrong.mean()) if len(of_wrong) else float("nan"),
        "share_of_ones": float((told == 1).mean()),
    } | answer_meters(model, groups, sample(model, groups, 4, 1.0, generator, END), cfg.group)


# ---------------------------------------------------------------- what is claimed

CLAIMS = (
    Claim(
        "the score becomes honest",
        "After training with a proper reward the told score separates right from wrong answers better than before.",
        grown("pcl_brier", "auroc_told"),
    ),
    Claim(
        "honest at no cost",
        "Accuracy with generation stopped at the separator stays within 1 point of RL on the answer alone.",
        ahead("pcl_brier", "rl_only"),
        expect="near",
        margin=0.01,
        paper="5 to 10 points above SFT and RL for models of 1.5 to 8B (second-hand)",
    ),
    Claim(
        "better than a probe after RL",
        "The Brier score of the expected score is lower than that of the untrained score of the RL-only model.",
        ahead("pcl_brier", "rl_only", "brier"),
        expect="below",
    ),
    Claim(
        "published reward: always right",
        "Paid by the published relative error, the score is told as 1 for more than 95 % of the answers.",
        last("rl_published", "share_of_ones"),
        than=0.95,
    ),
    Claim(
        "published reward: says nothing",
        "The told score then separates right from wrong no better than chance.",
        last("rl_published", "auroc_told"),
        expect="near",
        than=0.5,
        margin=0.05,
    ),
    Claim(
        "proper reward: not always right",
        "Paid by the Brier score, the score that is told of wrong answers stays lower than with the published reward.",
        ahead("rl_brier", "rl_published", "told_when_wrong"),
        expect="below",
    ),
)

THESIS = Thesis(
    "Post-completion learning", "right answers, and a score that is paid for agreeing with them",
    "a checker of the answer", True, "pcl_brier",
    trained("oracle", "pcl_brier", "rl_only", "rl_brier", "pcl_published", "rl_published", "oracle_labels"),
    without="rl_only",
)  # fmt: skip

EXHIBITS = (
    Figure(
        "What the score says",
        "step",
        ("auroc_told", "told_when_wrong", "share_of_ones", "brier"),
        caption="Scores that the model gives its own samples at temperature 1, {n_test:,} test questions.",
        x_label="step of reinforcement learning",
        y_label="share",
    ),
    Figure(
        "Accuracy, stopped at the separator",
        "step",
        ("accuracy", "accuracy_sampled"),
        caption="Greedy decoding, and temperature 1; {n_test:,} test questions.",
        x_label="step of reinforcement learning",
        y_label="accuracy (share)",
    ),
    Figure(
        "Whole completions",
        "step",
        ("score_accuracy", "entropy", "distinct_answers", "length"),
        caption="Share of pairs of answers to a training question that their own scores rank as the truth does; "
        "entropy in nats per token, distinct answers among {group}, length in tokens.",
        x_label="step of reinforcement learning",
    ),
)
