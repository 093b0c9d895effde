"""``humaneval``: 164 functions to complete (Chen et al. 2021, arXiv 2107.03374). Test split only: never train on it.

Question: the signature and docstring. Response: the whole function in a code block. Public tests: the docstring's
examples that are plain calls and values. Hidden tests: the data set's ``check``. If all assertions of a ``check`` are
plain, the supervisor compares the results; otherwise the whole ``check`` runs in a judge process, with the helper
functions of the prompt. As in the official harness, the imports and helper functions of the prompt precede the
response, so that a response needs only the function itself.

Version history: v1, first.
"""

import doctest
import re
from collections.abc import Mapping
from typing import Any

from envs.base import Split, Task
from envs.published import HubCopy, Published, PublishedFile
from envs.tasks.code import CodeTasks
from rewards.asserts import Case, cases_of, check_body, declare_all, without_definitions
from rewards.code import CheckCode, FunctionTests

_ARROWS = re.compile(r"^\s*(?:>>> )?(\w+\(.*\))\s*(?:==>|=>|->|==|=|\u279e|\u2192)\s*(.+?)\.?$", re.MULTILINE)

CONTRADICTED = {"HumanEval/47", "HumanEval/116", "HumanEval/130", "HumanEval/148"}
"""Tasks with a wrong example in the docstring, which the data set's own solution fails; they get no public tests."""


_FILE = PublishedFile(
    ("HumanEval.jsonl.gz", "HumanEval.jsonl"),
    ("task_id", "prompt", "entry_point", "canonical_solution", "test"),
    "github.com/openai/human-eval, data/HumanEval.jsonl.gz",
    "MIT",
    HubCopy("openai/openai_humaneval", "test"),
    "b796127e635a67f9",
)


class HumanEval(CodeTasks, Published):
    """HumanEval from a file. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        path: ``HumanEval.jsonl.gz`` or its folder, or ``hub``.
        timeout_s: Limit in processor seconds for one test of a program.
        partial_credit: Whether a wrong program earns the share of tests that it passes.
        isolation: The weakest isolation that is accepted for running programs.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.
    """

    def __init__(
        self,
        path: str = "data/humaneval",
        timeout_s: float = 5.0,
        partial_credit: bool = False,
        isolation: str = "strict",
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        CodeTasks.__init__(self, timeout_s, partial_credit, isolation, sandbox)
        Published.__init__(self, path)

    def _load(self, split: Split) -> list[Task]:
        """All tasks for ``test``, none for the other splits."""
        if split != Split.TEST:
            return []
        return [_task(row) for row in self._rows(_FILE)]


def _task(row: dict[str, str]) -> Task:
    question = f"Complete this function.\n```python\n{row['prompt'].strip()}\n```"
    gold = row["prompt"] + row["canonical_solution"]
    return Task(row["task_id"], question, gold, {"tests": tests_of(row), "entry_point": row["entry_point"]})


def tests_of(row: dict[str, str]) -> FunctionTests:
    """The tests of a row: public tests from its docstring, hidden tests from its ``check``."""
    name, gold = row["entry_point"], row["prompt"] + row["canonical_solution"]
    prelude = without_definitions(f"{row['prompt']}\n    pass\n", (name,))
    public = () if row["task_id"] in CONTRADICTED else public_cases(row["prompt"], name)
    body = check_body(row["test"])
    hidden = cases_of(body, {"candidate": name}) if body is not None else None
    if hidden is not None:
        return FunctionTests(public, hidden, prelude=prelude, gold=gold)
    # The judge gets the helper functions of the prompt. Helpers defined by the response could be written so that wrong
    # results pass.
    setup = f"{row['prompt']}\n    pass\n{row['test']}"
    code = CheckCode((f"check({name})",), setup, (name,))
    return FunctionTests(public, code=code, prelude=prelude, gold=gold)


def public_cases(prompt: str, name: str) -> tuple[Case, ...]:
    """The examples in a docstring that consist of a plain call of the function and a plain value.

    Doctest examples (``>>> f(1)`` with the value on the next line) and the arrows that HumanEval's authors used
    (``f(1) ==> 2``, ``f(1) == 2``, ``f(1) -> 2``).
    """
    # The function to complete is defined last; helper functions of the prompt precede it.
    docstring = prompt[prompt.rfind(f"def {name}") :]
    try:
        examples = doctest.DocTestParser().get_examples(docstring.replace('"""', "").replace("'''", ""))
    except ValueError:  # doctest rejects some docstrings' indentation; their arrows can still be read
        examples = []
    pairs = [*((example.source, example.want) for example in examples), *_ARROWS.findall(docstring)]
    cases: list[Case] = []
    for call, value in pairs:
        # Keep only calls of this function with plain values; the arrows also match ordinary prose.
        found = value.strip() and declare_all(f"assert {call.strip()} == ({value.strip()})")
        if found and found[0].name == name and found[0] not in cases:
            cases.append(found[0])
    return tuple(cases)
