"""SERL at its own size: a chat model writes answers, judges them in pairs, and its verdicts reward both.

Setting. Ou et al. (arXiv 2511.07922): Qwen3-8B, 5,000 prompts of UltraFeedback, 5 epochs of 8 prompts per step (3,125
steps), N = 4 responses, K = 4 judgments of each pair (2 of each order), a length gate of 20 %, no KL penalty, learning
rate 1e-6 with all weights. Here adapters at 1e-5, ten times that rate ("LoRA Without Regret", Schulman et al. 2025).

Simplified. The prompts are those of GSM8K, because the study needs a true value of each answer that takes no judge: 1
if a checker accepts the answer. The sampling temperature is 1 (published: 0.9), the learning rate is constant
(published: warm-up and cosine). The model does not think before it answers (a switch of its template), so that 512
tokens are enough. A verdict is one word, A or B, sampled by its probability. The judge is measured on pairs of the
model's held-out answers of which exactly one is right, not on random pairs. The arm ``blind`` (a judge that cannot see
the responses) is left out.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from experiments.full import HOLDS, OPEN, Asked, Expected, carried, figures_of
from experiments.full.cost import Work
from experiments.full.problems import Answered, Problems, answer, problems, show
from experiments.full.speaker import Said, Speaker, advantages, the_model
from experiments.studies import self_judging as study
from rl.analysis.copeland import agreement, copeland, ordered_pairs
from rl.analysis.gate import Gate, mean_told, signal_accuracy
from rl.types import derive_seed


@dataclass
class Config(Asked):
    """Settings of the full size.

    Args:
        steps: Optimiser steps of every arm.
        prompts: Prompts per step.
        responses: Number N of responses to each prompt.
        judgments: Number K of judgments of each unordered pair of responses; even, half for each order.
        n_test: Number of held-out prompts, with N responses each.
        evaluate_every: Steps between two evaluations.
    """

    model: str = "Qwen/Qwen3-8B"
    steps: int = 3125
    prompts: int = 8
    responses: int = 4
    judgments: int = 4
    n_test: int = 500
    evaluate_every: int = 625

    def __post_init__(self) -> None:
        if self.judgments % 2:
            raise ValueError(f"settings.judgments={self.judgments}: use an even number, half for each order")


RANGES = {"responses": (2, inf)}
DRY = {"data": "products", "largest": 2, "steps": 2, "prompts": 2, "responses": 3, "judgments": 2, "n_test": 12,
       "n_signal": 6, "evaluate_every": 1, "max_new": 8, "prompt": 140, "rank": 4}  # fmt: skip
ARMS = ("self_judging", "oracle", "random", "no_judge_reward", "one_order", "no_gate")
prepare = the_model


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: responses and judgments of pairs, in training steps, evaluations and the gate."""
    n, looks = cfg.responses, 1 + -(-cfg.steps // cfg.evaluate_every)
    answered, judged = cfg.prompt + cfg.max_new, cfg.prompt + 2 * cfg.max_new + 60
    found = {}
    for arm in ARMS:
        shown = n * (n - 1) // (2 if arm == "one_order" else 1)
        # Equal verdicts on a pair in the same order are trained on as one row.
        verdicts = 0 if arm == "no_judge_reward" else min(cfg.judgments * n * (n - 1) // 2, 2 * shown)
        step = Work(n * cfg.max_new, cfg.prompt + shown * judged, n * answered + verdicts * judged)
        look = Work(n * cfg.max_new, cfg.prompt + n * (n - 1) * judged)
        found[arm] = cfg.steps * cfg.prompts * step + looks * cfg.n_test * look
        gate = Work(n * cfg.max_new, cfg.prompt + shown * judged)
        found[arm] += (cfg.n_test + cfg.n_signal) * gate
    return found


def pair(question: str, one: str, other: str) -> str:
    """The prompt that asks the judge which of two responses is better."""
    return (f"{question}\n\nResponse A:\n{one}\n\nResponse B:\n{other}\n\n"
            "Which response is better? Answer with A or B only.")  # fmt: skip


def says_first(speaker: Speaker, found: Answered, pairs: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Probability ``[B, O]`` that the response shown first wins, and the prompts of the judge."""
    asked = [pair(task.question, many[i].text, many[j].text)
             for task, many in zip(found.tasks, found.said, strict=True) for i, j in pairs]  # fmt: skip
    return np.exp(speaker.words(asked, ("A", "B"))[:, 0]).reshape(-1, len(pairs)), asked


def run(cfg: Config, arm: str, seed: int, base: Speaker, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trains an arm: in each step it samples responses, judges pairs, rewards responses and verdicts, and updates."""
    base.adapt(derive_seed(seed, "adapters"))
    of, rng = problems(cfg), np.random.default_rng(derive_seed(seed, "arms"))
    test = of.draw(np.random.default_rng(derive_seed(seed, "tests")), cfg.n_test, test=True)
    n, pairs = cfg.responses, ordered_pairs(cfg.responses, both_orders=arm != "one_order")
    one, other = pairs.T
    k = max(1, cfg.judgments * n * (n - 1) // 2 // len(pairs))  # Judgments per shown order of a pair.
    pair_of = np.minimum(one, other) * n + np.maximum(one, other)
    gate = Gate.read(*before_training(cfg, arm, base, of, of.draw(rng, cfg.n_test, test=True), seed, rng))
    right, reward = before_training(cfg, arm, base, of, of.draw(rng, cfg.n_signal, test=False), seed, rng)
    rows, hits = list[dict[str, Any]](), [signal_accuracy(reward, right)]
    for step in range(cfg.steps + 1):
        if step % cfg.evaluate_every == 0 or step == cfg.steps:
            rows.append(evaluate(cfg, base, of, test, seed, step, samples))
            rows[-1]["reward_accuracy"] = mean_told(hits)
            hits.clear()
        if step == cfg.steps:
            break
        found = answer(base, of, of.draw(rng, cfg.prompts, test=False), derive_seed(seed, arm, step), cfg.max_new, n)
        chance, asked = says_first(base, found, pairs)
        votes_BOK = (rng.random((*chance.shape, k)) < (0.5 if arm == "random" else chance[..., None])).astype(float)
        worth_BN = found.right.astype(float)
        truth_BO = np.sign(worth_BN[:, one] - worth_BN[:, other])
        paying = np.repeat((1 + truth_BO)[..., None] / 2, k, 2) if arm == "oracle" else votes_BOK
        lengths_BN = np.array([[max(1, len(said.ids)) for said in many] for many in found.said])
        rewards_BN = copeland(paying, pairs, lengths_BN, inf if arm == "no_gate" else 0.2)
        hits.append(signal_accuracy(rewards_BN, worth_BN))
        learned, weights = found.rows, [advantages(rewards_BN)]
        if arm != "no_judge_reward":  # The group of an advantage is the K judgments of an unordered pair.
            paid_BOK = agreement(votes_BOK, pairs, rewards_BN)
            letters = [base.plain("A")[:1], base.plain("B")[:1]]
            prompts = [base.prompt(text) for text in asked]
            learned = learned + [Said(prompts[i], letters[int(vote < 0.5)], "")
                                 for i, votes in enumerate(votes_BOK.reshape(-1, k)) for vote in votes]  # fmt: skip
            order = np.argsort(pair_of, kind="stable")
            of_pairs = advantages(paid_BOK[:, order].reshape(len(found.tasks) * n * (n - 1) // 2, -1))
            back = np.empty_like(paid_BOK)
            back[:, order] = of_pairs.reshape(paid_BOK.shape)
            weights.append(back.ravel())
        base.step(learned, np.concatenate(weights))
    rows[-1] |= gate.outcome(base.gain(rows, "worthy"), arm, study.THESIS.kind(arm))
    return rows


def before_training(
    cfg: Config, arm: str, speaker: Speaker, of: Problems, tasks: Any, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays ``[B, N]`` before training: whether responses are right, and their rewards in the arm.

    Rewards are computed from the probabilities of verdicts instead of sampled verdicts.
    """
    pairs = ordered_pairs(cfg.responses, both_orders=arm != "one_order")
    found = answer(speaker, of, tasks, derive_seed(seed, "before", tasks[0].id), cfg.max_new, cfg.responses)
    chance, _ = says_first(speaker, found, pairs)
    lengths_BN = np.array([[max(1, len(said.ids)) for said in many] for many in found.said])
    rewards = copeland(chance[..., None], pairs, lengths_BN, inf if arm == "no_gate" else 0.2)
    told = {"oracle": found.right.astype(float), "random": rng.random(found.right.shape)}
    return found.right, told.get(arm, rewards)


def evaluate(
    cfg: Config, speaker: Speaker, of: Problems, test: Any, seed: int, step: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Evaluates on held-out prompts: the share of right responses, and the judge on pairs with one right response."""
    found = answer(speaker, of, test, derive_seed(seed, "evaluate"), cfg.max_new, cfg.responses)
    pairs = ordered_pairs(cfg.responses)
    chance, _ = says_first(speaker, found, pairs)
    right = found.right[:, pairs[:, 0]].astype(float) - found.right[:, pairs[:, 1]]
    half = len(pairs) // 2  # The second half has the same pairs in the same sequence, with swapped orders.
    both, differ = chance[:, :half] + 1 - chance[:, half:] > 1, right[:, :half] != 0
    show(found, step, samples, 6)
    row = found.meters() | {
        "step": step,
        "worth": float(found.right.mean()),
        "worthy": float(found.right.mean()),
        "says_first": float(chance.mean()),
        "place_bias": float(abs(chance.mean() - 0.5)),
        "distinct": len({one.text for one in found.rows}) / len(found.rows),
    }
    if differ.any():
        row["judge"] = float(np.where(right > 0, chance, 1 - chance)[right != 0].mean())
        row["judge_both_orders"] = float((both == (right[:, :half] > 0))[differ].mean())
    return row


SERL = "arXiv 2511.07922"
EXPECTED = (
    Expected("actor_rises", OPEN, f"published on open requests: 52.4 -> 59.9 win rate ({SERL}); of products and word "
             "problems the model judges little better than it answers (docs/studies.md, verification_gap)",
             sentence="The actor improves on its own verdicts (share of held-out responses that are right)"),
    Expected("judge_rises", OPEN, f"published for the agreement of verdicts, not for their truth ({SERL})"),
    Expected("judge_passes_itself", OPEN, "judge_rises, by more than both orders give at the start"),
    Expected("judge_reward_helps_actor", OPEN, f"ablation of {SERL}, without intervals",
             sentence="The judge's reward makes more responses right (against no_judge_reward)"),
    Expected("judge_reward_helps_judge", OPEN, f"ablation of {SERL}, without intervals"),
    Expected("both_orders_help", HOLDS, "chat models prefer a place (Zheng et al., arXiv 2306.05685)"),
    Expected("one_order_drifts", HOLDS, "a verdict that is paid for agreeing with itself in one order may be the place "
             "alone; as in the toy"),
    Expected("gate_holds_length", HOLDS, f"chat models prefer the longer one (arXiv 2306.05685); what the gate is for "
             f"({SERL})",
             sentence="Without the length gate responses are longer (tokens, the difference)"),
    Expected("random_stays", HOLDS, "the mean of a coin's advantages is 0",
             sentence="A coin's verdicts leave the share of right responses within .1 of where it was"),
    Expected("oracle_is_better", HOLDS, "right answers paid by a checker raise GSM8K by several points (GRPO, arXiv "
             "2402.03300)",
             sentence="Verdicts of the truth make more responses right (oracle minus self_judging)"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, figures_of(study.EXHIBITS)
