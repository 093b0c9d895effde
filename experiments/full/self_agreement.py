"""Think Twice Before Trusting (T3) at its own size: a chat model justifies rival answers before it chooses one.

Setting. Li et al. (arXiv 2403.09972) ask GPT-3.5, GLM-4 and Gemini about six data sets: first for a justification of
each candidate answer, then, with all justifications shuffled into one prompt, for the probability that the target is
right, averaged over orders. Here Llama-3-8B-Instruct on GSM8K, 1,000 test questions, two candidates (the model's answer
and a second sample, or a number near it), both orders; then 200 steps of 16 questions x 8 answers for each kind of
self-reward.

Simplified. Two candidates; a verdict is the probability of a letter, not a number in words; the equally wrong answer
for comparison is the model's wrong answer mirrored at the truth. In training, the rewards are single verdicts and
choices between two answers, without justifications, as in the toy; the arm ``verdict_as_action`` is left out.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from experiments.full import HOLDS, OPEN, Asked, Expected, carried, figures_of
from experiments.full.cost import Work
from experiments.full.problems import Answered, Problems, answer, problems, show
from experiments.full.speaker import Speaker, advantages, the_model
from experiments.studies import self_agreement as study
from rl.analysis.calibration import auroc, ece
from rl.analysis.gate import Gate, mean_told, signal_accuracy
from rl.types import derive_seed


@dataclass
class Config(Asked):
    """Settings of the full size.

    Args:
        questions: Number of questions on which the base model's verdicts are measured.
        max_reason: Largest number of tokens of a justification.
        steps: Optimiser steps of every arm.
        asked: Questions per step.
        group: Answers to each question.
        n_test: Number of questions that trained arms are measured on.
        evaluate_every: Steps between two evaluations.
    """

    model: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    questions: int = 1000
    max_reason: int = 128
    steps: int = 200
    asked: int = 16
    group: int = 8
    n_test: int = 500
    evaluate_every: int = 50


RANGES = {"group": (2, inf)}
DRY = {"data": "products", "largest": 2, "questions": 24, "max_reason": 8, "steps": 2, "asked": 2, "group": 3,
       "n_test": 4, "n_signal": 4, "evaluate_every": 1, "max_new": 8, "prompt": 130, "rank": 4}  # fmt: skip
ARMS = ("base", "own_verdict", "frozen_verdict", "side_by_side", "oracle", "random")
prepare = the_model


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: the base's answers, justifications and verdicts; otherwise training, gate and evaluations."""
    whole, short = cfg.prompt + cfg.max_new, cfg.prompt + 40
    base = Work(
        2 * cfg.max_new + 2 * cfg.max_reason, cfg.prompt + 2 * short + 3 * short + 2 * (short + 2 * cfg.max_reason)
    )
    n, looks = cfg.asked * cfg.group, 1 + -(-cfg.steps // cfg.evaluate_every)
    found = {"base": cfg.questions * base}
    for arm in ARMS[1:]:
        verdicts = {"own_verdict": 1, "frozen_verdict": 1, "side_by_side": 2}.get(arm, 0) * short
        step = Work(n * cfg.max_new, cfg.asked * cfg.prompt + n * verdicts, n * whole)
        gate = Work(cfg.group * cfg.max_new, cfg.prompt + cfg.group * verdicts)
        found[arm] = cfg.steps * step + cfg.n_signal * gate
        found[arm] += cfg.n_test * (gate + looks * Work(cfg.max_new, cfg.prompt + short))
    return found


def claim(question: str, number: Any) -> str:
    """The prompt that asks for a verdict on a single answer."""
    return f"{question}\nIs the answer {number} correct? Answer Yes or No."


def beside(question: str, one: str, other: str) -> str:
    """The prompt that asks for a choice between two answers."""
    return f"{question}\nA: {one}\nB: {other}\nWhich of the two is correct? Answer with A or B only."


def p_yes(speaker: Speaker, asked: list[str]) -> np.ndarray:
    """P(Yes) / (P(Yes) + P(No)) for each prompt."""
    return 1 / (1 + np.exp(-speaker.odds(asked)))


def p_first(speaker: Speaker, asked: list[str]) -> np.ndarray:
    """P(A) / (P(A) + P(B)) for each prompt."""
    return np.exp(speaker.words(asked, ("A", "B"))[:, 0])


def run(cfg: Config, arm: str, seed: int, base: Speaker, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measures the base model's verdicts (arm ``base``), or trains with the reward of the arm."""
    base.adapt(derive_seed(seed, "adapters"))
    of, rng = problems(cfg), np.random.default_rng(derive_seed(seed, "arms"))
    if arm == "base":
        tasks = of.draw(rng, cfg.questions, test=True)
        return [believes(cfg, base, of, tasks, seed, rng, samples)]
    test, rows = (
        of.draw(np.random.default_rng(derive_seed(seed, "tests")), cfg.n_test, test=True),
        list[dict[str, Any]](),
    )

    def play(tasks: Any, what: Any) -> tuple[Answered, np.ndarray]:
        found = answer(base, of, tasks, derive_seed(seed, arm, what), cfg.max_new, cfg.group)
        return found, np.where(found.formed, earned(arm, base, found, rng), 0.0)

    before = play(of.draw(rng, cfg.n_test, test=True), "gate")
    first = play(of.draw(rng, cfg.n_signal, test=False), "signal")
    gate, accuracies = Gate.read(before[0].right, before[1]), [signal_accuracy(first[1], first[0].right)]
    for step in range(cfg.steps + 1):
        if step % cfg.evaluate_every == 0 or step == cfg.steps:
            found = answer(base, of, test, derive_seed(seed, "evaluate"), cfg.max_new, 1)
            own = verdicts(base, found).ravel()
            show(found, step, samples, 10)
            agrees = float(((own > 0.5) == found.right.ravel()).mean())
            rows.append(found.meters() | {"step": step, "own_yes": float(own.mean()), "verdict_accuracy": agrees})
            rows[-1]["reward_accuracy"] = mean_told(accuracies)
            accuracies.clear()
        if step < cfg.steps:
            found, reward = play(of.draw(rng, cfg.asked, test=False), step)
            accuracies.append(signal_accuracy(reward, found.right))
            base.step(found.rows, advantages(reward))
    rows[-1] |= gate.outcome(base.gain(rows, "accuracy"), arm, study.THESIS.kind(arm))
    return rows


def verdicts(speaker: Speaker, found: Answered) -> np.ndarray:
    """P(Yes) ``[N, K]`` of each final answer."""
    asked = [claim(task.question, key) for task, keys in zip(found.tasks, found.keys, strict=True) for key in keys]
    return p_yes(speaker, asked).reshape(found.right.shape)


def earned(arm: str, speaker: Speaker, found: Answered, rng: np.random.Generator) -> np.ndarray:
    """Rewards ``[N, K]`` of an arm: the truth, a coin flip, P(Yes), or the choice against another answer."""
    if arm in ("oracle", "random"):
        return (found.right if arm == "oracle" else rng.random(found.right.shape) < 0.5).astype(float)
    if arm == "frozen_verdict":
        with speaker.as_it_was():
            return verdicts(speaker, found)
    if arm == "own_verdict":
        return verdicts(speaker, found)
    # Each answer is compared with the next well-formed answer of its group; without such a rival its reward is 0.5.
    scores, k = np.full(found.right.shape, 0.5), found.right.shape[1]
    pairs = []
    for i, j in np.argwhere(found.formed).tolist():
        rivals = [key for key in (found.keys[i, (j + step) % k] for step in range(1, k)) if key is not None]
        pairs += [(i, j, found.tasks[i].question, str(found.keys[i, j]), str(rivals[0]))] if rivals else []
    there = p_first(speaker, [beside(*pair[2:]) for pair in pairs])
    back = p_first(speaker, [beside(question, other, one) for _, _, question, one, other in pairs])
    for (i, j, *_), score in zip(pairs, (there + 1 - back) / 2, strict=True):
        scores[i, j] = score
    return scores


def believes(
    cfg: Config, speaker: Speaker, of: Problems, tasks: Any, seed: int, rng: np.random.Generator,
    samples: list[dict[str, Any]]
) -> dict[str, Any]:  # fmt: skip
    """Measures which answers the base model accepts: its own, an equally wrong one, and one of two justified ones."""
    found = answer(speaker, of, tasks, derive_seed(seed, "base"), cfg.max_new, 2)
    gold = np.array([number(task.gold) for task in tasks])
    own, other = (np.array([number(key) for key in found.keys[:, j]]) for j in range(2))
    off = rng.choice([-3, -2, -1, 1, 2, 3], len(tasks))
    rival = np.where(np.isnan(other) | (other == own), np.abs(np.nan_to_num(own) + off), other)
    known, right, mirror = ~np.isnan(own), found.right[:, 0], 2 * gold - own
    comparable, questions = known & ~right & (mirror >= 0), [task.question for task in tasks]
    single, of_mirror, of_rival = (
        p_yes(speaker, [claim(q, f"{x:g}") for q, x in zip(questions, np.nan_to_num(numbers), strict=True)])
        for numbers in (own, mirror, rival)
    )
    whys = []
    for who, numbers in (("own", own), ("rival", rival)):
        asked = [f"{q}\nSuppose the answer is {x:g}. Explain in two sentences why." for q, x in
                 zip(questions, np.nan_to_num(numbers), strict=True)]  # fmt: skip
        said = speaker.say(asked, derive_seed(seed, "why", who), cfg.max_reason)
        whys.append([f"{x:g}, because: {one.text}" for (one,), x in zip(said, numbers, strict=True)])
    there = p_first(speaker, [beside(*three) for three in zip(questions, *whys, strict=True)])
    back = p_first(speaker, [beside(*three) for three in zip(questions, *whys[::-1], strict=True)])
    scores = {"single": single, "one_order": there, "side": (there + 1 - back) / 2}
    scores["normalised"] = single / (single + of_rival)
    for i, (task, why) in enumerate(list(zip(tasks, whys[0], strict=True))[:40]):
        about = {"prompt": task.question, "answer": why, "gold": task.gold, "right": bool(right[i])}
        samples.append({"step": 0} | about | {"p_yes": float(single[i]), "side_by_side": float(scores["side"][i])})
    row = found.meters() | {"place_bias": float(abs((there + back).mean() / 2 - 0.5))}
    row |= {f"{kind}_{name}": meter(score[known], right[known]) for name, score in scores.items()
            for kind, meter in (("auroc", auroc), ("ece", ece))}  # fmt: skip
    return row | ({"bias": (single - of_mirror)[comparable].tolist()} if comparable.any() else {})


def number(text: str | None) -> float:
    """An answer as a number; ``nan`` if it is none."""
    try:
        return float(str(text).replace(",", ""))
    except ValueError:
        return float("nan")


T3, KADAVATH = "arXiv 2403.09972", "arXiv 2207.05221"
EXPECTED = (
    Expected("bias", HOLDS, f"models accept own answers too readily ({T3})"),
    Expected("side_by_side_helps", HOLDS, f"what T3 reports on all six data sets ({T3})"),
    Expected("orders_help", HOLDS, f"dropping the shuffle hurts ({T3}); chat models prefer a place (arXiv "
             "2306.05685)"),
    Expected("calibrated", HOLDS, f"lower ECE throughout ({T3})"),
    Expected("joint_view_helps", HOLDS, f"dropping the joint step hurts ({T3})"),
    Expected("own_reward_rises", HOLDS, "it is what is trained"),
    Expected("own_accuracy_falls", OPEN, f"P(Yes) of a large model is partly right ({KADAVATH}), so accuracy may rise "
             "first, and in the toy it need not fall"),
    Expected("frozen_no_remedy", OPEN, "as own_accuracy_falls, with a judge that does not move"),
    Expected("side_no_remedy", OPEN, "a better signal than single verdicts; may well raise accuracy"),
    Expected("oracle_rises", HOLDS, "GRPO on a checker raises GSM8K (arXiv 2402.03300)"),
    Expected("random_stays", HOLDS, "the mean of a coin's advantages is 0"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, figures_of(study.EXHIBITS, "With a 4", "Yes to anything")
