"""Model collapse on text: a language model of 1.5B parameters continues passages, and its successor learns the result.

Setting. Shumailov et al. (arXiv 2305.17493) fine-tune OPT-125M on wikitext-2 in blocks of 64 tokens. Each model
continues every block by 64 tokens, which the next model learns; there are nine generations of 5 epochs. Gerstgrasser et
al. (arXiv 2404.01413) keep the data of all earlier generations. Here Qwen2.5-1.5B, five generations, blocks of 64 + 64
tokens of the text in ``settings.text`` (wikitext-2 has about 2 million tokens, 16,000 blocks; 14,000 are learned), 5
epochs at 2e-4 with adapters.

Simplified. Sampling instead of beam search with five beams, so that only the temperature decides what is lost; fresh
adapters in each generation, on a model that was pretrained on other text. No checker can tell which text is right, so
the arm ``verified`` and its claims are left out, as is the table without a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from experiments.full import HOLDS, OPEN, Expected, Setting, carried
from experiments.full.cost import Work
from experiments.full.speaker import Said, Speaker
from experiments.studies import collapse as study
from rewards.wording import counted
from rl.analysis.thesis import Thesis
from rl.generations import DATA_POLICIES
from rl.types import derive_seed


@dataclass
class Config(Setting):
    """Settings of the full size.

    Args:
        text: File of plain text that is long enough for all blocks; one block in ten is held out.
        blocks: Number of real blocks that are learned, and that every model continues.
        block: Number of tokens of a prompt, and of the continuation that is learned.
        generations: Number of models after the first one.
        epochs: Epochs of every model, counted over ``blocks`` blocks; a larger training set adds no steps.
        batch: Blocks per optimiser step.
        cold: Second sampling temperature, only for ``replace``; the first is 1.
        real_share: Share of real blocks in the training sets of ``mix``.
    """

    model: str = "Qwen/Qwen2.5-1.5B"
    lr: float = 2e-4
    text: str = "data/wikitext-2/wiki.train.tokens"
    blocks: int = 14000
    block: int = 64
    generations: int = 5
    epochs: int = 5
    batch: int = 64
    cold: float = 0.9
    real_share: float = 0.1


RANGES = {"cold": (0.01, 10.0), "real_share": (0, 1)}
DRY = {"text": __file__, "blocks": 24, "block": 16, "generations": 2, "epochs": 1, "batch": 8, "rank": 4}
ARMS = ("replace", "accumulate", "accumulate_subsample", "mix")


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: per generation the training, reading of held-out blocks, and continuing of all real blocks."""
    one = Work(cfg.blocks * cfg.block, cfg.blocks * cfg.block, cfg.epochs * cfg.blocks * 2 * cfg.block)
    one += Work(read=ceil(cfg.blocks / 9) * 2 * cfg.block)
    return {arm: (cfg.generations + 1) * (2 if arm == "replace" else 1) * one for arm in ARMS}


@dataclass
class Base:
    """The model, and real blocks ``[N, 2 * block]`` for training (``real``) and held out (``test``)."""

    speaker: Speaker
    real: np.ndarray
    test: np.ndarray


def prepare(cfg: Config, seed: int) -> Base:
    """Loads the model, and the text, of which every tenth block is held out."""
    speaker, path = Speaker(cfg.model, cfg.rank, cfg.lr), Path(cfg.text)
    if not path.is_file():
        raise FileNotFoundError(f"settings.text={cfg.text}: no such file; give one of plain text")
    ids = np.array(speaker.plain(path.read_text(encoding="utf-8")))
    every = ids[: len(ids) // (2 * cfg.block) * 2 * cfg.block].reshape(-1, 2 * cfg.block)
    held, wanted = np.arange(len(every)) % 10 == 9, cfg.blocks + ceil(cfg.blocks / 9)
    if len(every) < wanted:
        raise ValueError(
            f"settings.blocks={cfg.blocks}: {cfg.text} has {counted(len(every), 'block')}, {wanted} are needed"
        )
    return Base(speaker, every[~held][: cfg.blocks], every[held][: ceil(cfg.blocks / 9)])


def as_said(rows: np.ndarray, block: int) -> list[Said]:
    """Blocks as prompts with continuations; -1, which fills up short continuations, is removed."""
    return [Said(tuple(row[:block]), tuple(token for token in row[block:] if token >= 0), "") for row in rows.tolist()]


def run(cfg: Config, arm: str, seed: int, base: Base, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs all generations of one arm: train fresh adapters, measure, write, and make the next training set."""
    speaker, options = base.speaker, {"share": cfg.real_share} if arm == "mix" else {}
    next_data = DATA_POLICIES.bind(arm, options)
    n = len(base.real)
    rows: list[dict[str, Any]] = [{"step": g, "n": n} for g in range(cfg.generations + 1)]
    # The rarest token types that together make up a quarter of all learned tokens of the real text.
    tokens, counts = np.unique(base.real[:, cfg.block :], return_counts=True)
    order = np.argsort(counts, kind="stable")
    rare = tokens[order][np.cumsum(counts[order]) <= 0.25 * counts.sum()]
    for temperature, suffix in ((1.0, ""), (cfg.cold, "_cold"))[: 2 if arm == "replace" else 1]:
        rng = np.random.default_rng(derive_seed(seed, "writers"))
        data = pool = base.real
        for g in range(cfg.generations + 1):
            speaker.adapt(derive_seed(seed, "adapters"))
            steps = max(1, cfg.epochs * n // cfg.batch)
            speaker.fit(as_said(data, cfg.block), steps, cfg.batch, derive_seed(seed, "fit", g))
            loss = float(speaker.nats(as_said(base.test, cfg.block)).mean())
            new = write(speaker, base.real, cfg.block, temperature, derive_seed(seed, "write", suffix, g))
            rows[g] |= {name + suffix: value for name, value in meters(new[:, cfg.block :], rare).items()}
            rows[g] |= {"loss" + suffix: loss}
            for row in as_said(new[:8], cfg.block):
                told, prompt = (speaker.tokenizer.decode(ids) for ids in (row.ids, row.prompt))
                samples.append({"step": g, "prompt": f"[temperature {temperature}] {prompt}", "answer": told})
            pool = np.concatenate([pool, new])
            data = next_data(base.real, pool, new, rng)
    return rows


def write(speaker: Speaker, real: np.ndarray, block: int, temperature: float, seed: int) -> np.ndarray:
    """Every real block with the model's continuation in place of its own; -1 after a continuation that ended early."""
    said = speaker.say([tuple(row) for row in real[:, :block].tolist()], seed, block, temperature=temperature)
    rows = [row[:block] + list(one.ids) + [-1] * (block - len(one.ids))
            for row, (one,) in zip(real.tolist(), said, strict=True)]  # fmt: skip
    return np.array(rows)


def meters(written: np.ndarray, rare: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Number of token types in a text, share of rare tokens, unigram entropy in nats per token, and mean length."""
    there = written[written >= 0]
    _, counts = np.unique(there, return_counts=True)
    shares = counts / counts.sum()
    return {
        "types": len(counts),
        "tail": float(np.isin(there, rare).mean()),
        "entropy": float(-(shares * np.log(shares)).sum()),
        "length": float((written >= 0).sum(1).mean()),
    }


SHUMAILOV, GERSTGRASSER, KAZDAN = "arXiv 2305.17493", "arXiv 2404.01413", "arXiv 2410.16713"
EXPECTED = (
    Expected("replace_degrades", HOLDS, f"perplexity of OPT-125M rises with generations ({SHUMAILOV})"),
    Expected("accumulating_helps", HOLDS, f"holds for models of 9M to 125M ({GERSTGRASSER})"),
    Expected("accumulating_bounds", HOLDS, f"the loss stays bounded ({GERSTGRASSER}); here in nats per token"),
    Expected("subsample_between", HOLDS, f"({KAZDAN})"),
    Expected("subsample_dearer", HOLDS, f"a slow rise that levels off ({KAZDAN})"),
    Expected("some_real_helps", HOLDS, f"10 % of real text nearly prevents the rise ({SHUMAILOV})"),
    Expected("types_die", HOLDS, f"tails are lost first ({SHUMAILOV})",
             sentence="Replacing, fewer types of tokens survive than with everything kept (the difference)"),
    Expected("tail_conserved", OPEN, "exact for a table in the mean; a network may lose or gain a little each time",
             sentence="Replacing at temperature 1 moves the share of the rare quarter of tokens by less than .05"),
    Expected("cold_tail_dies", HOLDS, "follows from sharpening alone, five times (the table of the toy)",
             sentence="Replacing at temperature {cold} takes more than .1 off the share of that quarter"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS: Thesis | None = None
EXHIBITS = tuple(one for one in study.EXHIBITS if "table" not in one.title and one.y not in ("accuracy", "solutions"))
