"""Test code that cannot fail is recognised, and test code that can is not."""

import pytest

from rewards.asserting import pieces, untested
from rewards.code import CheckCode, score_code

PROGRAM = "```python\ndef add(a, b):\n    return a - b\n```"
UNITTEST = (
    "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(2, 2), 4)\n"
)
IDLE = [
    ("def test_add():\n    assert add(2, 2) == 4", "test_add is never called"),
    ("def test_add():\n    assert add(2, 2) == 4\nif __name__ == '__main__':\n    test_add()", "never called"),
    (UNITTEST, "test_a is never called"),
    (f"{UNITTEST}if __name__ == '__main__':\n    u.main()", "test_a is never called"),
    (f"{UNITTEST}u.TextTestRunner().run(T('test_a'))", "test_a is never called"),
    (
        f"{UNITTEST}l = unittest.defaultTestLoader.loadTestsFromTestCase(T)\nunittest.TextTestRunner().run(l)",
        "never assert",
    ),
    ("assert add(2, 2) == 4\ndef test_b():\n    assert add(1, 3) == 4", "test_b is never called"),
    ("def check(f):\n    assert f(2, 2) == 4\nprint(add)", "check is never called"),
    ("add(2, 2) == 4", "write assert in front"),
    ("not add(2, 2) == 3", "write assert in front"),
    ("assert add(2, 2) == 4\nadd(2, 3) == 5", "write assert in front"),
    ("assert (add(2, 2) == 4, 'message')", "leave out the brackets"),
    ("assert add(2, 2), 4", "write == in place of the comma"),
    ("assert add(2, 2), [4]", "write == in place of the comma"),
    ("assert_equal(add(2, 2), 4)", "neither define nor import"),
    ("print(add(2, 2))", "never assert anything"),
    ("right = add(2, 2) == 4\nprint(right)", "never assert anything"),
    ("add(1, 1)\nassert True", "never assert anything"),
    ("add(1, 1)\nassert 4 == 4", "never assert anything"),
    ("assert add(2, 2) == 4 or True", "never assert anything"),
    ("if False:\n    assert add(2, 2) == 4", "never assert anything"),
    ("while 0:\n    assert add(2, 2) == 4", "never assert anything"),
    ("for x in []:\n    assert add(x, x) == 4", "never assert anything"),
    ("try:\n    assert add(2, 2) == 4\nexcept AssertionError:\n    print('wrong')", "never assert anything"),
    ("try:\n    assert add(2, 2) == 4\nexcept:\n    pass", "never assert anything"),
    ("def t():\n    assert add(2, 2) == 4\ntry:\n    t()\nexcept (ValueError, Exception):\n    pass", "never assert"),
    ("import contextlib\nwith contextlib.suppress(Exception):\n    assert add(2, 2) == 4", "never assert anything"),
]
FAIL = [
    f"{UNITTEST}l = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
    "assert unittest.TextTestRunner().run(l).wasSuccessful()",
    "assert add(2, 2) == 4",
    "assert not add(2, 2) == 0, add(2, 2)",
    "assert add(2, 2) == 4, 'a message'",
    "def test_add():\n    assert add(2, 2) == 4\ntest_add()",
    "def test_add():\n    assert add(2, 2) == 4\nfor test in (test_add,):\n    test()",
    f"{UNITTEST}T().test_a()",
    "class T:\n    def t(self):\n        assert add(2, 2) == 4\n    def run(self):\n        self.t()\nT().run()",
    "def check(f):\n    assert f(2, 2) == 4\ncheck(add)",
    "for x in range(1, 3):\n    assert add(x, x) == 2 * x",
    "if add(2, 2) != 4:\n    raise ValueError",
    "import sys\nif add(2, 2) != 4:\n    sys.exit(1)",
    "try:\n    assert add(2, 2) == 4\nexcept AssertionError:\n    raise",
    "try:\n    add(1)\n    assert False\nexcept TypeError:\n    pass\nassert add(2, 2) == 4",
    "ok = add(2, 2) == 4\nassert ok",
    "async def main():\n    assert add(2, 2) == 4\nimport asyncio\nasyncio.run(main())",
    "def assert_same(a, b):\n    assert a == b\nassert_same(add(2, 2), 4)",
]


@pytest.mark.parametrize(("tests", "said"), IDLE)
def test_tests_that_would_pay_for_any_program_are_refused(tests, said):
    assert said in untested(tests)
    for given in (tests, [tests]):
        with pytest.raises(ValueError, match="would pay for any program"):
            score_code(PROGRAM, given)


@pytest.mark.parametrize("tests", FAIL)
def test_tests_that_can_fail_are_run(tests):
    assert untested(tests) == ""
    assert score_code(PROGRAM, tests).verdict == "wrong"


def test_what_only_an_import_or_a_library_asserts():
    assert not untested("import numpy as np\nnp.testing.assert_allclose(f(1), 3)")
    assert not untested("from numpy.testing import *\nassert_allclose(f(1), 3)")
    assert not untested("import pytest\nwith pytest.raises(TypeError):\n    f(1) < 2")
    assert CheckCode(("assert sum([1, 2]) == 3",), names=("sum",))


def test_what_only_prepares_belongs_to_the_next_test():
    made = pieces(["import math", "x = f(2)", "assert x == math.pi", "# more", "assert f(3) == 1", "y = 2"])
    assert made == ["import math\nx = f(2)\nassert x == math.pi", "# more\nassert f(3) == 1\ny = 2"]
    assert pieces(["x = 1"]) == ["x = 1"]
