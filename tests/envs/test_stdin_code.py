"""Task sets of whole programs: small files in each published format, and the generated task set."""

import base64
import json
import pickle
import zlib

import pytest

import envs
from envs import Split
from rewards import Verdict
from rewards.code import ScriptTests
from rewards.sandbox.codec import Structure

ECHO = "a, b = map(int, input().split())\nprint(a + b)\n"
METHOD = "class Solution:\n    def add(self, a, b):\n        return a + b\n"


def write(folder, name, *rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def taskset(form, folder, **options):
    return envs.make("errata/stdin_code-v1", options={"format": form, "path": str(folder), **options}).taskset


def grade(tasks, task, program):
    return tasks.verify(task, f"```python\n{program}\n```").verdict


def apps(**changes):
    tests = {"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]}
    row = {
        "problem_id": 7, "question": "Add two numbers.\nInput\n1 2\nOutput\n3\n", "solutions": json.dumps(["print(0)", ECHO]),
        "input_output": json.dumps(tests), "difficulty": "introductory", "url": "", "starter_code": "",
    }  # fmt: skip
    return row | changes


@pytest.mark.parametrize("form", ["apps", "taco"])
def test_apps_and_taco(form, tmp_path):
    functional = {"fn_name": "add", "inputs": [[1, 2], [5, 6]], "outputs": [[3], [11]]}
    write(
        tmp_path, "test.jsonl", apps(),
        apps(problem_id=8, question="Call it.", input_output=json.dumps(functional), difficulty="interview",
             starter_code="class Solution:\n    def add(self, a: int, b: int) -> int:\n        ", solutions=json.dumps([METHOD])),
        apps(problem_id=9, question="No tests.", input_output=""),
        apps(problem_id=10, question="Lines.", input_output=json.dumps({"inputs": [["1 2", "3"]], "outputs": [["3"]]})),
    )  # fmt: skip
    tasks = taskset(form, tmp_path)
    script, function, lines = tasks.load(Split.TEST)
    assert script.info["tests"].public == (("1 2\n", "3\n"),)
    assert script.info["tests"].hidden == (("5 6\n", "11\n"),)
    assert lines.info["tests"].hidden == (("1 2\n3", "3"),)
    assert grade(tasks, script, ECHO) == "correct"
    assert grade(tasks, script, "print(3)") == "wrong"
    assert grade(tasks, function, METHOD) == "correct"
    assert grade(tasks, function, METHOD.replace("+", "-")) == "wrong"
    assert "class Solution" in function.question
    assert [task.info["difficulty"] for task in taskset(form, tmp_path, difficulty=["Interview"]).load(Split.TEST)] == [
        "interview"
    ]


def test_tests_that_no_solution_passes_are_an_error(tmp_path):
    write(tmp_path, "test.jsonl", apps(solutions=json.dumps(["print(1)"])))
    tasks = taskset("apps", tmp_path)
    (task,) = tasks.load(Split.TEST)
    assert grade(tasks, task, "print(2)") == "error"
    assert grade(tasks, task, ECHO) == "correct"


def test_training_problems_are_split_and_share_nothing_with_the_test_split(tmp_path):
    write(tmp_path, "train.jsonl", *(apps(question=f"Problem {i}") for i in range(60)))
    write(tmp_path, "test.jsonl", apps(question="problem  3"), apps(question="Problem 99"))
    tasks = taskset("apps", tmp_path, validation=0.3)
    train, validation = (({task.question for task in tasks.load(split)}) for split in (Split.TRAIN, Split.VALIDATION))
    assert not train & validation
    assert len(train) + len(validation) == 59
    assert validation


def test_code_contests(tmp_path):
    row = {
        "name": "1_A. Sum", "description": "Add.", "difficulty": 7, "source": 2, "time_limit": {"seconds": 2, "nanos": 0},
        "public_tests": {"input": ["1 2\n"], "output": ["3\n"]}, "private_tests": {"input": ["5 6\n"], "output": ["11\n"]},
        "generated_tests": {"input": ["7 8\n"], "output": ["15\n"]},
        "solutions": {"language": [2, 3], "solution": ["int main", ECHO]},
    }  # fmt: skip
    for part in ("train", "valid", "test"):
        write(tmp_path, f"{part}.jsonl", row | {"description": f"Add, {part}."})
    tasks = taskset("code_contests", tmp_path, max_hidden=1, difficulty=["7"])
    for split in Split:
        (task,) = tasks.load(split)
        assert task.gold == ECHO
        assert task.info["tests"].hidden == (("5 6\n", "11\n"),)
        assert grade(tasks, task, ECHO) == "correct"


def lcb(tests, **changes):
    row = {
        "question_title": "t", "question_content": "Add.", "platform": "x", "question_id": "1", "contest_id": "c",
        "starter_code": "", "difficulty": "easy", "metadata": "{}", "public_test_cases": json.dumps(tests[:1]),
        "private_test_cases": json.dumps(tests[1:]),
    }  # fmt: skip
    return row | changes


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_live_code_bench(tmp_path):
    stdin = [
        {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
        {"input": "5 6", "output": "11", "testtype": "stdin"},
    ]
    calls = [{"input": "1\n[2]", "output": "[3]", "testtype": "functional"}] * 2
    trees = [{"input": "[1, null, 2]", "output": "[2, 1]", "testtype": "functional"}] * 2
    starter = "class Solution:\n    def f(self, root: Optional[TreeNode]) -> Optional[ListNode]:\n        "
    write(
        tmp_path, "test.jsonl",
        lcb(stdin, private_test_cases=packed(json.dumps(stdin[1:]))),
        lcb(calls, question_content="Call.", metadata='{"func_name": "add"}', starter_code="class Solution:\n    def add(self, a, b):\n        "),
        lcb(trees, question_content="Tree.", metadata='{"func_name": "f"}', starter_code=starter),
        lcb(stdin, question_content="Evil.", private_test_cases=packed(print)),
    )  # fmt: skip
    tasks = taskset("live_code_bench", tmp_path)
    script, function, tree = tasks.load(Split.TEST)
    assert tasks.load(Split.TRAIN) == []
    assert script.info["tests"].hidden == (("5 6", "11"),)
    assert grade(tasks, script, ECHO) == "correct"
    assert (
        grade(tasks, function, "class Solution:\n    def add(self, a: int, b: List[int]):\n        return (a + b[0],)")
        == "correct"
    )
    assert tree.info["tests"].hidden[0].args == (Structure("TreeNode", (1, None, 2)),)
    program = (
        "class Solution:\n    def f(self, root: Optional[TreeNode]) -> Optional[ListNode]:\n        head, q = None, deque([root])\n"
        "        while q:\n            n = q.popleft()\n            if n:\n                head = ListNode(n.val, head)\n"
        "                q += [n.left, n.right]\n        return head\n"
    )
    assert grade(tasks, tree, program) == "correct"
    assert grade(tasks, tree, program.replace("head, q = None", "head, q = ListNode(5)")) == "wrong"
    score = tasks.verify(tree, "```python\nclass Solution:\n    def f(self, root):\n        return root\n```")
    assert "Input: Solution().f(TreeNode([1, None, 2]))" in score.observation
    assert "Got: TreeNode([1, None, 2])" in score.observation


def test_comparisons_are_chosen_by_name(tmp_path):
    tests = {"inputs": ["1"], "outputs": ["0.3333333 12345678901234567890"]}
    write(tmp_path, "test.jsonl", apps(input_output=json.dumps(tests), solutions="[]"))
    program = "print(1 / 3)\nprint(12345678901234567890)"
    for compare, verdict in (("lines", "wrong"), ("exact", "wrong"), ("tokens", "wrong"), ("numbers", "correct")):
        tasks = taskset("apps", tmp_path, compare=compare)
        assert grade(tasks, tasks.load(Split.TEST)[0], program) == verdict
    tasks = taskset("apps", tmp_path, compare="numbers")
    assert grade(tasks, tasks.load(Split.TEST)[0], program.replace("7890", "7891")) == "wrong"
    with pytest.raises(ValueError, match="did you mean 'numbers'"):
        taskset("apps", tmp_path, compare="number")
    with pytest.raises(ValueError, match="absolut"):
        taskset("apps", tmp_path, compare="numbers", compare_options={"absolut": 1})
    with pytest.raises(ValueError, match="format=appz"):
        taskset("appz", tmp_path)


def test_the_generated_set_is_solved_by_its_programs_and_by_nothing_else():
    tasks = envs.make("errata/stdin_code-v1", options={"n_train": 30, "n_validation": 5, "n_test": 10}).taskset
    everything = {split: tasks.load(split) for split in Split}
    assert [len(each) for each in everything.values()] == [30, 5, 10]
    for task in everything[Split.TEST]:
        assert isinstance(task.info["tests"], ScriptTests)
        assert len({len(stdin) > 1000 for stdin, _ in task.info["tests"].hidden}) == 2
        assert tasks.verify(task, tasks.gold_response(task)).verdict is Verdict.CORRECT
        shown = dict(task.info["tests"].public)
        cheat = f"import sys\nprint({shown!r}.get(sys.stdin.read(), ''))"
        assert grade(tasks, task, cheat) == "wrong"
    default = envs.make("errata/stdin_code-v1").taskset
    assert sum(len(default.load(split)) for split in Split) == 200
