"""``rows``: questions from the user's own file, without a line of code.

Question, answer, tests and choices are columns that are found by their usual names or named in the options; the columns
that were found are printed. Response: as ``verify`` says (:mod:`envs.tasks.verifiers`). Splits: those of the data; a
split that the data lack is taken from ``train`` by the hash of the question (:func:`envs.splits.splits_of`). Rows that
cannot be used are listed by line and raise an error; with ``on_bad_rows=skip`` they are left out instead.

Version history: v1, first.
"""

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.base import Split, Task
from envs.published import Provenance
from envs.rows import Fault, Row
from envs.splits import normalise_question, splits_of
from envs.tasks.choices import choices_of
from envs.tasks.columns import UnfitError, cell_at, find_columns, question_of
from envs.tasks.decimal_commas import has_decimal_commas, refuse_decimal_comma
from envs.tasks.joined_columns import join_columns
from envs.tasks.parts import SplitNames, read_parts, shares_of, split_name, split_sizes
from envs.tasks.verifiers import VERIFIERS, ChoiceAnswers, CodeAnswers, MathAnswers, NumberAnswers, make_verifier
from rewards import Score, Verdict
from rewards.math import unreadable
from rewards.wording import counted

SHARES = {Split.VALIDATION: 0.1, Split.TEST: 0.2}
"""Shares of the training rows for the splits that the data lack, unless the config gives others."""
SHOWN = 10
"""Most faulty rows that a message lists."""
_SAID: set[tuple[Path, str]] = set()
"""Messages printed so far in this process, with the file's absolute path, so that each is printed only once."""


class BadRowsError(ValueError):
    """Rows of the data cannot be used; the message lists the rows by line."""


@dataclass(slots=True)
class _Read:
    """The result of reading the data, which is built up step by step."""

    rows: int
    faults: list[Fault]
    names: dict[str, int]
    """Number of rows by the data's own names of splits; empty if the data name none."""
    left_out: list[str]
    """Those of the names whose rows are left out, because ``splits`` does not name them."""
    unfit: list[Fault] = field(default_factory=list)
    """Those of the faults that come from an answer of a kind that the verifier does not grade."""
    tasks: dict[Split, list[Task]] = field(default_factory=lambda: {split: [] for split in Split})
    places: dict[str, str] = field(default_factory=dict)
    """The place of a task's row, such as ``my.jsonl, line 3``, by task id."""
    answers: dict[str, str] = field(default_factory=dict)
    """The full text of the answer cell, which may be a whole solution, by task id."""
    examples: list[tuple[Task, str]] = field(default_factory=list)
    provenance: list[Provenance] = field(default_factory=list)
    repeated: int = 0


class Rows:
    """Questions from files. Observation, action, reward and ending are those of ``SelfCorrectEnv``.

    Args:
        path: A file (JSON Lines, JSON, CSV, TSV, Parquet), a folder with one such file or with one file (or the hub's
            numbered files) per split, a folder saved by ``datasets``, or a data set's id on the hub.
        verify: How answers are graded: a name in :data:`envs.tasks.verifiers.VERIFIERS`, or ``package.module:function``
            with the signature of :meth:`envs.TaskSet.verify`.
        verify_options: Options of the verifier, such as ``answer_form``.
        question: Column of the question; ``a.b`` is the part ``b`` of column ``a``. A column that is ``None`` is found
            by its usual names.
        answer: Column of the answer.
        tests: Column of a program's tests, with ``verify=code``.
        choices: Column of the choices, with ``verify=choice``, or columns, ``A, B, C``; the question then shows them.
        split: Column that says which split a row belongs to.
        splits: Names of the splits in the data, if they are unusual: ``{train: train_sft}``, or several for one split,
            ``{train: [a, b]}``. Rows of other unusual names are then left out.
        validation: Share of the training rows for validation, if the data have no validation split; ``None`` is 0.1.
        test: Share of the training rows for test, if the data have no test split; ``None`` is 0.2.
        subset: Configuration of a data set on the hub that has several.
        encoding: Encoding of a text file that is not in Unicode, such as ``cp1252``.
        few_shot: Number of training rows, or a list of their line numbers (or ids, such as ``a.jsonl/3``), that precede
            every question as examples with answers.
        on_bad_rows: ``refuse`` raises an error for rows that cannot be used; ``skip`` leaves such rows out.

    Raises:
        ValueError: If an option has an invalid value or does not apply, or there is no such verifier.
    """

    def __init__(
        self,
        path: str = "",
        verify: str = "math",
        verify_options: Mapping[str, Any] | None = None,
        question: str | None = None,
        answer: str | None = None,
        tests: str | None = None,
        choices: str | None = None,
        split: str | None = None,
        splits: Mapping[str, str | Sequence[str]] | None = None,
        validation: float | None = None,
        test: float | None = None,
        subset: str | None = None,
        encoding: str | None = None,
        few_shot: int | Sequence[int] = 0,
        on_bad_rows: str = "refuse",
    ) -> None:
        # YAML reads a folder called 2024 as a number.
        path = str(path) if isinstance(path, int | Path) and not isinstance(path, bool) else path
        if not isinstance(path, str | None):
            raise ValueError(f"env.options.path={path}: the path of a file or folder is needed here")
        if not path:
            raise ValueError("env.options.path is missing: env=rows reads a file of yours, env.options.path=my.jsonl")
        listed = isinstance(few_shot, Sequence) and not isinstance(few_shot, str)
        if not listed and (not isinstance(few_shot, int) or isinstance(few_shot, bool) or few_shot < 0):
            raise ValueError(
                f"env.options.few_shot={few_shot}: a whole number from 0 on, or a list of lines, is needed"
            )
        if on_bad_rows not in ("refuse", "skip"):
            raise ValueError(f"env.options.on_bad_rows={on_bad_rows}: use refuse or skip")
        self._path, self._subset, self._encoding, self._verify = path, subset, encoding, verify
        self._is_code, self._is_slow = verify == "code", ":" not in verify and VERIFIERS.fact(verify, "slow")
        self._verifier: Any = make_verifier(verify, verify_options or {})
        self._is_numeric, self._has_commas = isinstance(self._verifier, MathAnswers | NumberAnswers), False
        self._named = {"question": question, "answer": answer, "split": split}
        self._named |= {"tests": tests} if self._is_code else {"choices": choices} if verify == "choice" else {}
        for name, given, owner in (("tests", tests, "code"), ("choices", choices, "choice")):
            if given is not None and name not in self._named:
                raise ValueError(f"env.options.{name}={given}: has no effect, because verify={verify}, not {owner}")
        self._names, self._asked = SplitNames(splits), {Split.VALIDATION: validation, Split.TEST: test}
        usual = SHARES.values()
        asked = [one if share is None else share for share, one in zip((validation, test), usual, strict=True)]
        self._shares = shares_of(*asked)
        self._few_shot, self._skips = few_shot, on_bad_rows == "skip"
        self.observes_execution = getattr(self._verifier, "observes_execution", False)
        self.verifies_elsewhere = getattr(self._verifier, "verifies_elsewhere", False)
        self.partial_credit = getattr(self._verifier, "partial_credit", False)
        self.has_answer_form = getattr(self._verifier, "has_answer_form", False)
        self._loaded: _Read | None = None

    @staticmethod
    def episode(options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults of the episode for these options: prompts that ask for the answer form that the verifier reads."""
        verify = str(options.get("verify", "math"))
        prompts = make_verifier(verify, options.get("verify_options") or {}).prompts
        return {"prompts": prompts} | ({"feedback": "execution"} if verify == "code" else {})

    def load(self, split: Split) -> list[Task]:
        """The tasks of a split; prints, once per process, what was found in the data.

        Raises:
            FileNotFoundError: If there is nothing at the path.
            BadRowsError: If rows cannot be used and ``on_bad_rows`` is ``refuse``.
        """
        return self._all().tasks[Split(split)]

    def verify(self, task: Task, response: str) -> Score:
        """The score that the verifier of this task set gives a response."""
        return self._verifier.verify(task, response)

    def gold_response(self, task: Task) -> str:
        """The gold in the form that the verifier reads."""
        return self._verifier.gold_response(task)

    @property
    def examples(self) -> list[tuple[Task, str]]:
        """The few-shot examples that precede every question: training rows and their answers."""
        return self._all().examples

    @property
    def provenance(self) -> list[Provenance]:
        """The provenance of the data; empty before the first ``load``."""
        return self._loaded.provenance if self._loaded else []

    def _all(self) -> _Read:
        if self._loaded is None:
            self._loaded = self._load()
            if isinstance(self._verifier, CodeAnswers):
                self._verifier.start([task for tasks in self._loaded.tasks.values() for task in tasks])
        return self._loaded

    def why_empty(self, split: Split) -> str:
        """Why a split has no tasks, and what to do about it."""
        read = self._all()
        if split is Split.TRAIN and read.examples:
            n = counted(len(read.examples), "training row")
            return f"env.options.few_shot={self._few_shot} shows all of the {n} of {self._path} as examples: show fewer"
        if split in self._names.found(read.names):
            return f"none of its rows in {self._path} is left, as each repeats another one or cannot be used"
        if split in self._shares and (read.tasks[Split.TRAIN] or read.examples):
            return f"{self._path} has too few rows for it: raise env.options.{split}={self._shares[split]}, or add rows"
        if not any(read.tasks.values()):
            return f"none of the rows of {self._path} can be used"
        sizes = ", ".join(f"{n} {name}" for name, n in read.names.items())
        return (
            f"{self._path} has none ({sizes}): add rows of this split, or let other rows be cut into splits, as by "
            f"'env.options.splits={{train: {next(iter(read.names), 'test')}}}'"
        )

    def _load(self) -> _Read:
        parts, faults = read_parts(self._path, self._subset, self._encoding, self._names)
        rows = [row for part in parts.values() for row in part]
        if not rows:
            where, said = (faults[0].where, faults[0].said) if faults else ("", "")
            said = said and (said if where == self._path else f"{where.removeprefix(f'{self._path}, ')}: {said}")
            said = (
                said or 'it has none; one a line is needed, {"question": ..., "answer": ...}, or a CSV with its header'
            )
            raise ValueError(f"env.options.path={self._path}: no row could be read: {said}")
        needed = ("question", "tests" if self._is_code else "answer")
        columns, found = find_columns(rows, join_columns(rows, self._named), needed, self._path)
        names = split_sizes(parts, columns)
        left_out = self._names.left_out(names, self._path)
        # A file without rows is a split without tasks, not a split that is cut from other rows.
        given = self._names.found([*names, *(name for name in parts if name and "split" not in columns)])
        self._refuse_shares_of(given)
        n = len(rows) + len(faults) - sum(names[name] for name in left_out)
        self._has_commas = self._is_numeric and has_decimal_commas(rows, columns["answer"])
        if isinstance(self._verifier, ChoiceAnswers):
            self._verifier.look_at(rows, columns)
        read = _Read(n, faults, names, left_out)
        for name, part in parts.items():
            for row in part:
                self._add(read, row, name, columns)
        self._refuse_verifier(read.unfit, n, f"cannot grade any of the {n:,} answers")
        # The order matters: rows with a wrong answer go first, so that such a row is neither kept in place of a correct
        # row with the same question, nor shown as a few-shot example.
        self._take_unpaid_out(read)
        self._take_repeated_out(read)
        self._cut(read, given)
        self._refuse_or_report(read, found, "given" if given - {Split.TRAIN} else "by the content of the questions")
        self._take_examples(read)
        read.provenance = [_provenance(self._path, rows)]
        return read

    def _add(self, read: _Read, row: Row, part: str, columns: Mapping[str, str]) -> None:
        """Adds a row of a part to the tasks of its split, or to the faults; or to neither if it is left out."""
        try:
            name = split_name(row, part, columns)
            split = self._names.find(name) if name else Split.TRAIN
            if split is None:
                return
            task = self._task(row, columns)
        except ValueError as error:
            fault = Fault(row.where, str(error))
            read.faults.append(fault)
            read.unfit += [fault] if isinstance(error, UnfitError) else []
            return
        read.tasks[split].append(task)
        read.places[task.id] = row.where
        if "answer" in columns and isinstance(answer := row.values.get(columns["answer"]), str):
            read.answers[task.id] = answer

    def _task(self, row: Row, columns: Mapping[str, str]) -> Task:
        """Makes a task of a row; raises ValueError, with the reason, if the row cannot be used."""
        question = question_of(cell_at(row.values, columns["question"]))
        # Programs are graded by tests, so with verify=code a row needs no answer; otherwise every row needs one.
        optional = self._is_code and ("answer" not in columns or columns["answer"] not in row.values)
        gold = self._verifier.gold(None if optional else cell_at(row.values, columns["answer"]))
        if self._is_numeric and (row.semicolons or self._has_commas):
            refuse_decimal_comma(gold, self._has_commas)
        used = {path if path in row.values else path.partition(".")[0] for path in columns.values()}
        info = {name: value for name, value in row.values.items() if name not in used}
        if "choices" in columns:
            choices = choices_of(cell_at(row.values, columns["choices"]))
            gold, info["choices"] = self._verifier.chosen(gold, choices)
            question += "".join(f"\n{letter}. {text}" for letter, text in info["choices"].items())
        elif isinstance(self._verifier, ChoiceAnswers) and not re.fullmatch("[A-Z]", gold):
            raise UnfitError(
                f"the answer {gold[:40]!r} is not a letter, and there is no column of choices: name it by "
                "env.options.choices=<column>"
            )
        if isinstance(self._verifier, CodeAnswers):
            info["tests"], shown = self._verifier.tests(cell_at(row.values, columns["tests"]), gold)
            question += shown
        elif not gold:
            raise ValueError("the answer is empty")
        # Ids of file name and line number stay the same when rows are appended, and lead a reader to the row.
        place, _, number = row.where.rpartition(", ")
        return Task(f"{Path(place).name}/{number.split()[-1]}", question, gold, info)

    def _refuse_shares_of(self, given: set[Split]) -> None:
        """Raises ValueError if the config gives the share of a split that the data have."""
        for split, share in self._asked.items():
            # A stored config of an earlier version holds the default, which nobody has chosen.
            if share not in (None, SHARES[split]) and split in given:
                raise ValueError(
                    f"env.options.{split}={share}: has no effect, because {self._path} has rows of split {split}; "
                    "remove it"
                )

    def _refuse_verifier(self, alike: Sequence[Fault], n: int, fails: str) -> None:
        """Raises ValueError if all ``n`` rows, and more than one, fail alike: that is the verifier's fault."""
        if len(alike) == n > 1:
            is_own = ":" in self._verify
            remedy = "take another verifier, other columns or verify_options"
            if is_own:
                remedy = (
                    "correct this function, or say what a right response looks like by "
                    "env.options.verify_options.stated, as in 'Answer: {}'"
                )
            raise ValueError(
                f"env.options.verify={self._verify} {fails}: {remedy}. The first is {alike[0].where}: {alike[0].said}"
            )

    def _cut(self, read: _Read, given: set[Split]) -> None:
        """Takes the splits that the data lack from the training rows, by the hash of the question."""
        train = read.tasks[Split.TRAIN]
        shares = {one: 0.0 if one in given else share for one, share in self._shares.items()}
        # The prefix changes the hashes. Without it, a file made of the training questions of another task set, which
        # splits by the same hash, would get no validation and test questions.
        questions = [f"rows {task.question}" for task in train]
        splits = splits_of(questions, shares[Split.VALIDATION], shares[Split.TEST])
        read.tasks[Split.TRAIN] = []
        for task, split in zip(train, splits, strict=True):
            read.tasks[split].append(task)

    def _take_unpaid_out(self, read: _Read) -> None:
        """Moves rows whose gold response is not graded right from the tasks to the faults, unless grading is slow."""
        if self._is_slow:
            return
        tasks = [task for tasks in read.tasks.values() for task in tasks]
        unread = set(unreadable([task.gold for task in tasks])) if isinstance(self._verifier, MathAnswers) else set()
        unpaid, kinds = list[Fault](), set[str]()
        for task in tasks:
            said, kind = self._unpaid(task, task.gold in unread)
            if said:
                unpaid.append(Fault(read.places.pop(task.id), f"its own answer {said}"))
                kinds.add(kind)
        if len(kinds) == 1:
            self._refuse_verifier(unpaid, len(tasks), f"grades none of the {len(tasks):,} own answers right")
        read.faults += unpaid
        for split, kept in read.tasks.items():
            read.tasks[split] = [task for task in kept if task.id in read.places]

    def _unpaid(self, task: Task, is_unread: bool) -> tuple[str, str]:
        """Why a row's own answer is not graded right, and the kind of this reason; both empty if it is graded right."""
        response = said = kind = ""
        try:
            response = self.gold_response(task)
            score = self.verify(task, response)
            if score.value != 1.0:
                said, kind = f"graded {score.verdict}" + (f" ({score.reason})" if score.reason else ""), score.verdict
                said += f" but earns {score.value:g}, not 1" if score.verdict is Verdict.CORRECT else ""
        except Exception as error:  # a user's verifier may raise anything; report it now, not during a run
            kind = type(error).__name__
            said = f"not graded: the verifier raises {kind}: {error}"
        if is_unread and not said:
            said, kind = "nothing that mathematics reads: take verify=exact", "unread"
        return said and f"{(response or task.gold)[:60]!r} is {said}", kind

    def _take_repeated_out(self, read: _Read) -> None:
        """Keeps each question once; a repetition with another answer or in another split is a fault."""
        seen: dict[str, tuple[Task, Split]] = {}
        # Test and validation come first: of a question that is also a training question, the evaluated row is kept.
        for split in (Split.TEST, Split.VALIDATION, Split.TRAIN):
            kept = []
            for task in read.tasks[split]:
                first, other = seen.setdefault(normalise_question(task.question), (task, split))
                where = read.places[first.id]
                if first is task:
                    kept.append(task)
                elif other != split:
                    read.faults.append(
                        Fault(read.places[task.id], f"asks the same as {where}, which is in split {other}")
                    )
                elif not self._is_code and self.verify(first, self.gold_response(task)).value != 1.0:
                    said = f"asks the same as {where} but answers {task.gold[:40]!r}, not {first.gold[:40]!r}"
                    read.faults.append(Fault(read.places[task.id], said))
                else:
                    read.repeated += 1
            read.tasks[split] = kept

    def _refuse_or_report(self, read: _Read, found: str, splits: str) -> None:
        """Prints once per process what was found; raises BadRowsError if there are faults and they are not skipped."""

        def order(fault: Fault) -> tuple[str, int]:
            place, _, number = fault.where.rpartition(" ")
            return place, int(number)

        own = f"{self._path}, "
        faults = [f"  {fault.where}: {fault.said}".replace(own, "") for fault in sorted(read.faults, key=order)]
        listed = faults[:SHOWN]
        listed += [f"  and {len(read.faults) - SHOWN} more"] if len(read.faults) > SHOWN else []
        of = f"of {counted(read.rows, 'row')}"
        remedy = "Correct them, or take another env.options.verify or other columns"
        if read.faults and not self._skips:
            raise BadRowsError(
                "\n".join(
                    [
                        f"{self._path}: {len(faults)} {of} cannot be used:",
                        *listed,
                        "Correct them, or set env.options.on_bad_rows=skip" if any(read.tasks.values()) else remedy,
                    ]
                )
            )
        sizes = ", ".join(f"{len(tasks)} {split}" for split, tasks in read.tasks.items())
        lines = [f"{self._path}: {found}; {sizes} (splits {splits})"]
        lines += [f"left out: split {name} ({counted(read.names[name], 'row')})" for name in read.left_out]
        if read.repeated:
            lines.append(
                counted(
                    read.repeated, "row repeats another one and counts once", "rows repeat another one and count once"
                )
            )
        if read.faults:
            lines += [f"{counted(len(faults), f'{of} was', f'{of} were')} left out:", *listed]
        said = "\n".join(lines)
        if (key := (Path(self._path).absolute(), said)) not in _SAID:
            _SAID.add(key)
            print(said, file=sys.stderr)

    def _take_examples(self, read: _Read) -> None:
        """Moves training rows to the few-shot examples, with their whole solution if the solution is graded right."""
        train, asked = read.tasks[Split.TRAIN], self._few_shot
        if isinstance(asked, int) and len(train) < asked:
            raise ValueError(f"env.options.few_shot={asked}: the training split has {counted(len(train), 'row')}")
        chosen = train[:asked] if isinstance(asked, int) else []
        for line in map(str, [] if isinstance(asked, int) else asked):
            found = [task for task in train if line in (task.id, task.id.rpartition("/")[2])]
            if len(found) != 1:
                said = f"in several files: take one of {', '.join(task.id for task in found)}"
                said = said if found else "no row of the training split"
                raise ValueError(f"env.options.few_shot: line {line} is {said}")
            chosen += found
        read.tasks[Split.TRAIN] = [task for task in train if task not in chosen]
        for task in chosen:
            whole = read.answers.get(task.id, "")
            right = whole and self.verify(task, whole).value == 1.0
            read.examples.append((task, whole if right else self.gold_response(task)))


def _provenance(path: str, rows: Sequence[Row]) -> Provenance:
    place = Path(path).expanduser()
    content = place.read_bytes() if place.is_file() else repr([row.values for row in rows]).encode()
    return Provenance(path, hashlib.sha256(content).hexdigest(), len(rows), "not stated", path, None)
