"""SQLM at its own size: a chat model poses three-digit products and is rewarded by the majority of its answers.

Setting. Chen et al. (arXiv 2508.03682): Qwen2.5-3B-Instruct, one topic prompt, 256 proposals per step (4 to each of 64
copies of the prompt) with 4 answers each, GRPO at 1e-6 with all weights, answers of up to 1,024 tokens. The solver is
rewarded for agreeing with the majority; every fifth step, the proposer is rewarded for problems on which more than one
answer but not all answers agree. Held out: three-digit products. Here 100 steps with adapters at 1e-5, ten times that
rate ("LoRA Without Regret", Schulman et al. 2025).

Simplified. Without a majority of more than half, answers are masked (published: the first answer wins a tie). No KL
penalty (published: 0.001). The first two numbers of a proposal are the problem, whatever else it contains. All
proposals of a step are one group. The toy's arms ``no_penalty``, ``hurried`` and ``weak`` (and their oracles) are left
out; ``weak`` would need an earlier checkpoint of the model.
"""

import re
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from experiments.full import HOLDS, OPEN, Expected, Setting, carried, figures_of
from experiments.full.cost import Work
from experiments.full.problems import Answered, Products, answer, show
from experiments.full.speaker import Said, Speaker, advantages, the_model
from experiments.studies import self_questioning as study
from rl.analysis.gate import Gate, mean_told, signal_accuracy
from rl.types import derive_seed

TOPIC = "Write one new problem: a product of two numbers from {} to {}. Only the problem, like 12 x 34, unsolved."


@dataclass
class Config(Setting):
    """Settings of the full size.

    Args:
        largest: Largest factor. The smallest factor is about a tenth of it, such as 100 for 999.
        proposals: Problems that are posed per step.
        group: Answers to each problem.
        steps: Steps of reinforcement learning.
        propose_every: Steps between two updates of the proposer in the arm ``band``.
        n_frozen: Number of fixed problems in the arm ``frozen``.
        n_test: Number of held-out problems; the gate uses the same number of other problems.
        measure_every: Steps between two measurements.
        max_proposal: Largest number of tokens of a proposal.
    """

    model: str = "Qwen/Qwen2.5-3B-Instruct"
    max_new: int = 1024
    prompt: int = 70
    largest: int = 999
    proposals: int = 256
    group: int = 4
    steps: int = 100
    propose_every: int = 5
    n_frozen: int = 48
    n_test: int = 500
    measure_every: int = 25
    max_proposal: int = 32


RANGES = {"group": (2, inf)}
DRY = {"largest": 9, "proposals": 8, "group": 3, "steps": 2, "propose_every": 1, "n_frozen": 3, "n_test": 4,
       "n_signal": 8, "measure_every": 1, "max_new": 8, "max_proposal": 24, "prompt": 160, "rank": 4}  # fmt: skip
ARMS = ("majority", "band", "oracle", "form", "random", "frozen")
prepare = the_model


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: proposals, answers and training in each step, measurements, gate, and the frozen set's vote."""
    looks, found = 1 + -(-cfg.steps // cfg.measure_every), {}
    answers = Work(cfg.group * cfg.max_new, cfg.prompt)
    for arm in ARMS:
        posing = Work() if arm == "frozen" else Work(cfg.max_proposal, cfg.prompt)
        trained = Work(trained=cfg.group * (cfg.prompt + cfg.max_new))
        total = cfg.steps * cfg.proposals * (posing + answers + trained) + cfg.n_signal * (posing + answers)
        total += cfg.n_test * (looks + 1) * answers
        total += cfg.n_test * looks * (Work(cfg.max_new, cfg.prompt) + Work(0, cfg.prompt + cfg.max_new))
        if arm == "band":
            posed = cfg.proposals * (cfg.prompt + cfg.max_proposal)
            total += Work(trained=cfg.steps // cfg.propose_every * posed)
        if arm == "frozen":
            total += cfg.n_frozen * (Work(64 * cfg.max_new, cfg.prompt) + looks * answers)
        found[arm] = total
    return found


def in_band(found: Answered) -> np.ndarray:
    """Whether each problem ``[N]`` is worth posing: some of its answers agree, but not all."""
    most = found.votes.max(1)
    return (most > 1) & (most < found.votes.shape[1])


def paid(arm: str, found: Answered, rng: np.random.Generator) -> np.ndarray:
    """Rewards ``[N, K]`` of 0 or 1; ``nan`` where a vote has no majority of more than half."""
    if arm in ("oracle", "form", "random"):
        kinds = {"oracle": found.right, "form": found.formed, "random": rng.random(found.right.shape) < 0.5}
        return kinds[arm].astype(float)
    majority = found.votes * 2 > found.votes.shape[1]
    return np.where(majority.any(1, keepdims=True), majority.astype(float), np.nan)


def run(cfg: Config, arm: str, seed: int, base: Speaker, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reads the gate, then trains an arm: in each step it poses problems, answers them, votes and updates."""
    base.adapt(derive_seed(seed, "adapters"))
    of, rng = Products(cfg.largest), np.random.default_rng(derive_seed(seed, "arms"))
    drawn = of.draw(np.random.default_rng(derive_seed(seed, "tests")), 2 * cfg.n_test, test=True)
    test, for_gate = drawn[: cfg.n_test], drawn[cfg.n_test :]
    voted = answer(base, of, for_gate, derive_seed(seed, "gate"), cfg.max_new, cfg.group)
    scores = np.nan_to_num(paid(arm, voted, rng)) if arm in ("oracle", "form", "random") else voted.votes
    gate = Gate.read(voted.right, scores)
    fixed = of.draw(rng, cfg.n_frozen, test=False)
    at_start = answer(base, of, fixed, derive_seed(seed, "vote"), cfg.max_new, 64) if arm == "frozen" else None
    rows, seen, log = [], set[str](), list[dict[str, float]]()
    for step in range(cfg.steps + 1):  # Step 0 trains nothing: it measures the signal before training.
        of_step, n = derive_seed(seed, arm, step), cfg.proposals if step else cfg.n_signal
        if arm == "frozen":
            proposed, tasks = [], [fixed[i] for i in rng.integers(0, len(fixed), n)]
            usable = np.ones(len(tasks), bool)
        else:
            asked = [TOPIC.format(of.low, cfg.largest)] * n
            proposed = [said for (said,) in base.say(asked, derive_seed(of_step, "pose"), cfg.max_proposal)]
            numbers = [[int(n) for n in re.findall(r"\d+", said.text)[:2]] for said in proposed]
            # Posed problems are not used if they are held out for tests, or if a factor is out of range.
            usable = np.array([len(two) == 2 and all(of.low <= n < of.high for n in two) and not of.held_out(*two)
                               for two in numbers])  # fmt: skip
            tasks = [of.task(*two) for two, good in zip(numbers, usable, strict=True) if good]
        if tasks:
            found = answer(base, of, tasks, derive_seed(of_step, "solve"), cfg.max_new, cfg.group)
            reward = paid(arm, found, rng)
            log.append(meters(found, reward, usable))
            if step:
                seen |= {task.id for task in tasks}
                learned, weights = list(found.rows), advantages(reward)
                if arm == "band" and step % cfg.propose_every == 0:
                    worth = np.full((1, len(proposed)), np.nan)
                    worth[0, usable] = in_band(found)
                    learned, weights = learned + proposed, np.concatenate([weights, advantages(worth)])
                base.step(learned, weights)
        if step % cfg.measure_every == 0 or step == cfg.steps:
            rows.append(measure(cfg, base, of, test, seed, step, samples) | {"distinct_problems": len(seen)})
            if at_start is not None:
                rows[-1] |= on_the_set(cfg, base, of, fixed, at_start, seed)
            for name in log[0] if log else ():
                rows[-1][name] = mean_told([one[name] for one in log])
            log.clear()
    rows[-1] |= gate.outcome(base.gain(rows, "accuracy"), arm, study.THESIS.kind(arm))
    return rows


def meters(found: Answered, reward: np.ndarray, usable: np.ndarray) -> dict[str, float]:
    """Accuracy of the reward, share of answers without a reward, and shares of problems in the band and usable ones."""
    told = ~np.isnan(reward)
    return {
        "reward_accuracy": signal_accuracy(reward, np.where(told, found.right, np.nan)),
        "masked": float(1 - told.mean()),
        "in_band": float(in_band(found).mean()),
        "usable": float(usable.mean()),
    }


def measure(
    cfg: Config, speaker: Speaker, of: Products, test: Any, seed: int, step: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measures held-out accuracy of samples, of their vote and of greedy answers; ``entropy`` in nats per token."""
    found = answer(speaker, of, test, derive_seed(seed, "measure"), cfg.max_new, cfg.group)
    greedy = answer(speaker, of, test, 0, cfg.max_new, 1, temperature=0.0)
    best = found.votes == found.votes.max(1, keepdims=True)
    first: list[Said] = [many[0] for many in found.said]
    show(found, step, samples)
    return found.meters() | {
        "step": step,
        "greedy": float(greedy.right.mean()),
        "vote": float(((found.right * best).sum(1) / best.sum(1)).mean()),
        "entropy": float(speaker.nats(first).mean()),
    }


def on_the_set(
    cfg: Config, speaker: Speaker, of: Products, fixed: Any, at_start: Answered, seed: int
) -> dict[str, float]:
    """Accuracy on the frozen problems now, of the vote of 64 before training, and now where that vote was wrong."""
    found = answer(speaker, of, fixed, derive_seed(seed, "on the set"), cfg.max_new, cfg.group)
    best = at_start.votes == at_start.votes.max(1, keepdims=True)
    vote = (at_start.right * best).sum(1) / best.sum(1)
    row = {"set_accuracy": float(found.right.mean()), "set_initial_vote": float(vote.mean())}
    wrong = vote < 0.5
    return row | ({"set_wrong_votes": float(found.right[wrong].mean())} if wrong.any() else {})


SQLM = "arXiv 2508.03682"
EXPECTED = (
    Expected("own questions teach", HOLDS, f"held-out products 79.1 -> 94.8 ({SQLM})"),
    Expected("greedy answers too", HOLDS, f"what the paper measures ({SQLM})"),
    Expected("it is not the form", HOLDS, f"a format-only reward is lower ({SQLM})"),
    Expected("the truth teaches more", OPEN, "with a vote that is nearly always right the two are hardly told apart"),
    Expected("below the first vote", OPEN, "the published gain ends above any vote of four at 79 (arXiv 2504.16084 "
             "reports the same); the toy stayed below"),
    Expected("posing in the band helps", OPEN, f"ablation of {SQLM}, one seed"),
    Expected("posing moves into the band", OPEN, "twenty updates of the proposer at this rate"),
    Expected("a frozen set stops at its vote", OPEN, "48 problems are learned by heart in 100 steps, with what their "
             "vote said"),
    Expected("wrong votes are locked in", OPEN, "a product that the vote gets wrong is rarely right in any sample"),
    Expected("a frozen set generalises", HOLDS, "test-time training on few problems does (arXiv 2504.16084)"),
    Expected("it narrows", HOLDS, "entropy falls under every reward by majority (arXiv 2505.21444)"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, figures_of(study.EXHIBITS, "Without the KL penalty, and from a weak base")
