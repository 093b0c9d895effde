"""MAGPIE at its own size: an 8B chat model writes requests like those that it was tuned on, from two prefixes.

Setting. Xu et al. (arXiv 2406.08464): Llama-3-8B-Instruct at temperature 1 writes requests, given only the template's
prefix, and answers them greedily; of 3 million pairs, 300,000 are kept to fine-tune a base model. Here 1,000 requests
of up to 128 tokens, from the template's prefix and from the bare mark of a user's turn. The code is the study's own, as
at size ``smollm2``; ``settings.export`` writes the kept pairs in the format that ``experiments.sft`` reads.

Simplified. No student is trained: whether 300,000 pairs make a good chat model would have to be decided by judges of
open answers, which none of the studies uses. Llama 3's template has no system prompt of its own, so the two prefixes
differ only in the token that opens a text; Qwen2.5's has one (``settings.model=Qwen/Qwen2.5-7B-Instruct``).
"""

from dataclasses import dataclass
from math import inf
from typing import Any

from experiments.full import HOLDS, OPEN, Expected, carried
from experiments.full.cost import Work
from experiments.full.speaker import Speaker
from experiments.own_requests import Writer
from experiments.studies import instruction_extraction as study


@dataclass
class Config:
    """Settings of the full size.

    Args:
        model: Name in :data:`experiments.full.shapes.SHAPES`, or a folder.
        n: Number of requests from each prefix.
        temperature: Sampling temperature of the requests.
        max_new: Largest number of tokens of a request, and of its answer.
        prompt: Tokens of a prefix; only for the cost estimate.
        export: Folder for the kept pairs, with a folder for each arm and seed; empty writes none.
    """

    model: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    n: int = 1000
    temperature: float = 1.0
    max_new: int = 128
    prompt: int = 12
    export: str = ""


RANGES = {"temperature": (0.01, inf)}
DRY = {"n": 4, "max_new": 12, "prompt": 60}
ARMS = ("deduplicated", "bare_prefix")


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: requests from both prefixes, and answers to those from the first one."""
    asked = cfg.n * Work(cfg.max_new, cfg.prompt)
    answers = cfg.n * Work(cfg.max_new, cfg.prompt + cfg.max_new, passes=cfg.max_new)  # One question at a time.
    return {ARMS[0]: asked + answers, ARMS[1]: asked}


def prepare(cfg: Config, seed: int) -> Any:
    """Loads the model with its tokenizer and chat template."""
    speaker = Speaker(cfg.model, 1, 1e-5)
    return Writer(speaker.base, speaker.tokenizer, speaker.renderer)


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs the study's own code: requests from the prefix of the arm."""
    return study.run(cfg, arm, seed, base, samples)  # type: ignore[arg-type]


EXPECTED = (
    Expected("usable", HOLDS, "SmolLM2-135M does from the right prefix (docs/studies.md), and a larger model follows "
             "its template no less"),
    Expected("right_prefix", OPEN, "SmolLM2's prefix has a system prompt, Llama 3's has none: both may be alike"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, study.EXHIBITS[1:]
