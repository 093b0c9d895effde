"""The right part of a response is run as the program; each row is a style in which models answer."""

import time

import pytest

from rewards.asserts import Case
from rewards.code import FunctionTests, ScriptTests, score_code
from rewards.program import code_blocks, program_in
from rewards.sandbox import Limits

TESTS = FunctionTests((Case("add", (1, 2), 3),), (Case("add", (-1, 1), 0),))
GOOD = "def add(a, b):\n    return a + b\n"
BAD = "def add(a, b):\n    return a - b\n"
HELPER = "def plus(a, b):\n    return a + b\n"
USES = "def add(a, b):\n    return plus(a, b)\n"


def fenced(text, tag="python", fence="```"):
    return f"{fence}{tag}\n{text}{fence}\n"


RIGHT = {
    "plain": fenced(GOOD),
    "prose around": f"Sure! Here's the solution:\n\n{fenced(GOOD)}\nThis adds `a` and `b`.",
    "untagged": fenced(GOOD, ""),
    "py": fenced(GOOD, "py"),
    "py3": fenced(GOOD, "py3"),
    "python3": fenced(GOOD, "python3"),
    "Python": fenced(GOOD, "Python"),
    "python with a space": fenced(GOOD, " python"),
    "python 3": fenced(GOOD, "python 3.11"),
    "ipython": fenced(GOOD, "ipython3"),
    "braces": fenced(GOOD, "{.python}"),
    "a title": fenced(GOOD, 'python title="add.py"'),
    "a file name": fenced(GOOD, "python:add.py"),
    "line numbers": fenced(GOOD, "python {.line-numbers}"),
    "four backticks": fenced(GOOD, fence="````"),
    "tildes": fenced(GOOD, fence="~~~"),
    "windows line ends": fenced(GOOD).replace("\n", "\r\n"),
    "text behind the closing fence": f"```python\n{GOOD}``` This adds them.",
    "a colon behind the closing fence": f"```python\n{GOOD}```: done",
    "usage after it": fenced(GOOD) + "Usage:\n" + fenced("print(add(1, 2))\n"),
    "usage with asserts": fenced(GOOD) + "Let me test it:\n" + fenced("assert add(1, 2) == 3\n"),
    "usage with a result": fenced(GOOD) + fenced("result = add(1, 2)\nprint(result)\n"),
    "output after it": fenced(GOOD) + "Output:\n" + fenced("3\n", ""),
    "output in words": fenced(GOOD) + fenced("The sum is 3\n", ""),
    "output as text": fenced(GOOD) + fenced("3\n", "text"),
    "shell after it": fenced(GOOD) + fenced("python add.py\n", "bash"),
    "shell before it": fenced("pip install x\n", "sh") + fenced(GOOD),
    "json after it": fenced(GOOD) + fenced('{"a": 1}\n', "json"),
    "another language after it": fenced(GOOD) + fenced("int add(int a, int b) { return a + b; }\n", "cpp"),
    "stub after it": fenced(GOOD) + "The signature was:\n" + fenced("def add(a, b):\n    pass\n"),
    "stub before it": fenced("def add(a, b):\n    ...\n") + fenced(GOOD),
    "stub with a docstring": fenced(GOOD) + fenced('def add(a, b):\n    """Adds."""\n'),
    "stub that raises": fenced(GOOD) + fenced("def add(a, b):\n    raise NotImplementedError\n"),
    "mistake after it": fenced(GOOD) + "A common mistake is to subtract:\n" + fenced(BAD),
    "mistake in a comment": fenced(GOOD) + fenced("# Wrong\n" + BAD),
    "mistake before it": "Don't do this:\n" + fenced(BAD) + "Do this:\n" + fenced(GOOD),
    "what fails": fenced(GOOD) + "Note that this version fails for negative numbers:\n" + fenced(BAD),
    "corrected": "My first try was:\n" + fenced(BAD) + "That was a mistake. Here is the corrected version:\n" + fenced(GOOD),
    "fixed bug": "The bug is the sign.\n" + fenced(BAD) + "Fixed the bug:\n" + fenced(GOOD),
    "two versions": fenced(BAD) + "On reflection:\n" + fenced(GOOD),
    "alternative": fenced(GOOD) + "Or shorter:\n" + fenced("add = lambda a, b: a + b\n"),
    "helper before": "First a helper:\n" + fenced(HELPER) + "Then:\n" + fenced(USES),
    "helper after": fenced(USES) + fenced(HELPER + USES),
    "helper of a helper": fenced("def one(x):\n    return x\n") + fenced("def plus(a, b):\n    return one(a) + one(b)\n")
    + fenced(USES),
    "imports before": fenced("import operator\n") + fenced("def add(a, b):\n    return operator.add(a, b)\n"),
    "from-imports before": fenced("from operator import add as plus\n") + fenced(USES),
    "constants before": fenced("ZERO = 0\n") + fenced("def add(a, b):\n    return a + b + ZERO\n"),
    "helper class before": fenced("class N:\n    def __init__(self, v):\n        self.v = v\n")
    + fenced("def add(a, b):\n    return N(a + b).v\n"),
    "guarded import before": fenced("try:\n    import operator\nexcept ImportError:\n    pass\n")
    + fenced("def add(a, b):\n    return operator.add(a, b)\n"),
    "untagged helper": fenced(HELPER, "") + fenced(USES),
    "list bullet": f"- ```python\n  {GOOD.strip().replace(chr(10), chr(10) + '  ')}\n  ```\n",
    "numbered list": "1. Write it:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n2. Done.",
    "number before the fence": "1. ```python\n   def add(a, b):\n       return a + b\n   ```",
    "quotation": "> ```python\n> def add(a, b):\n>     return a + b\n> ```\n",
    "indented": "    ```python\n    def add(a, b):\n        return a + b\n    ```\n",
    "closed think": f"<think>\n{fenced(BAD)}</think>\n{fenced(GOOD)}",
    "think without opening": f"{fenced(BAD)}</think>\n{fenced(GOOD)}",
    "program before an open think": f"{fenced(GOOD)}<think>\nhm\n{fenced(BAD)}",
    "forgotten mark": f"<think>\nFirst try:\n{fenced(BAD)}No, the sign.\n{fenced(GOOD)}",
    "forgotten mark, helper before": f"<think>\nhm\n{fenced(HELPER)}and\n{fenced(USES)}\n\n",
    "forgotten mark, untagged": f"[THINK]Let me see.\n{fenced(GOOD, '')}",
    "fence in a docstring": '```python\ndef add(a, b):\n    """Adds.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n```\n',
    "tagged fence in a docstring": "```python\ndef add(a, b):\n    '''Adds.\n    ```python\n    add(1, 2)\n    ```\n    '''\n"
    "    return a + b\n```\n",
    "in a markdown block": f"````markdown\n# Solution\n{fenced(GOOD)}````\n",
    "in a markdown block of three": f"```markdown\n# Solution\n{fenced(GOOD)}```\n",
    "doctests": fenced('def add(a, b):\n    """\n    >>> add(1, 2)\n    3\n    """\n    return a + b\n'),
    "main guard": fenced(GOOD + "\nif __name__ == '__main__':\n    print(add(1, 2))\n"),
    "tagged before untagged": fenced(GOOD) + fenced(BAD, ""),
    "cut off after it": fenced(GOOD) + "Also:\n```python\ndef add(a, b):\n    ret",
    "class of its own": fenced("class add:\n    def __new__(cls, a, b):\n        return a + b\n"),
    "emoji heading": f"### ✅ Solution\n{fenced(GOOD)}### 🔍 Explanation\nIt adds.",
    "bold mistake": fenced(GOOD) + "**Common pitfall** \u2013 the wrong operator:\n" + fenced(BAD),
    "table after it": fenced(GOOD) + "| a | b |\n|---|---|\n| 1 | 2 |\n" + fenced("add(1, 2) -> 3\n", ""),
    "bad escape": fenced("PATTERN = '\\d'\n" + GOOD),
    "inputs and outputs": "Input:\n" + fenced("1 2\n", "") + "Output:\n" + fenced("3\n", "") + fenced(GOOD),
    # More styles, written by other authors.
    'heading per step': '### Step 1\n' + fenced('x = 1\n') + '### Final code\n' + fenced(GOOD),
    'approach 1 and 2 (2 better)': '**Approach 1: brute force**\n' + fenced('def add(a, b):\n    for _ in range(b): a += 1\n    return a\n') + '**Approach 2: optimal**\n' + fenced(GOOD),
    'corrected after': fenced(BAD) + 'Wait, that is wrong. Here is the corrected version:\n' + fenced(GOOD),
    'diff': fenced(GOOD) + 'Diff:\n' + fenced('-def add(a, b):\n+def add(a, b):\n', 'diff'),
    'tests after': fenced(GOOD) + 'Tests:\n' + fenced('import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(add(1, 2), 3)\nunittest.main()\n'),
    'pytest after': fenced(GOOD) + fenced('from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n'),
    'doctest session': fenced(GOOD) + fenced('>>> add(1, 2)\n3\n'),
    'pycon': fenced(GOOD) + fenced('>>> add(1, 2)\n3\n', 'pycon'),
    'console': fenced('$ python solution.py\n3\n', 'console') + fenced(GOOD),
    'bash install first': fenced('pip install numpy\n', 'bash') + fenced(GOOD),
    'python3 tag': fenced(GOOD, 'python3'),
    'Python tag': fenced(GOOD, 'Python'),
    'PYTHON': fenced(GOOD, 'PYTHON'),
    'py tag': fenced(GOOD, 'py'),
    'python title': fenced(GOOD, 'python title="solution.py"'),
    'python braces': fenced(GOOD, '{.python}'),
    'python linenos': fenced(GOOD, 'python {linenos=true}'),
    'python:solution.py': fenced(GOOD, 'python:solution.py'),
    'sage? ipython': fenced(GOOD, 'ipython3'),
    'indented fence': '1. Code:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n',
    'solution tags': '<solution>\n' + fenced(GOOD) + '</solution>',
    'answer tags': '<answer>\n' + fenced(GOOD) + '</answer>',
    'think then code': '<think>\n' + fenced(BAD) + '</think>\n' + fenced(GOOD),
    'thinking tags': '<thinking>\n' + fenced(BAD) + '</thinking>\n' + fenced(GOOD),
    'reasoning unclosed with code': '<think>\nLet me see.\n' + fenced(BAD) + 'No.\n' + fenced(GOOD),
    'helper in another block': fenced('def helper(a, b):\n    return a + b\n') + 'Then:\n' + fenced('def add(a, b):\n    return helper(a, b)\n'),
    'imports in another block': fenced('import operator\n') + fenced('def add(a, b):\n    return operator.add(a, b)\n'),
    'class in another block': fenced('class P:\n    def __init__(self, v): self.v = v\n') + fenced('def add(a, b):\n    return P(a).v + P(b).v\n'),
    'constant': fenced('ZERO = 0\n') + fenced('def add(a, b):\n    return a + b + ZERO\n'),
    'stub after': fenced(GOOD) + 'Template:\n' + fenced('def add(a, b):\n    # your code here\n    pass\n'),
    'stub after ellipsis': fenced(GOOD) + fenced('def add(a, b):\n    ...\n'),
    'naive after': fenced(GOOD) + 'A common mistake is:\n' + fenced(BAD),
    'wrong after: do not': fenced(GOOD) + 'Do not do this:\n' + fenced(BAD),
    'incorrect after': fenced(GOOD) + 'The following is incorrect because it subtracts:\n' + fenced(BAD),
    'bad example comment': fenced(GOOD) + fenced('# WRONG\n' + BAD),
    'alternative after': fenced(GOOD) + 'Alternatively, a one-liner:\n' + fenced('add = lambda a, b: a + b\n'),
    'usage in same block': fenced(GOOD + '\nprint(add(1, 2))\n'),
    'complexity text between': fenced(GOOD) + 'Time: `O(1)`\nSpace: `O(1)`\n',
    'inline code before': 'Use `add(a, b)`:\n' + fenced(GOOD),
    'json after': fenced(GOOD) + fenced('{"a": 1}\n', 'json'),
    'output block text': fenced(GOOD) + 'Output:\n' + fenced('5\n', 'text'),
    'untagged output': fenced(GOOD) + 'Output:\n' + fenced('5\n', ''),
    'untagged code': fenced(GOOD, ''),
    'untagged output first': fenced('add(1, 2) = 3\n', '') + fenced(GOOD),
    'async variant after': fenced(GOOD) + 'Async:\n' + fenced('async def add_async(a, b):\n    return a + b\n'),
    'decorated': fenced('import functools\n@functools.lru_cache\n' + GOOD),
    'class Solution': fenced('class Solution:\n    def add(self, a, b):\n        return a + b\n\nadd = Solution().add\n'),
    'tabs': fenced(GOOD.replace('    ', '\t')),
    'smart text after fence': '```python\n' + GOOD + '```Hope this helps!',
    'table cell': '| code |\n|---|\n' + fenced(GOOD),
    'gpt-oss channels': '<|channel|>analysis<|message|>' + fenced(BAD) + '<|end|><|start|>assistant<|channel|>final<|message|>' + fenced(GOOD),
    'im_end': fenced(GOOD) + '<|im_end|>',
    'eos': fenced(GOOD) + '</s>',
    'latex boxed': '$$\\boxed{a+b}$$\n' + fenced(GOOD),
    'java first': fenced('int add(int a, int b) { return a + b; }\n', 'java') + 'In Python:\n' + fenced(GOOD),
    'two languages last js': fenced(GOOD) + 'In JavaScript:\n' + fenced('const add = (a, b) => a - b;\n', 'javascript'),
    'nested list usage': fenced(GOOD) + '1. Usage\n   ```python\n   add(1, 2)\n   ```\n',
    'refactor into same': fenced(BAD) + 'Oops. `-` should be `+`:\n' + fenced(GOOD) + 'Now it works.',
    'original quoted first': 'The given code:\n' + fenced(BAD) + 'Fixed:\n' + fenced(GOOD),
    'original quoted last': fenced(GOOD) + 'For reference, your original code was:\n' + fenced(BAD),
    'the buggy version': fenced(GOOD) + 'Compare the buggy version:\n' + fenced(BAD),
    'before after': '**Before:**\n' + fenced(BAD) + '**After:**\n' + fenced(GOOD),
}  # fmt: skip
NONE = {
    "no block": GOOD,
    "cut off": f"```python\n{GOOD}",
    "HTML": '<pre><code class="language-python">def add(a, b):\n    return a + b\n</code></pre>',
    "no line of its own": "Here:```python\n" + GOOD + "```",
    "another language": fenced("int add;\n", "cpp"),
    "all in an open think": f"<think>Let me try\n{fenced(GOOD)}But what if a is negative?",
    "an open think that ends with a usage": f"<think>Let me try\n{fenced(GOOD)}{fenced('add(1, 2)' + chr(10))}",
    "an open think that ends with a stub": f"<think>Let me try\n{fenced('def add(a, b):' + chr(10) + '    pass' + chr(10))}",
    "an open think that is cut off": f"<think>Let me try\n{fenced(GOOD)}and\n```python\n{GOOD}",
    "all in a think": f"<think>{fenced(GOOD)}</think>The answer is above.",
    "empty block": "```python\n```",
    "empty": "",
}


@pytest.mark.parametrize("style", RIGHT)
def test_the_solution_is_found(style):
    score = score_code(RIGHT[style], TESTS, Limits(cpu_s=10.0))
    assert score.verdict == "correct", program_in(RIGHT[style], ["add"])


@pytest.mark.parametrize("style", NONE)
def test_there_is_none(style):
    assert score_code(NONE[style], TESTS).verdict == "no_answer"


def test_there_are_enough_styles():
    assert len(RIGHT) + len(NONE) >= 60


READS = "a, b = map(int, input().split())\nprint(a + b)\n"
SCRIPTS = {
    "plain": fenced(READS),
    "sample output after it": fenced(READS) + "For `1 2` it prints:\n" + fenced("3\n", ""),
    "sample input untagged": fenced("1 2\n", "") + fenced(READS),
    "example of use": fenced(READS) + "You could also write:\n" + fenced("print(sum([1, 2]))\n"),
    "function and main": fenced(GOOD) + "and then:\n" + fenced("a, b = map(int, input().split())\nprint(add(a, b))\n"),
    "forgotten mark": f"<think>\nRead, add, print.\n{fenced(READS)}",
    "mistake": fenced(READS) + "A wrong version:\n" + fenced("print(input())\n"),
    "main guard": fenced("def main():\n    print(sum(map(int, input().split())))\n\nif __name__ == '__main__':\n    main()\n"),
    "stdin": fenced("import sys\nprint(sum(map(int, sys.stdin.read().split())))\n") + fenced("echo 1 2 | python a.py\n", "sh"),
}  # fmt: skip


@pytest.mark.parametrize("style", SCRIPTS)
def test_whole_programs(style):
    tests = ScriptTests((("1 2\n", "3\n"),), (("5 6\n", "11\n"),))
    assert score_code(SCRIPTS[style], tests, Limits(cpu_s=10.0)).verdict == "correct", program_in(SCRIPTS[style])


def test_blocks_know_their_language():
    text = "```python\na\n```\n```text\nb\n```\n```\nc\n```\n```python\nd"
    assert [(block.language, block.text) for block in code_blocks(text)] == [
        ("python", "a\n"),
        ("text", "b\n"),
        ("", "c\n"),
    ]


@pytest.mark.parametrize(
    "piece", ["```python\n", "```a\n", "```\n", "~~~\n", '"""\n```\n', "- ```py\n", "````\n```\n", "<think>"]
)
def test_a_flood_of_fences_cost_no_more_than_reading_them(piece):
    started = time.process_time()
    program_in(piece * 30_000, ["add"])
    assert time.process_time() - started < 5.0
