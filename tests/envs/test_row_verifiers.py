"""The verifiers of ``rows``: everyday forms of a right answer are right, and no wrong answer is."""

import json
import time

import pytest

from envs import Task
from envs.tasks.choices import choices_of
from envs.tasks.verifiers import make_verifier
from rewards import Verdict
from tests.envs.test_rows import all_of, lines, rows_of, write


def verdicts(verify, options, gold, answers, choices=None):
    """The verdict of each response to a task whose answer cell is ``gold``."""
    verifier = make_verifier(verify, options)
    text, info = verifier.gold(gold), {}
    if choices:
        text, info["choices"] = verifier.chosen(text, choices_of(choices))
    task = Task("x/1", "q", text, info)
    assert verifier.verify(task, verifier.gold_response(task)).value == 1.0
    return {answer: verifier.verify(task, answer).verdict for answer in answers}


def boxed(*answers):
    return [rf"\boxed{{{answer}}}" for answer in answers]


def all_are(verdict, found):
    wrong = {answer: given for answer, given in found.items() if given is not verdict}
    assert not wrong


NUMBERS = [
    (18, [r"\$18", "$18", r"18\text{ dollars}", "18 dollars", "18 cm", "x = 18", "= 18", "18.0", "eighteen", "$18$"],
     ["81", "18%", "x = 81", "18 dozen", "9+9", "36/2", "18 or 19", "17, 18", "18 is wrong", "not 18", "18:00"]),
    (1234, ["1,234", "1{,}234", r"1\,234", "$1,234$", r"1.234 \times 10^3", "1.234e3"], ["234", "1.234", "12,34"]),
    ("50%", ["50%", r"50\%", r"50 \%", "50 percent", "0.5", ".5"], ["50", "0.05", "5%"]),
    ("$18", ["18", r"\$18", "18 dollars"], ["18 cents", "18 euros", "€18", r"18\text{ cm}"]),
    (7.2e-05, ["0.000072", "7.2e-05", "7.2E-5", r"7.2 \times 10^{-5}"], ["0.000073", "7.2", "0", "7.2e-06"]),
    (6.02e23, ["6.02e23", "6.02e+23", r"6.02 \times 10^{23}"], ["6.02", "6.03e23", "6.02e22"]),
    ("1e-7", ["0.0000001", "1e-07"], ["0", "0.0000002"]),
    (1000000, ["1000000.0", "1 \\text{ million}"], ["1000001", "999999", "1000000.4"]),
    ("12345678901234567890", ["12345678901234567890.0"], ["12345678901234567891", "12345678901234567900"]),
    ("9007199254740993", [], ["9007199254740992"]),
    ("1234567.89", ["1,234,567.890"], ["1234567.88", "1234568.89", "1234567.9"]),
    ("0.1234567", ["0.12345670"], ["0.1234568"]),
    (1 / 3, ["0.3333333", "0.33333333333333331"], ["0.3333", "0.34"]),
    (0.1 + 0.2, ["0.3"], ["0.30001"]),
    (0, ["0", "-0", "0.0"], ["0.0000001", "1e-9"]),
    ("-15", ["\u221215", "-15.0", "\u201315"], ["15", "\u22121,5"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "wrong"), NUMBERS)
def test_a_number_counts_in_every_notation_and_exactly(gold, right, wrong):
    all_are(Verdict.CORRECT, verdicts("number", {}, gold, boxed(*right)))
    all_are(Verdict.WRONG, verdicts("number", {}, gold, boxed(*wrong)))


def test_a_tolerance_applies_only_if_it_is_asked_for():
    for options, right, wrong in (
        ({"absolute": 1}, ["101", "99", "100.5"], ["102"]),
        ({"relative": 0.05}, ["105", "95"], ["106"]),
        ({"absolute": 1, "relative": 0.05}, ["105"], ["106"]),
        ({"absolute": 0.0}, ["100.0"], ["100.0000001"]),
    ):
        all_are(Verdict.CORRECT, verdicts("number", options, 100, boxed(*right)))
        all_are(Verdict.WRONG, verdicts("number", options, 100, boxed(*wrong)))
    for options in ({"absolute": -1}, {"relative": float("nan")}, {"relative": float("inf")}):
        with pytest.raises(ValueError, match="a number from 0 on is needed"):
            make_verifier("number", options)


def test_one_number_in_two_notations_is_one_answer_and_two_numbers_are_a_hedge():
    found = verdicts("number", {}, 18, [r"\boxed{18} or \boxed{18.0}", r"\boxed{18} so \boxed{\$18}"])
    all_are(Verdict.CORRECT, found)
    all_are(Verdict.AMBIGUOUS, verdicts("number", {}, 18, [r"\boxed{18} or \boxed{19}", r"\boxed{18} \boxed{-18}"]))


@pytest.mark.parametrize("verify", ["number", "math"])
@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("12", ["The answer is 12, right?", "12,", "12.00,", "So **12**!", "5 - 12", "10\u201312", "- 12"],
         ["The answer is \u221212.", "\u201312", "-12", "is - 12", "negative 12", "x = \u2212 12", "It's \u2212$12"]),
        ("-12", ["The answer is \u221212.", "\u201312", "-12", "is - 12", "minus 12", "x = \u2212 12", "\u2212\\$12"],
         ["12", "10-12", "10\u201312", "- 12", "- the 12"]),
        ("234", ["so 234"], ["1{,}234", r"1\,234", "1,234", "1.5e234", "0:234"]),
        ("5", ["5."], ["7.2e-05", "1.234,5", "10:5", r"2 \times 10^{5}"]),
    ],
)  # fmt: skip
def test_the_last_number_has_its_sign_and_all_its_digits(verify, gold, right, wrong):
    options = {"answer_form": "last_number"}
    all_are(Verdict.CORRECT, verdicts(verify, options, gold, right))
    all_are(Verdict.WRONG, verdicts(verify, options, gold, wrong))


CITIES = ["Paris", "Rome", "Berlin", "Madrid"]
CHOICES = [
    ("B", CITIES,
     ["B", "b", "(B)", "B.", r"\text{B}", r"\textbf{B}", r"\textbf{(B)}", r"\mathrm{B}", "$B$", "**B**", "Option B",
      "option (B)", r"\textbf{(B) }Rome", "B) Rome", "B Rome", "B - Rome", "B, Rome", "B (Rome)", "Rome.", "rome",
      r"\text{Rome.}", "[B]", "The correct answer is option B.", "B because it is the capital", "the answer is Rome"],
     ["A", "Paris", "A) or B)", "B) or A)", "A or B", "B or A", "A, B", "B, A", "B/A", "A (not B)", "B (not A)",
      "B) Paris", "A) Rome", "B, Paris", "Bern", "not B", "B is wrong", "B. not correct", "Paris or Rome", "A B", "BA",
      "(B)(A)", "E"]),
    (1, CITIES, ["B", "Rome"], ["A", "C", "1"]),
    ("Rome", CITIES, ["B"], ["A"]),
    ("b", {"text": CITIES, "label": list("abcd")}, ["b", "B", "(b) Rome"], ["a", "A", "c"]),
    ("2", {"text": CITIES, "label": list("1234")}, ["2", "(2)", "2. Rome"], ["1", "3", "Berlin"]),
    ("B", ["Vitamin A", "Vitamin C", "A dog"], ["B", "Vitamin C", "B. Vitamin C", "B: Vitamin C"], ["A", "C", "A dog"]),
    ("A", [r"$\frac{1}{2}$", "$2$"], ["A", r"\frac{1}{2}", r"A. $\frac{1}{2}$"], ["B", "2", r"B) $\frac{1}{2}$"]),
    ("A", ["x", "X"], ["A", "x"], ["X", "B"]),
    ("B", None, ["B", "b", "(B) Rome", "B. A dog", "B - Rome", "B, Rome", "Option B"], ["A", "A or B", "A dog"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "choices", "right", "wrong"), CHOICES)
def test_a_choice_counts_by_letter_and_text_and_naming_two_never_pays(gold, choices, right, wrong):
    all_are(Verdict.CORRECT, verdicts("choice", {}, gold, boxed(*right), choices))
    all_are(Verdict.WRONG, verdicts("choice", {}, gold, boxed(*wrong), choices))


NUMBERED = ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("answers_as", "gold", "letter"),
    [("text", "2", "B"), ("place0", "2", "C"), ("place1", "2", "B"), ("letter", "B", "B"), ("any", "C", "C")],
)
def test_answers_are_read_as_the_option_says(answers_as, gold, letter):
    verifier = make_verifier("choice", {"answers_as": answers_as})
    assert verifier.chosen(verifier.gold(gold), choices_of(NUMBERED))[0] == letter


@pytest.mark.parametrize(
    ("answers_as", "gold", "choices", "message"),
    [
        ("any", "2", NUMBERED, "place, counted from 0, of choice C and the text of choice B: .*answers_as"),
        ("any", 1, ["4", "1", "2"], None),
        ("any", "A", {"x": "A", "A": "y"}, "the text 'A', which is also the letter of another choice"),
        ("any", "A", ["C", "H", "N", "O"], "choice A has the text 'C', which is also the letter of another choice"),
        ("any", "Bern", CITIES, "'Bern' is not among the choices A, B, C, D"),
        ("place0", "4", CITIES, "'4' is not among the choices A, B, C, D, counted from 0"),
        ("place1", "0", CITIES, "'0' is not among the choices A, B, C, D, counted from 1"),
        ("text", "B", CITIES, "'B' is not among the texts of the choices"),
        ("letter", "Rome", CITIES, "'Rome' is not among the choices"),
    ],
)
def test_answers_that_may_be_two_choices_or_none_are_refused(answers_as, gold, choices, message):
    verifier = make_verifier("choice", {"answers_as": answers_as})
    if message is None:
        assert verifier.chosen(verifier.gold(gold), choices_of(choices))[0] == "B"
        return
    with pytest.raises(ValueError, match=message):
        verifier.chosen(verifier.gold(gold), choices_of(choices))
    with pytest.raises(ValueError, match="answers_as=places: one of any, letter"):
        make_verifier("choice", {"answers_as": "places"})


@pytest.mark.parametrize("on_bad_rows", ["refuse", "skip"])
def test_places_counted_from_1_are_noticed_and_not_shifted(tmp_path, on_bad_rows):
    rows = [{"question": f"Capital {i}?", "choices": CITIES[:3], "answer": i % 3 + 1} for i in range(30)]
    path = write(tmp_path, lines(rows))
    with pytest.raises(ValueError, match=r"counted from 1 .*line 3 answers 3 of 3 choices.*answers_as=place1"):
        all_of(rows_of(path, verify="choice", on_bad_rows=on_bad_rows))
    tasks = all_of(rows_of(path, verify="choice", verify_options={"answers_as": "place1"}))
    assert {task.gold for task in tasks if task.question.startswith("Capital 3?")} == {"A"}
    assert len(all_of(rows_of(write(tmp_path, lines([*rows[:2], rows[2] | {"answer": 0}])), verify="choice"))) == 3


CELL = {"a": 1.1, "b": [1, 2]}
TEXT = json.dumps(CELL)
JSON = [
    ({}, CELL,
     [TEXT, f"```json\n{TEXT}\n```", f"```json {TEXT}```", f"```JSON\n{TEXT}\n```", f"```\n{TEXT}\n```",
      f"Here: {TEXT}.",
      f"~~~json\n{TEXT}\n~~~", f"```json\r\n{TEXT}\r\n```", f"```python\nx = 1\n```\n{TEXT}", f"{TEXT} = {TEXT}",
      f"```json\n{TEXT}\n```\nRun it by\n```bash\nls\n```", f"<think>```json\n1\n```</think>\n{TEXT}",
      '{"b": [1.0, 2], "a": 1.10}', f"as in [1] and {{x}}: {TEXT}"],
     ['{"a": 1.1}', '{"a": 1.1, "b": [2, 1]}', f"[{TEXT}]", f"<think>{TEXT}</think>\n{{}}",
      '{"a": 1.1000000000000000000001, "b": [1, 2]}', f"```json\n{TEXT}\n```\n```json\n{{}}\n```",
      f"<think>```json\n{TEXT}\n```", f"{TEXT} or {{}}", '{"a": 2, "a": 1.1, "b": [1, 2]}', "", TEXT[:-1]]),
    ({"keys": ["n"]}, {"n": None, "m": 2}, ['{"n": null}', '{"n": null, "m": 3}'],
     ["{}", '{"m": 2}', '{"n": 0}', "[]"]),
    ({}, [1, True], ["[1, true]", "It is [1.0, true]."], ["[1, 1]", "[true, 1]", "1", "[1, true] or [1, false]"]),
    ({}, "007", ['"007"'], ["7", "007", "It is 7"]),
    ({}, {"a": b"x"}, ['{"a": "x"}'], ['{"a": "b\'x\'"}']),
]  # fmt: skip


@pytest.mark.parametrize(("options", "gold", "right", "wrong"), JSON)
def test_json_counts_wherever_it_stands_outside_of_the_reasoning(options, gold, right, wrong):
    all_are(Verdict.CORRECT, verdicts("json", options, gold, right))
    assert Verdict.CORRECT not in verdicts("json", options, gold, wrong).values()


@pytest.mark.parametrize(
    ("keys", "gold", "message"),
    [
        (["cty"], {"city": "Rome", "n": 1}, "the answer has no key 'cty'; did you mean 'city'. It has city, n"),
        (["n", "m"], {"n": 1}, "no key 'm'"),
        (["n"], [{"n": 1}], "is no object, so that verify_options.keys has no effect"),
        (["n"], "12", "is no object"),
    ],
)
def test_keys_that_a_gold_lacks_are_refused(tmp_path, keys, gold, message):
    with pytest.raises(ValueError, match=message):
        make_verifier("json", {"keys": keys}).gold(gold)
    path = write(tmp_path, lines({"question": f"q{i}", "answer": gold} for i in range(9)))
    with pytest.raises(ValueError, match=r"^env\.options\.verify=json cannot grade any of the 9 answers"):
        all_of(rows_of(path, verify="json", verify_options={"keys": keys}, on_bad_rows="skip"))


def test_a_pattern_is_searched_behind_the_reasoning_unless_it_names_its_marks():
    options = {"pattern": r"Answer: (\w+)", "stated": "Answer: {}"}
    right = ["Answer: Rome", "<think>Answer: Paris</think>\nAnswer: Rome"]
    all_are(Verdict.CORRECT, verdicts("regex", options, "Rome", right))
    draft = ["<think>Answer: Rome</think>", "<think>Answer: Rome", "[THINK]Answer: Rome[/THINK]no"]
    all_are(Verdict.NO_ANSWER, verdicts("regex", options, "Rome", draft))
    all_are(
        Verdict.CORRECT, verdicts("regex", {"pattern": "^: (.)"} | {"stated": ": {}"}, "5", ["<think>4</think>\n: 5"])
    )
    marked = {"pattern": r"</think>(\w+)", "stated": "</think>{}"}
    all_are(Verdict.CORRECT, verdicts("regex", marked, "Rome", ["<think>Paris</think>Rome"]))


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("Zu\u0308rich", ["Zu\u0308rich", "Z\u00fcrich"], ["Zurich", "z\u00fcrich"]),
        ("Z\u00fcrich", ["Zu\u0308rich"], ["Zuerich"]),
        (True, ["true", "True", "TRUE"], ["false", "False", "1"]),
        (False, ["false", "False"], ["true"]),
        (b"42", ["42"], ["b'42'"]),
        (5e-05, ["0.00005"], ["0.0005"]),
        (1e22, ["1" + "0" * 22], ["1"]),
    ],
)
def test_exact_text_is_the_same_in_every_encoding(gold, right, wrong):
    all_are(Verdict.CORRECT, verdicts("exact", {}, gold, [f"<answer>{one}</answer>" for one in right]))
    all_are(Verdict.WRONG, verdicts("exact", {}, gold, [f"<answer>{one}</answer>" for one in wrong]))


def test_bytes_that_are_no_text_are_refused():
    for cell, message in ((b"\xff\xfe", "bytes that are no text in UTF-8"), (b"", "the answer is empty")):
        with pytest.raises(ValueError, match=message):
            make_verifier("exact", {}).gold(cell)


@pytest.mark.parametrize(
    "gold",
    ["2024-01-05", "05.01.2024", "12/05/2024", "2024-01-05T10:00:00Z", "2024-01", "3-2", "5\u20137", "5 - 7",
     "5-7 days", "555-1234", "(555) 123-4567", "555 1234", "+49 30 1234567", "978-3-16-148410-0", "1.2.3", "v1.2.3",
     "192.168.0.1", "So it is\n#### 3-2", r"\boxed{3-2}"],
)  # fmt: skip
def test_mathematics_does_not_calculate_with_dates_scores_and_telephone_numbers(tmp_path, gold):
    with pytest.raises(ValueError, match=r"looks like a date.*env\.options\.verify=exact"):
        make_verifier("math", {}).gold(gold)
    path = write(tmp_path, lines({"question": f"q{i}", "answer": gold} for i in range(9)))
    with pytest.raises(ValueError, match=r"^env\.options\.verify=math cannot grade any of the 9 answers"):
        all_of(rows_of(path))


@pytest.mark.parametrize(
    "gold",
    ["3:2", "10^{22}-1", "3-2i", "3 - 2 i", "24/7", "-1234567", "1,234,567", "1 234 567", "(1234567)", "3.14159265",
     "12345678/9", "1 1/2", r"3-2\sqrt2", "2^10-1", "10-x", r"1-\frac12", r"3 - \pi", "3 - 2 pi", "(1,2)", "[1,2]",
     "12, 13", "1/2-1/3", "555123456789", "12:30", "1 000 000.5"],
)  # fmt: skip
def test_golds_of_mathematics_stay(gold):
    assert make_verifier("math", {}).gold(gold) == gold


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (6.02e23, ["6.02e23", "6.02e+23", r"6.02 \times 10^{23}"], ["6.02", "6.02e22"]),
        ("6.02e+23", ["6.02e23", "6.02e+23", r"6.02 \cdot 10^{23}", "602" + "0" * 21], ["6.02"]),
        ("1e+22", ["1e22", r"1 \times 10^{22}", "1" + "0" * 22], ["e+22", "22+e"]),
        ("1e-10", ["1e-10", "0.0000000001"], ["e-10"]),
        ("0.00005", ["5e-5", "5E-5", "5e-05", r"5 \times 10^{-5}"], ["5e-6", "5e-5+0"]),
    ],
)
def test_mathematics_reads_numbers_as_programs_write_them(gold, right, wrong):
    all_are(Verdict.CORRECT, verdicts("math", {}, gold, boxed(*right)))
    all_are(Verdict.WRONG, verdicts("math", {}, gold, boxed(*wrong)))


def semicolons(golds):
    return "question;answer\n" + "".join(f"q{i};{gold}\n" for i, gold in enumerate(golds))


IN_SEMICOLONS = [("0,5", "0.5"), ("-12,50", "12.50"), ("1,500", "1.500' or '1500"), ("2,3 km", "2.3"),
                 ("x = 0,5", "0.5"), ("1,2,3", "1.2"), ("0,05", "0.05")]  # fmt: skip
ELSEWHERE = ["3,05", "0,05", "12,50 €", "$12,50", r"\$12,50", "0,5%", r"0,5\%", "0{,}5", "1{,}25", "$3,05$"]
POINT = r"'1\.500' has a point that may separate thousands.*write '1500' or '1\.5000'"
COMMAS = [
    *((semicolons(["7", gold]), "my.csv", f"'{gold}' has a comma.*: write '{one}' for") for gold, one in IN_SEMICOLONS),
    *((lines([{"question": "a", "answer": gold}]), "my.jsonl", "has a comma that may be a") for gold in ELSEWHERE),
    (lines([{"question": "a", "answer": "0,5"}, {"question": "b", "answer": "3,05"}]), "my.jsonl", "2 of 2 rows"),
    (lines([{"question": "a", "answer": "1.500"}, {"question": "b", "answer": "0,5 %"}]), "my.jsonl", POINT),
    (semicolons(["1.500", "0,5"]), "my.csv", POINT),
]


@pytest.mark.parametrize("verify", ["math", "number"])
@pytest.mark.parametrize(("content", "name", "message"), COMMAS)
def test_a_decimal_comma_is_refused_and_never_read_as_two_numbers(tmp_path, verify, content, name, message):
    with pytest.raises(ValueError, match=message):
        all_of(rows_of(write(tmp_path, content, name), verify=verify))


@pytest.mark.parametrize(
    ("content", "name", "golds"),
    [
        (lines([{"question": "a", "answer": "1,2"}, {"question": "b", "answer": "0,5"}]), "my.jsonl", ["0,5", "1,2"]),
        (lines([{"question": "a", "answer": "1,500"}, {"question": "b", "answer": "1{,}050"}]), "my.jsonl",
         ["1,500", "1{,}050"]),
        (semicolons(["(1,2)", "[0,1)", "1, 2", "1,234,567", "1,234.5", "1{,}234"]), "my.csv",
         ["(1,2)", "1, 2", "1,234,567", "1,234.5", "1{,}234", "[0,1)"]),
        (semicolons(["1.500", "0.5"]), "my.csv", ["0.5", "1.500"]),
    ],
)  # fmt: skip
def test_commas_that_are_no_decimal_marks_stay(tmp_path, content, name, golds):
    assert sorted(task.gold for task in all_of(rows_of(write(tmp_path, content, name)))) == golds


def test_a_decimal_comma_of_a_whole_solution_is_refused(tmp_path):
    path = write(tmp_path, semicolons(["So it is #### 0,5", r"So \boxed{1,5}."]), "my.csv")
    with pytest.raises(ValueError, match=r"2 of 2 rows .*\n.*'0,5' has a comma .*\n.*'1,5' has a comma"):
        all_of(rows_of(path))
    boxes = [{"question": f"q{gold}", "answer": rf"So \boxed{{{gold}}}."} for gold in ("3,05", "1,2")]
    with pytest.raises(ValueError, match="2 of 2 rows"):
        all_of(rows_of(write(tmp_path, lines(boxes))))


def test_one_comma_in_a_solution_does_not_make_the_others_decimal(tmp_path):
    solutions = [r"Of 3,05 m or $0{,}5$, $(1,\!2)$, \boxed{7}", r"\boxed{1,2}", r"\boxed{1{,}000}", r"\boxed{(1,\!2)}"]
    path = write(tmp_path, lines([{"question": f"q{i}", "answer": one} for i, one in enumerate(solutions)]))
    assert sorted(task.gold for task in all_of(rows_of(path))) == [r"(1,\!2)", "1,2", "1{,}000", "7"]


def test_texts_with_commas_may_be_compared_in_any_file(tmp_path):
    path = write(tmp_path, semicolons(["0,5", "1,500"]), "my.csv")
    assert sorted(task.gold for task in all_of(rows_of(path, verify="exact"))) == ["0,5", "1,500"]


def test_skipping_is_not_advised_if_no_row_would_be_left(tmp_path):
    path = write(tmp_path, lines({"question": f"q{i}", "answer": [1, 2]} for i in range(9)))
    with pytest.raises(ValueError, match="9 of 9 rows cannot be used") as raised:
        all_of(rows_of(path))
    assert "on_bad_rows" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "has"),
    [({}, True), ({"verify": "number"}, True), ({"verify": "json"}, False), ({"verify": "code"}, False),
     ({"verify": "regex", "verify_options": {"pattern": "x"}}, False), ({"verify": "os.path:join"}, False)],
)  # fmt: skip
def test_it_is_known_whether_the_form_of_answers_can_be_chosen(tmp_path, options, has):
    assert rows_of(tmp_path, **options).has_answer_form is has


@pytest.mark.parametrize("text", ["`" * 200_000, "{" * 200_000, "[1," * 50_000, "```a " * 40_000, '{"a":' * 40_000])
def test_long_responses_without_json_are_read_once(text):
    started = time.process_time()
    assert verdicts("json", {}, {"a": 1}, [text])[text] is not Verdict.CORRECT
    assert time.process_time() - started < 20
