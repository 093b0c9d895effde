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
from envs.published import Provenance, read_data_set
from envs.rows import SUFFIXES, Fault, Row, no_such_path, read_table
from envs.splits import normalise_question, splits_of
from envs.tasks.columns import cell_at, choices_of, find_columns, letter_of, question_of
from envs.tasks.verifiers import VERIFIERS, ChoiceAnswers, CodeAnswers, MathAnswers, make_verifier
from rewards import Score
from rewards.math import unreadable
from rewards.wording import counted

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), Split.VALIDATION),
    **dict.fromkeys(("test", "eval", "evaluation"), Split.TEST),
}
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
        path: A file (JSON Lines, JSON, CSV, TSV, Parquet), a folder with one such file or with one file per split, a
            folder saved by ``datasets``, or a data set's id on the hub.
        verify: How answers are graded: a name in :data:`envs.tasks.verifiers.VERIFIERS`, or ``package.module:function``
            with the signature of :meth:`envs.TaskSet.verify`.
        verify_options: Options of the verifier, such as ``answer_form``.
        question: Column of the question; ``a.b`` is the part ``b`` of column ``a``. A column that is ``None`` is found
            by its usual names.
        answer: Column of the answer.
        tests: Column of a program's tests, with ``verify=code``.
        choices: Column of the choices, with ``verify=choice``; the question then shows the choices.
        split: Column that says which split a row belongs to.
        splits: Names of the splits in the data, if they are unusual: ``{train: train_sft}``.
        validation: Share of the training rows for validation, if the data have no validation split.
        test: Share of the training rows for test, if the data have no test split.
        subset: Configuration of a data set on the hub that has several.
        encoding: Encoding of a text file that is not in Unicode, such as ``cp1252``.
        few_shot: Number of training rows, or a list of their line numbers, that precede every question as examples with
            answers.
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
        splits: Mapping[str, str] | None = None,
        validation: float = 0.1,
        test: float = 0.2,
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
        for name in splits or {}:
            if name not in set(Split):
                raise ValueError(f"env.options.splits.{name}: no such split; use {', '.join(Split)}")
        self._path, self._subset, self._encoding = path, subset, encoding
        self._is_code, self._is_slow = verify == "code", ":" not in verify and VERIFIERS.fact(verify, "slow")
        self._verifier: Any = make_verifier(verify, verify_options or {})
        self._named = {"question": question, "answer": answer, "split": split}
        self._named |= {"tests": tests} if self._is_code else {"choices": choices} if verify == "choice" else {}
        for name, given, owner in (("tests", tests, "code"), ("choices", choices, "choice")):
            if given is not None and name not in self._named:
                raise ValueError(f"env.options.{name}={given}: has no effect, because verify={verify}, not {owner}")
        self._splits = {own: Split(name) for name, own in (splits or {}).items()}
        self._shares = _shares(validation, test)
        self._few_shot, self._skips = few_shot, on_bad_rows == "skip"
        self.observes_execution = getattr(self._verifier, "observes_execution", False)
        self.verifies_elsewhere = getattr(self._verifier, "verifies_elsewhere", False)
        self.partial_credit = getattr(self._verifier, "partial_credit", False)
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

    def _load(self) -> _Read:
        parts, faults = self._read()
        rows = [row for part in parts.values() for row in part]
        if not rows:
            where, said = (faults[0].where, faults[0].said) if faults else ("", "")
            said = said and (said if where == self._path else f"{where.removeprefix(f'{self._path}, ')}: {said}")
            said = (
                said or 'it has none; one a line is needed, {"question": ..., "answer": ...}, or a CSV with its header'
            )
            raise ValueError(f"env.options.path={self._path}: no row could be read: {said}")
        needed = ("question", "tests" if self._is_code else "answer")
        columns, found = find_columns(rows, self._named, needed, self._path)
        read, given = _Read(len(rows) + len(faults), faults), self._given_splits(parts, columns)
        for name, part in parts.items():
            for row in part:
                try:
                    task = self._task(row, columns)
                    # A split column takes precedence over the name of the row's file.
                    own = str(cell_at(row.values, columns["split"])) if "split" in columns else name
                    read.tasks[self._known(own) if own else Split.TRAIN].append(task)
                except ValueError as error:
                    faults.append(Fault(row.where, str(error)))
                    continue
                read.places[task.id] = row.where
                if "answer" in columns and isinstance(answer := row.values.get(columns["answer"]), str):
                    read.answers[task.id] = answer
        # The order matters: rows with a wrong answer go first, so that such a row is neither kept in place of a correct
        # row with the same question, nor shown as a few-shot example.
        self._take_unpaid_out(read)
        self._take_repeated_out(read)
        self._cut(read, given)
        self._refuse_or_report(read, found, "given" if given else "by the content of the questions")
        self._take_examples(read)
        read.provenance = [_provenance(self._path, rows)]
        return read

    def _read(self) -> tuple[dict[str, list[Row]], list[Fault]]:
        """Rows by the data's name of their split (empty for a single file), and the faults of unreadable rows."""
        place = Path(self._path).expanduser()
        if place.is_file():
            rows, faults = read_table(place, self._encoding)
            return {"": rows}, faults
        if not place.exists() and (place.suffix in SUFFIXES or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", self._path)):
            raise FileNotFoundError(no_such_path(self._path))
        if not place.exists() or any((place / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
            parts = read_data_set(self._path, self._subset)
            split = {name: f"{self._path}, split {name}" if name else self._path for name in parts}
            return {
                name: [Row(f"{split[name]}, row {i}", row) for i, row in enumerate(part, 1)]
                for name, part in parts.items()
            }, []
        files = sorted(one for one in place.iterdir() if one.name.removesuffix(".gz").endswith(SUFFIXES))
        if not files:
            raise FileNotFoundError(
                f"env.options.path={self._path}: no file in this folder ends in {', '.join(SUFFIXES)}"
            )
        tables = {
            one.name.partition(".")[0] if len(files) > 1 else "": read_table(one, self._encoding) for one in files
        }
        return {name: rows for name, (rows, _) in tables.items()}, [one for _, bad in tables.values() for one in bad]

    def _task(self, row: Row, columns: Mapping[str, str]) -> Task:
        """Makes a task of a row; raises ValueError, with the reason, if the row cannot be used."""
        question = question_of(cell_at(row.values, columns["question"]))
        # Programs are graded by tests, so with verify=code a row needs no answer; otherwise every row needs one.
        optional = self._is_code and ("answer" not in columns or columns["answer"] not in row.values)
        gold = self._verifier.gold(None if optional else cell_at(row.values, columns["answer"]))
        used = {path.partition(".")[0] for path in columns.values()}
        info = {name: value for name, value in row.values.items() if name not in used}
        if "choices" in columns:
            info["choices"] = choices_of(cell_at(row.values, columns["choices"]))
            gold = letter_of(gold, info["choices"])
            question += "".join(f"\n{letter}. {text}" for letter, text in info["choices"].items())
        elif isinstance(self._verifier, ChoiceAnswers) and not re.fullmatch("[A-Z]", gold):
            raise ValueError(f"the answer {gold[:40]!r} is not a letter, and there is no column of choices")
        if isinstance(self._verifier, CodeAnswers):
            info["tests"], shown = self._verifier.tests(cell_at(row.values, columns["tests"]), gold)
            question += shown
        elif not gold:
            raise ValueError("the answer is empty")
        # Ids of file name and line number stay the same when rows are appended, and lead a reader to the row.
        place, _, number = row.where.rpartition(", ")
        return Task(f"{Path(place).name}/{number.split()[-1]}", question, gold, info)

    def _given_splits(self, parts: Mapping[str, Sequence[Row]], columns: Mapping[str, str]) -> set[Split]:
        """The splits that the data name, in a split column or by the names of files or of a data set's splits."""
        names = {name for name in parts if name}
        if "split" in columns:
            cells = (row.values.get(columns["split"]) for part in parts.values() for row in part)
            names = {str(cell) for cell in cells if cell}
        for own, split in self._splits.items():
            if own not in names:
                there = f"they have {', '.join(sorted(names))}" if names else "they name no splits"
                raise ValueError(f"env.options.splits.{split}={own}: the data have no such split; {there}")
        return {self._known(name) for name in names}

    def _known(self, name: str) -> Split:
        split = self._splits.get(name) or SPLIT_NAMES.get(name.lower())
        if split is None:
            raise ValueError(
                f"{self._path}: the split name {name!r} is not known; assign it to a split, as in "
                f"'env.options.splits={{train: {name}}}'"
            )
        return split

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
        golds = [task.gold for tasks in read.tasks.values() for task in tasks]
        unread = set(unreadable(golds)) if isinstance(self._verifier, MathAnswers) else set()
        for split, tasks in read.tasks.items() if not self._is_slow else ():
            for task in tasks:
                response = said = ""
                try:
                    response = self.gold_response(task)
                    score = self.verify(task, response)
                    if score.value != 1.0:
                        said = f"graded {score.verdict}" + (f" ({score.reason})" if score.reason else "")
                except Exception as error:  # a user's verifier may raise anything; report it now, not during a run
                    said = f"not graded: the verifier raises {type(error).__name__}: {error}"
                if said or task.gold in unread:
                    said = said or "nothing that mathematics reads: take verify=exact"
                    where = read.places.pop(task.id)
                    read.faults.append(Fault(where, f"its own answer {(response or task.gold)[:60]!r} is {said}"))
            read.tasks[split] = [task for task in tasks if task.id in read.places]

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
        if read.faults and not self._skips:
            raise BadRowsError(
                "\n".join(
                    [
                        f"{self._path}: {len(faults)} {of} cannot be used:",
                        *listed,
                        "Correct them, or set env.options.on_bad_rows=skip",
                    ]
                )
            )
        sizes = ", ".join(f"{len(tasks)} {split}" for split, tasks in read.tasks.items())
        lines = [f"{self._path}: {found}; {sizes} (splits {splits})"]
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
        by_line = {task.id.rpartition("/")[2]: task for task in train}
        wanted = list(by_line)[:asked] if isinstance(asked, int) else [str(line) for line in asked]
        if missing := [line for line in wanted if line not in by_line]:
            raise ValueError(f"env.options.few_shot: line {missing[0]} is no row of the training split")
        if isinstance(asked, int) and len(wanted) < asked:
            raise ValueError(f"env.options.few_shot={asked}: the training split has {counted(len(train), 'row')}")
        chosen = [by_line[line] for line in wanted]
        read.tasks[Split.TRAIN] = [task for task in train if task not in chosen]
        for task in chosen:
            whole = read.answers.get(task.id, "")
            right = whole and self.verify(task, whole).value == 1.0
            read.examples.append((task, whole if right else self.gold_response(task)))


def _shares(validation: float, test: float) -> dict[Split, float]:
    """The shares of the rows by split, for splits that the data lack; raises ValueError for impossible shares."""
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"env.options.{name}={share}: a share of the rows is needed, from 0 to less than 1")
    if validation + test >= 1:
        raise ValueError(
            f"env.options.validation={validation} and env.options.test={test} leave no rows for training: their sum "
            "must be less than 1"
        )
    return {Split.VALIDATION: validation, Split.TEST: test}


def _provenance(path: str, rows: Sequence[Row]) -> Provenance:
    place = Path(path).expanduser()
    content = place.read_bytes() if place.is_file() else repr([row.values for row in rows]).encode()
    return Provenance(path, hashlib.sha256(content).hexdigest(), len(rows), "not stated", path, None)
