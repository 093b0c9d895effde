"""Versioned prompt texts; the texts of a version never change, so a new wording needs a new version.

An environment names its prompts by version; results obtained with different versions are different experiments.
``PROMPTS.register("mine-v1")(Prompts(...))`` adds a version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from rewards.lookup import Lookup, nearest


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts of a self-correction episode, as templates: ``{question}`` is filled in, other braces are doubled.

    Args:
        task: The opening user message.
        retry: The user message before every further attempt in feedback mode ``none``. Its wording must fit right and
            wrong attempts alike, so that it does not reveal the verdict.
        right: The user message after a right attempt in feedback mode ``verdict``.
        wrong: The user message after a wrong attempt in feedback mode ``verdict``.
        execution: The user message before every further attempt in feedback mode ``execution``, after right and wrong
            attempts alike; ``{observation}`` is filled in too. If empty, the mode cannot be used with these texts.
        system: System message; empty for none.
        verify: Asks the policy whether the attempt above is right (``env.between=verify``); ``{observation}`` is
            filled in too.
        says_right: The word with which the policy calls its attempt right.
        says_wrong: The word with which the policy calls its attempt wrong.
        critique: Asks the policy what is wrong with the attempt above (``env.between=critique``); ``{observation}`` is
            filled in too.
        said: The user message before a further attempt if a role spoke in between: ``{words}`` are the role's words,
            ``{feedback}`` is the text of the feedback mode.
    """

    task: str
    retry: str
    right: str
    wrong: str
    execution: str = ""
    system: str = ""
    verify: str = ""
    says_right: str = "right"
    says_wrong: str = "wrong"
    critique: str = ""
    said: str = "{words}\n\n{feedback}"


_PROMPTS = {
    # Single words, because the tiny base models of the toy tasks know only the few words of their own vocabulary.
    "toy-v1": Prompts(task="{question}", retry="check", right="right", wrong="wrong"),
    # The same for programs: the feedback is the result of the run and nothing else.
    "toy-run-v1": Prompts(
        task="{question}", retry="check", right="right", wrong="wrong", execution="{observation}",
        # The base model has only ever written ``def`` or ``fix`` as its first word, so a verdict is one of these two.
        # The solver is not shown the verdict, because it would take the word for the first word of its own program;
        # being asked again already implies that the verdict was not "right".
        verify="check {observation}", says_right="def", says_wrong="fix", critique="{observation}", said="{feedback}",
    ),
    # Repeats the question, so that a one-layer model can work on it in the same way as the first time.
    "restate-v1": Prompts(
        task="{question}", retry="{question}", right="right {question}", wrong="wrong {question}"
    ),
    # Plain words for instruction-tuned models too small to follow a format.
    "sum-v1": Prompts(
        task="{question}",
        retry="Your answer may or may not be right. {question}",
        right="That is correct. Repeat it. {question}",
        wrong="That is not correct. {question}",
    ),
    # The shortest prompts for sums, for models fine-tuned on this form; the feedback is by how much the sum is off.
    "sum-run-v1": Prompts(
        task="{question} = ?",
        retry="Once more: {question} = ?",
        right="Right. Once more.",
        wrong="Wrong. Once more.",
        execution="{observation}",
    ),
    "math-v1": Prompts(
        task=(
            "{question}\n\nReason step by step, then state the result once, as \\boxed{{answer}}."
        ),
        retry=(
            "Look at your solution again: it may or may not contain a mistake. Correct whatever is wrong, then write "
            "out the complete solution once more and state the result as \\boxed{{answer}}."
        ),
        right="That is correct. Write out the complete solution once more and state the result as \\boxed{{answer}}.",
        wrong=(
            "That is not correct. Find the mistake, write a complete new solution and state the result as "
            "\\boxed{{answer}}."
        ),
    ),
    # The answer is the equation with the solution in it. The feedback gives the values of both sides and has the same
    # wording after right and wrong attempts.
    "equation-v1": Prompts(
        task="{question} State it once, as \\boxed{{equation}}.",
        retry="Your equation may or may not hold. Check it, and state the equation once more, as \\boxed{{equation}}.",
        right="That is correct. State the equation once more, as \\boxed{{equation}}.",
        wrong="That is not correct. Find the mistake and state a new equation, as \\boxed{{equation}}.",
        execution=(
            "{observation} If they differ, work out from the difference by how much your number is off. Then state the "
            "equation once more, as \\boxed{{equation}}."
        ),
    ),
    # The shortest prompts for equations, for models fine-tuned on this form.
    "equation-run-v1": Prompts(
        task="{question}",
        retry="Once more: {question}",
        right="Right. Once more.",
        wrong="Wrong. Once more.",
        execution="{observation}",
    ),
    "code-v1": Prompts(
        task="{question}\n\nReply with the complete code in a single ```python block.",
        retry=(
            "Read your code again: it may or may not contain a mistake. Correct whatever is wrong and reply with the "
            "complete code in a single ```python block."
        ),
        right="That is correct. Reply with the complete code once more in a single ```python block.",
        wrong="That is not correct. Find the mistake and reply with complete new code in a single ```python block.",
        execution=(
            "Your code was run on the tests that the task shows.\n{observation}\n\nOther tests will follow. Correct "
            "whatever is wrong and reply with the complete code in a single ```python block."
        ),
    ),
    # The answer stands in a line of its own, for models that were not trained on ``\boxed``.
    "line-v1": Prompts(
        task="{question}\n\nReason step by step, then end with one line: Answer: and the result.",
        retry=(
            "Look at your solution again: it may or may not contain a mistake. Correct whatever is wrong, and end with "
            "one line: Answer: and the result."
        ),
        right="That is correct. Repeat it, and end with one line: Answer: and the result.",
        wrong="That is not correct. Find the mistake, and end with one line: Answer: and the new result.",
    ),
    # For questions that state the form of the answer themselves.
    "plain-v1": Prompts(
        task="{question}",
        retry="Your answer may or may not be right. Check it, and give the whole answer once more, in the same form.",
        right="That is correct. Give the same answer once more.",
        wrong="That is not correct. Give a different answer, in the same form.",
    ),
    "json-v1": Prompts(
        task="{question}\n\nReply with the JSON value only, in a single ```json block.",
        retry=(
            "Your answer may or may not be right. Check it, and reply with the JSON value once more, in a single "
            "```json block."
        ),
        right="That is correct. Reply with the JSON value once more, in a single ```json block.",
        wrong="That is not correct. Reply with a different JSON value, in a single ```json block.",
    ),
    # The answer alone, without reasoning, so that an episode of a small model is cheap enough for a CPU.
    "short-v1": Prompts(
        task="{question}\n\nReply with the answer only, inside <answer></answer> tags.",
        retry=(
            "Your answer may or may not be right. Check it, and reply with the final answer only, inside "
            "<answer></answer> tags."
        ),
        right="That is correct. Repeat the final answer inside <answer></answer> tags.",
        wrong="That is not correct. Reply with a different answer inside <answer></answer> tags.",
    ),
}  # fmt: skip


_REFINE = (
    "First criticise your {what} step by step: name every mistake that you find, or say that there is none. Then write "
    "out the complete {what} once more with these mistakes mended, {form}."
)
_VERIFY = "Is the {what} above right? Check it step by step, and end with one word: right or wrong."
_CRITIQUE = "What is wrong with the {what} above, and how is it mended? Name every mistake, or say that there is none."
_FORMS = {
    "math-v1": ("solution", "and state the result as \\boxed{{answer}}"),
    "code-v1": ("code", "in a single ```python block"),
    "short-v1": ("answer", "inside <answer></answer> tags"),
    "line-v1": ("solution", "and end with one line: Answer: and the result"),
    "json-v1": ("value", "in a single ```json block"),
}
for _version, (_what, _form) in _FORMS.items():
    _plain, _refine = _PROMPTS[_version], _REFINE.format(what=_what, form=_form)
    _seen = "{observation}\n\n" if _plain.execution else ""
    _PROMPTS[_version] = replace(
        _plain, verify=_seen + _VERIFY.format(what=_what), critique=_seen + _CRITIQUE.format(what=_what)
    )
    _PROMPTS[_version.replace("-", "-refine-")] = replace(
        _plain, retry=_refine, execution=_plain.execution and _seen + _refine
    )
    _PROMPTS[_version.replace("-", "-wait-")] = replace(
        _plain, retry="Wait.", execution=_plain.execution and _seen + "Wait."
    )


_FILLED = dict.fromkeys(("execution", "verify", "critique"), ("observation",)) | {"said": ("words", "feedback")}
"""The placeholders of each text besides ``{question}``."""

PROMPTS: Lookup[Prompts] = Lookup("env.prompts")
for _version, _texts in _PROMPTS.items():
    PROMPTS.register(_version)(_texts)


def get_prompts(version: str, texts: Mapping[str, str] | None = None) -> Prompts:
    """The texts registered under a version, with some of them replaced.

    Args:
        version: Name of the version.
        texts: Replacement texts, by field of :class:`Prompts`.

    Raises:
        UnknownNameError: If there is no such version; the message names the nearest one.
        ValueError: If :class:`Prompts` has no such field, or a text has a placeholder that is not filled in.
    """
    known = [one.name for one in fields(Prompts)]
    for name, text in (texts or {}).items():
        if name not in known:
            raise ValueError(f"env.prompts_text.{name}: unknown{nearest(name, known)} Known: {', '.join(known)}")
        fills = dict.fromkeys(("question", *_FILLED.get(name, ())), "")
        try:
            text.format(**fills)
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"env.prompts_text.{name}: {error!r}; it may hold {{{'}, {'.join(fills)}}}; write other braces twice"
            ) from None
    return replace(PROMPTS[version], **(texts or {}))
