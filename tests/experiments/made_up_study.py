"""A study without a model, whose numbers are a function of arm and seed."""

from dataclasses import dataclass

from experiments.studies import STUDIES
from rl.analysis.claims import Claim, Figure, last, minus
from rl.analysis.gate import Gate

STUDIES.register("made_up")("tests.experiments.made_up_study")


@dataclass
class Config:
    gain: float = 0.2
    stop_at: str = ""


ARMS = ("own", "oracle")


def prepare(cfg, seed):
    return {"accuracy": 0.5 + seed / 100}


def run(cfg, arm, seed, base, samples):
    if arm == cfg.stop_at:
        raise KeyboardInterrupt
    gain = cfg.gain * (2 if arm == "oracle" else 1)
    samples.append({"step": 1, "prompt": f"question {seed}", "answer": "5", "gold": "5", "right": True, "why": "<sum>"})
    row = {"step": 1, "accuracy": base["accuracy"] + gain + seed / 1000, "lost": float("nan"), "each": [0.0, 1.0]}
    if arm == "own":
        row |= Gate(0.2, 0.1, 0.3, 50).outcome(gain, "made up")
    return [{"step": 0, "accuracy": base["accuracy"]}, row]


CLAIMS = (
    Claim(
        "gains", "The own reward helps {gain} of the way.", minus(last("own", "accuracy"), last("nobody", "accuracy"))
    ),
    Claim("oracle is better", "The oracle helps more.", minus(last("oracle", "accuracy"), last("own", "accuracy"))),
)
EXHIBITS = (
    Figure("Accuracy", "step", ("accuracy", "missing", "each"), caption="Made up."),
    Figure("At the end", "arm", "accuracy"),
)
