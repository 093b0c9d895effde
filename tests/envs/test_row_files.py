"""``rows`` loses no row of a damaged file without saying so, and reads names and cells as programs write them."""

import pandas
import pytest

from envs import Split
from tests.envs.test_rows import ROWS, all_of, lines, rows_of, write

HEADS = {".csv": "question,answer\n", ".tsv": "question\tanswer\n"}


def table(suffix, changed):
    """Forty rows as CSV or TSV, of which some lines are changed by their number; the header is line 1."""
    gap = "," if suffix == ".csv" else "\t"
    made = [HEADS[suffix], *(f"{row['question']}{gap}{row['answer']}\n" for row in ROWS)]
    for line, text in changed.items():
        made[line - 1] = text + "\n"
    return "".join(made)


BAD_QUOTES = [
    (".csv", {11: '"Say "hi" 9 times",9'}, 11),
    (".csv", {11: '"Say "hi" 9 times",9', 30: '"a" b,"c"'}, 11),
    (".csv", {41: '"What" is it?,9'}, 41),
    (".tsv", {11: '"Nine" is which number?\t9'}, 11),
    (".tsv", {2: '"""Nine"" is which number?"\t9', 3: '"One" or "two"?\t9'}, 3),
]


@pytest.mark.parametrize(("suffix", "changed", "line"), BAD_QUOTES)
def test_a_badly_quoted_row_is_one_fault_and_the_rows_below_are_read(tmp_path, capsys, suffix, changed, line):
    path = write(tmp_path, table(suffix, changed), f"my{suffix}")
    n = sum('"""' not in text for text in changed.values())
    with pytest.raises(ValueError, match=rf"{n} of 40 rows cannot be used:\n  line {line}: no CSV .*twice, as in"):
        all_of(rows_of(path, verify="exact"))
    assert len(all_of(rows_of(path, verify="exact", on_bad_rows="skip"))) == 40 - n
    assert f"{n} of 40 rows w" in capsys.readouterr().err


UNKNOWN_ENDS = [
    (".csv", {11: '"Nine is which number?,9'}, r"line 11: no CSV \(unexpected end of data\)"),
    (".tsv", {11: '"Nine is which number?\t9'}, r"line 11: no CSV \(unexpected end of data\)"),
    (".csv", {11: '"Nine is which,9', 20: '"ten" is,10'}, "line 11: no CSV"),
    (".csv", {11: '"Nine is which,9', 20: 'a pipe of 5",10'}, "line 11: a quoted cell as far as line 20, though each"),
    (".csv", {11: '"Nine is which,9', 12: 'a pipe of 5"'}, "line 11: more or fewer cells than the 2"),
    (".tsv", {11: '"Nine is which\t9', 12: 'a pipe of 5"\t9'}, "line 11: a quoted cell as far as line 12"),
    (".csv", {11: '"He said "yes".', 12: 'She said "no".",5'}, "line 11: no CSV"),
    (".csv", {1: '"question" a,answer'}, "line 1: no CSV"),
]


@pytest.mark.parametrize("on_bad_rows", ["refuse", "skip"])
@pytest.mark.parametrize(("suffix", "changed", "message"), UNKNOWN_ENDS)
def test_a_row_whose_end_is_not_known_refuses_the_file(tmp_path, suffix, changed, message, on_bad_rows):
    path = write(tmp_path, table(suffix, changed), f"my{suffix}")
    with pytest.raises(ValueError, match=f"{message}.*on_bad_rows=skip cannot leave this row out"):
        all_of(rows_of(path, verify="exact", on_bad_rows=on_bad_rows))


@pytest.mark.parametrize("text", ['a pipe of 5", long,9', "a,b,9", "9", '"a",9,'])
def test_a_single_line_with_other_cells_is_one_fault(tmp_path, text):
    path = write(tmp_path, table(".csv", {11: text}), "my.csv")
    assert len(all_of(rows_of(path, on_bad_rows="skip"))) == 39
    with pytest.raises(ValueError, match="1 of 40 rows cannot be used:\n  line 11: more or fewer cells than the 2"):
        all_of(rows_of(path))


def test_quoted_cells_may_span_lines(tmp_path):
    poem = 'Roses, red,\nviolets, blue,\nsugar\tis "sweet":\nhow many lines?'
    cells = [{"question": f"{i}\n{poem}", "answer": str(i), "kind": "a, b"} for i in range(20)]
    for name, gap in (("my.csv", ","), ("my.csv", ";"), ("my.tsv", "\t"), ("my.csv", "|")):
        path = write(tmp_path, pandas.DataFrame(cells).to_csv(index=False, sep=gap), name)
        tasks = all_of(rows_of(path))
        assert sorted(task.question for task in tasks) == sorted(cell["question"] for cell in cells)


DELIMITERS = [
    ('"question: one, two, three";"answer"', '"a, {i}";"{i}"', {"question": "question: one, two, three"}),
    ("question,a;b;c;d,answer", "a {i},x,{i}", {}),
    ("question|answer;|x", "a; {i}|{i}|;;", {"answer": "answer;"}),
    ("question: a, b;answer", "a, {i};{i}", {"question": "question: a, b"}),
    ('"question", "answer"', '"a, {i}", "{i}"', {}),
    ("question, answer", "a {i}, {i}", {}),
    ("question\tanswer, in full", "a, {i}\t{i}", {"answer": "answer, in full"}),
]


@pytest.mark.parametrize(("head", "row", "options"), DELIMITERS)
def test_the_delimiter_is_that_of_header_and_rows_and_spaces_behind_it_are_skipped(tmp_path, head, row, options):
    content = "\n".join([head, *(row.format(i=i) for i in range(30))])
    tasks = all_of(rows_of(write(tmp_path, content, "my.csv"), verify="exact", **options))
    assert sorted(int(task.gold) for task in tasks) == list(range(30))
    assert all(task.question.strip("a,; ") == task.gold for task in tasks)


MARKED = [
    ("my.csv", "utf-8-sig", "utf-8"),
    ("my.csv", "utf-8-sig", "utf-8-sig"),
    ("my.csv", "utf-16", "utf-16-le"),
    ("my.csv", "utf-16", "utf-16"),
    ("my.csv", "utf-32", "utf-32-le"),
    ("my.jsonl", "utf-8-sig", "utf-8"),
    ("my.jsonl", "utf-16", "utf-16-le"),
]


@pytest.mark.parametrize(("name", "written", "encoding"), MARKED)
def test_a_byte_order_mark_belongs_to_no_name(tmp_path, name, written, encoding):
    text = pandas.DataFrame(ROWS).to_csv(index=False) if name == "my.csv" else lines(ROWS)
    assert len(all_of(rows_of(write(tmp_path, text.encode(written), name), encoding=encoding))) == 40


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_an_encoding_that_the_byte_order_mark_contradicts_is_refused(tmp_path, encoding):
    path = write(tmp_path, pandas.DataFrame(ROWS).to_csv(index=False).encode("utf-8-sig"), "my.csv")
    with pytest.raises(ValueError, match=rf"encoding={encoding}: .*my.csv begins with the mark of utf-8-sig: remove"):
        all_of(rows_of(path, encoding=encoding))


NAMED = [
    ({}, r"It has q\.text, a\.text; say which column holds the question, as in env\.options\.question=q\.text"),
    ({"question": "q.txt"}, r"did you mean 'q\.text'\?.* has q\.text, a\.text$"),
]


@pytest.mark.parametrize(("options", "message"), NAMED)
def test_columns_with_points_in_their_names_are_columns(tmp_path, options, message):
    path = write(tmp_path, lines([{"q.text": row["question"], "a.text": row["answer"]} for row in ROWS]))
    tasks = all_of(rows_of(path, question="q.text", answer="a.text"))
    assert len(tasks) == 40
    assert not any(task.info for task in tasks)
    with pytest.raises(ValueError, match=message):
        all_of(rows_of(path, **options))


def test_a_second_column_whose_name_differs_in_case_is_said(tmp_path, capsys):
    path = write(tmp_path, lines([{"Question": "x", **row, "ANSWER": "0"} for row in ROWS]))
    all_of(rows_of(path, question="question"))
    assert "answer from 'answer' (also there: ANSWER)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="asks the same as line 1"):
        all_of(rows_of(path))


SHAPES = [
    ("my.csv", ",question,answer,\n1,a,2,x\n", "line 1: columns 1 and 4 have no name: rename or remove one"),
    (
        "my.json",
        '{"17": {"question": "a", "answer": 1}, "18": {"question": "b", "answer": 2}}',
        "a row under each name",
    ),
    ("my.json", '{"x": {"frage": "a", "wert": 1}, "y": {"frage": "b", "wert": 2}}', "a row under each name"),
    ("my.json", '{"question": {"x": "a", "y": "b"}, "answer": {"x": 1, "y": 2}}', "holds whole columns, not rows"),
    ("my.json", '{"frage": {"0": "a", "1": "b"}, "wert": {"0": 1, "1": 2}}', "holds whole columns, not rows"),
    ("my.json", '{"question": ["a", "b"], "answer": [1, 2]}', "holds whole columns, not rows"),
]


@pytest.mark.parametrize(("name", "content", "message"), SHAPES)
def test_what_else_a_file_may_be_is_said(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        all_of(rows_of(write(tmp_path, content, name)))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["data/train-00000-of-00001.parquet", "README.md"], "some in data: name one .*env.options.path=.*/data,"),
        (["train/a.jsonl", "test/a.jsonl"], "some in test, train: name one of these folders"),
        (["a/b/c.jsonl"], "no file in this folder ends in [^;]*$"),
    ],
)
def test_folders_within_the_folder_are_named(tmp_path, places, message):
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("x")
    with pytest.raises(FileNotFoundError, match=message):
        all_of(rows_of(tmp_path))


@pytest.mark.parametrize(("names", "splits"), [(("train-00000-of-00002", "train-00001-of-00002"), None),
                                               (("a", "b"), {"train": ["a", "b"]})])  # fmt: skip
def test_examples_from_several_files_are_named_by_file_and_line(tmp_path, names, splits):
    for i, name in enumerate(names):
        write(tmp_path, lines(ROWS[20 * i : 20 * i + 20]), f"{name}.jsonl")
    options = {"splits": splits, "validation": 0.0, "test": 0.0}
    ids = [f"{name}.jsonl/3" for name in names]
    for few_shot in (30, ids[:1], ids):
        taskset = rows_of(tmp_path, few_shot=few_shot, **options)
        n = few_shot if isinstance(few_shot, int) else len(few_shot)
        assert len(taskset.load(Split.TRAIN)) == 40 - n
        assert len(taskset.examples) == n
        assert few_shot in (30, [task.id for task, _ in taskset.examples])
    with pytest.raises(ValueError, match=f"line 3 is in several files: take one of {', '.join(ids)}"):
        all_of(rows_of(tmp_path, few_shot=[3], **options))
    with pytest.raises(ValueError, match="few_shot=41: the training split has 40 rows"):
        all_of(rows_of(tmp_path, few_shot=41, **options))
    with pytest.raises(ValueError, match="line 77 is no row of the training split"):
        all_of(rows_of(tmp_path, few_shot=[77], **options))
