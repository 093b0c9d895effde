"""``rows`` reads folders of files and shards, keeps the splits of the data, and refuses options without effect."""

import json

import datasets
import pandas
import pytest

import envs
from envs import Split, published
from rewards import Score, Verdict
from rl.backends import hub
from tests.envs.test_rows import ROWS, all_of, lines, rows_of, write


def sizes_of(taskset):
    return [len(taskset.load(split)) for split in Split]


def shards(folder, *names):
    """Writes files of ten rows each."""
    for i, name in enumerate(names):
        pandas.DataFrame(ROWS[10 * i : 10 * i + 10]).to_parquet(folder / name)


def test_files_with_the_same_name_are_refused_rather_than_one_of_them_dropped(tmp_path):
    write(tmp_path, lines(ROWS), "train.jsonl")
    pandas.DataFrame(ROWS).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(ValueError, match=r"both train\.csv and train\.jsonl are there for 'train': rename one"):
        all_of(rows_of(tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("train-00001-of-00002.parquet", "train-00002-of-00002.parquet", "test-00001-of-00001.parquet"),
        ("train-00000-of-00002-0123abcd.parquet", "train-00001-of-00002-abcd0123.parquet", "test.parquet"),
    ],
)
def test_shards_of_a_split_are_joined_in_order(tmp_path, names):
    shards(tmp_path, *names)
    taskset = rows_of(tmp_path, validation=0.0)
    assert sizes_of(taskset) == [20, 0, 10]
    assert [task.gold for task in taskset.load(Split.TRAIN)] == [row["answer"] for row in ROWS[:20]]


def test_shards_without_a_split_are_one_file_and_none_may_be_missing_or_be_there_twice(tmp_path):
    shards(tmp_path, "data-00000-of-00003.parquet", "data-00001-of-00003.parquet", "data-00002-of-00003.parquet")
    assert all(sizes_of(rows_of(tmp_path)))
    (tmp_path / "data-00001-of-00003.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"data-00001-of-00003\.parquet is missing: .* is one of 3 files"):
        all_of(rows_of(tmp_path))
    shards(tmp_path, "data-00001-of-00002.parquet")
    with pytest.raises(ValueError, match=r"both data-00000-of-00003\.parquet and data-00001-of-00002\.parquet"):
        all_of(rows_of(tmp_path))


def parted(folder):
    for name, part in (
        ("a", ROWS[:10]),
        ("b", ROWS[10:18]),
        ("c", ROWS[18:24]),
        ("d", ROWS[24:29]),
        ("dev", ROWS[29:]),
    ):
        write(folder, lines(part), f"{name}.jsonl")


def test_several_names_are_one_split_and_names_that_are_not_assigned_are_left_out(tmp_path, capsys):
    parted(tmp_path)
    assert sizes_of(rows_of(tmp_path, splits={"train": ["a", "b"], "test": "c"})) == [18, 11, 6]
    assert "18 train, 11 validation, 6 test (splits given)\nleft out: split d (5 rows)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"names 'a', 'b', 'c', 'd' are not known.*splits=\{train: \[a, b, c, d\]\}'"):
        all_of(rows_of(tmp_path))
    for splits, message in (
        ({"train": ["a", "x"]}, r"splits\.train=x: the data have no such split; they have a, b, c, d, dev"),
        ({"train": ["a", "b"], "test": "b"}, "b is assigned to both train and test"),
        ("a", "splits=a: a mapping is needed, as in {train: a}"),
        ({"train": None}, r"splits\.train=None: a name, or a list of names, is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            all_of(rows_of(tmp_path, splits=splits))


@pytest.mark.parametrize("empty", [None, "", " "])
def test_a_row_whose_split_is_empty_cannot_be_used(tmp_path, empty):
    rows = [row | {"split": "train" if i else empty} for i, row in enumerate(ROWS)]
    with pytest.raises(ValueError, match=r"1 of 40 rows cannot be used:\n  line 1: the split is empty: fill in column"):
        all_of(rows_of(write(tmp_path, lines(rows))))


def test_a_folder_whose_single_file_is_a_split_keeps_it_and_an_empty_split_says_why(tmp_path):
    path = write(tmp_path, lines(ROWS), "test.jsonl")
    assert sizes_of(rows_of(tmp_path)) == [0, 0, 40]
    assert all(sizes_of(rows_of(path)))
    env = envs.make("errata/rows-v1", options={"path": str(tmp_path)})
    with pytest.raises(ValueError, match=rf"split 'train': {tmp_path} has none \(40 test\).*splits=\{{train: test\}}"):
        env.reset(seed=0)
    assert all(sizes_of(rows_of(tmp_path, splits={"train": "test"})))
    n = len(rows_of(path).load(Split.TRAIN))
    env = envs.make("errata/rows-v1", options={"path": str(path), "few_shot": n})
    with pytest.raises(ValueError, match=rf"few_shot={n} shows all of the {n} training rows"):
        env.reset(seed=0)


WITHOUT_EFFECT = [
    ("my.jsonl", {"subset": "main"}, r"subset=main: has no effect, because .*my\.jsonl is a file; remove it"),
    ("", {"subset": "main"}, "subset=main: has no effect, because .* is a folder"),
    ("split", {"test": 0.3}, "test=0.3: has no effect, because .*split has rows of split test"),
    ("split", {"validation": 0}, "validation=0: has no effect, because .*split has rows of split validation"),
    ("my.parquet", {"encoding": "cp1252"}, r"encoding=cp1252: has no effect, because .*my\.parquet is Parquet"),
    ("saved", {"encoding": "cp1252"}, "encoding=cp1252: has no effect, because .*saved is a data set"),
]


@pytest.mark.parametrize(("name", "options", "message"), WITHOUT_EFFECT)
def test_options_without_effect_are_refused(tmp_path, name, options, message):
    hub.register()
    write(tmp_path, lines(ROWS))
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "my.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (tmp_path / "split").mkdir()
    for part, rows in (("train", ROWS[:20]), ("dev", ROWS[20:30]), ("test", ROWS[30:])):
        write(tmp_path / "split", lines(rows), f"{part}.jsonl")
    with pytest.raises(ValueError, match=message):
        all_of(rows_of(tmp_path / name, **options))


TESTS = [
    ({"inputs": ["1"], "outputs": ["2", "3"]}, "the tests have 1 input but 2 outputs"),
    ({"inputs": "1", "outputs": ["2"]}, "the inputs and the outputs of the tests must be lists"),
    ({"inputs": None, "outputs": None}, "the inputs and the outputs of the tests must be lists"),
    ({"inputs": [None], "outputs": ["2"]}, "an input or output of the tests must be a text or .*None"),
    ({"inputs": ["1"], "outputs": [None]}, "an input or output of the tests must be a text or .*None"),
    ({"inputs": [[1, 2]], "outputs": [[3]]}, r"an input or output of the tests must be a text or .*\[1, 2\]"),
    ([{"input": {"a": 1}, "output": "2"}], "an input or output of the tests must be a text or a list of lines"),
    ({"inputs": ["1", "2"], "outputs": ["", "\n"]}, "all expected outputs of the tests are empty"),
    ("def test_f():\n    assert f(1) == 2", "the tests would pay for any program: test_f is never called"),
    (["f(1) == 2"], "the tests would pay for any program: 'f\\(1\\) == 2' tests nothing"),
]
CHOICES = [
    ({"text": ["Rome", "Paris"], "label": ["A"]}, "the choices have 2 texts but 1 label"),
    ({"text": ["Rome", "Paris"], "label": "AB"}, "the texts and the labels of the choices must be lists"),
    ({"text": ["Rome", "Paris"], "label": ["A", "A"]}, "two choices have the same label"),
]


@pytest.mark.parametrize(
    ("verify", "column", "cell", "message"),
    [*(("code", "tests", *one) for one in TESTS), *(("choice", "choices", *one) for one in CHOICES)],
)
def test_lists_that_do_not_belong_together_are_said_in_words(tmp_path, verify, column, cell, message):
    path = write(tmp_path, json.dumps({"question": "q", "answer": "A", column: cell}))
    with pytest.raises(ValueError, match=f"line 1: {message}"):
        all_of(rows_of(path, verify=verify))


def takes_one(task):
    return Score.of(True)


def returns_a_truth(task, response):
    return True


ALL_FAIL = [
    ("os:sep", "verify=os:sep is of type str: a function"),
    (":f", "verify=:f: .*package.module:function"),
    (f"{__name__}:takes_one", r"verify=.*:takes_one takes \(task\): a function that is called with \(task, response\)"),
    (
        f"{__name__}:returns_a_truth",
        r"verify=.*:returns_a_truth grades none of the 40 own answers right: correct this function.*returned True",
    ),
    ("tests.envs.test_rows:needs_a_level", r"verify=.*needs_a_level grades none of the 40 own answers right"),
    ("choice", r"verify=choice cannot grade any of the 40 answers.*options\.choices=<column>"),
]


@pytest.mark.parametrize(("verify", "message"), ALL_FAIL)
def test_a_verifier_that_fails_on_all_rows_is_to_blame_and_not_the_rows(tmp_path, verify, message):
    with pytest.raises(ValueError, match=f"^env.options.{message}") as raised:
        all_of(rows_of(write(tmp_path, lines(ROWS)), verify=verify, on_bad_rows="skip"))
    assert "on_bad_rows" not in str(raised.value)


def test_numbers_that_are_all_texts_are_about_the_verifier(tmp_path):
    path = write(tmp_path, lines([row | {"answer": f"city {row['answer']}"} for row in ROWS]))
    with pytest.raises(ValueError, match=r"^env.options.verify=number cannot grade any .*'city 1' is no number"):
        all_of(rows_of(path, verify="number"))


def test_from_python_the_reader_of_data_sets_is_named_with_its_import(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "_whole_reader", None)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"from rl\.backends import hub; hub\.register\(\)"):
        all_of(rows_of(tmp_path / "saved"))


def test_an_empty_file_of_a_split_is_not_filled_from_other_rows(tmp_path):
    write(tmp_path, lines(ROWS[:30]), "train.jsonl")
    write(tmp_path, lines(ROWS[30:]), "dev.jsonl")
    write(tmp_path, "", "test.jsonl")
    assert [len(rows_of(tmp_path).load(split)) for split in Split] == [30, 10, 0]


LETTERS = [
    (["A", "B", "C", "D"], {}, "A. Paris\nB. Rome\nC. Berlin\nD. Bonn"),
    (["option_a", "option_b", "option_c"], {}, "A. Paris\nB. Rome\nC. Berlin"),
    (["opa", "opb", "opc", "opd"], {}, "A. Paris\nB. Rome\nC. Berlin\nD. Bonn"),
    (["Choice A", "Choice B", "Choice C"], {"Choice C": ""}, "A. Paris\nB. Rome"),
]


@pytest.mark.parametrize(("columns", "changed", "shown"), LETTERS)
def test_choices_in_columns_of_their_own_are_shown(tmp_path, capsys, columns, changed, shown):
    row = dict(zip(columns, ["Paris", "Rome", "Berlin", "Bonn"], strict=False)) | changed
    rows = [{"question": f"Which is in Italy, {i}?", **row, "answer": "B" if i % 2 else "Rome"} for i in range(40)]
    write(tmp_path, pandas.DataFrame(rows).to_csv(index=False), "my.csv")
    tasks = all_of(rows_of(tmp_path / "my.csv", verify="choice"))
    assert len(tasks) == 40
    for task in tasks:
        assert task.question.endswith(f"?\n{shown}")
        assert (task.gold, task.info.keys()) == ("B", {"choices"})
    assert f"choices from '{', '.join(columns)}'" in capsys.readouterr().err


NUMBERED = [
    (["choice1", "choice2"], ["1", "2", "choice2", "Rome"], {}, "1. Paris\n2. Rome", "1222"),
    (["choice1", "choice2"], ["0", "1", "0", "1"], {"answers_as": "place0"}, "1. Paris\n2. Rome", "1212"),
    (["option_1", "option_2", "option_3"], [1, 2, 3, 2], {}, "1. Paris\n2. Rome\n3. Berlin", "1232"),
    (["ending0", "ending1", "ending2"], [0, 1, 2, 1], {}, "0. Paris\n1. Rome\n2. Berlin", "0121"),
    (["option_a", "option_b"], ["option_b", "A", "Paris", "b"], {}, "A. Paris\nB. Rome", "BAAB"),
]


@pytest.mark.parametrize(("columns", "answers", "options", "shown", "golds"), NUMBERED)
def test_labels_of_numbered_choices_are_their_numbers(tmp_path, columns, answers, options, shown, golds):
    choices = dict(zip(columns, ["Paris", "Rome", "Berlin"], strict=False))
    write(tmp_path, lines([{"question": f"Which, {i}?", **choices, "label": a} for i, a in enumerate(answers)]))
    tasks = all_of(rows_of(tmp_path, verify="choice", verify_options=options))
    assert "".join(task.gold for task in sorted(tasks, key=lambda task: task.question)) == golds
    assert all(task.question.endswith(f"?\n{shown}") for task in tasks)


def test_answers_counted_otherwise_than_numbered_choices_are_refused(tmp_path):
    rows = [{"question": f"Which, {i}?", "choice1": "Paris", "choice2": "Rome", "label": i % 2} for i in range(4)]
    with pytest.raises(ValueError, match=r"line 1 answers 0, and the choices are labelled 1, 2\): set .*=place0"):
        all_of(rows_of(write(tmp_path, lines(rows)), verify="choice"))


def test_a_way_to_read_answers_without_choices_is_refused(tmp_path):
    rows = [{"question": f"Which, {i}? A. Paris B. Rome", "answer": "AB"[i % 2]} for i in range(4)]
    path = write(tmp_path, lines(rows))
    assert len(all_of(rows_of(path, verify="choice", verify_options={"answers_as": "letter"}))) == 4
    with pytest.raises(ValueError, match="answers_as=place1: has no effect, because no column of choices was found"):
        all_of(rows_of(path, verify="choice", verify_options={"answers_as": "place1"}))


GAPS = [
    ({"B": ""}, "the choices have no text for B, but one for C"),
    ({"B": None}, "the choices have no text for B, but one for C"),
    ({"A": " ", "B": ""}, "the choices have no text for A, but one for C"),
    ({"B": "", "C": ""}, "the choices must be at least two; this row has 1 choice"),
    ({"A": "", "B": "", "C": ""}, "the choices must be at least two; this row has 0 choices"),
]


@pytest.mark.parametrize("is_one_column", [False, True])
@pytest.mark.parametrize(("changed", "message"), GAPS)
def test_a_choice_that_is_missing_between_others_is_a_fault(tmp_path, changed, message, is_one_column):
    rows = []
    for i in range(9):
        choices = {"A": "a", "B": "b", "C": "c"} | (changed if i == 3 else {})
        rows.append({"question": f"Which, {i}?", "answer": "A"} | ({"choices": choices} if is_one_column else choices))
    with pytest.raises(ValueError, match=f"1 of 9 rows cannot be used:\n  line 4: {message}"):
        all_of(rows_of(write(tmp_path, lines(rows)), verify="choice"))


@pytest.mark.parametrize("cell", [["x", {"text": "y"}], {"A": ["x"], "B": "y"}])
def test_choices_that_are_no_texts_are_a_fault(tmp_path, cell):
    path = write(tmp_path, lines([{"question": "q", "choices": cell, "answer": "A"}]))
    with pytest.raises(ValueError, match=r"line 1: the choices must be texts; [AB] is "):
        all_of(rows_of(path, verify="choice"))


SUMS = [{"question": f"{i} + 1 =", **{f"option{n}": i + n - 1 for n in range(1, 5)}, "answer": i + 1} for i in range(9)]


def test_numbered_choices_whose_texts_are_such_numbers_get_letters(tmp_path):
    for choices in ({}, {"choices": {"1": 0, "2": 1, "3": 2, "4": 3}}):
        path = write(tmp_path, lines([row | choices for row in SUMS[:1]]))
        task = all_of(rows_of(path, verify="choice", verify_options={"answers_as": "text"}))[0]
        assert (task.gold, task.question) == ("B", "0 + 1 =\nA. 0\nB. 1\nC. 2\nD. 3")
    taskset = rows_of(write(tmp_path, lines(SUMS)), verify="choice", verify_options={"answers_as": "text"})
    assert {task.gold for task in all_of(taskset)} == {"B"}
    task = next(one for one in all_of(taskset) if one.question.startswith("0"))
    said = {answer: taskset.verify(task, rf"\boxed{{{answer}}}").value for answer in ("B", "1", "A", "0", "2", "B. 1")}
    assert said == {"B": 1.0, "1": 1.0, "A": 0.0, "0": 0.0, "2": 0.0, "B. 1": 1.0}
    with pytest.raises(ValueError, match=r"line 1: the answer '1' is the letter of choice 1 and the text of choice 2"):
        all_of(rows_of(write(tmp_path, lines(SUMS)), verify="choice"))
    labels = rows_of(write(tmp_path, lines(SUMS[:3])), verify="choice", verify_options={"answers_as": "letter"})
    assert {task.question[0]: task.gold for task in all_of(labels)} == {"0": "A", "1": "B", "2": "C"}


def test_columns_that_only_later_rows_have_are_found(tmp_path):
    row = {"A": "Paris", "B": "Rome", "C": "Bonn", "D": "Bern", "answer": "B"}
    rows = [{"question": f"Which, {i}?", **row} for i in range(1100)]
    rows[1050] |= {"E": "Oslo", "split": "test"}
    with pytest.raises(ValueError, match=r"1099 of 1,100 rows"):
        all_of(rows_of(write(tmp_path, lines(rows)), verify="choice"))
    del rows[1050]["split"]
    tasks = all_of(rows_of(write(tmp_path, lines(rows)), verify="choice"))
    assert [task.id for task in tasks if task.question.endswith("\nE. Oslo")] == ["my.jsonl/1051"]


GROUPS = [
    (["a", "b", "option1", "option2"], r"may be in a, b or in option1, option2: name them.*choices='option1, option2'"),
    (["a", "b", "A", "B"], "of the columns of choices, a and A differ in case alone: name those that are meant"),
    (["a", "A", "C", "B"], "a and A differ in case alone.*choices='A, B, C'"),
    (["A", "B", "C", "E"], "choices are in A, B, C, and there is E, but none between C and E: rename"),
    (["option_a", "option_b", "option_d"], "and there is option_d, but none between option_b and option_d"),
    (["ending0", "ending1", "ending3"], "and there is ending3, but none between ending1 and ending3"),
]


@pytest.mark.parametrize(("columns", "message"), GROUPS)
def test_columns_that_may_be_other_choices_are_named_by_the_config(tmp_path, columns, message):
    row = dict(zip(columns, ["Paris", "Rome", "Bonn", "Bern"], strict=False))
    path = write(tmp_path, lines([{"question": f"Which, {i}?", **row, "answer": row[columns[-1]]} for i in range(4)]))
    with pytest.raises(ValueError, match=message) as raised:
        all_of(rows_of(path, verify="choice"))
    named = str(raised.value).partition("choices='")[2].rstrip("'")
    for task in all_of(rows_of(path, verify="choice", choices=named)):
        assert f"\n{task.gold}. {row[columns[-1]]}" in task.question
        assert task.info["choices"].keys() == {name[-1].upper() for name in named.split(", ")}


@pytest.mark.parametrize("named", ["A, B, C", "a,b,c", "C, A"])
def test_the_printed_name_of_joined_columns_can_be_given_back(tmp_path, named):
    rows = [{"question": f"Which, {i}?", "A": "Paris", "B": "Rome", "C": "Bonn", "answer": "C"} for i in range(4)]
    tasks = all_of(rows_of(write(tmp_path, lines(rows)), verify="choice", choices=named))
    assert all(list(task.info["choices"]) == named.upper().replace(" ", "").split(",") for task in tasks)
    other = [{"instruction": "Add.", "input": i, "answer": "C"} for i in range(4)]
    tasks = all_of(rows_of(write(tmp_path, lines(other)), verify="exact", question="instruction, input"))
    assert sorted(task.question for task in tasks) == [f"Add.\n\n{i}" for i in range(4)]
    with pytest.raises(ValueError, match=r"env\.options\.choices=A, X: there is no such column"):
        all_of(rows_of(write(tmp_path, lines(rows)), verify="choice", choices="A, X"))


@pytest.mark.parametrize("is_one_column", [False, True])
def test_whole_numbers_in_a_column_with_gaps_stay_whole(tmp_path, is_one_column):
    rows = []
    for i in range(8):
        cells = [10.0 + i, 20.0 + i, None if i % 2 else 30.0 + i]
        columns = {"choices": cells} if is_one_column else dict(zip("ABC", cells, strict=True))
        rows.append({"question": f"q{i}", **columns, "answer": 20 + i if i % 2 else 30 + i})
    pandas.DataFrame(rows).to_parquet(tmp_path / "my.parquet")
    tasks = {
        task.question.partition("\n")[0]: task for task in all_of(rows_of(tmp_path / "my.parquet", verify="choice"))
    }
    assert [tasks[f"q{i}"].gold for i in range(8)] == ["C", "B"] * 4
    assert tasks["q0"].question == "q0\nA. 10\nB. 20\nC. 30"
    assert tasks["q1"].question == "q1\nA. 11\nB. 21"


ALPACA = {"instruction": "Add the numbers.", "input": "0, 2", "output": "2"}


@pytest.mark.parametrize(
    ("changed", "options", "question"),
    [
        ({}, {}, "Add the numbers.\n\n0, 2"),
        ({"input": ""}, {}, "Add the numbers."),
        ({"input": None}, {}, "Add the numbers."),
        ({"instruction": " "}, {}, "0, 2"),
        ({"prompt": "Add 0 and 2."}, {}, "Add 0 and 2."),
        ({}, {"question": "input"}, "0, 2"),
    ],
)
def test_an_instruction_and_its_input_are_one_question(tmp_path, changed, options, question):
    path = write(tmp_path, lines([ALPACA | changed]))
    assert [task.question for task in all_of(rows_of(path, **options))] == [question]
    other = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}
    assert len(all_of(rows_of(write(tmp_path, lines([ALPACA, other]))))) == 2


def test_an_instruction_without_words_is_an_empty_question(tmp_path):
    with pytest.raises(ValueError, match="line 1: the question is empty"):
        all_of(rows_of(write(tmp_path, lines([ALPACA | {"instruction": "", "input": ""}]))))


def reads_result(task, response):
    return Score.of(f"Result = {task.gold}." in response)


def pays_most_of_it(task, response):
    return Score(0.9 * (task.gold in response), Verdict.CORRECT)


def pays_part_of_it(task, response):
    return Score.of(True) if response == task.gold else Score(0.5, Verdict.WRONG)


def test_an_own_function_gives_partial_credit_where_this_is_said(tmp_path):
    path, name = write(tmp_path, lines(ROWS)), f"{__name__}:pays_part_of_it"
    taskset = rows_of(path, verify=name, verify_options={"partial_credit": True})
    tasks = all_of(taskset)
    assert taskset.partial_credit
    assert taskset.verify(tasks[0], "no").value == 0.5
    assert not rows_of(path, verify=name).partial_credit
    with pytest.raises(ValueError, match=r"is wrong 0\.5: allow this by .*partial_credit=true"):
        rows_of(path, verify=name).verify(tasks[0], "no")
    with pytest.raises(ValueError, match="partial_credit=half: true or false is needed"):
        rows_of(path, verify=name, verify_options={"partial_credit": "half"})


def test_an_own_function_may_read_a_form_of_its_own(tmp_path):
    path, name = write(tmp_path, lines(ROWS)), f"{__name__}:reads_result"
    taskset = rows_of(path, verify=name, verify_options={"stated": "Result = {}."})
    tasks = all_of(taskset)
    assert len(tasks) == 40
    assert taskset.gold_response(tasks[0]) == f"Result = {tasks[0].gold}."
    refused = [
        ({}, name, r"correct this function, or say .* by env\.options\.verify_options\.stated"),
        ({"stated": "Result: {}."}, name, "grades none of the 40 own answers right.*Result: "),
        ({"stated": "Result"}, name, r"stated=Result: a text with \{\} for the answer is needed"),
        ({"form": "x"}, name, r"verify_options\.form: a function such as .* takes only stated and partial_credit"),
        ({}, f"{__name__}:pays_most_of_it", r"graded correct.* but earns 0\.9, not 1"),
    ]
    for options, verify, message in refused:
        with pytest.raises(ValueError, match=message):
            all_of(rows_of(path, verify=verify, verify_options=options))
