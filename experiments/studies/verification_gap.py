"""Does a model improve by training on answers that pass its own verification, and can this be predicted?

Mind the Gap (Song et al., arXiv 2412.02674): one model solves and verifies. Its generation-verification gap is the
accuracy after picking among k samples by the model's own verification, minus its accuracy. Where the gap is above 0,
training on answers that pass this verification helps. On facts, where checking needs the same knowledge as answering,
there is no gap. The gap grows with pre-training, and rounds of filtering saturate: pass@1 rises, pass@k falls.

Smallest version: a two-layer Llama learns subset sums (hard to solve, easy to check) and a table of facts, with answers
and yes/no checks of both. It sees few solutions of sums and many checks, but facts and their checks equally often. This
asymmetry is the only cause of the gap. The gate (``rl.analysis.gate``) measures the gap on held-out questions and
predicts whether a round of rejection fine-tuning will help, for every filter. Other arms use an earlier checkpoint of
the same model, shuffled verdicts (so that the filter only drops malformed answers), no filter, or the checker as
oracle.

Simplified: verification is one yes/no token; the filter is a threshold; held-out sums are a fifth of all sums, never
seen as solution or check. All facts are in the table of pre-training; a round asks for one half of them and is measured
on the other half.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, cast

import numpy as np
import torch

from experiments.own_verdicts import Chat, OwnVerdicts, additions
from experiments.sums_and_facts import N0, PLACES, TOKENIZER, Facts, Sampled, Sums, ask, line, show
from rl.analysis.calibration import auroc
from rl.analysis.claims import Claim, Figure, Row, ahead, first, grown, last, minus
from rl.analysis.gate import Gate, gaps, signal_accuracy
from rl.analysis.statistics import pass_at_k
from rl.analysis.thesis import Thesis, Trained, known
from rl.backends.blocks import Learned, fit, learn_last
from rl.backends.policy import load_policy
from rl.backends.tiny import tiny_llama
from rl.config import ModelConfig
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of the Llama, which has two layers.
        pretrain_steps: Supervised steps on solutions, checks and facts.
        young_step: Pre-training step at which the young checkpoint is taken.
        n_solutions: Number of written solutions of sums, all of them right; the number of checks is not limited.
        k: Samples of each question when gap and accuracy are measured.
        n_eval: Number of questions for the gate, and of other questions for measurements.
        n_filtered: Questions of a round, with eight samples each.
        keep_above: The model's own filter keeps an answer if its probability of yes is above this.
        tune_steps: Supervised steps of a round.
        tune_lr: Learning rate of a round.
        rounds: Rounds of ``own`` and ``own_replay``; the other arms have one round.
        model: Folder of an instruction-tuned model whose gap on additions is measured; empty for the tiny model.
    """

    width: int = 48
    pretrain_steps: int = 450
    young_step: int = 150
    n_solutions: int = 3000
    k: int = 16
    n_eval: int = 200
    n_filtered: int = 700
    keep_above: float = 0.9
    tune_steps: int = 120
    tune_lr: float = 1.5e-3
    rounds: int = 2
    model: str = ""

    def __post_init__(self) -> None:
        if not self.model and self.young_step > self.pretrain_steps:
            raise ValueError(
                f"settings.young_step={self.young_step}: use at most settings.pretrain_steps={self.pretrain_steps}"
            )


RANGES = {"keep_above": (0.001, 0.999)}


# ---------------------------------------------------------------- pre-training


@dataclass
class Base:
    """What a seed's arms share: the families of questions, the model, and an earlier checkpoint of the model."""

    sums: Sums
    facts: Facts
    model: Any
    young: Any


def prepare(cfg: Config, seed: int) -> Any:
    """Pre-trains one model on both families; if ``cfg.model`` is set, loads that model and its tokenizer."""
    torch.manual_seed(seed)
    if cfg.model:
        return load_policy(ModelConfig(path=cfg.model))
    rng = np.random.default_rng(seed)
    base = Base(Sums(), Facts(seed), tiny_llama(TOKENIZER, cfg.width, 2, 4, 24), None)
    questions, subset, _ = base.sums.draw(rng, cfg.n_solutions, test=False)
    solutions = line(base.sums.prompt(questions), subset + N0, "<|end|>")

    def batches(step: int) -> list[Learned]:
        some = solutions[rng.integers(0, len(solutions), 48)]
        return [learn_last(some, PLACES + 1), base.sums.check_rows(rng, 96), *base.facts.rows(rng, 48)]

    def look(step: int) -> bool:
        if step == cfg.young_step:
            base.young = copy.deepcopy(base.model)
        return False

    fit(base.model, batches, cfg.pretrain_steps, 3e-3, until=look)
    return base


# ---------------------------------------------------------------- rounds of rejection fine-tuning


@dataclass(frozen=True)
class Arm:
    """What an arm trains on.

    Args:
        family: Family of questions, ``sums`` or ``facts``.
        checkpoint: The finished model (``model``) or the earlier one (``young``).
        keep: Filter: ``own`` keeps answers that the model itself accepts, ``oracle`` right answers, ``none`` all
            readable ones.
        many_rounds: Whether the arm has the configured number of rounds instead of one.
        shuffled: Whether the verdicts are randomly reassigned to answers.
        replay: Whether checks are mixed into the training of each round.
    """

    family: str = "sums"
    checkpoint: str = "model"
    keep: str = "own"
    many_rounds: bool = False
    shuffled: bool = False
    replay: bool = False


CELLS = {
    "own": Arm(many_rounds=True),
    "own_replay": Arm(many_rounds=True, replay=True),
    "no_filter": Arm(keep="none"),
    "oracle": Arm(keep="oracle"),
    "shuffled": Arm(shuffled=True),
    "young": Arm(checkpoint="young"),
    "young_oracle": Arm(checkpoint="young", keep="oracle"),
    "facts": Arm(family="facts"),
}
ARMS = tuple(CELLS)
LEAST_KEPT = 50
"""With fewer kept answers than this, a round does not train the model."""


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs rounds of reading the gate, training and measuring; of a real model only the gap is measured, in one arm."""
    if not isinstance(base, Base):
        model, tokenizer = base
        return [measure_real(cfg, model, tokenizer, seed, samples)] if arm == ARMS[0] else []
    cell = CELLS[arm]
    family, model = getattr(base, cell.family), copy.deepcopy(getattr(base, cell.checkpoint))
    of_arms = derive_seed(seed, "arms")
    rng, generator = np.random.default_rng(of_arms), torch.Generator().manual_seed(of_arms)
    for_gate, for_test = (family.draw(rng, cfg.n_eval, test=True) for _ in range(2))

    def asked(drawn: Sequence[np.ndarray], k: int) -> Sampled:
        found = ask(model, family, drawn, k, generator)
        if cell.shuffled:
            verdicts = rng.permutation(found.odds.ravel()).reshape(found.odds.shape)
            found.odds = np.where(np.isinf(found.odds), -np.inf, verdicts)
        return found

    gate, before, n_rounds = asked(for_gate, cfg.k), asked(for_test, cfg.k), cfg.rounds if cell.many_rounds else 1
    rows = [measured(before) | {"step": 0, "gap_by_level": by_level(gate)}]
    for step in range(1, n_rounds + 1):
        reading = Gate.read(gate.right, signal(cell, gate))
        pool = asked(family.draw(rng, cfg.n_filtered, test=False), 8)
        readable = ~np.isinf(pool.odds)
        accepted = pool.odds > log(cfg.keep_above / (1 - cfg.keep_above))
        kept = {"own": accepted, "oracle": pool.right, "none": readable}[cell.keep] & readable
        if trains := bool(kept.sum() >= LEAST_KEPT):
            i, j = np.nonzero(kept)
            chosen = line(family.prompt(pool.questions[i]), pool.answers[i, j], "<|end|>")

            def batches(step: int, chosen: np.ndarray = chosen) -> list[Learned]:
                own = learn_last(chosen[rng.integers(0, len(chosen), 160)], family.n_answer + 1)
                return [own, base.sums.check_rows(rng, 80)] if cell.replay else [own]

            fit(model, batches, cfg.tune_steps, cfg.tune_lr, warmup=20)
        after = asked(for_test, cfg.k)
        gain = float(after.right.mean() - before.right.mean())
        found = {
            "step": step,
            "kept": float(kept.mean()),
            "precision_of_kept": float(pool.right[kept].mean()) if kept.any() else float("nan"),
            "reward_accuracy": signal_accuracy(kept, pool.right),
            "trained": float(trains),
        }
        if trains:  # without training, the difference between two samples of one model would count as a gain
            found |= {"gain_by_level": by_level(after, before)} | ({"first_gain": gain} if step == 1 else {})
        found |= reading.outcome(gain if trains else None, f"{arm}, round {step}", THESIS.kind(arm))
        rows.append(measured(after) | found)
        before = after
        if step < n_rounds:
            gate = asked(for_gate, cfg.k)
    show(before, family, rows[-1]["step"], samples)
    return rows


def signal(cell: Arm, found: Sampled) -> np.ndarray:
    """``[N, K]`` scores by which an arm keeps answers; ``-inf`` for malformed answers."""
    scores = {"own": found.odds, "oracle": found.right.astype(float), "none": np.zeros(found.odds.shape)}[cell.keep]
    return np.where(np.isinf(found.odds), -np.inf, scores)


def measure_real(cfg: Config, model: Any, tokenizer: Any, seed: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Measures the gap of an instruction-tuned model on additions; ``gap`` has one value for each question."""
    found = additions(Chat(model, tokenizer), cfg.n_eval, cfg.k, seed)
    for i, (question, text) in enumerate(zip(found.questions, found.texts, strict=True)):
        n, k = divmod(i, cfg.k)
        about = {"gold": int(found.gold[n]), "right": bool(found.right[n, k])}
        odds = f"{found.odds[n, k]:.2f}"
        samples.append({"step": 0, "prompt": question, "answer": text, **about, "own log odds of yes": odds})
    opens = float(Gate.read(found.right, found.odds).expects)
    gap = gaps(found.right, found.odds).tolist()
    return measured(found) | {"gate_opens": opens, "gap": gap, "gap_by_level": by_level(found)}


def measured(found: Sampled | OwnVerdicts) -> dict[str, Any]:
    """Accuracy, pass@k, gap, quality of the verdicts, and variety of one set of samples."""
    n, k = found.right.shape
    readable = ~np.isinf(found.odds)
    return {
        "n": n,
        "accuracy": float(found.right.mean()),
        "pass_k": float(np.mean([pass_at_k(k, int(one.sum()), k) for one in found.right])),
        "gap": float(gaps(found.right, found.odds).mean()),
        "auroc": auroc(found.odds[readable], found.right[readable]),
        "accepts": float((found.odds > 0).mean()),
        "distinct_answers": float(np.mean([len(np.unique(one, axis=0)) for one in found.answers])),
        "malformed": float(1 - readable.mean()),
    } | (found.meters if isinstance(found, Sampled) else {})


def by_level(found: Sampled | OwnVerdicts, before: Sampled | None = None) -> dict[str, float]:
    """The gap at each level; if ``before`` has samples of the same questions, the gain in accuracy instead."""
    values = gaps(found.right, found.odds) if before is None else (found.right.mean(1) - before.right.mean(1))
    return {str(level): float(values[found.level == level].mean()) for level in np.unique(found.level)}


# ---------------------------------------------------------------- what is claimed


def slope_over_levels(rows: Sequence[Row]) -> dict[int, float]:
    """Statistic of each seed: slope of the first trained round's gain over the initial gap, over the levels of sums."""
    gaps_of, gains_of, found = first("own", "gap_by_level")(rows), first("own", "gain_by_level")(rows), {}
    for seed in gaps_of.keys() & gains_of.keys():
        gap, gain = cast("dict[str, float]", gaps_of[seed]), cast("dict[str, float]", gains_of[seed])
        levels = sorted(gap.keys() & gain.keys())
        x, y = np.array([gap[level] for level in levels]), np.array([gain[level] for level in levels])
        if len(levels) > 1 and np.ptp(x) > 0:
            found[seed] = float(np.polyfit(x, y, 1)[0])
    return found


def share_of_oracle(rows: Sequence[Row]) -> dict[int, float]:
    """Statistic of each seed: gain of the first round of ``own``, as a share of the gain of ``oracle``."""
    own, oracle = (known(last(arm, "first_gain"), rows) for arm in ("own", "oracle"))
    return {seed: own[seed] / oracle[seed] for seed in own if oracle.get(seed, 0.0) > 0}


CLAIMS = (
    Claim("gap where checking is easy", "On sums the model verifies better than it solves: the gap is above 0.",
          first("own", "gap"), paper="positive on mathematics and Sudoku for models that are large enough"),
    Claim("no gap on facts", "On facts there is no usable gap: it lies below the 5 points that open the gate.",
          first("facts", "gap"), expect="below", than=0.05, paper="near 0 or negative on Natural Questions"),
    Claim("the gap grows with training",
          "After {young_step} of {pretrain_steps} steps the same model has a smaller gap.",
          minus(first("own", "gap"), first("young", "gap")), paper="the relative gap grows with pre-training FLOPs"),
    Claim("one round helps", "One round on own verdicts raises held-out accuracy on sums.", last("own", "first_gain")),
    Claim("and harms where there is no gap", "The same round on facts, against the gate, lowers accuracy.",
          last("facts", "first_gain"), expect="below"),
    Claim("most of what the oracle gains", "Own verdicts reach more than half of what the oracle's filter gains.",
          share_of_oracle, than=0.5),
    Claim("it is the verdicts", "The own filter gains more than no filter.",
          ahead("own", "no_filter", "first_gain")),
    Claim("gain follows the gap over levels", "Over difficulty levels of sums a larger gap goes with a larger gain.",
          slope_over_levels),
    Claim("pass@1 rises", "Over all rounds accuracy rises.", grown("own", "accuracy")),
    Claim("pass@k falls", "Over all rounds pass@{k} falls.", grown("own", "pass_k"),
          expect="below", paper="pass@k rises for small k and falls for large k"),
    Claim("a verifier needs its checks", "With checks replayed in every round the verifier's AUROC ends higher.",
          ahead("own_replay", "own", "auroc")),
)  # fmt: skip


def ended(arm: str, kind: str) -> Trained:
    """An arm for the thesis, with its gain over all rounds; seeds in which no round trained are left out."""

    def gain(rows: Sequence[Row]) -> dict[int, float]:
        tried = {row["seed"] for row in rows if row["arm"] == arm and row.get("trained")}
        return {seed: value for seed, value in known(grown(arm, "accuracy"), rows).items() if seed in tried}

    return Trained(arm, kind, gain, None if kind == "oracle" else first(arm, "reward_accuracy"))


THESIS = Thesis(
    "Mind the Gap", "its own verdicts on its answers", "nothing: the verifier is the model", False, "own",
    (
        *(ended(arm, "self") for arm in ("own", "own_replay", "young", "facts", "no_filter")),
        ended("oracle", "oracle"), ended("young_oracle", "oracle"), ended("shuffled", "control"),
    ),
    "held-out accuracy after all rounds",
    also={"the first of two rounds": last("own", "first_gain")},
)  # fmt: skip

EXHIBITS = (
    Figure("Rounds on own verdicts", "step", ("accuracy", "pass_k", "gap", "auroc"),
           ("own", "own_replay", "no_filter", "oracle", "young", "shuffled"),
           "Held-out subset sums, {k} samples of each question at temperature 1; gap: what picking the best-scored "
           "sample adds to accuracy; auroc: how well the verdicts separate right from wrong.", "round", "share"),
    Figure("What one round brings", "arm", ("first_gain", "reward_accuracy"), None,
           "Gain in held-out accuracy; share of pairs of answers to a training question that the filter ranks as the "
           "truth does.",
           "arm", "share"),
    Figure("What becomes of variety", "step", ("entropy", "distinct_answers", "length"),
           ("own", "own_replay", "no_filter", "oracle", "young", "shuffled"),
           "Answers to held-out subset sums: entropy in nats per token, number of distinct ones among {k}, tokens.",
           "round"),
)  # fmt: skip
