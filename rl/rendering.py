"""Converts messages to token ids, append-only: the one place where text becomes tokens.

The prompt of turn k+1 is the prompt of turn k, then the sampled ids *as sampled*, then the rendered new messages.
Nothing is rendered or tokenised twice, so the tokens that were sampled are those that are trained on. Not all chat
templates allow this: a template may drop the thoughts of earlier turns, move the system prompt, or open an answer with
text that it leaves out of the history. So when a run starts, test conversations are rendered both as a whole and by
appending, and the results are compared.

With ``thoughts="drop"`` every prompt is rendered as a whole instead, from the conversation without the thoughts of
earlier answers. A prompt then does not extend the previous turn, and every turn is trained on as a separate sequence.
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
"""Marks around the thoughts that models write before an answer: end mark -> (start, end) in every spacing that
templates use. Only marks that occur in the template are tried."""


class TemplateError(ValueError):
    """The chat template rewrites earlier turns, so appended and re-rendered prompts would differ."""


class Renderer:
    """Turns messages into token ids with a tokenizer's chat template.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        end_ids: Further tokens that end a turn, such as those that the model's authors list.
        stop_strings: Strings that end a turn too; the turn's text ends before the first of them.
        template_kwargs: Arguments of the template, such as ``enable_thinking``.
        thoughts: How to treat a template that rewrites earlier answers, for example without their thoughts.
            ``refuse`` raises; ``keep`` leaves the answers as sampled; ``drop`` removes the thoughts of earlier answers,
            whatever the template does.
        today: Date that the template gets as today's date.

    Attributes:
        end_id: The token with which the template ends an answer.
        end_ids: All tokens that end a turn.
        pad_id: Token that pads rows: the tokenizer's padding token, or ``end_id`` if there is none.
        drops_thoughts: Whether prompts are rendered as a whole, by :meth:`opening` of the conversation, in which
            answers are those of :meth:`said`.

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
        # Templates call ``strftime_now`` for the date. Passed as an argument, it overrides the clock's function of the
        # same name, so that prompts do not change from day to day.
        self._kwargs = {"strftime_now": today.strftime, **(template_kwargs or {})}
        # Probe the template before use: which form of contents it takes, and which token ends an answer. Some templates
        # end earlier answers with another token than the last answer; the model has learned to write the latter.
        self._blocks = self._wants_blocks()
        self._before_end, self._end_text, self.end_id = self._find_end_of_turn(end_ids)
        last = self.end_id if self._final_end_id is None else self._final_end_id
        self.end_ids = frozenset({last, *end_ids})
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id
        # Tokens that close an answer which was cut off: any white space that the template writes, and the end token.
        # They are encoded after an end token, because tokenizers may treat the beginning of a text differently.
        self._system_fault: str | None = None
        closing = tokenizer.encode(self._end_text + self._before_end + self._end_text, add_special_tokens=False)
        self._closing = tuple(closing[closing.index(self.end_id) + 1 :])
        # Rendered messages are cached, because a group shares its question and most feedback is the same text.
        self._ids = lru_cache(maxsize=65536)(self._render)
        # If thoughts are dropped, nothing is appended, so the template need not be append-only.
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
        """The text that the template writes before a question, from which a model can generate the question itself.

        Args:
            first: Whether the question is the first one, before which a template may add a default system prompt;
                otherwise the text before any later question is returned.
        """
        text = self._template([Message("user", _USER)], generate=False, behind_answer=not first)
        return text.partition(_USER)[0].lstrip("\n")

    def extend(
        self, prompt_ids: tuple[int, ...], action_ids: tuple[int, ...], messages: Sequence[Message]
    ) -> tuple[int, ...]:
        """The prompt of the next turn: prompt, action, and the new messages.

        If an action lacks the template's end of turn, since it was cut off or ended otherwise, the end is appended as
        part of the prompt, so it is not trained on.
        """
        ended = action_ids[-1:] in ((self.end_id,), (self._final_end_id,))
        return (
            prompt_ids + action_ids + (() if ended else self._closing) + self._ids(tuple(messages), behind_answer=True)
        )

    def added_by(self, messages: Sequence[Message]) -> int:
        """Number of tokens that messages add to the prompt of the next turn, after an answer that has ended."""
        return len(self.extend((), (self.end_id,), messages)) - 1

    def text(self, action_ids: Sequence[int]) -> str:
        """The action as text, without special tokens, up to the first stop string."""
        text = self.tokenizer.decode(action_ids, skip_special_tokens=True)
        return text[: min((i for stop in self.stop_strings if (i := text.find(stop)) >= 0), default=len(text))]

    def said(self, action_ids: Sequence[int]) -> Message:
        """The action as later prompts show it if thoughts are dropped: the text after the last thought.

        A thought that was cut off is removed too; if the action begins with it, nothing is left.
        """
        ended = bool(action_ids) and action_ids[-1] in self.end_ids
        text = self.tokenizer.decode(action_ids[:-1] if ended else action_ids, skip_special_tokens=False)
        text = text[: min((i for stop in self.stop_strings if (i := text.find(stop)) >= 0), default=len(text))]
        for start, end, opened in self._marks:
            # Cut at the last end mark, since a model may think again after it began to answer. Without an end mark an
            # open thought was cut off; if the prompt had opened that thought, the whole action belongs to it.
            if end in text:
                text = text.rpartition(end)[2].lstrip("\n")
            elif opened or start in text:
                text = "" if opened else text.partition(start)[0]
        return Message("assistant", text)

    def stops(self, action_ids: Sequence[int]) -> bool:
        """Whether the newest token completes a stop string."""
        # A character takes at most four tokens (one per byte), so the stop string lies within these last tokens.
        tail = self.tokenizer.decode(action_ids[-4 * max(map(len, self.stop_strings)) :])
        return any(stop in tail for stop in self.stop_strings)

    def _render(self, messages: tuple[Message, ...], behind_answer: bool) -> tuple[int, ...]:
        """Ids of messages and the opening of an answer, for the first messages or for those that follow an answer.

        Messages that follow an answer are encoded after its end token, as in the whole conversation. Encoded alone,
        SentencePiece would insert a space before them, and white space that the end token absorbs would remain.
        """
        if not behind_answer and self._system_fault and any(message.role == "system" for message in messages):
            raise TemplateError(self._system_fault)
        text = self._template(messages, True, behind_answer)
        ids = self.tokenizer.encode(self._end_text + text if behind_answer else text, add_special_tokens=False)
        return tuple(ids[ids.index(self.end_id) + 1 :] if behind_answer else ids)

    def _template(self, messages: Sequence[Message], generate: bool, behind_answer: bool = False) -> str:
        """Renders messages as text with the chat template.

        Args:
            messages: The messages.
            generate: Whether to add the generation prompt, with which the next answer begins.
            behind_answer: Whether the messages follow an answer; the result begins after the answer's end.
        """
        # Templates only render conversations from the beginning. Messages that follow an answer are therefore rendered
        # after a known question and answer, and everything up to the answer's end is cut off.
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
                f"the chat template cannot be read, line {error.lineno}: {error.message}; correct it, or set "
                "model.chat_template to another file, or to trl:<name> for one of TRL's training templates"
            ) from error
        except (jinja2.TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in chat)
            raise TemplateError(f"the chat template cannot render the roles {roles}: {error}") from error
        if not behind_answer:
            return text
        after, end = text.rpartition(_ANSWER)[2], self._before_end + self._end_text
        if not after.startswith(end):
            raise TemplateError(f"the chat template ends one answer with {after[: len(end)]!r}, another with {end!r}")
        return after[len(end) :]

    def _wants_blocks(self) -> bool:
        """Whether the template accepts only lists of content blocks, like templates of models that also read images."""
        self._blocks = False  # `_template`, called below, reads this attribute
        try:
            return _USER not in self._template([Message("user", _USER)], generate=True)
        except TemplateError:
            return True

    def _first_special(self, text: str) -> tuple[str, str, int] | None:
        """The first special token of a text: the text before it, the token's own text, and its id."""
        added = self.tokenizer.added_tokens_decoder
        specials = {added[i].content if i in added else self.tokenizer.convert_ids_to_tokens(i): i for i in added}
        specials |= dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        # Of tokens that begin at the same place take the longest, since one token's text may be a prefix of another's.
        found = [(text.index(name), -len(name), name) for name in specials if name in text]
        if not found:
            return None
        start, _, name = min(found)
        return text[:start], name, specials[name]

    def _find_end_of_turn(self, end_ids: Collection[int]) -> tuple[str, str, int]:
        """The text between an answer and its end token, the token's text, and its id.

        The end token is the first special token between an answer and the next question. If the last answer of a
        conversation ends without any special token, that token may belong to the next question; it then counts as end
        of turn only if the model's authors list it in ``end_ids``.
        """
        chat = (Message("user", _USER), Message("assistant", _ANSWER), Message("user", _NEXT))
        whole, alone = self._template(chat, generate=True), self._template(chat[:2], generate=False)
        if _ANSWER not in whole or _NEXT not in whole.rpartition(_ANSWER)[2]:
            raise TemplateError("the chat template leaves messages out; set model.chat_template to another one")
        found = self._first_special(whole.rpartition(_ANSWER)[2].partition(_NEXT)[0])
        last = self._first_special(alone.rpartition(_ANSWER)[2])
        self._final_end_id = last[2] if last else None
        if found is None or (last is None and found[2] not in end_ids):
            raise TemplateError(
                "the chat template does not end an assistant turn with a special token: let it write the tokenizer's "
                f"end token ({self.tokenizer.eos_token!r}) after every answer, in a file for model.chat_template; or, "
                "if the model itself writes the token that opens the next question, list that token as "
                "eos_token_id in its generation_config.json"
            )
        return found

    def _fault(self, chat: Sequence[Message], start: str = "") -> tuple[bool, str] | None:
        """Compares a conversation rendered as a whole with one rendered by appending.

        Args:
            chat: Questions and answers; the last message is a question.
            start: Text with which every answer begins; left out of an answer if the generation prompt ends with it.

        Returns:
            ``None`` if both are equal; otherwise whether they differ only within answers, and a description.
        """
        questions = [message for message in chat if message.role != "assistant"]
        answers = [message.content for message in chat if message.role == "assistant"]
        n_opening = len(questions) - len(answers)
        whole = self._template(chat, generate=True)
        appended, closing = self._template(questions[:n_opening], generate=True), self._before_end + self._end_text
        for answer, question in zip(answers, questions[n_opening:], strict=True):
            # If the generation prompt already opens the thought, the model does not write the opening again.
            opened = bool(start) and appended.rstrip().endswith(start.strip())
            appended += (answer.removeprefix(start) if opened else answer) + closing
            appended += self._template([question], True, behind_answer=True)
        if _without_gaps(whole, answers) == _without_gaps(appended, answers):
            return None
        # Match the questions, with everything that the template writes around them, in order. If they match, the
        # renderings differ only in what lies between them, the answers.
        asked = [self._template(questions[:n_opening], generate=False)]
        asked += [closing + self._template([question], False, behind_answer=True) for question in questions[n_opening:]]
        last = closing + self._template(questions[-1:], True, behind_answer=True)
        pattern = re.escape(asked[0]) + "".join(".*?" + re.escape(part) for part in asked[1:-1])
        in_answers = re.fullmatch(pattern + ".*" + re.escape(last), whole, re.DOTALL) is not None
        return in_answers, f"Appending turns gives {appended!r} but rendering them at once gives {whole!r}"

    def _check_history(self, thoughts: str) -> None:
        """Raises TemplateError if three turns rendered as a whole and by appending differ, in text or in ids.

        Only answers like those that the model writes need to stay as sampled: answers with thoughts, or plain ones if
        the template has no thoughts or its generation prompt already closes them.
        """

        def fault(start: str, end: str) -> tuple[bool, str] | None:
            inner = f"{start}77 thought{end}" if end else ""
            texts = (_USER, inner + _ANSWER, _NEXT, inner + _SECOND, _LAST)
            roles = ("user", "assistant", "user", "assistant", "user")
            return self._fault([Message(role, text) for role, text in zip(roles, texts, strict=True)], start)

        # Check plain answers first, then, for each thought mark in the template, answers with a thought in every known
        # spacing. It is enough if one spacing is kept: the one for which the template was written.
        template, opening = str(self.tokenizer.chat_template), self._template([Message("user", _USER)], generate=True)
        plain = fault("", "")
        faults = [plain] if plain else []
        for mark, spacings in _THOUGHTS.items():
            if mark in template and not (plain is None and mark in opening):
                found = [fault(start, end) for start, end in spacings]
                # If thoughts are kept, a fault of plain answers is ignored: the template may add an empty thought.
                faults = [] if None in found else [*faults, *filter(None, found)]
        # A difference outside of answers means that appending gives a context the template never would; no setting
        # helps. If only answers differ, model.thoughts decides.
        if broken := next((words for in_answers, words in faults if not in_answers), None):
            raise TemplateError(f"the chat template is not append-only. {self._remedy()}. {broken}")
        if faults and thoughts != "keep":
            raise TemplateError(
                "the chat template changes earlier answers, which were sampled differently: it drops their thoughts, "
                "or opens them differently. Set model.thoughts=keep to leave every answer in the context as sampled, "
                "or drop to remove earlier thoughts and train on every turn as a separate sequence. "
                f"{self._remedy()}. {faults[-1][1]}"
            )
        # Compare ids too, since equal texts may be tokenised differently where they are joined.
        last = self._ids((Message("user", _LAST),), behind_answer=True)
        chat = [Message("user", _USER), Message("assistant", _ANSWER), Message("user", _LAST)]
        if self._render(tuple(chat), behind_answer=False)[-len(last) :] != last:
            raise TemplateError("the tokenizer splits a question differently when it is appended")

    def _marks_of_thoughts(self) -> list[tuple[str, str, bool]]:
        """Start and end marks of the model's thoughts, and whether the prompt itself opens a thought."""
        template, opening = str(self.tokenizer.chat_template), self._template([Message("user", _USER)], generate=True)
        known = template + "".join(token.content for token in self.tokenizer.added_tokens_decoder.values())
        marks = [(spacings[0][0].strip(), end) for end, spacings in _THOUGHTS.items() if end in known]
        if not marks:
            raise TemplateError(
                "model.thoughts=drop: neither the chat template nor the tokenizer knows a mark at which thoughts end "
                f"({', '.join(_THOUGHTS)}), so nothing could be dropped; remove model.thoughts, or use keep"
            )
        return [(start, end, opening.rstrip().endswith(start)) for start, end in marks]

    def _fault_with_system(self) -> str | None:
        """Why a system prompt cannot be rendered; ``None`` if it can. Raised only if a system prompt is rendered."""
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
        """A sentence for error messages that suggests another template or setting."""
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
    """The text without white space before answers, which is ignored because the model samples it with its answer."""
    for answer in answers:
        before, _, after = text.rpartition(answer) if answer in text else (text, "", "")
        text = before.rstrip() + answer + after if answer in text else text
    return text


def trl_templates() -> Path:
    """The folder of chat templates in the installed TRL."""
    import importlib.util

    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


def load_template(name: str) -> str:
    """The text of a chat template: a Jinja file, or one of TRL's training templates as ``trl:<model>``.

    Raises:
        TemplateError: If the template does not exist (the message lists TRL's names) or is not UTF-8 text.
    """
    path, known = Path(name), sorted(p.stem.removesuffix("_training") for p in trl_templates().glob("*_training.jinja"))
    if name.startswith("trl:"):
        path = trl_templates() / f"{name.removeprefix('trl:')}_training.jinja"
    if not path.is_file():
        what = "that is a folder; give a Jinja file" if name and path.is_dir() else "no such file"
        raise TemplateError(
            f"model.chat_template={name}: {what}. TRL's training templates are trl:<name> with one of "
            f"{', '.join(known)}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        said = f"model.chat_template={name}: no text in UTF-8 ({error.reason}); give a Jinja file"
        raise TemplateError(said) from error
