"""The judge: proxies behave like objects, failures are blamed on the right side, and replies control nothing."""

import time
from fractions import Fraction

import pytest

from rewards.code import CheckCode, FunctionTests, score_program
from rewards.sandbox import Limits
from rewards.sandbox.codec import matches

LIMITS = Limits(cpu_s=1.0)


def judged(program, *tests, setup="", names=(), gold=""):
    return score_program(program, FunctionTests(code=CheckCode(tests, setup, tuple(names)), gold=gold), LIMITS)


FORGES = """
import rewards.sandbox.candidate as candidate
real = candidate.Candidate._names
def names(self, request):
    reply = real(self, request)
    always = {"value": self._known(lambda *args, **kwargs: True)}
    for name in ("check", "helper", "math", "abs", "all", "range", "len", "isclose", "__builtins__", "__name__"):
        reply["names"][name] = always
    return reply
candidate.Candidate._names = names
candidate.Candidate.real = real
def add(a, b):
    return 0
"""


@pytest.mark.parametrize(
    ("test", "setup", "why"),
    [
        (
            "check(add)",
            "def check(f):\n    for i in range(5):\n        assert f(i, i) == 2 * i\n",
            "the tests' own check",
        ),
        ("assert helper(add)", "def helper(f):\n    return f(1, 2) == 3\n", "a helper of the set-up"),
        ("assert abs(add(1, 2) - 3) < 1e-6", "", "a builtin"),
        ("assert all(add(i, 1) == i + 1 for i in range(3))", "", "a builtin that ends a loop"),
        ("assert math.isclose(add(1, 2), 3)", "", "a module that the tests name"),
        ("from math import isclose\nassert isclose(add(1, 2), 3)", "", "a name that they import"),
    ],
)
def test_nothing_in_a_reply_chooses_what_the_judge_does(test, setup, why):
    assert judged(FORGES, test, setup=setup, names=["add"]).verdict == "wrong", why
    assert judged("def add(a, b):\n    return a + b", test, setup=setup, names=["add"]).verdict == "correct", why


def test_a_function_that_is_named_like_a_builtin():
    with pytest.raises(ValueError, match="name nothing that a program must define"):
        CheckCode(("assert sum([1, 2]) == 3",))
    with pytest.raises(ValueError, match="no Python"):
        CheckCode(("assert f(1) ==",))
    assert judged("def sum(xs):\n    return 0", "assert sum([1, 2]) == 3", names=["sum"]).verdict == "wrong"
    right = "def sum(xs):\n    return xs[0] + sum(xs[1:]) if xs else 0"
    assert judged(right, "assert sum([1, 2]) == 3", names=["sum"]).verdict == "correct"


IDENTITY = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("test", "setup", "names", "gold"),
    [
        ("assert f(1) == 1", "import no_such_module", (), ""),
        ("assert f(1) == 1", "1 / 0", (), ""),
        ("1 / 0\nassert f(1) == 1", "", (), ""),
        ("assert helper(1) == f(1)", "", ("f",), ""),
        ("assert f(1) == 1 / 0", "", (), IDENTITY),
        ("assert f(1) == helper(1)", "", (), IDENTITY),
        ("assert f(1) == 2", "", (), IDENTITY),
        ("assert f(A())", "class A: pass", (), ""),
        ("assert f(lambda x: x)", "", (), ""),
        ("assert f(open)", "", (), ""),
        ("raise SystemExit(0)", "", ("f",), ""),
    ],
)
def test_a_test_that_fails_by_itself_is_our_failure(test, setup, names, gold):
    score = judged(IDENTITY, test, setup=setup, names=names, gold=gold)
    assert score.verdict == "error"
    assert score.reason.startswith("tests: ")


@pytest.mark.parametrize(
    "program",
    [
        "def g(x):\n    return x",
        "f = 3",
        "f = str",
        "class f(Exception): pass",
        "def f(x):\n    raise RuntimeError",
        "def f(x):\n    return f",
        "class A: pass\ndef f(x):\n    return A()",
        "import os\ndef f(x):\n    os._exit(0)",
        "import os\nos._exit(0)",
        "1 / 0",
        "def f(",
        "f = object()",
        *(
            f"import rewards.sandbox.candidate as c\nc.Candidate.{what}\ndef f(x): pass"
            for what in (
                "_call = lambda *a: {'value': {'opaque': 'x'}}",
                "_call = lambda *a: []",
                "_names = lambda *a: {'names': 3}",
                "_call = lambda *a: {'raised': {'mro': 3}}",
                "_call = lambda *a: {'ended': True, 'ours': True}",
                "_load = lambda *a: {'raised': {'mro': ['TestsError']}}",
            )
        ),
    ],
)
def test_no_program_makes_its_failure_ours(program):
    assert judged(program, "assert f(f(1)) == 1", "y = f(1)\nassert f(y) == 1").verdict == "wrong"


RICH = """
class V:
    def __init__(self, x, y): self.x, self.y = x, y
    def __add__(self, o): return V(self.x + o.x, self.y + o.y)
    def __mul__(self, k): return V(self.x * k, self.y * k)
    __rmul__ = __mul__
    def __eq__(self, o): return isinstance(o, V) and (self.x, self.y) == (o.x, o.y)
    def __hash__(self): return hash((self.x, self.y))
    def __len__(self): return 2
    def __iter__(self): yield self.x; yield self.y
    def __getitem__(self, i): return (self.x, self.y)[i]
    def __repr__(self): return f"V({self.x}, {self.y})"
    def __str__(self): return f"<{self.x}>"
    def __lt__(self, o): return self.x < o.x
    def __bool__(self): return self.x != 0
    def __call__(self, k): return self.x + k
class MyError(ValueError): pass
class Narrow(MyError): pass
class Other(Exception): pass
def fail(n): raise (MyError("bad"), Narrow("narrow"), Other("other"))[n]
class Context:
    def __init__(self): self.log = []
    def __enter__(self): self.log.append("in"); return self
    def __exit__(self, kind, error, trace):
        self.log.append(kind.__name__ if kind else "out")
        return kind is ZeroDivisionError
def count(n): yield from range(n)
def fib():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert V(1, 2) + V(3, 4) == V(4, 6)", "assert 2 * V(1, 2) == V(2, 4) and V(1, 2) * 2 == V(2, 4)",
        "assert isinstance(V(1, 2), V) and not isinstance(3, V)", "assert issubclass(Narrow, MyError)",
        "assert len(V(1, 2)) == 2 and list(V(1, 2)) == [1, 2]", "assert V(5, 6)[1] == 6 and 5 in V(5, 6)",
        "assert repr(V(1, 2)) == 'V(1, 2)' and f'{V(1, 2)}' == '<1>'", "assert sorted([V(3, 0), V(1, 0)])[0].x == 1",
        "assert not V(0, 1) and V(1, 0)", "assert {V(1, 2): 3}[V(1, 2)] == 3", "assert V(1, 2)(10) == 11",
        "x, y = V(7, 8)\nassert (x, y) == (7, 8)", "a = V(1, 2)\na.x = 9\nassert a.x == 9", "assert V(1, 2) != 3",
        "try:\n    fail(0)\nexcept MyError as error:\n    assert str(error) == 'bad'\nelse:\n    assert False",
        "try:\n    fail(1)\n    assert False\nexcept MyError:\n    pass", "try:\n    fail(0)\n    assert False\nexcept ValueError:\n    pass",
        "try:\n    fail(2)\nexcept MyError:\n    assert False\nexcept Other:\n    pass",
        "c = Context()\nwith c as d:\n    assert d == c\nassert c.log == ['in', 'out']",
        "with Context() as c:\n    1 / 0\nassert c.log == ['in', 'ZeroDivisionError']",
        "assert list(count(3)) == [0, 1, 2] and next(count(2)) == 0", "assert sum(count(3000)) == 4498500",
        "g = fib()\nassert [next(g) for _ in range(6)] == [0, 1, 1, 2, 3, 5] and next(g) == 8",
        "import itertools\ng = fib()\nassert list(itertools.islice(g, 5)) == [0, 1, 1, 2, 3] and next(g) == 5",
        "import datetime\nassert isinstance(max([datetime.date(2020, 1, 1)]), datetime.date) and V(1, 1)",
    ],
)  # fmt: skip
def test_proxies_do_what_objects_do(test):
    assert judged(RICH, test).verdict == "correct"


LIAR = """
class L:
    def __init__(self, *args): self.args = args
    def yes(self, *args): return True
    def self(self, *args): return self
    def zero(self, *args): return 0
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = yes
    __sub__ = __rsub__ = __mod__ = __xor__ = zero
    __abs__ = __neg__ = self
    __hash__ = lambda self: 3
    def __getattr__(self, name):
        if name.startswith("_"): raise AttributeError(name)
        return self.yes
    area = self
def f(*args): return L()
Circle = type("Circle", (L,), {})
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert f(2) == 4", "assert abs(f(2) - 4) < 1e-6", "x = f(2)\nassert 3 < x < 5", "assert 4 in f(2)", "assert f(2) in (4,)",
        "assert round(f(2) - 4, 5) == 0", "assert f('a').startswith('a')", "assert f({1}).issubset({1, 2})", "assert f('1').isdigit()",
        "assert all(a <= b for a, b in zip([1, 2], [f(1)] * 2))", "assert sorted([f(1), 3])[0] <= 3", "assert not (f(2) - 4)",
        "assert f(2) % 2 == 0", "assert [3] <= [f(1)]", "assert f(2) - 4 == 0", "assert -f(2) <= -4", "assert {4} <= {f(2)}",
        "assert abs(Circle(2).area() - 12.566) < 1e-3", "assert Circle(2).area() == 4", "assert 3 < Circle(2).area()",
        "assert Circle(2) == 2", "assert Circle(2) == (1, 2) and Circle(2) == 'abc' and Circle(1) == [1.5] and Circle(1) == {1: 2}",
        "assert Circle(2).area() == Circle(2).area() - 1",
    ],
)  # fmt: skip
def test_a_lying_object_stands_in_for_no_plain_value(test):
    assert judged(LIAR, test, names=("f", "Circle")).verdict == "wrong"


MONEY = """
from dataclasses import dataclass
from functools import total_ordering
@total_ordering
class Money:
    def __init__(self, n): self.n = n
    def value(self, o): return o.n if isinstance(o, Money) else o
    def __eq__(self, o): return self.n == self.value(o)
    def __lt__(self, o): return self.n < self.value(o)
    def __add__(self, o): return Money(self.n + self.value(o))
    __radd__ = __add__
    def __sub__(self, o): return Money(self.n - self.value(o))
    def __abs__(self): return Money(abs(self.n))
    def plus(self, n): return self + n
class Point(tuple):
    def __new__(cls, *xs): return super().__new__(cls, xs)
class Word:
    def __init__(self, s): self.s = s
    def __eq__(self, o): return self.s.lower() == (o.s if isinstance(o, Word) else o).lower()
class Bag:
    def __init__(self, xs): self.xs = list(xs)
    def __eq__(self, o): return sorted(self.xs) == sorted(o)
    def __contains__(self, x): return x in self.xs
    def __iter__(self): return iter(self.xs)
class Map:
    def __init__(self, d): self.d = d
    def __eq__(self, o): return self.d == o
def make(xs): return Bag(xs)
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert Money(5) == 5 and 5 == Money(5) and Money(5) != 6", "assert Money(5) + 3 == 8 and 3 + Money(5) == 8.0",
        "a = Money(1)\na += 2\nassert a == 3 and a > 2 and 4 >= a", "assert Point(1, 2) == (1, 2) and Point(1, 2)[0] == 1",
        "assert Word('Abc') == 'aBC' and Word('') == ''", "assert Bag([3, 1]) == [1, 3] and 3 in Bag([3])", "assert 3 in make([3]) and 4 not in make([3])",
        "assert Map({1: [2]}) == {1: [2]} and Map({}) == {}", "assert sum([Money(1), Money(2)]) == 3", "assert Money(10 ** 30) == 10 ** 30",
        "from fractions import Fraction\nassert Money(Fraction(1, 2)) == Fraction(1, 2) == Money(0.5)", "assert Money(True) == True and Money(None) == None",
    ],
)  # fmt: skip
def test_objects_that_the_tests_made_are_compared_with_plain_values(test):
    assert judged(MONEY, test).verdict == "correct"


def test_an_object_where_a_plain_value_is_wanted_is_wrong_and_says_so():
    score = judged(MONEY, "assert Money(1).plus(2) == 3")
    assert (score.verdict, score.reason) == ("wrong", "object_for_plain_value")
    assert judged(MONEY, "assert Money(1).plus(2) == 3", gold=MONEY).verdict == "error"
    assert judged(MONEY, "assert Money(1) == 3").reason == "tests"


# Comparison by the supervisor: never raises, never hangs.


def nested(depth, width):
    step = 2**61 - 1
    inner = {"set": [{"int": hex(i * step)} for i in range(width)]}
    for _ in range(depth):
        inner = {"frozenset": [inner]}
    return inner


@pytest.mark.parametrize(
    "node",
    [
        [nested(3, 3000)], {"dict": [[nested(2, 2000), 1]]}, [{"tuple": [nested(1, 3000)]}] * 3, nested(90, 1000),
        10**400, -(10**400), [10**400], {"int": "0x" + "f" * 30_000}, {"complex": [10**400, 1]}, {"float": "1e400"},
        {"range": [0, 10**30, 1]}, {"range": [0, 1, 0]}, {"Decimal": "1E+999999"}, {"Fraction": "1/0"},
        {"timedelta": ["x"]}, {"date": "x"}, {"bytes": 3}, {"keys": [[]]}, {"ListNode": 3}, {"ref": [0, "A"]},
        {"ndarray": []}, {}, {"a": 1, "b": 2},
    ],
    ids=lambda node: str(node)[:30],
)  # fmt: skip
def test_no_reply_makes_the_supervisor_compute_or_raise(node):
    started = time.process_time()
    for expected in (1, 1.5, Fraction(1, 2), "x", [1], {1: 1}, {1}, [{frozenset({1})}], {(1, 2): 3}, None):
        for tolerance in (None, 0.5):
            assert not matches(expected, node, tolerance)
    assert time.process_time() - started < 1.0


def test_tolerances():
    assert matches(1.0, 1.1, 0.2)
    assert not matches(1.0, 1.5, 0.5)
    assert matches(1.0, 1.5, 0.5, at_most=True)
    assert matches([1, (2.0, "a")], [1.05, {"tuple": [2.05, "a"]}], 0.1)
    assert not matches([1, 2], [1.05], 0.1)
    assert not matches(2**60, float(2**60) * 2, 0.1)
    assert matches((1, [2]), [1, [2]], alike=True)
    assert not matches((1, [2]), [1, [2]])
