"""Ctx2Skill with a chat model as the Reasoner: the study's books and game, with prompts in natural language.

Setting. Si et al. (arXiv 2604.27660) let GPT-4.1 play all roles on CL-bench for five iterations of five tasks; nothing
is trained. Here Qwen2.5-7B-Instruct is the Reasoner on the study's books of sixteen rules, six of which fit into the
prompt, with the study's Challenger, Judge and replay: six iterations, 30 books, all arms.

Simplified. Challenger, Judge and the writer of skills are scripted and exact (or err on purpose), because CL-bench's
rubrics need a judge that is stronger than the model; a skill is a rule of the book, not free text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.full import FAILS, HOLDS, OPEN, Expected, carried
from experiments.full.cost import Work
from experiments.full.speaker import Speaker
from experiments.rule_books import DEEPEST, END, S0, SYMBOLS, TOKENIZER, WINDOW
from experiments.studies import skills as study


@dataclass
class Config:
    """Settings of the full size; those of the game are the same as in the study.

    Args:
        model: Name in :data:`experiments.full.shapes.SHAPES`, or a folder.
        prompt: Tokens of a prompt; only for the cost estimate.
        max_new: Largest number of tokens of an answer.
        contexts: Number of books.
        iterations: Iterations of the game.
        tasks: Tasks of the Challenger per iteration.
        probes: Number of probes of each kind on which a set of skills is replayed.
        tests: Number of real test tasks of each book.
        zipf: Exponent of the frequencies of the real tasks' start symbols (Zipf's law).
        judge_error: Share of wrong verdicts in the arm ``noisy_judge``.
    """

    model: str = "Qwen/Qwen2.5-7B-Instruct"
    prompt: int = 160
    max_new: int = 64
    contexts: int = 30
    iterations: int = 6
    tasks: int = 10
    probes: int = 12
    tests: int = 100
    zipf: float = 1.5
    judge_error: float = 0.2


RANGES = study.RANGES
DRY = {"contexts": 2, "iterations": 2, "tasks": 2, "probes": 2, "tests": 3, "max_new": 8, "prompt": 330}
ARMS = study.ARMS


def work(cfg: Config) -> dict[str, Work]:
    """Work of each arm: the game, every set of skills on tests and four kinds of probes, and two reference sets."""
    sets = cfg.iterations + 1
    asked = cfg.iterations * cfg.tasks + (sets + 2) * cfg.tests + 4 * sets * cfg.probes + 4
    one = Work(sampled=cfg.max_new, read=cfg.prompt)
    return dict.fromkeys(ARMS, cfg.contexts * asked * one)


@dataclass
class InWords:
    """A Reasoner that gets a prompt's rules as sentences and answers with numbers in text."""

    speaker: Speaker
    max_new: int

    def chains(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Answers each prompt with ``DEEPEST + 1`` token ids, like the study's own network."""
        said = self.speaker.say([self.question(one) for one in prompts], 0, self.max_new, temperature=0.0)
        found = []
        for (one,) in said:
            symbols = [S0 + int(text) for text in re.findall(r"\d+", one.text) if int(text) < SYMBOLS][:DEEPEST]
            found.append([*symbols, *[END] * (DEEPEST + 1 - len(symbols))])
        return found

    def question(self, prompt: Sequence[int]) -> str:
        """Rules, start symbol and depth of a prompt in natural language."""
        words = TOKENIZER.convert_ids_to_tokens(list(prompt))
        rules = [f"From {a} go to {b}." for a, _, b in (word.partition(">") for word in words[:WINDOW]) if b]
        start, depth = words[WINDOW + 1][1:], words[WINDOW + 2][1:]
        shown = " ".join(rules) or "You have no rules."
        return (f"{shown} Start at {start} and apply {depth} rule(s), one after the other. "
                f"Write the {depth} number(s) that you come to, in order, and nothing else.")  # fmt: skip


def prepare(cfg: Config, seed: int) -> InWords:
    """Loads the model; nothing is trained."""
    return InWords(Speaker(cfg.model, 1, 1e-5), cfg.max_new)


def run(cfg: Config, arm: str, seed: int, base: InWords, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs the study's own code: the game."""
    return study.run(cfg, arm, seed, base, samples)  # type: ignore[arg-type]


CTX = "arXiv 2604.27660"
TOY = "as with the toy network, from which only the Reasoner differs (docs/studies.md)"
EXPECTED = (
    Expected("selected_helps", HOLDS, f"solve rates rise by 3 to 5 points with GPT models ({CTX}); rules that are "
             "needed and shown are worth more than that here"),
    Expected("drift_harms", HOLDS, TOY),
    Expected("replay_guards", HOLDS, f"what replay is for ({CTX}); three seeds of the toy could not tell"),
    Expected("replay_helps_steady", HOLDS, TOY),
    Expected("replay_finds_the_best", FAILS, "hard probes come from the Challenger that has drifted; so in the toy"),
    Expected("beats_random_rules", OPEN, "a 7B model may guess where a rule is missing, which flatters random rules"),
    Expected("beats_the_curator", HOLDS, TOY),
    Expected("product_beats_hard", OPEN, TOY),
    Expected("product_beats_easy", OPEN, TOY),
    Expected("even_probes_help", OPEN, TOY),
    Expected("survives_a_noisy_judge", HOLDS, TOY),
    Expected("the_judge_matters", OPEN, "a coin's game collects true rules as well, since they are copied from the "
             "book (docs/studies.md)"),
)  # fmt: skip
CLAIMS = carried(study.CLAIMS, EXPECTED)
THESIS, EXHIBITS = study.THESIS, study.EXHIBITS
