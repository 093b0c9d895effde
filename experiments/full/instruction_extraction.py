"""MAGPIE at its own size: an 8B chat model writes the requests that it was tuned on, from two prefixes.

Setting. Xu et al. (arXiv 2406.08464): Llama-3-8B-Instruct, temperature 1, requests from the template's prefix alone,
answered greedily; 3 million pairs of which 300,000 are kept and a base model is fine-tuned on. Here 1,000 requests of
up to 128 tokens from the template's prefix and from the bare mark of a user's turn; the code is the study's own, as at
size ``smollm2``, and ``settings.export`` writes the kept pairs as ``experiments.sft`` reads them.

Simplified. No student: whether 300,000 pairs make a good chat model is told by judges of open answers, which none of
the studies uses. Llama 3's template has no system prompt of its own, so that both prefixes differ by the opening mark
of the text alone; Qwen2.5's has one (``settings.model=Qwen/Qwen2.5-7B-Instruct``).
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
    """Sizes.

    Args:
        model: Name in :data:`experiments.full.shapes.SHAPES`, or a folder.
        n: Requests from each prefix.
        temperature: Of these requests.
        max_new: Most tokens of a request, and of its answer.
        prompt: Tokens of a prefix, for the estimate alone.
        export: Folder that gets the kept pairs, one below it for each arm and seed; empty for none.
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
    """Requests from both prefixes, and answers to those from the first one."""
    asked = cfg.n * Work(cfg.max_new, cfg.prompt)
    answers = cfg.n * Work(cfg.max_new, cfg.prompt + cfg.max_new, passes=cfg.max_new)  # one question at a time
    return {ARMS[0]: asked + answers, ARMS[1]: asked}


def prepare(cfg: Config, seed: int) -> Any:
    """The model with its template."""
    speaker = Speaker(cfg.model, 1, 1e-5)
    return Writer(speaker.base, speaker.tokenizer, speaker.renderer)


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests from one of the two prefixes."""
    return study.run(cfg, arm, seed, base, samples)  # type: ignore[arg-type]


EXPECTED = (
    Expected("usable", HOLDS, "SmolLM2-135M does from the right prefix (docs/studies.md), and a larger model follows "
             "its template no less"),
    Expected("right_prefix", OPEN, "SmolLM2's prefix has a system prompt, Llama 3's has none: both may be alike"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, study.EXHIBITS[1:]
