"""Self-agreement: does a model believe its own wrong answers, and what happens if this belief is its reward?

Li et al. ("Think Twice Before Trusting", arXiv 2403.09972) find that a model asked about its own answer mostly agrees
with itself, and that it judges better when it sees the alternatives, averaged over shuffled orders.

Here one small network adds digits, says yes or no to a proposed sum, and chooses among four sums. All three prompts
begin with the same tokens, so that all three use the same knowledge. The corpus contains a misconception: in six of ten
lines all 4s are taken for 3s, in answers, verdicts and choices alike. A quarter of the verdicts follow a habit instead:
yes to long questions, no to short ones. A corpus without these two leaves little to find (an earlier one: bias .03).

The base is measured first. Then the base is trained with the same policy gradient and one of these rewards: the model's
own P(yes) (``own_verdict``), that of the base (``frozen_verdict``), a verdict that is itself sampled and trained
(``verdict_as_action``), the side-by-side score, the truth (``oracle``), or a coin (``random``). Left out:
justifications before the verdict, and answers of many tokens.
"""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.misread_sums import (
    MARK,
    NO,
    T0,
    TOKENIZER,
    TOP,
    YES,
    answers,
    choice,
    corpus,
    draw,
    four,
    line,
    misread_by,
    nearby,
    p_yes,
)
from experiments.own_verdicts import Chat, beliefs
from rl.analysis.calibration import auroc, ece
from rl.analysis.claims import Claim, Figure, grown, last, minus
from rl.analysis.gate import QUESTIONS, Gate, mean_told, signal_accuracy
from rl.analysis.thesis import Thesis, trained
from rl.backends.blocks import adam, as_batch, fit, policy_loss, sample, take_step
from rl.backends.meters import answer_meters
from rl.backends.policy import load_policy
from rl.backends.tiny import tiny_gpt2
from rl.config import ModelConfig
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        hidden_size: Width of the network.
        pretrain_steps: Most steps of pretraining, which stops once the network has learned to choose.
        chooses_right: Share of right choices, on questions without a 4, at which pretraining stops.
        misread: Share of the corpus's lines in which all 4s are taken for 3s.
        habit: Share of the corpus's verdicts that ignore the proposed sum.
        questions: Number of questions on which the base is measured.
        steps: Optimiser steps of every arm.
        lr: Learning rate of the arms. At 1e-3, rewards by the model itself only destroy the model.
        evaluate_every: Steps between two measurements.
        model: Folder of an instruction-tuned model; if set, its beliefs about additions are measured and nothing is
            trained.
    """

    hidden_size: int = 48
    pretrain_steps: int = 1200
    chooses_right: float = 0.8
    misread: float = 0.6
    habit: float = 0.25
    questions: int = 2000
    steps: int = 160
    lr: float = 2e-4
    evaluate_every: int = 40
    model: str = ""


RANGES = {"chooses_right": (0, 1), "misread": (0, 1), "habit": (0, 1)}


GROUP = 8
"""Number of answers that are sampled for each question and compared with each other."""


def prepare(cfg: Config, seed: int) -> Any:
    """Trains a network that adds, checks and chooses as its corpus does; if ``cfg.model`` is set, loads that model."""
    if cfg.model:
        return Chat(*load_policy(ModelConfig(path=cfg.model)))
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = tiny_gpt2(TOKENIZER, cfg.hidden_size, 2, 4, 16)

    def has_learned(step: int) -> bool:  # choosing is the last skill to be learned, and it appears suddenly
        if step < 200 or step % 50:
            return False
        question, gold = draw(np.random.default_rng(0), 1500)
        known = misread_by(question) == 0
        chosen = side_by_side(model, question[known], gold[known], None, np.random.default_rng(1), 1)
        return bool((chosen > 0.5).mean() >= cfg.chooses_right)

    fit(model, lambda step: corpus(rng, cfg.misread, cfg.habit), cfg.pretrain_steps, 3e-3, has_learned)
    return model


def side_by_side(
    model: Any,
    question: np.ndarray,
    target: np.ndarray,
    others: np.ndarray | None,
    rng: np.random.Generator,
    orders: int,
) -> np.ndarray:
    """Probability that the target is chosen among four sums, as a mean over ``orders`` rotations of their places."""
    shown, place = four(rng, target, others)
    n, total = np.arange(len(target)), np.zeros(len(target))
    for turn in range(orders):
        total += choice(model, question, np.roll(shown, turn, 1))[n, (place + turn) % 4]
    return total / orders


def of_four_verdicts(
    model: Any, question: np.ndarray, target: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The target's single verdict divided by the sum of the four: a control that does not show the sums together."""
    shown, place = four(rng, target, others)
    verdicts = np.stack([p_yes(model, question, shown[:, j]) for j in range(4)], 1)
    return verdicts[np.arange(len(target)), place] / verdicts.sum(1)


def earned(
    arm: str, judge: Any, question: np.ndarray, gold: np.ndarray, answer: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """``[n]`` rewards of an arm: the truth, a coin, the score side by side with the group, P(yes), or a sampled yes."""
    if arm == "oracle":
        return (answer == gold).astype(float)
    if arm == "random":
        return (rng.random(len(answer)) < 0.5).astype(float)
    if arm == "side_by_side":
        rivals = np.repeat(answer.reshape(-1, GROUP), GROUP, 0)
        return side_by_side(judge, question, answer, rivals, rng, 4)
    chance = p_yes(judge, question, answer)
    return (rng.random(len(answer)) < chance).astype(float) if arm == "verdict_as_action" else chance


class Played(NamedTuple):
    """Groups of answers and their rewards; malformed answers are left out of every comparison."""

    question: np.ndarray
    answer: np.ndarray
    formed: np.ndarray
    right: np.ndarray
    reward: np.ndarray

    @property
    def reward_accuracy(self) -> float:
        """Share of pairs of answers to a question that the reward orders as the truth does."""
        return signal_accuracy(
            *(np.where(self.formed, x, np.nan).reshape(-1, GROUP) for x in (self.reward, self.right))
        )

    @property
    def gate(self) -> Gate:
        """Gain in accuracy from picking the answer with the highest reward."""
        score = np.where(self.formed, self.reward, -np.inf)
        return Gate.read((self.right & self.formed).reshape(-1, GROUP), score.reshape(-1, GROUP))


def play(
    arm: str, model: Any, judge: Any, n: int, rng: np.random.Generator, generator: torch.Generator, test: bool = False
) -> Played:
    """Samples answers to n questions and computes the arm's rewards for them."""
    question, gold = (np.repeat(one, GROUP, 0) for one in draw(rng, n, test))
    given = answers(model, question, 1.0, generator)
    answer = np.maximum(given, 0)
    return Played(question, answer, given >= 0, answer == gold, earned(arm, judge, question, gold, answer, rng))


ARMS = ("base", "own_verdict", "frozen_verdict", "verdict_as_action", "side_by_side", "oracle", "random")


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measures the base, or trains a copy of it with the arm's reward; a real model is only measured."""
    if isinstance(base, Chat):
        return [beliefs(base, cfg.questions, seed, samples)] if arm == "base" else []
    of_arms = derive_seed(seed, "arms")
    generator, rng = torch.Generator().manual_seed(of_arms), np.random.default_rng(of_arms)
    if arm == "base":
        return [{"arm": arm, "seed": seed, "step": 0} | measure(cfg, base, rng, generator, samples)]
    model, rows = copy.deepcopy(base), []
    optimizer, judge = adam(model, cfg.lr), base if arm == "frozen_verdict" else model
    gate = play(arm, model, judge, QUESTIONS, rng, generator, test=True).gate
    accuracies = [play(arm, model, judge, QUESTIONS, rng, generator).reward_accuracy]
    for step in range(cfg.steps + 1):
        if step % cfg.evaluate_every == 0 or step == cfg.steps:
            rows.append({"arm": arm, "seed": seed, "step": step} | evaluate(model, samples, step))
            rows[-1]["reward_accuracy"] = mean_told(accuracies)
            accuracies.clear()
        if step == cfg.steps:
            break
        played = play(arm, model, judge, 48, rng, generator)
        accuracies.append(played.reward_accuracy)
        groups, actions = torch.arange(len(played.answer)) // GROUP, torch.from_numpy(played.answer + T0)[:, None]
        formed, paid = torch.from_numpy(played.formed), torch.from_numpy(played.reward)
        loss = policy_loss(model, as_batch(line(played.question), actions, paid, groups, formed))[0]
        if arm == "verdict_as_action":  # the sampled verdict is trained as well, with reward 1 for yes
            said = torch.where(paid > 0, YES, NO)[:, None]
            asked = line(played.question, played.answer + T0, MARK)
            loss = loss + policy_loss(model, as_batch(asked, said, paid, groups, formed))[0]
        take_step(model, optimizer, loss)
    rows[-1] |= gate.outcome(rows[-1]["accuracy"] - rows[0]["accuracy"], arm, THESIS.kind(arm))
    return rows


def measure(
    cfg: Config, model: Any, rng: np.random.Generator, generator: torch.Generator, samples: list[dict[str, Any]]
) -> dict[str, float]:
    """Which answers the base believes, and how well each way of asking separates its right from its wrong answers."""
    question, gold = draw(rng, cfg.questions, test=True)
    given = answers(model, question, 1.0, generator)
    own = np.where(given < 0, nearby(rng, gold), given)
    others = np.stack([np.maximum(answers(model, question, 1.0, generator), 0) for _ in range(4)], 1)
    right, mirror = own == gold, 2 * gold - own  # the mirror is as far from the sum, on the other side
    comparable = ~right & (mirror >= 0) & (mirror <= TOP)
    of_own, of_mirror = p_yes(model, question, own), p_yes(model, question, np.clip(mirror, 0, TOP))
    scores = {
        "single": of_own,
        "one_order": side_by_side(model, question, own, others, rng, 1),
        "side": side_by_side(model, question, own, others, rng, 4),
        "normalised": of_four_verdicts(model, question, own, others, rng),
    }
    places, hard = choice(model, question, four(rng, own, others)[0]).mean(0), misread_by(question) > 0
    for i in range(40):
        samples.append({"step": 0, "prompt": TOKENIZER.decode(line(question)[i]), "answer": f"t{own[i]}"}
                       | {"gold": f"t{gold[i]}", "right": bool(right[i]), "p_yes": float(of_own[i])}
                       | {"side_by_side": float(scores["side"][i])})  # fmt: skip
    return {
        "accuracy": float(right.mean()),
        "accuracy_without_4": float(right[~hard].mean()),
        "accepts_own_wrong": float(of_own[~right].mean()),
        "accepts_mirror": float(of_mirror[comparable].mean()),
        "bias": float((of_own - of_mirror)[comparable].mean()),
        "accepts_truth_when_wrong": float(p_yes(model, question, gold)[~right].mean()),
        "place_bias": float(np.abs(places - 0.25).max()),
    } | {
        f"{kind}_{name}": meter
        for name, score in scores.items()
        for kind, meter in (
            ("auroc", auroc(score, right)),
            ("ece", ece(score, right)),
            ("auroc_with_4", auroc(score[hard], right[hard])),
        )
    }


def evaluate(model: Any, samples: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Accuracy, the model's verdicts on its answers and how often these are right, on 800 fixed held-out questions."""
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    question, gold = draw(rng, 800, test=True)
    given = answers(model, question, 1.0, generator)
    answer, right = np.maximum(given, 0), given == gold
    own = p_yes(model, question, answer)
    asked = line(np.repeat(question[:100], GROUP, 0))
    for i in range(12):
        samples.append({"step": step, "prompt": TOKENIZER.decode(line(question)[i]), "answer": f"t{given[i]}"}
                       | {"gold": f"t{gold[i]}", "right": bool(right[i]), "p_yes": float(own[i])})  # fmt: skip
    return {
        "accuracy": float(right.mean()),
        "greedy": float((answers(model, question, 0.0, generator) == gold).mean()),
        "accuracy_with_4": float(right[misread_by(question) > 0].mean()),
        "own_yes": float(own.mean()),
        "yes_to_anything": float(p_yes(model, question, rng.integers(0, TOP + 1, 800)).mean()),
        "verdict_accuracy": float(((own > 0.5) == right).mean()),
        "distinct": len(np.unique(answer)) / (TOP + 1),
        "malformed": float((given < 0).mean()),
        "without_4": float((misread_by(question) == 0).mean()),
    } | answer_meters(model, asked, sample(model, asked, 1, 1.0, generator), GROUP)


PAPER = "arXiv 2403.09972"
# fmt: off
CLAIMS = (
    Claim("bias", "P(yes) is higher for its own wrong answer than for another one that is as wrong (the difference)",
          last("base", "bias"), paper=PAPER),
    Claim("side_by_side_helps", "Side by side tells right from wrong better than single verdicts (AUROC)",
          minus(last("base", "auroc_side"), last("base", "auroc_single")), paper=PAPER),
    Claim("orders_help", "The mean over four orders tells right from wrong better than one order (AUROC)",
          minus(last("base", "auroc_side"), last("base", "auroc_one_order")), paper=PAPER),
    Claim("calibrated", "Side by side is better calibrated than single verdicts (ECE, by how much it is lower)",
          minus(last("base", "ece_single"), last("base", "ece_side")), paper=PAPER),
    Claim("joint_view_helps", "Seeing alternatives together beats single verdicts divided by their sum (AUROC)",
          minus(last("base", "auroc_side"), last("base", "auroc_normalised"))),
    Claim("sees_its_misconception", "Side by side sees through the misconception (AUROC on questions with a 4)",
          last("base", "auroc_with_4_side"), than=0.5),
    Claim("own_reward_rises", "Paid by its own P(yes), the model comes to agree with itself more",
          grown("own_verdict", "own_yes")),
    Claim("own_accuracy_falls", "Paid by its own P(yes), the model answers fewer questions rightly",
          grown("own_verdict", "accuracy"), "below"),
    Claim("ends_at_its_beliefs", "That accuracy ends within .05 of the share of questions without a false belief",
          minus(last("own_verdict", "accuracy"), last("own_verdict", "without_4")), "near", margin=0.05),
    Claim("frozen_no_remedy", "Paid by the base's P(yes), which does not move, accuracy falls too",
          grown("frozen_verdict", "accuracy"), "below"),
    Claim("side_no_remedy", "Paid by the side-by-side score, accuracy falls too",
          grown("side_by_side", "accuracy"), "below"),
    Claim("action_always_yes", "A verdict that is trained itself ends saying yes to random sums (P above .9)",
          last("verdict_as_action", "yes_to_anything"), than=0.9),
    Claim("oracle_rises", "Paid by the truth, the same updates raise accuracy", grown("oracle", "accuracy")),
    Claim("random_stays", "Paid by a coin, accuracy stays within .05 of where it was",
          grown("random", "accuracy"), "near", margin=0.05),
)
# fmt: on

LOOP = ARMS[1:]
THESIS = Thesis(
    "Self-agreement (T3)", "its own P(yes) of its answer", "nothing: the verifier is the model", False, "own_verdict",
    (*trained("self", "own_verdict", "frozen_verdict", "verdict_as_action", "side_by_side"),
     *trained("oracle", "oracle"), *trained("control", "random")),
)  # fmt: skip

EXHIBITS = (
    Figure("Accuracy", "step", "accuracy", LOOP, x_label="optimiser step", y_label="share of sampled answers right"),
    Figure("Its own P(yes)", "step", "own_yes", LOOP, x_label="optimiser step", y_label="mean P(yes) of its answers"),
    Figure("Yes to anything", "step", "yes_to_anything", LOOP, x_label="optimiser step", y_label="P(yes), random sums"),
    Figure(
        "Reward and verdict against truth",
        "step",
        ("reward_accuracy", "verdict_accuracy"),
        LOOP,
        "reward_accuracy: share of pairs of answers to a question that the reward ranks as the truth does, at step 0 "
        f"on {QUESTIONS} questions; verdict_accuracy: share of the model's own verdicts at that step that are right, "
        "in every arm, whatever its reward.",
        "optimiser step",
        "share right",
    ),
    Figure(
        "Variety of answers",
        "step",
        ("entropy", "distinct_answers"),
        LOOP,
        f"Entropy in nats per token; number of distinct answers among {GROUP} to a question.",
        "optimiser step",
    ),
    Figure("With a 4", "step", "accuracy_with_4", LOOP, x_label="optimiser step", y_label="accuracy on such questions"),
)
