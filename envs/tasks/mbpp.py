"""``mbpp``: 974 crowd-sourced small functions (Austin et al. 2021, arXiv 2108.07732).

Question: a sentence and the first assertion, which is the public test and names the function; the other assertions are
hidden tests. Splits are the paper's: tasks 11-510 test, 511-600 validation, 601-974 train; tasks 1-10 are prompt
examples and in no split. A task whose text or solution is already in a split that precedes in this order is left out.

Version history: v1, first.
"""

from collections.abc import Mapping
from typing import Any

from envs.base import Split, Task
from envs.published import HUB, HubCopy, Published, PublishedFile
from envs.splits import normalise_question
from envs.tasks.code import CodeTasks
from rewards.asserts import declare_all, names_read, top_level_names
from rewards.code import CheckCode, FunctionTests

_RANGES = {Split.TEST: (11, 510), Split.VALIDATION: (511, 600), Split.TRAIN: (601, 974)}


_HUB_SPLITS = ("train", "validation", "test", "prompt")


def _file(part: str) -> PublishedFile:
    """The file with all rows, or one of the four parts in which the hub's copy has the same rows."""
    return PublishedFile(
        ("mbpp.jsonl",) if part == "all" else (f"mbpp.jsonl, {part}",),
        ("task_id", "text", "code", "test_list", "test_setup_code"),
        "github.com/google-research/google-research, mbpp/mbpp.jsonl",
        "CC BY 4.0",
        HubCopy("google-research-datasets/mbpp", part, ("full",)),
        "ccf64ceae9c5403b",
    )


class MBPP(CodeTasks, Published):
    """MBPP from a file. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        path: ``mbpp.jsonl`` or its folder, or ``hub``.
        timeout_s: Limit in processor seconds for one test of a program; the solution of task 123 needs about 5.
        partial_credit: Whether a wrong program earns the share of tests that it passes.
        isolation: The weakest isolation that is accepted for running programs.
        sandbox: Further options of the sandbox, see :class:`rewards.sandboxes.SandboxOptions`.
    """

    def __init__(
        self,
        path: str = "data/mbpp",
        timeout_s: float = 10.0,
        partial_credit: bool = False,
        isolation: str = "strict",
        sandbox: Mapping[str, Any] | None = None,
    ) -> None:
        CodeTasks.__init__(self, timeout_s, partial_credit, isolation, sandbox)
        Published.__init__(self, path)

    def _load(self, split: Split) -> list[Task]:
        """The tasks of the paper's split, without those whose text or solution is in a preceding split."""
        parts = _HUB_SPLITS if self._path == HUB else ("all",)
        rows = [row for part in parts for row in self._rows(_file(part))]
        seen: set[str] = set()
        for part, (first, last) in _RANGES.items():
            members = [row for row in rows if first <= row["task_id"] <= last]
            if part == split:
                return [_task(row) for row in members if not seen & _content(row)]
            seen.update(*map(_content, members))
        return []


def _content(row: dict[str, Any]) -> set[str]:
    return {normalise_question(row["text"]), "code: " + normalise_question(row["code"])}


def _task(row: dict[str, Any]) -> Task:
    code = row["code"].replace("\r\n", "\n")
    shown = row["test_list"][0].strip()
    question = f"{row['text'].strip()}\nYour code must pass this test:\n```python\n{shown}\n```"
    return Task(f"mbpp/{row['task_id']}", question, code, {"tests": tests_of(row, code, 1)})


def tests_of(row: dict[str, Any], code: str, n_public: int) -> FunctionTests:
    """The tests of a row: declared cases if all assertions are plain calls and values, else code for the judge process.

    Args:
        row: A row of the data set.
        code: The row's solution, which defines the functions that are called; one task's function is called ``sum``.
        n_public: Number of assertions, from the first on, that the question shows.
    """
    defined = {name: name for name in top_level_names(code)}
    found = [declare_all(test, defined) for test in row["test_list"]]
    setup = row["test_setup_code"]
    # Feedback says what the shown assertions gave. If one of them cannot be declared as cases, or there is setup code,
    # none of them is a public test, since feedback about the others would be read as feedback about all.
    shown = [] if setup.strip() else found[:n_public]
    cases = () if None in shown else tuple(case for each in shown for case in each or ())
    if None not in found and not setup.strip():
        return FunctionTests(cases, tuple(case for each in found[n_public:] for case in each or ()), gold=code)
    # If some assertions are not plain, or there is setup code, the judge process runs all assertions.
    names = sorted(names_read("\n".join([setup, *row["test_list"]])) & defined.keys())
    return FunctionTests(cases, code=CheckCode(tuple(row["test_list"]), setup, tuple(names)), gold=code)
