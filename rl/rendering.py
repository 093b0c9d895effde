"""Messages to token ids, append-only: the one place where text and tokens meet.

The prompt of turn k+1 is the prompt of turn k, then the sampled ids *as sampled*, then the rendered new messages.
Nothing is rendered or tokenised twice, so what was sampled is what is trained on. Chat templates are free to do
otherwise: they may drop the thoughts of earlier turns, move the system prompt, or open an answer with text that they
leave out of the history. The start of a run renders conversations whole and by appending and compares them.

With ``thoughts="drop"`` every prompt is rendered whole instead, from the conversation without the thoughts of earlier
answers. It is then no extension of the turn before it, and every turn is trained on as a sequence of its own.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from envs import Message

_USER, _ANSWER, _NEXT = "11 first question", "22 first answer", "33 second question"
_SECOND, _LAST, _SYSTEM = "44 second answer", "55 third question", "66 instruction"
_THOUGHTS = {
    "</think>": (("<think>\n", "\n</think>\n\n"), ("<think>", "</think>\n"), ("<think>", "</think>")),
    "</seed:think>": (("<seed:think>", "</seed:think>"),),
    "[/THINK]": (("[THINK]", "[/THINK]"),),
    "<|END_THINKING|>": (("<|START_THINKING|>", "<|END_THINKING|>"),),
    "<channel|>": (("<|channel>thought\n", "<channel|>"),),
    "</thought>": (("<thought>\n", "\n</thought>\n"),),
}
"""How models mark what they think before they answer, in the ways in which templates space it, by the mark of its end:
those are tried that the template knows."""


class TemplateError(ValueError):
    """The chat template rewrites earlier turns, so appended and re-rendered prompts would differ."""


class Renderer:
    """Turns messages into token ids with a tokenizer's chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        end_ids: Further tokens that end a turn, those that the model's authors list.
        stop_strings: Texts that end a turn too; they and what follows are not part of its text.
        template_kwargs: Arguments of the template, ``enable_thinking`` for example.
        thoughts: What becomes of a template that writes earlier answers otherwise than they were sampled, without
            their thoughts for example. ``refuse`` raises; ``keep`` goes on, and the answers stay as sampled; ``drop``
            takes the thoughts of earlier answers out, whatever the template does.
        today: What the template reads as today's date.

    Attributes:
        end_id: The token with which the template ends an answer.
        end_ids: All tokens that end a turn.
        pad_id: Fills rows; the tokenizer's own, or ``end_id``.
        drops_thoughts: Prompts are rendered whole, by :meth:`opening` of all that was said (see :meth:`said`).

    Raises:
        TemplateError: If there is no template, it breaks the append-only rule, or thoughts are to be dropped whose
            marks are not known.
    """

    def __init__(
        self,
        tokenizer: Any,
        end_ids: Collection[int] = (),
        stop_strings: Sequence[str] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        thoughts: str = "refuse",
        today: date = date(2026, 1, 1),
    ) -> None:
        if not tokenizer.chat_template:
            raise TemplateError(
                f"{tokenizer.name_or_path!r} has no chat template: set model.chat_template to a Jinja file, or to "
                "trl:<name> for one of TRL's training templates"
            )
        self.tokenizer, self.stop_strings = tokenizer, tuple(stop_strings)
        # The template asks for the time by calling this; as an argument it hides the function of the same name.
        self._kwargs = {"strftime_now": today.strftime, **(template_kwargs or {})}
        # Probe the template before it is used: how it takes contents, and with which token an answer ends. In the
        # history some templates write another end than behind the last answer, which is what the model learnt to write.
        self._blocks = self._wants_blocks()
        self._before_end, self._end_text, self.end_id = self._find_end_of_turn(end_ids)
        last = self.end_id if self._final_end_id is None else self._final_end_id
        self.end_ids = frozenset({last, *end_ids})
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id
        # What closes an answer that was cut off: white space, if the template writes any, and the end token. Encoded
        # behind an end token, since a tokenizer may treat the beginning of a text in another way.
        self._system_fault: str | None = None
        closing = tokenizer.encode(self._end_text + self._before_end + self._end_text, add_special_tokens=False)
        self._closing = tuple(closing[closing.index(self.end_id) + 1 :])
        # A group shares its question, and most feedback is the same text: what was rendered is kept.
        self._ids = lru_cache(maxsize=65536)(self._render)
        # With thoughts dropped nothing is appended, so no rule of appending can be broken.
        self.drops_thoughts = thoughts == "drop"
        if self.drops_thoughts:
            self._marks = self._marks_of_thoughts()
        else:
            self._check_history(thoughts)
        self._system_fault = self._fault_with_system()

    def opening(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt of the first turn, or that of any turn from a whole conversation."""
        return self._ids(tuple(messages), behind_answer=False)

    def before_question(self, first: bool = True) -> str:
        """What the template writes in front of a question: a model that goes on from there writes the question itself.

        Args:
            first: In front of the first question, with the system prompt that the template puts there by itself, if
                it does; otherwise what opens any later question.
        """
        text = self._template([Message("user", _USER)], generate=False, behind_answer=not first)
        return text.partition(_USER)[0].lstrip("\n")

    def extend(
        self, prompt_ids: tuple[int, ...], action_ids: tuple[int, ...], messages: Sequence[Message]
    ) -> tuple[int, ...]:
        """The prompt of the next turn: prompt, action, and the new messages.

        An action without the template's end of turn (it was cut off, or ended in another way) gets it, as context
        and not as action.
        """
        ended = action_ids[-1:] in ((self.end_id,), (self._final_end_id,))
        return (
            prompt_ids + action_ids + (() if ended else self._closing) + self._ids(tuple(messages), behind_answer=True)
        )

    def text(self, action_ids: Sequence[int]) -> str:
        """The action as text, without special tokens, up to the first stop string."""
        text = self.tokenizer.decode(action_ids, skip_special_tokens=True)
        return text[: min((i for stop in self.stop_strings if (i := text.find(stop)) >= 0), default=len(text))]

    def said(self, action_ids: Sequence[int]) -> Message:
        """The action as a later prompt shows it where thoughts are dropped: what stands behind the last thought.

        A thought that was cut off is all that there is of its answer, and goes with it.
        """
        ended = bool(action_ids) and action_ids[-1] in self.end_ids
        text = self.tokenizer.decode(action_ids[:-1] if ended else action_ids, skip_special_tokens=False)
        text = text[: min((i for stop in self.stop_strings if (i := text.find(stop)) >= 0), default=len(text))]
        for start, end, opened in self._marks:
            # The last end mark counts: a model may think again after it began to answer. Without one the thought was
            # cut off; where the prompt opened it, all of the action is thought.
            if end in text:
                text = text.rpartition(end)[2].lstrip("\n")
            elif opened or start in text:
                text = "" if opened else text.partition(start)[0]
        return Message("assistant", text)

    def stops(self, action_ids: Sequence[int]) -> bool:
        """Whether the newest token completes a stop string."""
        # A character takes at most four tokens (bytes), so the string lies in the tail.
        tail = self.tokenizer.decode(action_ids[-4 * max(map(len, self.stop_strings)) :])
        return any(stop in tail for stop in self.stop_strings)

    def _render(self, messages: tuple[Message, ...], behind_answer: bool) -> tuple[int, ...]:
        """Ids of messages up to where an answer begins: of the first ones, or of those behind an answer and its end.

        The latter are encoded behind the end token, as in the whole conversation: alone, SentencePiece would put a
        space before them, and tokens that swallow the white space after them would leave it in.
        """
        if not behind_answer and self._system_fault and any(message.role == "system" for message in messages):
            raise TemplateError(self._system_fault)
        text = self._template(messages, True, behind_answer)
        ids = self.tokenizer.encode(self._end_text + text if behind_answer else text, add_special_tokens=False)
        return tuple(ids[ids.index(self.end_id) + 1 :] if behind_answer else ids)

    def _template(self, messages: Sequence[Message], generate: bool, behind_answer: bool = False) -> str:
        """What the template makes of messages.

        Args:
            messages: With their roles.
            generate: Go on to where the next answer begins.
            behind_answer: They follow a question and an answer, whose text and end are left out of the result.
        """
        # A template takes conversations from their beginning alone, so what follows an answer is rendered behind a
        # known question and answer, which are then cut off with all that stands before them.
        before = (Message("user", _USER), Message("assistant", _ANSWER)) if behind_answer else ()
        chat: list[dict[str, Any]] = [{"role": one.role, "content": one.content} for one in (*before, *messages)]
        if self._blocks:
            chat = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in chat]
        try:
            text = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=generate, **self._kwargs
            )
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template cannot be read, line {error.lineno}: {error.message}; mend it, or set "
                "model.chat_template to another file, or to trl:<name> for one of TRL's training templates"
            ) from error
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in chat)
            raise TemplateError(f"the chat template cannot render the roles {roles}: {error}") from error
        if not behind_answer:
            return text
        after, end = text.rpartition(_ANSWER)[2], self._before_end + self._end_text
        if not after.startswith(end):
            raise TemplateError(f"the chat template ends an answer with {after[: len(end)]!r}, and once with {end!r}")
        return after[len(end) :]

    def _wants_blocks(self) -> bool:
        """Whether the template reads lists of content blocks alone, as those of models that also see images do."""
        self._blocks = False  # which `_template` reads
        try:
            return _USER not in self._template([Message("user", _USER)], generate=True)
        except TemplateError:
            return True

    def _first_special(self, text: str) -> tuple[str, str, int] | None:
        """The first special token of a text: what stands before it, its own text, its id."""
        added = self.tokenizer.added_tokens_decoder
        specials = {added[i].content if i in added else self.tokenizer.convert_ids_to_tokens(i): i for i in added}
        specials |= dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        # Of two that begin at the same place the longer one: a token's text may be the beginning of another's.
        found = [(text.index(name), -len(name), name) for name in specials if name in text]
        if not found:
            return None
        start, _, name = min(found)
        return text[:start], name, specials[name]

    def _find_end_of_turn(self, end_ids: Collection[int]) -> tuple[str, str, int]:
        """What stands between an answer and its end token, and that token.

        It is looked for behind an answer that others follow, up to the next question. A token that only the next
        question brings is an end of turn where the model's authors say that the model writes it.
        """
        chat = (Message("user", _USER), Message("assistant", _ANSWER), Message("user", _NEXT))
        whole, alone = self._template(chat, generate=True), self._template(chat[:2], generate=False)
        if _ANSWER not in whole or _NEXT not in whole.rpartition(_ANSWER)[2]:
            raise TemplateError("the chat template leaves out what was said; set model.chat_template to another one")
        found = self._first_special(whole.rpartition(_ANSWER)[2].partition(_NEXT)[0])
        last = self._first_special(alone.rpartition(_ANSWER)[2])
        self._final_end_id = last[2] if last else None
        if found is None or (last is None and found[2] not in end_ids):
            raise TemplateError(
                "the chat template does not end an assistant turn with a special token: let it write the tokenizer's "
                f"end token ({self.tokenizer.eos_token!r}) behind every answer, in a file for model.chat_template; or, "
                "where the model itself writes the token that opens the next question, list that token as "
                "eos_token_id in its generation_config.json"
            )
        return found

    def _fault(self, chat: Sequence[Message], start: str = "") -> tuple[bool, str] | None:
        """How a whole rendering differs from an appended one; whether in the answers alone, and in which words.

        Args:
            chat: Questions and answers; the last is a question.
            start: With what every answer begins; it is not sampled where the generation prompt ends with it.
        """
        questions = [message for message in chat if message.role != "assistant"]
        answers = [message.content for message in chat if message.role == "assistant"]
        n_opening = len(questions) - len(answers)
        whole = self._template(chat, generate=True)
        appended, closing = self._template(questions[:n_opening], generate=True), self._before_end + self._end_text
        for answer, question in zip(answers, questions[n_opening:], strict=True):
            # Where the generation prompt opens the thought, the model does not write the opening again.
            opened = bool(start) and appended.rstrip().endswith(start.strip())
            appended += (answer.removeprefix(start) if opened else answer) + closing
            appended += self._template([question], True, behind_answer=True)
        if _without_gaps(whole, answers) == _without_gaps(appended, answers):
            return None
        # The questions, with all that the template writes around them, in their order; only answers may lie between.
        asked = [self._template(questions[:n_opening], generate=False)]
        asked += [closing + self._template([question], False, behind_answer=True) for question in questions[n_opening:]]
        last = closing + self._template(questions[-1:], True, behind_answer=True)
        pattern = re.escape(asked[0]) + "".join(".*?" + re.escape(part) for part in asked[1:-1])
        in_answers = re.fullmatch(pattern + ".*" + re.escape(last), whole, re.DOTALL) is not None
        return in_answers, f"Appending turns gives {appended!r} but rendering them at once gives {whole!r}"

    def _check_history(self, thoughts: str) -> None:
        """Renders three turns whole and by appending, as text and with thoughts, and their ids.

        A template leaves answers as they were sampled if it does so with those that the model writes: with thoughts,
        or, where it has none or the generation prompt has closed them already, with plain ones.
        """

        def fault(start: str, end: str) -> tuple[bool, str] | None:
            inner = f"{start}77 thought{end}" if end else ""
            texts = (_USER, inner + _ANSWER, _NEXT, inner + _SECOND, _LAST)
            roles = ("user", "assistant", "user", "assistant", "user")
            return self._fault([Message(role, text) for role, text in zip(roles, texts, strict=True)], start)

        # Plain answers first; then, for each mark of thoughts that the template names, answers with a thought in every
        # spacing that is known. One spacing that is kept is enough: it is the one that the template was written for.
        template, opening = str(self.tokenizer.chat_template), self._template([Message("user", _USER)], generate=True)
        plain = fault("", "")
        faults = [plain] if plain else []
        for mark, spacings in _THOUGHTS.items():
            if mark in template and not (plain is None and mark in opening):
                found = [fault(start, end) for start, end in spacings]
                # One that keeps thoughts may write an empty one where there is none.
                faults = [] if None in found else [*faults, *filter(None, found)]
        # A fault outside of the answers would put other words into the context than the template's, and no setting
        # helps. One in the answers alone leaves a choice, which model.thoughts makes.
        if broken := next((words for in_answers, words in faults if not in_answers), None):
            raise TemplateError(f"the chat template is not append-only. {self._remedy()}. {broken}")
        if faults and thoughts != "keep":
            raise TemplateError(
                "the chat template writes earlier answers otherwise than they were sampled: it drops their thoughts, "
                "or opens them differently. Set model.thoughts=keep to leave every answer in the context as sampled, "
                "or drop to take earlier thoughts out, every turn being a sequence of its own. "
                f"{self._remedy()}. {faults[-1][1]}"
            )
        # As ids too: texts that are equal may be split into tokens in another way where they are joined.
        last = self._ids((Message("user", _LAST),), behind_answer=True)
        chat = [Message("user", _USER), Message("assistant", _ANSWER), Message("user", _LAST)]
        if self._render(tuple(chat), behind_answer=False)[-len(last) :] != last:
            raise TemplateError("the tokenizer splits a question differently when it is appended")

    def _marks_of_thoughts(self) -> list[tuple[str, str, bool]]:
        """Start and end of thoughts that the model may write, and whether the prompt itself opens one."""
        template, opening = str(self.tokenizer.chat_template), self._template([Message("user", _USER)], generate=True)
        known = template + "".join(token.content for token in self.tokenizer.added_tokens_decoder.values())
        marks = [(spacings[0][0].strip(), end) for end, spacings in _THOUGHTS.items() if end in known]
        if not marks:
            raise TemplateError(
                "model.thoughts=drop: neither the chat template nor the tokenizer knows a mark at which thoughts end "
                f"({', '.join(_THOUGHTS)}), so nothing could be dropped; leave model.thoughts away, or use keep"
            )
        return [(start, end, opening.rstrip().endswith(start)) for start, end in marks]

    def _fault_with_system(self) -> str | None:
        """Why a system prompt cannot be rendered, ``None`` if it can: said when one is asked for."""
        remedy = "Put the instruction into the first question, or set model.chat_template"
        chat = [
            Message("system", _SYSTEM),
            Message("user", _USER),
            Message("assistant", _ANSWER),
            Message("user", _NEXT),
        ]
        try:
            if _SYSTEM not in self._template(chat, generate=True):
                return f"the chat template leaves out the system prompt. {remedy}"
            fault = self._fault(chat)
        except TemplateError as error:
            return f"{error}. {remedy}"
        if fault is None or fault[0] or self.drops_thoughts:
            return None
        return f"with a system prompt the chat template is not append-only. {remedy}. {fault[1]}"

    def _remedy(self) -> str:
        """Which training template of TRL's fits, if one does."""
        text = self.tokenizer.chat_template
        named = [path.stem for path in trl_templates().glob("*.jinja") if path.read_text(encoding="utf-8") == text]
        known = [f"trl:{name}" for name in named if (trl_templates() / f"{name}_training.jinja").exists()]
        if known:
            return f"TRL has a training template for this model: model.chat_template={known[0]}"
        if "enable_thinking" in text and "enable_thinking" not in self._kwargs:
            return "Or try model.chat_template_kwargs={enable_thinking: false}"
        return (
            "Or set model.chat_template to a Jinja file that leaves earlier turns as they were, or to trl:<name> for "
            "one of TRL's training templates"
        )


def _without_gaps(text: str, answers: Sequence[str]) -> str:
    """The text without white space in front of answers: a model samples it as part of its answer."""
    for answer in answers:
        before, _, after = text.rpartition(answer) if answer in text else (text, "", "")
        text = before.rstrip() + answer + after if answer in text else text
    return text


def trl_templates() -> Path:
    """The folder of chat templates that the installed TRL brings."""
    import importlib.util

    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


def load_template(name: str) -> str:
    """The text of a chat template: a Jinja file, or one of TRL's training templates as ``trl:<model>``.

    Raises:
        TemplateError: If there is none; with the names that there are.
    """
    path, known = Path(name), sorted(p.stem.removesuffix("_training") for p in trl_templates().glob("*_training.jinja"))
    if name.startswith("trl:"):
        path = trl_templates() / f"{name.removeprefix('trl:')}_training.jinja"
    if not path.is_file():
        raise TemplateError(
            f"model.chat_template={name}: no such file. TRL's training templates are trl:<name> with one of "
            f"{', '.join(known)}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        said = f"model.chat_template={name}: no text in UTF-8 ({error.reason}); give a Jinja file"
        raise TemplateError(said) from error
