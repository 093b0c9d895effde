"""Samples user requests from an instruction-tuned model, given only the text that precedes a user's first message."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs import Message
from rl.rendering import Renderer

_ASKS = re.compile(
    r"(Can|Could|What|How|Why|Who|Where|When|Which|Is|Are|Do|Does|Would|Will|Should|Write|Create|Generate|Explain|"
    r"Describe|Summari[sz]e|Translate|Give|Tell|Help|Please|List|Make|Provide|Find|Design|Develop|Suggest|Compare|"
    r"Rewrite|Analy[sz]e|Identify|Calculate|Imagine)\b"
)
_WANTS = re.compile(
    r"\b(I need|I want|I('m| am) (looking|trying|planning|working|writing|interested|having)|help me|can you|could you|"
    r"tell me)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"[{}<>=#_\\|]|import |def |http")


def usable(text: str) -> bool:
    """Whether a text passes a fixed rule: one line of 4 to 60 words, mostly letters, no code, a question or request."""
    text, letters = text.strip(), sum(one.isalpha() or one in " ,.'?!-" for one in text)
    if not 4 <= len(text.split()) <= 60 or "\n" in text or not text[0].isupper():
        return False
    if letters < 0.9 * len(text) or _CODE.search(text) or re.search(r"\b(assistant|system)\b", text.lower()):
        return False
    return bool(text.endswith("?") or _ASKS.match(text) or _WANTS.search(text))


def distinct(rows: Sequence[Sequence[Any]], n: int) -> float:
    """Distinct-n (Li et al., arXiv 1510.03055): number of different n-grams over all n-grams; ``nan`` without any."""
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def opener_entropy(texts: Sequence[str]) -> float:
    """Entropy in bits of the first two words of the texts; low if they begin alike."""
    counts = np.array(list(Counter(" ".join(text.split()[:2]) for text in texts).values()), float)
    shares = counts / counts.sum() if len(counts) else counts
    return float(-(shares * np.log2(shares)).sum())


@dataclass
class Writer:
    """A model that samples requests and answers.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model.
        renderer: Renderer of the same tokenizer, with its chat template and end-of-turn tokens.
        at_once: Batch size of sampled requests.
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    at_once: int = 50

    def requests(self, prefix: str, n: int, temperature: float, max_new: int) -> tuple[list[str], list[bool]]:
        """Samples n single-line continuations of a prefix; also returns whether each of them ended by itself."""
        vocabulary = range(len(self.tokenizer))
        # Any token that contains a line break ends a request: in many vocabularies ".\n" is a single token.
        line_ends = [i for i, text in enumerate(self.tokenizer.batch_decode([[i] for i in vocabulary])) if "\n" in text]
        ends = [*self.renderer.end_ids, *line_ends]
        ids = torch.tensor([self.tokenizer.encode(prefix, add_special_tokens=False)])
        return self._write([ids.expand(min(self.at_once, n - i), -1) for i in range(0, n, self.at_once)],
                           ends, temperature, max_new)  # fmt: skip

    def answers(self, questions: Sequence[str], max_new: int) -> tuple[list[str], list[bool]]:
        """Greedy answers to the questions, one at a time; also returns whether each of them ended by itself."""
        prompts = [torch.tensor([self.renderer.opening([Message("user", question)])]) for question in questions]
        return self._write(prompts, [*self.renderer.end_ids], 0.0, max_new)

    @torch.no_grad()
    def _write(
        self, batches: Sequence[Tensor], ends: list[int], temperature: float, max_new: int
    ) -> tuple[list[str], list[bool]]:
        texts, ended = [], []
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        options = drawn if temperature else {"do_sample": False}
        for ids in (batch.to(self.model.device) for batch in batches):
            whole = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new, eos_token_id=ends,
                pad_token_id=self.renderer.pad_id, **options
            )  # fmt: skip
            out = whole[:, ids.shape[1] :]
            texts += [text.strip() for text in self.tokenizer.batch_decode(out, skip_special_tokens=True)]
            ended += torch.isin(out, torch.tensor(ends, device=out.device)).any(1).tolist()
        return texts, ended
