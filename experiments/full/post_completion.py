"""Post-completion learning at its own size: a chat model scores its answer after a separator, and is rewarded for it.

Setting. Fei et al. (arXiv 2507.20252): Qwen2.5-1.5B-Instruct on GSM8K's training questions, 2 epochs of GRPO with 8
completions of up to 1,024 tokens, at 1e-5 to 2e-5 with all weights; the RL and the supervised losses have weights 1 and
0.5. Here adapters at 1e-4, about ten times that rate ("LoRA Without Regret", Schulman et al. 2025), and 32 questions
per step (420 steps: a tenth of the 7,473 questions is kept for validation).

Simplified. The score is one digit from 0 to 4 after the separator, in every arm, without a written evaluation before
it. Of the two supervised losses, the one on a larger model's answers is left out, since there is no such model. The
supervised scores of the model's own answers come from the checker instead of a larger model. The format is not
rewarded, because the separator is inserted and not generated (inference would stop there). No KL penalty.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch

from experiments.full import HOLDS, OPEN, Asked, Expected, carried, figures_of
from experiments.full.cost import Work
from experiments.full.problems import Problems, answer, problems
from experiments.full.speaker import Said, Speaker, advantages, the_model
from experiments.studies import post_completion as study
from rl.analysis.calibration import auroc, brier
from rl.analysis.gate import Gate
from rl.types import derive_seed

SEPARATOR = "\nConfidence that this is right, from 0 (surely wrong) to 4 (surely right): "
SCORES = ("0", "1", "2", "3", "4")


@dataclass
class Config(Asked):
    """Settings of the full size.

    Args:
        rl_steps: Steps of reinforcement learning.
        questions: Questions per step.
        group: Completions of each question.
        score_weight: Weight of the supervised loss on scores.
        n_test: Number of test questions.
        measure_every: Steps between two measurements.
        separator: Tokens of the separator; only for the cost estimate.
    """

    model: str = "Qwen/Qwen2.5-1.5B-Instruct"
    lr: float = 1e-4
    max_new: int = 1024
    rl_steps: int = 420
    questions: int = 32
    group: int = 8
    score_weight: float = 0.5
    n_test: int = 1319
    measure_every: int = 140
    separator: int = 24


RANGES = {"group": (2, inf), "score_weight": (0, inf)}
DRY = {"data": "products", "largest": 2, "rl_steps": 2, "questions": 2, "group": 3, "n_test": 24, "measure_every": 1,
       "separator": 90, "max_new": 8, "prompt": 140, "rank": 4}  # fmt: skip
ARMS = ("rl_only", "pcl_brier", "pcl_published", "rl_brier", "rl_published", "oracle_labels", "random_reward")
prepare = the_model


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: sampling and training of completions and scores, measurements, and the gate."""
    n, looks, whole = cfg.questions * cfg.group, 1 + -(-cfg.rl_steps // cfg.measure_every), cfg.prompt + cfg.max_new
    look = cfg.n_test * Work(2 * cfg.max_new, 2 * cfg.prompt + whole + cfg.separator)
    found = {}
    for arm in ARMS:
        rows = 1 + (arm not in ("rl_only", "oracle_labels")) + (arm.startswith("pcl") or arm == "oracle_labels")
        score = whole + cfg.separator
        step = Work(n * cfg.max_new, cfg.questions * cfg.prompt + n * score, rows * n * score)
        gate = cfg.n_test * Work(cfg.group * cfg.max_new, cfg.prompt)
        found[arm] = cfg.rl_steps * step + looks * look + gate
    return found


def shares(speaker: Speaker, rows: list[Said]) -> tuple[np.ndarray, list[Any]]:
    """Probabilities ``[N, 5]`` of the scores after each answer, and the tokens before each score."""
    ends, separator = speaker.renderer.end_ids, speaker.plain(SEPARATOR)
    # End-of-turn tokens are removed, because the score is part of the same turn; a user sees the turn up to the
    # separator.
    upto = [row.prompt + tuple(token for token in row.ids if token not in ends) + separator for row in rows]
    return np.exp(speaker.words(upto, SCORES)), upto


def run(cfg: Config, arm: str, seed: int, base: Speaker, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trains with RL on the answer and, depending on the arm, a reward or a supervised loss on the score, or both."""
    base.adapt(derive_seed(seed, "adapters"))
    of, rng = problems(cfg), np.random.default_rng(derive_seed(seed, "arms"))
    test = of.draw(np.random.default_rng(derive_seed(seed, "tests")), cfg.n_test, test=True)
    reward = next((study.REWARDS[name] for name in study.REWARDS if arm.endswith(name)), None)
    digits, agrees = [base.plain(one)[:1] for one in SCORES], list[float]()
    # In every arm the reward of the answers is the truth.
    before = answer(base, of, test, derive_seed(seed, "gate"), cfg.max_new, cfg.group)
    gate = Gate.read(before.right, before.right.astype(float))
    rows = [measure(cfg, base, of, test, seed, 0, samples)]
    for step in range(1, cfg.rl_steps + 1):
        tasks = of.draw(rng, cfg.questions, test=False)
        found = answer(base, of, tasks, derive_seed(seed, arm, step), cfg.max_new, cfg.group)
        right = found.right.astype(float)
        learned, weights = list(found.rows), [advantages(right)]
        chance, upto = shares(base, found.rows)
        drawn = np.array([rng.choice(len(SCORES), p=one / one.sum()) for one in chance])
        told = drawn / (len(SCORES) - 1)
        agrees.append(float(((told > 0.5) == found.right.ravel()).mean()))
        if reward is not None or arm == "random_reward":
            coin = rng.integers(0, 2, len(told)).astype(float)
            tensors = torch.from_numpy(told), torch.from_numpy(right.ravel())
            earned = coin if reward is None else reward(*tensors).numpy()
            learned += [Said(ids, digits[i], "") for ids, i in zip(upto, drawn.tolist(), strict=True)]
            weights.append(advantages(earned.reshape(right.shape)))
        if arm.startswith("pcl") or arm == "oracle_labels":  # Supervised: the same answers, scored by the checker.
            top = len(SCORES) - 1
            learned += [Said(ids, digits[top * int(good)], "") for ids, good in zip(upto, right.ravel(), strict=True)]
            weights.append(np.full(right.size, cfg.score_weight / right.size))
        base.step(learned, np.concatenate(weights))
        if step % cfg.measure_every == 0 or step == cfg.rl_steps:
            row = measure(cfg, base, of, test, seed, step, samples if step == cfg.rl_steps else [])
            rows.append(row | {"verdict_accuracy": float(np.mean(agrees))})
            agrees = []
    rows[-1] |= gate.outcome(base.gain(rows, "accuracy"), arm, "oracle")
    return rows


def measure(
    cfg: Config, speaker: Speaker, of: Problems, test: Any, seed: int, step: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measures accuracy of answers, and how well the score separates right from wrong sampled answers."""
    greedy = answer(speaker, of, test, 0, cfg.max_new, 1, temperature=0.0)
    own = answer(speaker, of, test, derive_seed(seed, "measure"), cfg.max_new, 1)
    chance, _ = shares(speaker, own.rows)
    levels, correct = np.linspace(0, 1, len(SCORES)), own.right[:, 0]
    rng = np.random.default_rng(derive_seed(seed, "scores"))
    told = np.array([rng.choice(levels, p=one / one.sum()) for one in chance])
    expected = chance @ levels
    for task, row, score, good in list(zip(own.tasks, own.rows, told, correct, strict=True))[:20]:
        about = {"prompt": task.question, "answer": f"{row.text}{SEPARATOR}{round(4 * score)}", "gold": task.gold}
        samples.append({"step": step, **about, "right": bool(good)})
    of_wrong = told[~correct]
    return own.meters() | {
        "step": step,
        "accuracy": float(greedy.right.mean()),
        "accuracy_sampled": float(correct.mean()),
        "auroc_told": auroc(told, correct),
        "auroc_expected": auroc(expected, correct),
        "brier": brier(expected, correct),
        "share_of_ones": float((told == 1).mean()),
        "told_when_wrong": float(of_wrong.mean()) if len(of_wrong) else float("nan"),
    }


PCL = "arXiv 2507.20252"
EXPECTED = (
    Expected("the score becomes honest", HOLDS, "a supervised score of own answers separates them (P(IK), arXiv "
             "2207.05221); so it does in the toy"),
    Expected("honest at no cost", OPEN, f"published: even better than RL alone, by 5 to 10 points second-hand ({PCL}); "
             "within 1 point takes more than three seeds of 1,319 questions"),
    Expected("better than a probe after RL", HOLDS, "a 1.5B model that is only asked is overconfident (arXiv "
             "2306.13063); no probe is fitted"),
    Expected("published reward: always right", HOLDS, "its 0/0 pays an honest 0 nothing: computed, and so in the toy"),
    Expected("published reward: says nothing", HOLDS, "one score for all tells nothing apart"),
    Expected("proper reward: not always right", HOLDS, "a proper rule pays honesty most; so in the toy"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, figures_of(study.EXHIBITS)
