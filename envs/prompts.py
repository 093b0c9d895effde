"""Versioned prompt texts. A text never changes under its name: change the wording, add a version.

An environment names its prompts by version; results obtained with different versions are different experiments.
``PROMPTS.register("mine-v1")(Prompts(...))`` adds a version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from rewards.lookup import Lookup, nearest


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts of a self-correction episode; ``{question}`` is replaced in all of them, other braces are doubled.

    Args:
        task: The opening user message.
        retry: The user message before every further attempt in feedback mode ``none``. It must not reveal whether the
            attempt was right, so it is hedged.
        right: The message after a right attempt in feedback mode ``verdict``.
        wrong: The message after a wrong attempt in feedback mode ``verdict``.
        execution: The message before every further attempt in feedback mode ``execution``, the same after right and
            wrong ones; ``{observation}`` is replaced too. Empty: the mode cannot be used with these texts.
        system: System message, or empty for none.
        verify: Asks the policy whether the attempt above is right (``env.between=verify``); ``{observation}`` is
            replaced too.
        says_right: The word by which it says so.
        says_wrong: The word by which it says the opposite.
        critique: Asks the policy for what is wrong with the attempt above (``env.between=critique``);
            ``{observation}`` is replaced too.
        said: The user message before a further attempt where somebody spoke in between: ``{words}`` are what was said,
            ``{feedback}`` is what the feedback mode says.
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
    # Single words of the embedded toys' 34-token vocabulary.
    "toy-v1": Prompts(task="{question}", retry="check", right="right", wrong="wrong"),
    # The same for programs: what the run gave is all that is said.
    "toy-run-v1": Prompts(
        task="{question}", retry="check", right="right", wrong="wrong", execution="{observation}",
        # The base never wrote another first word than these two, so a verdict is one of them. It is not repeated to
        # the solver, who would take it for the first word of its own program; to be asked again says enough.
        verify="check {observation}", says_right="def", says_wrong="fix", critique="{observation}", said="{feedback}",
    ),
    # States the question again, so that a one-layer model can work on it as it did the first time.
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
    # As short as a sum can be asked, for models that were shown the form; what is said after an attempt is the miss.
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
    # An equation with the solution in it: what its sides come to is told, the same after right and wrong ones.
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
    # As short as it can be asked, for models that were shown the form.
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
    # The answer in a line of its own, for models that were not trained on boxes.
    "line-v1": Prompts(
        task="{question}\n\nReason step by step, then end with one line: Answer: and the result.",
        retry=(
            "Look at your solution again: it may or may not contain a mistake. Correct whatever is wrong, and end with "
            "one line: Answer: and the result."
        ),
        right="That is correct. Repeat it, and end with one line: Answer: and the result.",
        wrong="That is not correct. Find the mistake, and end with one line: Answer: and the new result.",
    ),
    # For questions that say themselves what an answer looks like.
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
    # For small models: a short answer first, so that an episode fits a CPU.
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
"""What is filled into a text besides the question."""

PROMPTS: Lookup[Prompts] = Lookup("env.prompts")
for _version, _texts in _PROMPTS.items():
    PROMPTS.register(_version)(_texts)


def get_prompts(version: str, texts: Mapping[str, str] | None = None) -> Prompts:
    """The texts registered under a version, with some of them replaced.

    Args:
        version: Which.
        texts: What to replace, by field of :class:`Prompts`.

    Raises:
        UnknownNameError: If there is no such version; the message names the nearest one.
        ValueError: If there is no such text, or it has a placeholder that nothing fills.
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
                f"env.prompts_text.{name}: {error!r}; it may hold {{{'}, {'.join(fills)}}}, other braces are doubled"
            ) from None
    return replace(PROMPTS[version], **(texts or {}))
