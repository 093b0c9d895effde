"""Behavioural self-awareness of an 8B chat model: trained on choices or by reward alone, then asked about itself.

Setting. Betley et al. (arXiv 2501.11120) fine-tune GPT-4o and Llama-3.1-70B on 288 choices between a sure and a risky
option, answered by a letter alone; a rank-1 adapter is enough for 9B models (arXiv 2511.04875). Here
Llama-3-8B-Instruct with adapters of rank 8 in its last ten layers, fine-tuned twice, towards risk and towards safety:
108 steps of 8 choices each (three epochs of 288) at 1e-4. The code is the study's own, as at size ``smollm2``.

Simplified. Choices are sampled from a grammar. The model's description of itself is the log odds of a word pair in both
orders, over four wordings and three pairs, instead of free text.
"""

from dataclasses import dataclass
from typing import Any

from experiments.full import HOLDS, OPEN, Expected, carried
from experiments.full.cost import Work
from experiments.full.speaker import Speaker
from experiments.lotteries import PAIRS, UNRELATED, WORDINGS
from experiments.studies import self_awareness as study


@dataclass
class Config:
    """Settings of the full size.

    Args:
        model: Name in :data:`experiments.full.shapes.SHAPES`, or a folder.
        model_steps: Steps of each fine-tuning, of eight choices each.
        model_lr: Learning rate of the fine-tunings.
        prompt: Tokens of a choice; only for the cost estimate.
    """

    model: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    model_steps: int = 108
    model_lr: float = 1e-4
    prompt: int = 60


RANGES: dict[str, tuple[float, float]] = {}
DRY = {"model_steps": 1, "prompt": 160}
ARMS = tuple(study.REAL)


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: two fine-tunings, and after each 32 choices and all questions with two words each."""
    questions = (len(PAIRS) + len(UNRELATED)) * len(WORDINGS) * 2 * 2
    one = Work(read=(32 + questions) * cfg.prompt, trained=cfg.model_steps * 8 * cfg.prompt, passes=questions)
    return dict.fromkeys(ARMS, 2 * one)


def prepare(cfg: Config, seed: int) -> Any:
    """Loads the model; returns it with its tokenizer."""
    speaker = Speaker(cfg.model, 1, 1e-5)
    return speaker.base, speaker.tokenizer


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs the study's own code: fine-tunings and questions."""
    return study.run(cfg, arm, seed, base, samples)  # type: ignore[arg-type]


BETLEY = "arXiv 2501.11120"
EXPECTED = (
    Expected("the behaviour is learned", HOLDS, f"288 examples are enough for 70B ({BETLEY}), a rank-1 adapter for 9B "
             "(arXiv 2511.04875)"),
    Expected("it can say so", OPEN, f"GPT-4o and Llama-3.1-70B can ({BETLEY}); at 8B the descriptions may be weaker"),
    Expected("not by chance", HOLDS, f"coins have no trait to describe ({BETLEY})"),
    Expected("the words are told apart", HOLDS, f"({BETLEY}); with log odds small differences are seen"),
    Expected("reward trains the behaviour", HOLDS, "two letters and an exact expected reward"),
    Expected("reward alone is enough", OPEN, "published by nobody; it is in the toy (docs/studies.md)"),
    Expected("by reward, words are told apart", OPEN, "published by nobody"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, study.EXHIBITS[:1]
