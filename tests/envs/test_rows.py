"""``rows`` reads users' files in many formats, encodings and column names, and reports what is wrong with a row."""

import gzip
import json

import datasets
import pandas
import pytest

import envs
from envs import Split
from rewards import Score, Verdict
from rl.backends import hub

ROWS = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(40)]


def lines(rows, end="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def rows_of(path, **options):
    return envs.make("errata/rows-v1", options={"path": str(path), **options}).taskset


def all_of(taskset):
    return [task for split in Split for task in taskset.load(split)]


def write(folder, content, name="my.jsonl"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


WAYS = {
    "plain": ("my.jsonl", lines(ROWS).encode()),
    "BOM": ("my.jsonl", lines(ROWS).encode("utf-8-sig")),
    "CRLF": ("my.jsonl", lines(ROWS, "\r\n").encode()),
    "CR": ("my.jsonl", lines(ROWS, "\r").encode()),
    "CR and semicolons": ("my.csv", pandas.DataFrame(ROWS).to_csv(index=False, sep=";", lineterminator="\r").encode()),
    "UTF-16": ("my.jsonl", lines(ROWS, "\r\n").encode("utf-16")),
    "UTF-16 without a mark": ("my.jsonl", lines(ROWS).encode("utf-16-le")),
    "UTF-32": ("my.jsonl", lines(ROWS).encode("utf-32")),
    "gzip": ("my.jsonl.gz", gzip.compress(lines(ROWS).encode())),
    "gzip without its name": ("my.jsonl", gzip.compress(lines(ROWS).encode())),
    "a list, whatever its name": ("my.jsonl", json.dumps(ROWS, indent=1).encode()),
    "Excel's own first line": (
        "my.csv",
        b"sep=;\r\n" + pandas.DataFrame(ROWS).to_csv(index=False, sep=";", lineterminator="\r\n").encode(),
    ),
    "empty rows below, spaces around names": (
        "my.csv",
        (" question , answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS) + ",\n,\n").encode(),
    ),
    "JSON": ("my.json", json.dumps(ROWS, indent=2).encode()),
    "CSV": ("my.csv", pandas.DataFrame(ROWS).to_csv(index=False).encode("utf-8-sig")),
    "semicolons": ("my.csv", pandas.DataFrame(ROWS).to_csv(index=False, sep=";", lineterminator="\r\n").encode()),
    "TSV": ("my.tsv", pandas.DataFrame(ROWS).to_csv(index=False, sep="\t").encode()),
    "numbers": ("my.jsonl", lines([row | {"answer": i + 1} for i, row in enumerate(ROWS)]).encode()),
    "floats": ("my.jsonl", lines([row | {"answer": i + 1.0} for i, row in enumerate(ROWS)]).encode()),
    "lists of one": ("my.jsonl", lines([row | {"answer": [row["answer"]]} for row in ROWS]).encode()),
    "solutions": ("my.jsonl", lines([row | {"answer": f"So\n#### {row['answer']}"} for row in ROWS]).encode()),
    "boxes": ("my.jsonl", lines([row | {"answer": f"So $\\boxed{{{row['answer']}}}$."} for row in ROWS]).encode()),
    "conversations": (
        "my.jsonl",
        lines([{"Prompt": [{"role": "user", "content": r["question"]}], "Gold": r["answer"]} for r in ROWS]).encode(),
    ),
    "nested": (
        "my.jsonl",
        lines([{"problem": r["question"], "reward_model": {"ground_truth": r["answer"]}} for r in ROWS]).encode(),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_rows_whatever_they_are_written_in(tmp_path, way):
    name, content = WAYS[way]
    found = all_of(rows_of(write(tmp_path, content, name)))
    assert sorted((task.question, task.gold) for task in found) == sorted((r["question"], r["answer"]) for r in ROWS)


def test_parquet_and_saved_data_sets_and_their_own_splits(tmp_path):
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "my.parquet")
    assert len(all_of(rows_of(tmp_path / "my.parquet"))) == len(all_of(rows_of(tmp_path))) == 40
    hub.register()
    parts = {"train": datasets.Dataset.from_list(ROWS[:30]), "test": datasets.Dataset.from_list(ROWS[30:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    taskset = rows_of(tmp_path / "saved", validation=0.3)
    assert [task.gold for task in taskset.load(Split.TEST)] == [str(i + 1) for i in range(30, 40)]
    assert 0 < len(taskset.load(Split.VALIDATION)) < len(taskset.load(Split.TRAIN)) < 30
    parts["train"].save_to_disk(tmp_path / "one")
    assert len(all_of(rows_of(tmp_path / "one"))) == 30


def test_splits_by_file_by_column_and_by_a_name_of_their_own(tmp_path):
    for name, part in (("train", ROWS[:20]), ("dev", ROWS[20:30]), ("test", ROWS[30:])):
        write(tmp_path, lines(part), f"{name}.jsonl")
    sizes = [len(rows_of(tmp_path).load(split)) for split in Split]
    assert sizes == [20, 10, 10]
    named = [row | {"split": ("sft", "val", "test")[i % 3]} for i, row in enumerate(ROWS)]
    path = write(tmp_path, lines(named), "column.jsonl")
    with pytest.raises(ValueError, match=r"the split name 'sft' is not known.*env.options.splits"):
        rows_of(path).load(Split.TRAIN)
    assert [len(rows_of(path, splits={"train": "sft"}).load(split)) for split in Split] == [14, 13, 13]
    with pytest.raises(ValueError, match=r"splits\.test=last: the data have no such split; they have sft, test, val"):
        rows_of(path, splits={"train": "sft", "test": "last"}).load(Split.TRAIN)


def test_splits_come_near_their_shares_whatever_the_rows_and_one_row_more_moves_hardly_any(tmp_path):
    def splits(n):
        taskset = rows_of(write(tmp_path, lines(ROWS[:n])))
        return {task.question: split for split in Split for task in taskset.load(split)}

    before = splits(19)
    for n in range(20, 41):
        after = splits(n)
        moved = sum(before[question] is not after[question] for question in before)
        sizes = [list(after.values()).count(split) for split in (Split.VALIDATION, Split.TEST)]
        assert moved <= 3, n
        # Within a fifth of the share; where no whole number is, the nearest number.
        for size, share in zip(sizes, (0.1 * n, 0.2 * n), strict=True):
            assert abs(size - share) <= max(0.2 * share, 0.5) + 1e-9, (n, sizes)
        before = after


BAD = {
    '{"question": "a", ': "line 41: no JSON",
    "[1, 2]": r"line 41: an object with names is needed",
    '{"question": "a", "answer": ""}': "line 41: the answer is empty",
    '{"question": "a", "answer": null}': "line 41: the answer is empty",
    '{"question": " ", "answer": "1"}': "line 41: the question is empty",
    '{"question": 3.5, "answer": NaN}': "line 41: the answer is nan",
    '{"question": "a", "answer": {"value": 3}}': r"line 41: the answer is nested.*options\.answer=<its column>\.value",
    '{"question": "a", "answer": [1, 2]}': r"line 41: the answer is nested.*<its column>\.0.*env\.options\.verify=json",
    '{"question": {"text": ["a"]}, "answer": 1}': r"line 41: the question must be text.*question=<its column>\.text\.0",
    '{"question": "a", "answer": "1.234,50"}': r"line 41: the answer '1.234,50' has points .* write it as 1234.50",
    '{"question": "a", "question": "b", "answer": "1"}': "line 41: no JSON .*'question' appears twice",
    '{"question": "a \\ud83d", "answer": "1"}': "line 41: the question holds half a character",
    '{"question": "a", "answer": "1"},': r"line 41: no JSON .*\. Remove the comma at the end of the line",
    "{'question': 'a', 'answer': '1'}": "line 41: no JSON .*write it with json.dumps",
    '{"questoin": "a", "answer": "1"}': "line 41: column 'question' is missing; the row has questoin, answer",
    '{"question": "What is  1 + 1?", "answer": "3"}': "line 41: asks the same as line 2 but answers '3', not '2'",
    '{"question": "a", "answer": "$? &&"}': "line 41: its own answer .* is nothing that mathematics reads",
    '{"question": "a", "answer": "the \\\\boxed{1} or \\\\boxed{2}"}': "line 41: the answer holds 2 boxes",
    '{"question": [{"role": "system", "content": "x"}], "answer": "1"}': r"line 41: .*env\.prompts_text\.system",
}


@pytest.mark.parametrize("line", BAD)
def test_a_row_that_cannot_be_used_is_named_by_its_line_and_refused_or_left_out(tmp_path, capsys, line):
    path = write(tmp_path, lines(ROWS) + line)
    with pytest.raises(
        ValueError, match=r"1 of 41 rows cannot be used:\n  " + BAD[line] + r"[^\n]*\n.*on_bad_rows=skip"
    ):
        rows_of(path).load(Split.TRAIN)
    assert len(all_of(rows_of(path, on_bad_rows="skip"))) == 40
    assert "1 of 41 rows was left out" in capsys.readouterr().err


def test_a_gold_that_does_not_pay_itself_and_questions_in_two_splits_are_bad_rows(tmp_path):
    write(tmp_path, lines([*ROWS, {"question": "Which?", "answer": "a b"}]), "train.jsonl")
    write(tmp_path, lines([{"question": "what is 7 + 1?", "answer": "8"}]), "test.jsonl")
    with pytest.raises(
        ValueError, match=r"train.jsonl, line 8: asks the same as .*test.jsonl, line 1, which is in split test"
    ):
        rows_of(tmp_path).load(Split.TRAIN)
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: its own answer '1' is graded wrong"):
        rows_of(tmp_path, verify=f"{__name__}:nothing_is_right").load(Split.TRAIN)


def test_a_verifier_that_raises_is_known_when_the_file_is_read(tmp_path):
    with pytest.raises(
        ValueError, match=r"line 1: its own answer '1' is not graded: the verifier raises KeyError: 'level'"
    ):
        rows_of(write(tmp_path, lines(ROWS)), verify=f"{__name__}:needs_a_level").load(Split.TRAIN)


def test_a_list_within_lists_without_end_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no row could be read.*line 1: JSON that is nested too deeply"):
        all_of(rows_of(write(tmp_path, "[" * 100_000, "deep.json")))


def test_the_same_question_and_answer_again_counts_once(tmp_path, capsys):
    again = {"question": "what is 7  + 1?", "answer": "8.0"}
    assert len(all_of(rows_of(write(tmp_path, lines([*ROWS, again]))))) == 40
    assert "1 row repeats another one and counts once" in capsys.readouterr().err


def needs_a_level(task, response):
    return Score.of(response == task.info["level"])


def nothing_is_right(task, response):
    return Score.of(False)


def ends_with_the_answer(task, response):
    assert task.info == {"level": "easy"}
    return Score.of(response.endswith(f"<answer>{task.gold}</answer>")) if response else Score(0.0, Verdict.NO_ANSWER)


WRONG = [
    ({}, "env.options.path is missing"),
    ({"path": "mi.jsonl"}, r"no such file or folder in .*did you mean 'my\.jsonl'"),
    (
        {"path": "my.jsonl", "answer": "anser"},
        "env.options.answer=anser: there is no such column; did you mean 'answer'",
    ),
    ({"path": "my.jsonl", "verify": "maths"}, "env.options.verify=maths: unknown; did you mean 'math'"),
    ({"path": "my.jsonl", "verify_options": {"form": "boxed"}}, "did you mean 'answer_form'"),
    ({"path": "my.jsonl", "verify_options": {"answer_form": "boxxed"}}, "did you mean 'boxed'"),
    ({"path": "my.jsonl", "verify": "no_such.module:f"}, "package.module:function"),
    ({"path": "my.jsonl", "verify": "regex"}, "verify_options.pattern.*needs a value"),
    ({"path": "my.jsonl", "verify": "regex", "verify_options": {"pattern": "("}}, "no regular expression"),
    ({"path": "my.jsonl", "verify": "choice"}, "not a letter, and there is no column of choices"),
    ({"path": "my.jsonl", "verify": "code"}, r"no column is called tests.*name it by env\.options\.tests=<column>"),
    ({"path": "asked.jsonl"}, r"It has question; add one, or name it by env\.options\.answer=<column>"),
    ({"path": "other.jsonl"}, r"It has foo, bar; say which .* the question, as in env\.options\.question=foo"),
    ({"path": "other.jsonl", "question": "foo"}, r"which column holds the answer, as in env\.options\.answer=bar"),
    ({"path": "my.jsonl", "tests": "answer"}, "has no effect, because verify=math"),
    ({"path": "my.jsonl", "on_bad_rows": "ignore"}, "use refuse or skip"),
    ({"path": "my.jsonl", "validation": 0.5, "test": 0.5}, "validation=0.5 and env.options.test=0.5 leave no rows"),
    ({"path": "my.jsonl", "validation": -0.1}, "env.options.validation=-0.1: a share of the rows is needed, from 0"),
    ({"path": "my.jsonl", "test": 1}, "env.options.test=1: a share of the rows is needed, from 0 to less than 1"),
    ({"path": "my.jsonl", "splits": {"trian": "x"}}, "no such split"),
    ({"path": "my.jsonl", "splits": {"train": "x"}}, "splits.train=x: the data have no such split; they name no"),
    ({"path": "my.jsonl", "few_shot": 99}, "env.options.few_shot=99: the training split has"),
    *(
        ({"path": "my.jsonl", "few_shot": one}, f"few_shot={one}: a whole number from 0 on")
        for one in (-3, "abc", True)
    ),
    ({"path": 5}, "env.options.path=5: there is no such file or folder in"),
    ({"path": ["my.jsonl"]}, r"env.options.path=\['my.jsonl'\]: the path of a file or folder is needed"),
    ({"path": "~/no-such.jsonl"}, r"path=~/no-such.jsonl: there is no such file or folder: /.*/no-such\.jsonl"),
    ({"path": "my.jsonl", "encoding": "utf-9"}, "Python knows no encoding"),
    ({"path": "latin.jsonl"}, r"latin\.jsonl, line 2: byte 0xe9 is not utf-8.*env\.options\.encoding=cp1252"),
    (
        {"path": "tests.jsonl"},
        r"no column is called answer.*has tests \(test_list\): did you mean env\.options\.verify=code",
    ),
    ({"path": "german.csv"}, r"It has frage, answer; say which.*env\.options\.question=frage\."),
    ({"path": "open.csv"}, r"line 2: no CSV \(unexpected end of data\): write a quote"),
    ({"path": "wide.csv"}, "line 4: more or fewer cells than the 2 of question, answer"),
    ({"path": "fake.parquet"}, "no Parquet file"),
    ({"path": "empty.jsonl"}, "no row could be read: it has none; one a line is needed"),
    ({"path": "cut.jsonl.gz"}, "cut.jsonl.gz: the gzip archive is damaged .*: get or write it again"),
    ({"path": "book.xlsx"}, "book.xlsx is a workbook or a zip archive: save the sheet as CSV"),
    ({"path": "page.jsonl"}, "page.jsonl is a web page: download the file itself"),
    ({"path": "lfs.jsonl"}, "a pointer of Git LFS in place of the data: .*git lfs pull"),
    ({"path": "comma.json"}, "comma.json, line [12]: no JSON .*remove the comma before the bracket"),
    ({"path": "within.json"}, r"within.json is one object, with the rows in 'data': save that list alone"),
    ({"path": "columns.json"}, "holds whole columns, not rows: .*orient='records', lines=True"),
    ({"path": "spread.jsonl"}, "line 1: no JSON .*Write each object on one line"),
    ({"path": "twice.csv"}, "twice.csv, line 1: two columns are called 'answer': rename or remove one"),
    ({"path": "bare.csv"}, "The first line of such a file names its columns"),
    ({"path": "said.jsonl"}, r"as in env\.options\.question=messages\.0\.content"),
    ({"path": "empty"}, "no file in this folder ends in .jsonl"),
    ({"path": "owner/no-such-set"}, "no such file or folder here, and not available from the hub"),
    ({"path": "owner/no-such-set"}, "Give a file, a folder that datasets saved, or a data set's id"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda one: str(one)[:60])
def test_what_is_wrong_with_the_whole_is_one_sentence(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    hub.register()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: (_ for _ in ()).throw(ConnectionError("no route")))
    write(tmp_path, lines(ROWS))
    write(
        tmp_path,
        '{"question": "a", "answer": "1"}\n{"question": "é", "answer": "1"}\n'.encode("latin-1"),
        "latin.jsonl",
    )
    write(tmp_path, lines([{"question": "a", "test_list": ["assert f(1) == 1"]}]), "tests.jsonl")
    write(tmp_path, 'question,answer\n"a,1\nb,2\n', "open.csv")
    write(tmp_path, "question,answer\na,1\n\nb,1,2\n", "wide.csv")
    write(tmp_path, lines([{"question": "a"}]), "asked.jsonl")
    write(tmp_path, lines([{"foo": "a", "bar": "1"}]), "other.jsonl")
    write(tmp_path, "frage,answer\na,1\n", "german.csv")
    write(tmp_path, "", "empty.jsonl")
    write(tmp_path, gzip.compress(lines(ROWS).encode())[:-9], "cut.jsonl.gz")
    write(tmp_path, b"PK\x03\x04" + bytes(60), "book.xlsx")
    write(tmp_path, "\n<!DOCTYPE html><html></html>", "page.jsonl")
    write(tmp_path, "version https://git-lfs.github.com/spec/v1\nsize 12", "lfs.jsonl")
    write(tmp_path, '[{"question": "a", "answer": "1"},\n]', "comma.json")
    write(tmp_path, json.dumps({"data": ROWS}), "within.json")
    write(tmp_path, pandas.DataFrame(ROWS).to_json(), "columns.json")
    write(tmp_path, "".join(json.dumps(row, indent=1) + "\n" for row in ROWS), "spread.jsonl")
    write(tmp_path, "question,answer, answer\na,1,2\n", "twice.csv")
    write(tmp_path, "What is 1 + 1?,2\nWhat is 2 + 1?,3\n", "bare.csv")
    write(tmp_path, lines([{"messages": [{"role": "user", "content": "a"}]}]), "said.jsonl")
    write(tmp_path, "PAR", "fake.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        envs.make("errata/rows-v1", options=options).taskset.load(Split.TRAIN)


GRADED = [
    ("exact", {}, "Paris", "<answer> Paris </answer>", "<answer>paris</answer>"),
    ("exact", {"ignore_case": True, "answer_form": "answer_line"}, "Paris", "Answer: paris", "Answer: Rome"),
    ("number", {"absolute": 0.01}, "3.14", r"\boxed{3.1416}", r"\boxed{3.2}"),
    ("number", {}, 1234, r"\boxed{1,234.0}", r"\boxed{1235}"),
    ("number", {}, "\N{MINUS SIGN}15", r"\boxed{-15}", r"\boxed{-1,5}"),
    ("choice", {}, "b", r"\boxed{(B)}", r"\boxed{A}"),
    ("regex", {"pattern": "ANSWER=(\\w+)", "stated": "ANSWER={}"}, "x1", "ANSWER=y ANSWER=x1", "ANSWER=x2"),
    ("json", {}, {"a": 1, "b": [True]}, '```json\n{"b": [true], "a": 1.0}\n```', '{"a": 1, "b": [1]}'),
    ("json", {"keys": ["a"]}, {"a": 1, "b": 2}, '{"a": 1, "b": 3}', '{"a": 2, "b": 2}'),
    (f"{__name__}:ends_with_the_answer", {}, "x", "so <answer>x</answer>", "x"),
]


@pytest.mark.parametrize(("verify", "options", "gold", "right", "wrong"), GRADED)
def test_every_way_to_verify_pays_the_right_answer_alone(tmp_path, verify, options, gold, right, wrong):
    path = write(tmp_path, lines([{"question": f"q{i}", "answer": gold, "level": "easy"} for i in range(9)]))
    taskset = rows_of(path, verify=verify, verify_options=options)
    task = taskset.load(Split.TRAIN)[0]
    scores = [taskset.verify(task, text) for text in (taskset.gold_response(task), right, wrong, "")]
    assert [score.value for score in scores] == [1.0, 1.0, 0.0, 0.0]
    assert scores[3].verdict is Verdict.NO_ANSWER


@pytest.mark.parametrize(
    ("choices", "answer"),
    [(["Rome", "Paris"], 1), (["Rome", "Paris"], "B"), ({"text": ["Rome", "Paris"], "label": ["1", "2"]}, "2"),
     ('["Rome", "Paris"]', "paris"), ({"A": "Rome", "B": "Paris"}, "B")],
)  # fmt: skip
def test_choices_are_shown_and_the_letter_or_its_text_is_right(tmp_path, choices, answer):
    rows = [{"question": f"Capital {i}?", "choices": choices, "answer": answer} for i in range(9)]
    taskset = rows_of(write(tmp_path, lines(rows)), verify="choice")
    task = taskset.load(Split.TRAIN)[0]
    assert task.question.endswith(f"{task.gold}. Paris")
    for text in (task.gold, f"({task.gold}) Paris", "Paris"):
        assert taskset.verify(task, f"\\boxed{{{text}}}").value == 1.0
    assert taskset.verify(task, r"\boxed{Rome}").value == 0.0
    with pytest.raises(ValueError, match="'Berlin' is not among the choices"):
        rows_of(write(tmp_path, lines([rows[0] | {"answer": "Berlin"}])), verify="choice").load(Split.TRAIN)


TESTS = [
    ["assert f(1) == 2", "assert f(2) == 3"],
    "assert f(1) == 2\nassert f(2) == 3",
    '["assert f(1) == 2", "assert f(2) == 3"]',
]


@pytest.mark.parametrize("tests", TESTS)
def test_programs_are_run_on_the_tests_of_the_row(tmp_path, tests):
    rows = [
        {"prompt": f"Add one, {i}.", "test_list": tests} | ({"code": "def f(x): return x + 1"} if i else {})
        for i in range(9)
    ]
    taskset = rows_of(write(tmp_path, lines(rows)), verify="code", answer="code", verify_options={"public": 1})
    task = next(task for task in all_of(taskset) if task.gold)
    assert "assert f(1) == 2" in task.question
    assert "f(2)" not in task.question
    assert taskset.verify(task, taskset.gold_response(task)).value == 1.0
    score = taskset.verify(task, "```python\ndef f(x): return 2\n```")
    assert (score.value, score.public) == (0.0, True)


PROGRAM_TESTS = {
    "asserts": (["assert f(1) == 2", "assert f(2) == 3", "assert f(5) == 6"], ["f(1)", "f(2)", "f(5)"]),
    "text": ("import math\nassert f(1) == 2\nassert f(2) == math.sqrt(9)\nassert f(5) == 6", ["f(1)", "f(2)", "f(5)"]),
    "named": (["x = f(1)\ny = f(2)", "assert (x, y) == (2, 3)", "assert f(5) == 6"], ["f(1)", "f(5)"]),
}


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("name", PROGRAM_TESTS)
def test_feedback_speaks_of_the_shown_tests_only(tmp_path, name, n):
    tests, calls = PROGRAM_TESTS[name]
    path = write(tmp_path, lines([{"question": f"Add one, {i}.", "tests": tests} for i in range(20)]))
    options = {"path": str(path), "verify": "code", "verify_options": {"public": n}}
    env = envs.make("errata/rows-v1", options=options, attempts=2)
    messages, _ = env.reset(seed=0)
    assert [call in messages[-1].content for call in calls] == [place < n for place in range(len(calls))]
    assert ("import math" in messages[-1].content) == (name == "text" and n > 0)
    for program, wrong in (("def f(x): return 0", calls[0]), ("def f(x): return 2", calls[1])):
        env.reset(seed=0)
        said, *_ = env.step(f"```python\n{program}\n```")
        n_shown = 1 if wrong == calls[0] else 2
        if name == "asserts":
            assert (f"Input: {wrong}" in said[-1].content) == (n >= n_shown)
        assert not any(call in said[-1].content for call in calls[n:])
        assert "passes" not in said[-1].content or (name, n, wrong) == ("asserts", 1, calls[1])


STREAMS = [
    {"inputs": ["1\n", "5\n"], "outputs": ["2\n", "6\n"]},
    {"inputs": [["1"], ["5"]], "outputs": [["2"], ["6"]]},
    [{"input": 1, "output": 2}, {"input": "5", "output": ["6"]}],
]


@pytest.mark.parametrize("pairs", STREAMS)
def test_whole_programs_are_run_on_inputs_and_outputs(tmp_path, pairs):
    rows = [{"question": f"Add one, {i}.", "input_output": json.dumps(pairs)} for i in range(9)]
    taskset = rows_of(write(tmp_path, lines(rows)), verify="code")
    task = taskset.load(Split.TRAIN)[0]
    assert "[" not in task.question
    assert taskset.verify(task, "```python\nprint(int(input()) + 1)\n```").value == 1.0
    assert taskset.verify(task, "```python\nprint(int(input()))\n```").value == 0.0
    assert envs.settings("errata/rows-v1", {"prompts": None, "feedback": None}, {"path": "x", "verify": "code"}) == {
        "prompts": "code-v1",
        "feedback": "execution",
    }


def test_few_shot_examples_stand_before_every_question_and_in_no_split(tmp_path):
    path = write(tmp_path, lines([row | {"answer": f"So it is #### {row['answer']}"} for row in ROWS]))
    env = envs.make(
        "errata/rows-v1", options={"path": str(path), "few_shot": 2, "verify_options": {"answer_form": "hash"}}
    )
    messages, _ = env.reset(seed=1)
    assert [message.role for message in messages] == ["user", "assistant"] * 2 + ["user"]
    shown = {message.content for message in messages[:4]}
    assert not shown & {task.question for task in all_of(env.taskset)}
    line = int(all_of(env.taskset)[0].id.rpartition("/")[2])
    taskset = rows_of(path, few_shot=[line], verify_options={"answer_form": "hash"}, test=0.0, validation=0.0)
    assert [task.id for task, _ in taskset.examples] == [f"my.jsonl/{line}"]
    assert len(all_of(taskset)) == 39
