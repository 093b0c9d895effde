"""Messages to token ids, append-only: the one place where text and tokens meet.

The prompt of turn k+1 is the prompt of turn k, then the sampled ids *as sampled*, then the rendered new messages.
Nothing is rendered or tokenised twice, so what was sampled is what is trained on. That only works with a chat template
whose rendering of a longer conversation extends the rendering of a shorter one; the start of a run probes for it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from envs import Message
from rl.types import Finish

_PROBE = (
    Message("user", "1 2"),
    Message("assistant", "3"),
    Message("user", "4"),
    Message("assistant", "5 6"),
    Message("user", "7"),
)
"""Digits only, so that even a toy vocabulary can say it."""


class TemplateError(ValueError):
    """The chat template rewrites earlier turns, so appended and re-rendered prompts would differ."""


class Renderer:
    """Turns messages into token ids with a tokenizer's chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.

    Raises:
        TemplateError: If there is no template, or it breaks the append-only rule.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise TemplateError(
                f"{tokenizer.name_or_path!r} has no chat template: set model.chat_template to a Jinja file"
            )
        self.tokenizer = tokenizer
        self._end_text, self.end_id = self._find_end_of_turn()
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id
        self._opening = lru_cache(maxsize=65536)(self._render_opening)
        self._extension = lru_cache(maxsize=65536)(self._render_extension)
        self._probe()

    def opening(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt of the first turn."""
        return self._opening(tuple(messages))

    def extend(
        self,
        prompt_ids: tuple[int, ...],
        action_ids: tuple[int, ...],
        finish: Finish,
        messages: Sequence[Message],
    ) -> tuple[int, ...]:
        """The prompt of the next turn: prompt, action, and the new messages.

        An action that was cut off gets the end-of-turn token that it lacks, as context and not as action.
        """
        closing = () if finish is Finish.STOP else (self.end_id,)
        return prompt_ids + action_ids + closing + self._extension(tuple(messages))

    def text(self, action_ids: Sequence[int]) -> str:
        """The action as text, without special tokens."""
        return self.tokenizer.decode(action_ids, skip_special_tokens=True)

    def _template(self, messages: Sequence[Message], generate: bool) -> str:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _render_opening(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self._encode(self._template(messages, generate=True))

    def _render_extension(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        before = self._template(_PROBE[:2], generate=False)
        after = self._template((*_PROBE[:2], *messages), generate=True)
        shown = before[: before.rindex(self._end_text) + len(self._end_text)]
        return self._encode(after[len(shown) :])

    def _find_end_of_turn(self) -> tuple[str, int]:
        """The special token that the template puts after an assistant's text."""
        opening = self._template(_PROBE[:1], generate=True)
        closed = self._template(_PROBE[:2], generate=False)
        if not closed.startswith(opening + _PROBE[1].content):
            raise TemplateError(
                "the chat template renders an assistant turn differently from the generation prompt it follows"
            )
        tail = self._encode(closed[len(opening) + len(_PROBE[1].content) :])
        specials = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token_id in tail:
            if token_id in specials:
                return self.tokenizer.convert_ids_to_tokens(token_id), token_id
        raise TemplateError("the chat template does not end an assistant turn with a special token")

    def _probe(self) -> None:
        """Renders a three-turn conversation whole and by appending, and compares the ids."""
        ids = self.opening(_PROBE[:1])
        for assistant, user in ((_PROBE[1], _PROBE[2]), (_PROBE[3], _PROBE[4])):
            action = (*self._encode(assistant.content), self.end_id)
            ids = self.extend(ids, action, Finish.STOP, (user,))
        whole = self._encode(self._template(_PROBE, generate=True))
        if ids != whole:
            raise TemplateError(
                "the chat template is not append-only: appending turns gives "
                f"{self.tokenizer.decode(ids)!r} but rendering them at once gives {self.tokenizer.decode(whole)!r}. "
                "Templates that drop or rewrite earlier turns (thoughts, for example) need a training template: "
                "set model.chat_template"
            )
