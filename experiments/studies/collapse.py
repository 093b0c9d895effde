"""Model collapse: what is lost when every model learns from text that the previous model wrote?

Shumailov et al. (arXiv 2305.17493; Nature 631, 755) train each generation on the newest model's text alone: rare events
disappear first, then everything else. Gerstgrasser et al. (arXiv 2404.01413) keep the real data and add the generated
text to them: the loss stays bounded. Kazdan et al. (arXiv 2410.16713) use a fixed budget of items, sampled from all
data accumulated so far.

Here a transformer of about twenty thousand parameters learns a language of three-word sentences and writes as many
sentences as it was given. The next model starts from the same initial weights and learns the training set that the
arm's policy makes from these sentences. The arm ``verified`` asks what self-improvement adds: it learns only from
sentences that a checker of the grammar accepts. For comparison, a table of counts over the same nouns goes through the
same process without any network.

Left out: natural text, pretrained weights, beam search, and different numbers of epochs. The number of optimiser steps
is the same in every generation, so ``accumulate`` sees each sentence less often and does not train longer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Protocol

import numpy as np
import torch

from rl.analysis.claims import Claim, Figure, PerSeed, ahead, first, grown, last, minus
from rl.analysis.gate import Gate
from rl.analysis.thesis import TEXTS, Thesis, trained
from rl.backends.blocks import fit, next_logprobs, sample, token_losses
from rl.backends.meters import answer_meters
from rl.backends.tiny import tiny_llama, tiny_tokenizer
from rl.generations import DATA_POLICIES
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        generations: Number of models after the first one.
        sentences: Number of real sentences, and of sentences that every model writes for the next one.
        steps: Optimiser steps of every model.
        n_nouns: Number of different nouns in the language.
        zipf: Exponent of the nouns' frequencies (Zipf's law).
        cold: Second sampling temperature; the first is 1.
        real_share: Share of real sentences in the training sets of the arm ``mix``.
    """

    generations: int = 5
    sentences: int = 2000
    steps: int = 300
    n_nouns: int = 300
    zipf: float = 1.1
    cold: float = 0.9
    real_share: float = 0.1


RANGES = {"n_nouns": (8, inf), "zipf": (0, inf), "cold": (0, inf), "real_share": (0, 1)}


# A sentence is subject, verb, object. Frequencies of nouns follow Zipf's law. The subject's class restricts the verb,
# and the verb determines the class of the object, so a subject is like a task with many right answers, some of them
# frequent and some rare.

N_VERBS, N_CLASSES = 40, 8
PER_CLASS = N_VERBS // N_CLASSES
BOS, END, NOUN = 1, 3, 4


class Language:
    """The grammar of the language, and the frequencies of its nouns."""

    def __init__(self, cfg: Config) -> None:
        weights = np.arange(1, cfg.n_nouns + 1) ** -cfg.zipf
        self.n, self.frequency = cfg.n_nouns, weights / weights.sum()
        self.tokenizer = tiny_tokenizer([*(f"n{i}" for i in range(self.n)), *(f"v{i}" for i in range(N_VERBS))], True)
        self.verb = NOUN + self.n
        self.rare = np.cumsum(self.frequency[::-1])[::-1] <= 0.25
        """``[n_nouns]`` bool: the rarest nouns, which together have at most a quarter of the probability."""

    def real(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """``[n, 5]`` token ids of real sentences, including the first and last token."""
        subject = rng.choice(self.n, n, p=self.frequency)
        verb = subject % N_CLASSES * PER_CLASS + rng.integers(0, PER_CLASS, n)
        wanted, obj = self.object_class(verb), np.empty(n, int)
        for c in range(N_CLASSES):
            suits = np.where(np.arange(self.n) % N_CLASSES == c, self.frequency, 0.0)
            obj[wanted == c] = rng.choice(self.n, (wanted == c).sum(), p=suits / suits.sum())
        return np.stack([np.full(n, BOS), NOUN + subject, self.verb + verb, NOUN + obj, np.full(n, END)], 1)

    def object_class(self, verb: np.ndarray) -> np.ndarray:
        """Class of nouns that a verb requires as its object."""
        return (verb // PER_CLASS + verb) % N_CLASSES

    def lawful(self, rows: np.ndarray) -> np.ndarray:
        """The checker: ``[n]`` bool, whether each row is a sentence of the language."""
        s, v, o = rows[:, 1] - NOUN, rows[:, 2] - self.verb, rows[:, 3] - NOUN
        words = (s >= 0) & (s < self.n) & (v >= 0) & (v < N_VERBS) & (o >= 0) & (o < self.n) & (rows[:, 4] == END)
        return words & (v // PER_CLASS == s % N_CLASSES) & (o % N_CLASSES == self.object_class(v))


class Writer(Protocol):
    """A model of one generation."""

    def write(self, n: int, temperature: float) -> np.ndarray:
        """Samples ``n`` rows."""
        ...

    def measure(self, written: np.ndarray) -> dict[str, float]:
        """Measures how much of the real language is left; ``written`` has as many rows as there are real sentences."""
        ...


class Transformer:
    """A transformer; every generation has the same initial weights, but other random batches and samples."""

    def __init__(
        self,
        cfg: Config,
        seed: int,
        language: Language,
        test: np.ndarray,
        generator: torch.Generator,
        rows: np.ndarray,
    ) -> None:
        torch.manual_seed(seed)
        self.model = tiny_llama(language.tokenizer, 32, 1, 4, 8)
        self.language, self.test, self.generator = language, test, generator
        data, learned = torch.from_numpy(rows), torch.ones(64, 5, dtype=torch.bool)

        def batch(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            return [(data[torch.randint(len(data), (64,), generator=self.generator)], learned)]

        fit(self.model, batch, cfg.steps, 5e-3)

    def write(self, n: int, temperature: float) -> np.ndarray:
        """See :class:`Writer`."""
        bos = torch.full((n, 1), BOS)
        return torch.cat([bos, sample(self.model, bos, 4, temperature, self.generator)], 1).numpy()

    @torch.no_grad()
    def measure(self, written: np.ndarray) -> dict[str, float]:
        """See :class:`Writer`; the loss is in nats per held-out real sentence, ``tail`` is exact at temperature 1."""
        ids, lawful = torch.from_numpy(self.test), self.language.lawful(written)
        nouns = next_logprobs(self.model, torch.tensor([[BOS]]))[0, NOUN : self.language.verb].exp().numpy()
        kept = written[lawful]
        return {
            "loss": 4 * token_losses(self.model, ids, torch.ones(ids.shape, dtype=torch.bool)).mean().item(),
            "types": len(np.unique(kept[:, 1])),
            "tail": float(nouns[self.language.rare].sum()),
            "accuracy": float(lawful.mean()),
            "solutions": len(np.unique(kept[:, 1:4], axis=0)),
            "noun_entropy": float(-(nouns * np.log(nouns + 1e-12)).sum()),
        } | answer_meters(self.model, torch.from_numpy(written[:, :1]), torch.from_numpy(written[:, 1:]), len(written))


class Table:
    """Relative frequencies of the nouns: a model without a network. For its loss, 0.1 is added to each count."""

    def __init__(self, language: Language, rng: np.random.Generator, rows: np.ndarray) -> None:
        counts = np.bincount(rows[:, 0], minlength=language.n)
        self.language, self.rng, self.seen = language, rng, counts / counts.sum()
        self.smoothed = (counts + 0.1) / (counts + 0.1).sum()

    def write(self, n: int, temperature: float) -> np.ndarray:
        """See :class:`Writer`."""
        p = self.seen ** (1 / temperature)
        return self.rng.choice(self.language.n, n, p=p / p.sum())[:, None]

    def measure(self, written: np.ndarray) -> dict[str, float]:
        """See :class:`Writer`; the loss is the exact cross-entropy under the true frequencies, in nats per noun."""
        return {
            "table_loss": float(-(self.language.frequency * np.log(self.smoothed)).sum()),
            "table_types": len(np.unique(written)),
            "table_tail": float(self.seen[self.language.rare].sum()),
        }


ARMS = ("replace", "accumulate", "accumulate_subsample", "mix", "verified")


def prepare(cfg: Config, seed: int) -> tuple[Language, np.ndarray, np.ndarray]:
    """The language, the real sentences to learn from, and held-out real sentences."""
    language, rng = Language(cfg), np.random.default_rng(seed)
    return language, language.real(cfg.sentences, rng), language.real(2000, rng)


def run(
    cfg: Config, arm: str, seed: int, base: tuple[Language, np.ndarray, np.ndarray], samples: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Runs all generations of one policy, with the network and the table, each at both temperatures."""
    language, real, test = base
    # One gate for each temperature and generation; the first one (temperature 1) is compared with the final gain.
    gates = list[Gate]()
    rows: list[dict[str, Any]] = [{"arm": arm, "seed": seed, "step": g} for g in range(cfg.generations + 1)]
    for temperature, suffix in ((1.0, ""), (cfg.cold, "_cold")):
        of_writers = derive_seed(seed, "writers")
        rng, generator = np.random.default_rng(of_writers), torch.Generator().manual_seed(of_writers)
        network = partial(Transformer, cfg, seed, language, test, generator)
        accept = language.lawful if arm == "verified" else None
        for g, (model, text, learned) in enumerate(generations(network, real, arm, temperature, cfg, rng, accept)):
            rows[g] |= {name + suffix: value for name, value in model.measure(text).items()}
            gates.append(Gate.of_texts(language.lawful(learned), language.lawful(text)))
            rows[g][TEXTS + suffix] = float(language.lawful(learned).mean())
            for row in text[:8]:
                words, right = language.tokenizer.decode(row[1:]), bool(language.lawful(row[None])[0])
                prompt = f"generation {g}, temperature {temperature}"
                samples.append({"step": g, "prompt": prompt, "answer": words, "right": right})
        if arm != "verified":  # the table writes single nouns, which the checker has no reason to reject
            count = partial(Table, language, rng)
            table = generations(count, real[:, 1:2] - NOUN, arm, temperature, cfg, rng)
            for g, (model, text, _) in enumerate(table):
                rows[g] |= {name + suffix: value for name, value in model.measure(text).items()}
    rows[-1] |= gates[0].outcome(rows[-1]["accuracy"] - rows[0]["accuracy"], arm, THESIS.kind(arm))
    return rows


def generations(
    learn: Callable[[np.ndarray], Writer],
    real: np.ndarray,
    policy: str,
    temperature: float,
    cfg: Config,
    rng: np.random.Generator,
    accept: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[tuple[Writer, np.ndarray, np.ndarray]]:
    """Trains a model, lets it write, makes the next training set from its text, and starts again with a new model.

    Returns, for each generation, the model, its text, and the training set of the next model.
    """
    name, options = ("replace" if accept else policy), ({"share": cfg.real_share} if policy == "mix" else {})
    next_data = DATA_POLICIES.bind(name, options)
    data, pool, found = real, real, []
    for _ in range(cfg.generations + 1):
        model = learn(data)
        new = text = model.write(len(real), temperature)
        if accept:  # as many accepted sentences as there are real ones, if four times as many samples contain them
            tries = np.concatenate([text, *(model.write(len(real), temperature) for _ in range(3))])
            new = tries[accept(tries)][: len(real)]
            if not len(new):
                raise ValueError("the checker accepts nothing that the model wrote: give the study more steps")
        pool = np.concatenate([pool, new])
        data = next_data(real, pool, new, rng)
        found.append((model, text, data))
    return found


def lost(arm: str, name: str) -> PerSeed:
    """Statistic of each seed: how far a column has fallen from the first to the last generation."""
    return minus(first(arm, name), last(arm, name))


SHUMAILOV, GERSTGRASSER, KAZDAN = "arXiv 2305.17493", "arXiv 2404.01413", "arXiv 2410.16713"
# fmt: off
CLAIMS = (
    Claim("replace_degrades", "Replacing all data, the last model predicts real text worse than the first (nats)",
          grown("replace", "loss"), paper=SHUMAILOV),
    Claim("accumulating_helps", "Keeping everything costs less held-out loss than replacing (nats, the difference)",
          ahead("replace", "accumulate", "loss"), paper=GERSTGRASSER),
    Claim("accumulating_bounds", "Keeping everything, the last model's loss is within half a nat of the first one's",
          grown("accumulate", "loss"), "near", margin=0.5, paper=GERSTGRASSER),
    Claim("subsample_between", "At a fixed budget accumulation still beats replacing (nats, the difference)",
          ahead("replace", "accumulate_subsample", "loss"), paper=KAZDAN),
    Claim("subsample_dearer", "At a fixed budget accumulation loses more than without one (nats, the difference)",
          ahead("accumulate_subsample", "accumulate", "loss"), paper=KAZDAN),
    Claim("some_real_helps", "A share of {real_share} of real sentences lowers the loss (nats, the difference)",
          ahead("replace", "mix", "loss"), paper=SHUMAILOV),
    Claim("types_die", "Replacing, fewer types of nouns survive than with everything kept (the difference)",
          ahead("accumulate", "replace", "types"), paper=GERSTGRASSER),
    Claim("tail_conserved", "Replacing at temperature 1 moves the probability of the rare quarter by less than .05",
          grown("replace", "tail"), "near", margin=0.05),
    Claim("table_tail_conserved", "In the table, replacing at temperature 1 moves the rare quarter by less than .05",
          grown("replace", "table_tail"), "near", margin=0.05),
    Claim("cold_tail_dies", "Replacing at temperature {cold} takes more than .1 off the rare quarter's probability",
          lost("replace", "tail_cold"), than=0.1, paper=SHUMAILOV),
    Claim("cold_table_tail_dies", "In the table, replacing at temperature {cold} takes more than .1 off that quarter",
          lost("replace", "table_tail_cold"), than=0.1, paper=SHUMAILOV),
    Claim("checker_raises_accuracy", "Learning from checked sentences alone raises the share that is lawful",
          grown("verified", "accuracy")),
    Claim("checker_loses_solutions", "Learning from checked sentences alone loses distinct right sentences",
          lost("verified", "solutions")),
    Claim("checker_cuts_the_tail", "At temperature 1 the checker cuts the rare quarter further than plain replacing",
          ahead("replace", "verified", "tail")),
)
# fmt: on

THESIS = Thesis(
    "Model collapse", "everything it writes is learned from", "nothing", False, "replace",
    (*trained("self", "replace", "accumulate", "accumulate_subsample", "mix", signal=TEXTS),
     *trained("oracle", "verified")),
    "share of lawful sentences",
)  # fmt: skip

EXHIBITS = (
    Figure("Loss on real sentences", "step", "loss", x_label="generation", y_label="nats per held-out sentence"),
    Figure("The same at temperature {cold}", "step", "loss_cold", x_label="generation", y_label="nats per sentence"),
    Figure("Types that survive", "step", "types", x_label="generation", y_label="distinct subjects"),
    Figure("The rare quarter", "step", "tail", x_label="generation", y_label="probability"),
    Figure("The rare quarter at {cold}", "step", "tail_cold", x_label="generation", y_label="probability"),
    Figure("The rare quarter at {cold}, table", "step", "table_tail_cold", x_label="generation", y_label="probability"),
    Figure("Types that survive, table", "step", "table_types", x_label="generation", y_label="distinct nouns"),
    Figure("Sentences that pass the checker", "step", "accuracy", x_label="generation", y_label="share"),
    Figure("Distinct right sentences", "step", "solutions", x_label="generation", y_label="sentences"),
)
