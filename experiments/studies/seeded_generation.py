"""Can a model write a labelled data set from nothing but its contexts and labels, and then correct its own labels?

TarGEN (Gupta et al., arXiv 2310.17876) writes a data set in four steps with one model and without examples: contexts;
an instance seed for each context; an instance for a label that is chosen *before* the instance is written; and
self-correction, in which the model reads each instance again and replaces its label if the label is wrong. Students
trained on this data set come within a point or two of students trained on the original data (eight tasks of SuperGLUE).

Smallest version: a context is one of six domains with eight symbols each, a seed is five different symbols of the
domain in a row, and an instance is the claim that a symbol is among these five, with the label yes or no. One network
of two layers, width 48, learns to write seeds, to write a claim for a label (a quarter of its corpus is mislabelled),
to write instances in one go (also a quarter mislabelled), and to check labels (one verdict in twenty is wrong, and the
label that it is shown is random). Unreadable instances are kept and counted, but no student learns them.

Arms differ in what a fresh student learns: claims with the labels that they were written for (``written``), with
corrected labels (``corrected``), only claims whose two labels agree (``agreeing``), or instances written in one go
(``whole``); for reference, the true labels of the same claims (``true_labels``), random labels (``coin``), or as many
real instances (``real``). A student is a fresh network and is compared with its writer. Therefore the gate reads how
much more often the labels to be learned are right than the labels that the writer itself gives the same instances.

Simplified: labels of claims are exact by rule, seeds are not sentences, there is one claim for each seed, and every
prompt has one wording.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.analysis.claims import Claim, Figure, ahead, grown, last, minus
from rl.analysis.gate import Gate, share
from rl.analysis.thesis import Thesis, trained
from rl.backends.blocks import Learned, fit, next_logprobs, sample
from rl.backends.meters import answer_meters
from rl.backends.tiny import tiny_gpt2, tiny_tokenizer
from rl.types import derive_seed


@dataclass
class Config:
    """Settings of the study.

    Args:
        width: Width of writer and students, which have two layers.
        steps: Optimiser steps of the writer.
        mislabelled: Share of the writer's training claims that do not fit their label.
        misjudged: Share of the writer's training checks whose verdict is wrong.
        instances: Number of instances that the writer writes, and of real instances for reference.
        student_steps: Optimiser steps of a student, with 64 instances each.
        n_test: Number of real test instances.
    """

    width: int = 48
    steps: int = 2000
    mislabelled: float = 0.25
    misjudged: float = 0.05
    instances: int = 3000
    student_steps: int = 800
    n_test: int = 2000


RANGES = {"mislabelled": (0, 1), "misjudged": (0, 1)}


# ---------------------------------------------------------------- the world: WRITE c2 x8 x11 x9 x14 x12 yes x9 <end>

DOMAINS, SYMBOLS, OF_DOMAIN, LENGTH = 6, 24, 8, 5
TOKENIZER = tiny_tokenizer(
    [
        *(f"c{i}" for i in range(DOMAINS)),
        *(f"x{i}" for i in range(SYMBOLS)),
        "yes",
        "no",
        "write",
        "whole",
        "check",
        "ask",
        "?",
    ],
    True,
)
ID: dict[str, int] = TOKENIZER.get_vocab()
END, C0, X0, YES, NO = (ID[word] for word in ("<|end|>", "c0", "x0", "yes", "no"))
WRITE, WHOLE, CHECK, ASK, MARK = (ID[word] for word in ("write", "whole", "check", "ask", "?"))


@dataclass
class Instances:
    """N labelled claims as token ids.

    Args:
        domain: ``[N]`` domains.
        seed: ``[N, 5]`` symbols.
        claim: ``[N]`` symbol that is claimed to be in the seed.
        label: ``[N]`` yes or no.
    """

    domain: np.ndarray
    seed: np.ndarray
    claim: np.ndarray
    label: np.ndarray

    def readable(self) -> np.ndarray:
        """``[N]`` bool, the rule of form: a domain, five different symbols and a claim of this domain, and a label."""
        symbols = np.column_stack([self.seed, self.claim]) - X0
        of_domain = (symbols - 4 * (self.domain - C0)[:, None]) % SYMBOLS < OF_DOMAIN
        known = (symbols >= 0) & (symbols < SYMBOLS) & of_domain
        different = np.array([len(set(one)) == LENGTH for one in self.seed.tolist()])
        domain = (self.domain >= C0) & (self.domain < C0 + DOMAINS)
        return domain & known.all(1) & different & np.isin(self.label, (YES, NO))

    def truth(self) -> np.ndarray:
        """``[N]`` true labels."""
        return np.where((self.seed == self.claim[:, None]).any(1), YES, NO)

    def take(self, index: np.ndarray, label: np.ndarray | None = None) -> "Instances":
        """The instances at ``index``; if ``label`` is given, it replaces the labels of all N instances first."""
        labels = self.label if label is None else label
        return Instances(self.domain[index], self.seed[index], self.claim[index], labels[index])

    def rows(self, *layout: int | str | np.ndarray) -> Tensor:
        """``[N, T]`` token ids; a part of ``layout`` is the name of a field, an array, or an id that fills a column."""
        parts = [getattr(self, one) if isinstance(one, str) else one for one in layout]
        columns = [np.full(len(self.claim), one) if isinstance(one, int) else one for one in parts]
        return torch.from_numpy(np.column_stack(columns))


def draw(rng: np.random.Generator, n: int, mislabelled: float = 0.0) -> Instances:
    """Real instances; labels are chosen first, and a share ``mislabelled`` of the claims fits the opposite label."""
    domain = rng.integers(0, DOMAINS, n)
    symbols = (rng.permuted(np.tile(np.arange(OF_DOMAIN), (n, 1)), axis=1) + 4 * domain[:, None]) % SYMBOLS + X0
    label = np.where(rng.random(n) < 0.5, YES, NO)
    fits = np.where(rng.random(n) < mislabelled, YES + NO - label, label)
    place = np.where(fits == YES, rng.integers(0, LENGTH, n), rng.integers(LENGTH, OF_DOMAIN, n))
    return Instances(domain + C0, symbols[:, :LENGTH], symbols[np.arange(n), place], label)


def learn(ids: Tensor, *places: int) -> Learned:
    """Rows of which only the tokens at the given positions are learned."""
    learned = torch.zeros(ids.shape, dtype=torch.bool)
    learned[:, list(places)] = True
    return ids, learned


# ---------------------------------------------------------------- the writer, and its four steps


def prepare(cfg: Config, seed: int) -> Any:
    """Trains one network for all steps, and lets it write instances and correct their labels.

    Domains and seeds are random and get few rows of a batch; what follows a rule gets many.
    """
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), tiny_gpt2(TOKENIZER, cfg.width, 2, 4, 16)

    def batches(step: int) -> list[Learned]:
        plain, sloppy, whole = draw(rng, 12), draw(rng, 64, cfg.mislabelled), draw(rng, 48, cfg.mislabelled)
        checked = draw(rng, 96)
        # The shown label is random: if it were mostly right, the model would learn to repeat it.
        shown = np.where(rng.random(96) < 0.5, YES, NO)
        verdict = np.where(rng.random(96) < cfg.misjudged, YES + NO - checked.label, checked.label)
        return [
            learn(plain.rows(WRITE, "domain", "seed"), *range(1, 7)),
            learn(sloppy.rows(WRITE, "domain", "seed", "label", "claim"), 8),
            learn(whole.rows(WHOLE, "domain", "seed", "claim", "label"), 7, 8),
            learn(plain.rows(WHOLE, "domain", "seed"), *range(1, 7)),
            learn(checked.rows(CHECK, "domain", "seed", "claim", MARK, shown, verdict), 10),
        ]

    fit(model, batches, cfg.steps, 4e-3)
    generator, test = torch.Generator().manual_seed(derive_seed(seed, "written")), draw(rng, cfg.n_test)
    written, in_one_go = write(model, cfg.instances, generator), write_whole(model, cfg.instances, generator)
    shown = np.where(rng.random(cfg.n_test) < 0.5, YES, NO)
    found = {"model": model, "written": written, "labels": correct(model, written, written.label), "test": test}
    found |= {"whole": in_one_go, "real": draw(rng, cfg.instances)}
    shown_new = np.where(rng.random(cfg.instances) < 0.5, YES, NO)
    found["own"] = {name: correct(model, found[name], shown_new) for name in ("written", "whole", "real")}
    layouts = {
        "written": written.rows(WRITE, "domain", "seed", "label", "claim"),
        "whole": in_one_go.rows(WHOLE, "domain", "seed", "claim", "label"),
    }
    found["meters"] = {name: answer_meters(model, ids[:, :1], ids[:, 1:], len(ids)) for name, ids in layouts.items()}
    return found | {"accuracy": float((correct(model, test, shown) == test.label).mean())}


def write(model: Any, n: int, generator: torch.Generator) -> Instances:
    """Writes a context and a seed for each instance, and then a claim for a label that is chosen before the claim."""
    begun = sample(model, torch.full((n, 1), WRITE), LENGTH + 1, 1.0, generator)
    label = torch.where(torch.rand(n, generator=generator) < 0.5, YES, NO)
    asked = torch.cat([torch.full((n, 1), WRITE), begun, label[:, None]], 1)
    claim = sample(model, asked, 1, 1.0, generator)[:, 0]
    return Instances(begun[:, 0].numpy(), begun[:, 1:].numpy(), claim.numpy(), label.numpy())


def write_whole(model: Any, n: int, generator: torch.Generator) -> Instances:
    """Writes instances in one go; the label comes last and is sampled like all other tokens."""
    ids = sample(model, torch.full((n, 1), WHOLE), LENGTH + 3, 1.0, generator).numpy()
    return Instances(ids[:, 0], ids[:, 1:6], ids[:, 6], ids[:, 7])


@torch.no_grad()
def correct(model: Any, instances: Instances, shown: np.ndarray) -> np.ndarray:
    """``[N]`` labels that the model gives when it reads each instance again together with the label ``shown``."""
    logprobs = next_logprobs(model, instances.rows(CHECK, "domain", "seed", "claim", MARK, shown))
    return np.where((logprobs[:, YES] > logprobs[:, NO]).numpy(), YES, NO)


# ---------------------------------------------------------------- students

ARMS = ("corrected", "written", "agreeing", "whole", "true_labels", "coin", "real")


def run(cfg: Config, arm: str, seed: int, base: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Selects the arm's instances and labels, and trains a fresh student on them."""
    rng = np.random.default_rng(derive_seed(seed, "arms"))
    source = arm if arm in ("real", "whole") else "written"
    made: Instances = base[source]
    readable, truth, after = made.readable(), made.truth(), base["labels"]
    kept = np.flatnonzero(readable & (made.label == after) if arm == "agreeing" else readable)
    labels = {"corrected": after, "true_labels": truth, "coin": np.where(rng.random(len(truth)) < 0.5, YES, NO)}
    data = made.take(kept, labels.get(arm))
    right = data.label == truth[kept]
    row = {
        "accuracy": base["accuracy"],
        "n": len(kept),
        "failed": float(1 - readable.mean()),
        "reward_accuracy": share(right),
        "yes": share(data.label == YES),
        "distinct": len(np.unique(np.column_stack([data.seed, data.claim]), axis=0)) / len(made.claim),
        "domains": len(np.unique(data.domain)),
    } | base["meters"].get(source, {})
    gate = Gate.of_texts(right, (base["own"][source] == truth)[readable])
    if arm == "corrected":
        was, now = made.label[kept] == truth[kept], right
        row |= {"label_before": share(was), "label_after": share(now)}
        row |= {"i_to_c": share(~was & now), "c_to_i": share(was & ~now)}
        row |= {"mended": share(now[~was]), "broken": share(~now[was])}
    words = TOKENIZER.convert_ids_to_tokens
    for i in range(min(100, len(made.claim))):  # unreadable instances are shown too
        told = " ".join(words([int(made.domain[i]), *made.seed[i].tolist(), int(made.claim[i])]))
        gold = words(int(truth[i])) if readable[i] else "not readable"
        said = words(int((made.label if arm in ("written", "whole", "real") else labels.get(arm, made.label))[i]))
        samples.append({"step": 1, "prompt": told, "answer": said, "gold": gold, "right": said == gold})
    student = student_accuracy(cfg, data, base["test"], seed)
    told = gate.outcome(student - base["accuracy"] if len(kept) else None, arm, THESIS.kind(arm))
    return [row, row | {"accuracy": student, "step": 1} | told]


def student_accuracy(cfg: Config, data: Instances, test: Instances, seed: int) -> float:
    """Accuracy on real instances of a fresh network that is trained on the data."""
    generator = torch.manual_seed(derive_seed(seed, "student"))  # derived: no writer starts with the same weights
    model = tiny_gpt2(TOKENIZER, cfg.width, 2, 4, 16)
    layout = (ASK, "domain", "seed", "claim")
    rows = data.rows(*layout, "label")

    def batches(step: int) -> list[Learned]:
        return [learn(rows[torch.randint(len(rows), (64,), generator=generator)], LENGTH + 3)]

    if len(rows):
        fit(model, batches, cfg.student_steps, 4e-3)
    with torch.no_grad():
        logprobs = next_logprobs(model, test.rows(*layout))
    return float((np.where((logprobs[:, YES] > logprobs[:, NO]).numpy(), YES, NO) == test.label).mean())


# ---------------------------------------------------------------- what is claimed

PAPER = "arXiv 2310.17876"
# fmt: off
CLAIMS = (
    Claim("correction_helps_labels", "Self-correction raises the share of right labels",
          minus(last("corrected", "label_after"), last("corrected", "label_before")), paper=PAPER),
    Claim("mends_most", "Of the wrong labels it mends more than half", last("corrected", "mended"), than=0.5),
    Claim("breaks_few", "Of the right labels it breaks fewer than 5 %",
          last("corrected", "broken"), "below", than=0.05),
    Claim("a_seed_an_instance", "Fewer than 5 % of the instances cannot be read",
          last("corrected", "failed"), "below", than=0.05),
    Claim("as_good_as_real", "A student on corrected instances is at most 1 point below one on real data",
          ahead("corrected", "real"), than=-0.01, paper=PAPER),
    Claim("correction_helps_students", "A student on corrected labels is better than one on the labels asked for",
          ahead("corrected", "written"), paper=PAPER),
    Claim("agreement_is_enough", "Leaving out what is not agreed on is as good as correcting it (within 1 point)",
          ahead("agreeing", "corrected"), "near", margin=0.01),
    Claim("steps_help", "A student on corrected instances is better than one on instances written in one go",
          ahead("corrected", "whole"), paper=PAPER),
    Claim("as_good_as_the_oracle", "True labels of the same claims give a student at most 1 point more",
          ahead("corrected", "true_labels"), than=-0.01),
    Claim("passes_its_writer", "The student is better than the network that wrote its data",
          grown("corrected", "accuracy")),
    Claim("a_coin_teaches_nothing", "Labels by a coin leave the student at chance (within 10 points)",
          last("coin", "accuracy"), "near", than=0.5, margin=0.1),
)

THESIS = Thesis(
    "TarGEN", "instances that it writes for labels, which it then corrects", "nothing: the checker is the model", False,
    "corrected",
    (*trained("self", "corrected", "written", "agreeing", "whole"), *trained("oracle", "true_labels", "real"),
     *trained("control", "coin")),
    "held-out accuracy of a fresh student against its writer's",
)

EXHIBITS = (
    Figure("Students", "arm", "accuracy", None, "Measured on real instances.", y_label="share of labels right"),
    Figure("Labels", "arm", "reward_accuracy", None, "Training labels of each student.", y_label="share right"),
    Figure("Self-correction of labels", "arm", ("label_before", "label_after", "mended", "broken"), ("corrected",),
           "Share of right labels as requested (before) and after the model has read each instance again (after); "
           "mended: share of wrong labels that it makes right; broken: share of right labels that it makes wrong.",
           y_label="share"),
    Figure("What cannot be read, what is new", "arm", ("failed", "distinct"), None, "Of all written instances.",
           y_label="share"),
    Figure("How it is written", "arm", ("entropy", "length"), ("written", "whole"),
           "Entropy of an instance in nats per token, and its length in tokens."),
)
# fmt: on
