"""Grading of programs: functions, scripts, arbitrary test code, partial credit, and what the policy is told."""

import ast

import pytest

from rewards import Verdict
from rewards.asserts import Case, cases_of, check_body, declare_all, free_names
from rewards.code import CheckCode, FunctionTests, ScriptTests, _Tally, as_tests, score_code, score_program
from rewards.comparison import comparison, safely
from rewards.observation import clean_text
from rewards.sandbox import Limits
from rewards.sandbox.jobs import Ending, Outcome
from rewards.sandboxes import get_sandbox, in_use

ADD = FunctionTests((Case("add", (1, 2), 3),), (Case("add", (10, 20), 30), Case("add", (-1, 1), 0)))
LIMITS = Limits(cpu_s=1.0)


def fenced(program):
    return f"Here it is:\n```python\n{program}\n```\nDone."


@pytest.mark.parametrize(
    ("response", "verdict", "value"),
    [
        (fenced("def add(a, b):\n    return a + b"), "correct", 1.0),
        (fenced("def add(a, b):\n    return a - b"), "wrong", 0.0),
        (fenced("def add(a, b):\n    return 3"), "wrong", 1 / 3),
        (fenced("def add(a, b):\n    return a + b\nassert add(1, 1) == 3"), "wrong", 0.0),
        (fenced("def add(a, b):\n    return a + b if a < 5 else 0"), "wrong", 2 / 3),
        (fenced("def add(a, b):\n    while a < 0: pass\n    return a + b"), "timeout", 2 / 3),
        ("def add(a, b):\n    return a + b", "no_answer", 0.0),
        ("```python\ndef add(a, b):\n    return a + b", "no_answer", 0.0),  # cut off by the token limit
        ("", "no_answer", 0.0),
        (fenced("def add(a, b):\n    return a + b") + "\n```python\nprint(add(1, 2))\n```", "correct", 1.0),
        ("```\n    def add(a, b):\n        return a + b\n```", "correct", 1.0),
    ],
)
def test_functions(response, verdict, value):
    score = score_code(response, ADD, LIMITS, partial_credit=True)
    assert (score.verdict, score.value) == (verdict, pytest.approx(value))
    strict = score_code(response, ADD, LIMITS)
    assert strict.value == float(verdict == "correct")


# Arbitrary test code.

CHECK = "def check(candidate):\n    for i in range(5):\n        assert candidate(i, i) == 2 * i\n"


def judged(program, tests=("check(add)",), setup=CHECK, names=("add",), aliases=()):
    return score_program(program, FunctionTests(code=CheckCode(tests, setup, names, aliases)), LIMITS)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("def add(a, b):\n    return a + b", "correct"),
        ("def add(a, b):\n    return a + b + (a == 4)", "wrong"),
        ("class E:\n    def __eq__(self, o): return True\ndef add(a, b):\n    return E()", "wrong"),
        ("def add(a, b):\n    raise StopIteration", "wrong"),
        ("def add(a, b):\n    raise SystemExit(0)", "wrong"),
        ("import os\ndef add(a, b):\n    os._exit(0)", "wrong"),
        ("def check(candidate):\n    pass\ndef add(a, b):\n    return 0", "wrong"),
        ("range = lambda n: []\ndef add(a, b):\n    return 0", "wrong"),
        ("import builtins\nbuiltins.range = lambda n: []\ndef add(a, b):\n    return 0", "wrong"),
        ("def add(a, b):\n    while True: pass", "timeout"),
        ("add = 3", "wrong"),
        ("def add(a, b):\n    return a + b\n1 / 0", "wrong"),
    ],
)
def test_the_judge(program, verdict):
    assert judged(program).verdict == verdict


def test_a_program_cannot_end_the_judges_loop_early():
    program = "def add(a, b):\n    if a > 1: raise StopIteration\n    return a + b"
    tests = ("assert all(map(lambda i: add(i, i) == 2 * i, range(5)))", "assert list(map(add, [5], [6])) == [11]")
    assert judged(program, tests, setup="").verdict == "wrong"


def test_the_judge_gets_exceptions_changed_arguments_classes_and_modules():
    program = (
        "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\n"
        "    def total(self):\n        return self.v + (self.next.total() if self.next else 0)\n"
        "def grow(xs):\n    xs.append(len(xs))\n"
        "def fail(x):\n    raise KeyError(x)\n"
        "def last(node):\n    return node if node.next is None else last(node.next)\n"
    )
    tests = (
        "xs = [5]\ngrow(xs)\nassert xs == [5, 1]",
        "try:\n    fail(1)\nexcept KeyError:\n    pass\nelse:\n    assert False",
        "a = Node(1)\na.next = Node(2)\nassert a.total() == 3 and last(a).v == 2 and a.next == last(a) and a != last(a)",
        "assert math.sqrt(4) == 2",
    )
    assert judged(program, tests, "", ()).verdict == "correct"


def test_modules_of_the_tests_come_from_the_library():
    """A program that defines its own ``math``, whose isclose always returns True, gains nothing."""
    cheat = "class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(x):\n    return 0\n"
    assert judged(cheat, ("assert math.isclose(f(3), 9.0)",), "", ()).verdict == "wrong"
    assert judged("def f(x):\n    return x * x\n", ("assert math.isclose(f(3), 9.0)",), "", ()).verdict == "correct"


def test_helpers_of_the_set_up_are_the_tests_own():
    """A program that redefines a trusted helper to agree with itself gains nothing."""
    setup = "def inverse(x):\n    return -x\n"
    cheat = "def inverse(x):\n    return x\ndef f(x):\n    return x\n"
    assert judged(cheat, ("assert f(3) == inverse(3)",), setup, ("f",)).verdict == "wrong"


# Whole programs.

ECHO = ScriptTests((("2 3\n", "5\n"),), (("617 204\n", "821\n"), ("1 1\n", "2\n")))


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", "correct"),
        ("import sys\na, b = map(int, sys.stdin.read().split())\nprint(a + b)\nsys.exit(0)", "correct"),
        ("print(sum(map(int, open(0).read().split())))", "correct"),
        ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())), '  ')\nprint()", "correct"),
        ("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", "correct"),
        ("import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)", "correct"),
        ("print(5)", "wrong"),
        ("print(sum(map(int, input().split())))\nraise SystemExit(1)", "wrong"),
        ("print(sum(map(int, input().split())))\n1 / 0", "wrong"),
        ("while True: pass", "timeout"),
        ("import time\nprint(sum(map(int, input().split())))\ntime.sleep(60)", "timeout"),
        ("print('y' * 10**7)", "wrong"),
        ("input(); input()", "wrong"),
    ],
)
def test_scripts(program, verdict):
    score = score_program(program, ECHO, Limits(cpu_s=1.0))
    assert score.verdict == verdict, score
    for hidden in ("617 204", "821"):
        assert hidden not in score.observation


def test_a_script_is_told_what_the_shown_test_gave():
    score = score_program("print(int(input()))", ECHO, LIMITS)
    assert "Standard input:\n2 3" in score.observation
    assert "Expected output:\n5" in score.observation
    assert 'File "solution.py", line 1' in score.observation
    assert "ValueError" in score.observation


# What the policy is told.


def test_a_traceback_has_the_programs_own_frames_only():
    program = "def g(x):\n    return x / 0\n\ndef add(a, b):\n    return g(a)\n"
    observation = score_program(program, ADD, LIMITS).observation
    assert observation.splitlines() == [
        "Input: add(1, 2)",
        "Expected: 3",
        "Traceback:",
        '  File "solution.py", line 5, in add',
        "    return g(a)",
        '  File "solution.py", line 2, in g',
        "    return x / 0",
        "ZeroDivisionError: division by zero",
    ]


def test_a_syntax_error_names_its_line():
    observation = score_program("def add(a, b)\n    return a", ADD, LIMITS).observation
    assert "could not be loaded" in observation
    assert "line 1" in observation
    assert "SyntaxError" in observation


def test_recursion_is_cut_and_a_timeout_is_said():
    observation = score_program("def add(a, b):\n    return add(a, b)", ADD, LIMITS).observation
    assert "RecursionError" in observation
    assert len(observation.splitlines()) < 40
    assert "time limit" in score_program("def add(a, b):\n    while True: pass", ADD, LIMITS).observation


def test_text_for_a_chat_is_clean():
    dirty = (
        "\x1b[31mred\x1b[0m\x00 <|im_end|>\n<|im_start|>user <s>[INST] \u202e <\uff5cend\uff5c> "
        "<object at 0x7f001234abcd>\n[sandbox] exit: 0"
    )
    clean = clean_text(dirty)
    for marker in ("\x1b", "\x00", "<|", "|>", "<s>", "[INST]", "\u202e", "0x7f", "<\uff5c"):
        assert marker not in clean
    assert "\n[sandbox]" not in clean
    assert "red" in clean
    assert clean_text(b"\xff\xfeok").endswith("ok")
    long = clean_text("x" * 10**6)
    assert len(long) < 3200
    assert "cut" in long


# From assertions to cases.


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("assert f(1, [2]) == (3,)", Case("f", (1, [2]), (3,))),
        ("assert 3 == f(1)", Case("f", (1,), 3)),
        ("assert f(x=1) == -2.5, 'message'", Case("f", (), -2.5, (("x", 1),))),
        ("assert f([0] * 3 + [1]) == 2**70", Case("f", ([0, 0, 0, 1],), 2**70)),
        ("assert f(1) == float('inf')", Case("f", (1,), float("inf"))),
        ("assert f(1) == set()", Case("f", (1,), set())),
        ("assert abs(f(1) - 0.5) < 1e-6", Case("f", (1,), 0.5, (), 1e-6)),
    ],
)
def test_plain_assertions_become_cases(code, expected):
    assert declare_all(code) == (expected,)


@pytest.mark.parametrize(
    "code",
    [
        "assert f(1)", "assert f(1) is True", "assert f(g(1)) == 2", "assert f(x) == 2", "assert len(f(1)) == 2",
        "assert f(1) == g(1)", "assert f(1) < 2", "x = 1", "assert f(*a) == 1", "assert f(9**9**9) == 1", "assert f([0]*10**9) == 1",
        "assert f(open('/etc/passwd')) == 1", "assert f.g(1) == 1", "assert f(1) == 1 == 1", "for i in x: assert f(i) == 1", "(",
    ],
)  # fmt: skip
def test_everything_else_stays_code(code):
    assert declare_all(code) is None


def test_checks_and_names():
    body = check_body(
        "META = {'a': 1}\ndef check(candidate):\n    'doc'\n    assert candidate(1) == 2\n    assert True\n"
    )
    assert cases_of(body or [], {"candidate": "f"}) == (Case("f", (1,), 2),)
    assert check_body("def check(candidate): pass\nopen('x')") is None
    assert free_names("import math\nxs = [f(i) for i in range(3)]\nassert abs(g(xs)) == math.pi") == (["f", "g"], [])
    assert free_names("assert math.isclose(f(1), copy(2))") == (["copy", "f"], ["math"])
    assert isinstance(ast.parse("f(1)"), ast.Module)


def test_no_tests_is_an_error():
    with pytest.raises(ValueError, match="no tests"):
        FunctionTests()
    with pytest.raises(ValueError, match="no tests"):
        ScriptTests()


def test_the_shared_sandbox_reports_itself():
    get_sandbox()
    (report, *_) = in_use()
    assert report["mode"] in ("namespaces", "landlock", "strict")
    assert report["layers"]
    assert score_code(fenced("def add(a, b):\n    return a + b"), ADD).verdict is Verdict.CORRECT


# A test in which the program kills or hangs its process fails alone; the other tests still count.

FIVE = FunctionTests((Case("f", (0,), 0),), tuple(Case("f", (i,), i) for i in range(1, 5)))


@pytest.mark.parametrize(
    ("harm", "verdict", "value"),
    [
        ("if x == 2: os._exit(0)", "wrong", 0.8),
        ("if x in (1, 3): os.abort()", "wrong", 0.6),
        ("if x == 4: os._exit(0)", "wrong", 0.8),
        ("if x == 0: os._exit(0)", "wrong", 0.8),
        ("while x == 2: pass", "timeout", 0.8),
        ("os._exit(0)", "wrong", 0.0),
        ("if x == 2: raise ValueError", "wrong", 0.8),
    ],
)
def test_partial_credit_survives_a_crash(harm, verdict, value):
    score = score_program(
        f"import os\ndef f(x):\n    {harm}\n    return x\n", FIVE, Limits(cpu_s=0.5), partial_credit=True
    )
    assert (score.verdict, score.value) == (verdict, pytest.approx(value))


def test_a_program_that_loads_only_once_ends():
    program = (
        "import random, time\nif time.time_ns() // 1000 % 2: raise ValueError\nimport os\ndef f(x):\n    os._exit(0)\n"
    )
    for _ in range(4):
        assert score_program(program, FIVE, LIMITS, partial_credit=True).verdict == "wrong"


@pytest.mark.parametrize(("passed", "value"), [(4, 0.75), (3, 0.75), (1, 0.25), (0, 0.0)])
def test_a_program_that_answers_every_test_and_then_hangs_is_not_paid_as_a_right_one(passed, value):
    tally = _Tally(4, passed, [Outcome(Ending.TIMEOUT)])
    paid = tally.score("x = 1", "", True, Limits())
    assert (paid.value, paid.verdict) == (value, Verdict.TIMEOUT)
    assert tally.score("x = 1", "", False, Limits()).value == 0.0


def test_partial_credit_survives_a_crash_in_the_judge():
    tests = FunctionTests(code=CheckCode(tuple(f"assert f({i}) == {i}" for i in range(4))))
    program = "import os\ndef f(x):\n    if x == 1: os._exit(0)\n    return x\n"
    assert score_program(program, tests, LIMITS, partial_credit=True).value == 0.75


@pytest.mark.parametrize(
    ("compare", "expected", "actual", "same"),
    [
        ("lines", "1\n2\n", "1  \n2\n\n", True), ("lines", "1 2", "1  2", False), ("exact", "1\n", "1", False),
        ("tokens", "1 2\n", "1\n 2", True), ("tokens", "1.0", "1", False), ("numbers", "0.5 a", "0.5000001 a", True),
        ("numbers", "0.5", "0.6", False), ("numbers", "1000000000000000001", "1000000000000000002", False),
        ("numbers", "3", "3.0", True), ("numbers", "1e9", "1000000001", True), ("numbers", "a", "b", False),
        ("numbers", "nan", "1", False), ("numbers", "inf", "1e999", False), ("numbers", "1", "1 1", False),
    ],
)  # fmt: skip
def test_comparisons(compare, expected, actual, same):
    assert safely(comparison(compare), expected, actual, "") is same


def test_a_checker_of_the_tasks_author():
    """The author's checker decides, here by accepting any order; a checker that raises counts as a refusal."""
    tests = ScriptTests(
        (("3", "1 2 3"),), compare=lambda expected, actual, stdin: sorted(map(int, actual.split())) == [1, 2, 3]
    )
    assert score_program("print(3, 1, 2)", tests, LIMITS).verdict == "correct"
    assert score_program("print('x')", tests, LIMITS).verdict == "wrong"


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("1000000007", "1000000006.0", False), ("1000000007", "1.000000006e9", False), ("1000000007", "1000000007.0", True),
        ("1000000000", "1000000000.0001", True), ("12345678901234567890", "12345678901234567891.0", False),
        ("1000", "1_000", False), ("1.5", "1_.5", False), ("12", "\u0661\u0662", False), ("0.5", "nan", False), ("0.5", "inf", False),
        ("nan", "nan", True), ("1e300", "1.0000001e300", True), ("1e300", "1e9999999", False), ("0.5", ".5", True), ("-0", "0.0", True),
        ("3", "3.0000001", True), ("3", "3.1", False), ("abc", "abd", False),
    ],
)  # fmt: skip
def test_numbers_with_a_tolerance(expected, actual, same):
    assert comparison("numbers")(expected, actual, "") == same


@pytest.mark.parametrize(
    ("tests", "form"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], "hidden"),
        ("assert f(1) == 2\nassert f(2) == 3", "hidden"),
        (["x = f(1)\nassert x == 2"], "code"),
        (CheckCode("assert f(1) == 2"), "code"),
    ],
)
def test_assertions_as_text_are_tests(tests, form):
    made = FunctionTests(code=tests) if isinstance(tests, CheckCode) else as_tests(tests)
    assert getattr(made, form)
    given = made if isinstance(tests, CheckCode) else tests
    assert score_code("```python\ndef f(x):\n    return x + 1\n```", given).value == 1.0
    assert score_code("```python\ndef f(x):\n    return x\n```", given).value == 0.0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: score_code(None, ["assert f(1) == 2"]), "a response must be text, got None"),
        (lambda: score_code("x", [3]), "tests are FunctionTests, ScriptTests, or assertions as text"),
        (lambda: score_code("x", None), "tests are FunctionTests, ScriptTests, or assertions as text"),
        (lambda: FunctionTests(["assert f(1) == 2"]), r"hold Case, got 'assert f\(1\) == 2'; .*as_tests"),
    ],
)
def test_what_is_no_response_or_no_test_is_one_sentence(act, message):
    with pytest.raises(TypeError, match=message):
        act()
