"""Code task sets: every solution passes, every stub fails, and no part of a hidden test gets into an observation."""

import ast
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

import envs
from envs import Split, StopReason
from envs.splits import normalise_question
from rewards import Verdict
from rewards.program import program_in
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data"
SIZES = {"humaneval": 164, "mbpp": 974}


def make(name, **options):
    if name in SIZES:
        folder = DATA / name
        if not folder.exists():
            pytest.skip(f"{name} is not at {folder}")
        options |= {"path": str(folder), "timeout_s": 60.0}  # one of MBPP's solutions takes 2 s on a fast machine
    return envs.make(f"errata/{name}-v1", options=options, feedback="execution", split="test")


def all_tasks(env):
    return [task for split in Split for task in env.taskset.load(split)]


def stub(program):
    """The program with every function's body replaced by ``return None``."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Return(ast.Constant(None))]
    return f"```python\n{ast.unparse(ast.fix_missing_locations(tree))}\n```"


def verdicts(env, tasks, respond):
    with ThreadPoolExecutor(4) as threads:
        scores = list(threads.map(lambda task: env.taskset.verify(task, respond(task)), tasks))
    return {task.id: score for task, score in zip(tasks, scores, strict=True)}


@pytest.mark.parametrize("name", ["humaneval", pytest.param("mbpp", marks=pytest.mark.slow), "tinycode"])
def test_every_solution_passes_and_every_stub_fails(name):
    env = make(name)
    tasks = all_tasks(env)
    right = verdicts(env, tasks, env.taskset.gold_response)
    assert not {key: score for key, score in right.items() if score.verdict is not Verdict.CORRECT}
    stubs = verdicts(env, tasks, lambda task: stub(task.gold))
    assert not {key: score for key, score in stubs.items() if score.value > 0}


@pytest.mark.slow
def test_all_974_tasks_of_mbpp_can_be_judged():
    """Every solution passes and every stub fails, also for the tasks in no split (prompt examples, duplicates)."""
    make("mbpp")
    from envs.rows import read_rows
    from envs.tasks.mbpp import tests_of
    from rewards.code import score_program
    from rewards.sandbox import Limits

    rows = read_rows(str(DATA / "mbpp"), ("mbpp.jsonl",), ("code",), "")
    assert len(rows) == SIZES["mbpp"]
    programs = [row["code"].replace("\r\n", "\n") for row in rows]
    with ThreadPoolExecutor(4) as threads:
        scores = threads.map(
            lambda row, code: score_program(code, tests_of(row, code, 1), Limits(cpu_s=60)), rows, programs
        )
        assert all(score.verdict is Verdict.CORRECT for score in scores)
        stubs = [program_in(stub(code)) or "" for code in programs]
        scores = threads.map(
            lambda row, code, stubbed: score_program(stubbed, tests_of(row, code, 1), Limits(cpu_s=60)),
            rows,
            programs,
            stubs,
        )
        assert not any(score.value for score in scores)


def test_mbpp_splits_are_the_papers_less_what_they_share():
    env = make("mbpp")
    sizes = {split: len(env.taskset.load(split)) for split in Split}
    assert sizes[Split.TEST] == 500
    assert sizes[Split.VALIDATION] == 90
    assert 365 <= sizes[Split.TRAIN] <= 374
    texts = {
        split: {normalise_question(task.question.partition("\nYour code")[0]) for task in env.taskset.load(split)}
        for split in Split
    }
    assert not texts[Split.TRAIN] & texts[Split.TEST]


def test_humaneval_is_for_testing_only():
    env = make("humaneval")
    assert env.taskset.load(Split.TRAIN) == []
    training = envs.make("errata/humaneval-v1", options={"path": str(DATA / "humaneval")}, split="train")
    with pytest.raises(ValueError, match="no tasks in split 'train'"):
        training.reset(seed=0)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"env\.options\.path=.*openai/human-eval"):
        envs.make("errata/humaneval-v1", options={"path": str(tmp_path)}, split="test").reset(seed=0)


def test_a_broken_file_names_the_line(tmp_path):
    (tmp_path / "mbpp.jsonl").write_text('{"task_id": 11}\n')
    with pytest.raises(ValueError, match="line 1: column 'text' is missing"):
        envs.make("errata/mbpp-v1", options={"path": str(tmp_path)}).reset(seed=0)
    (tmp_path / "mbpp.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="line 1: no JSON"):
        envs.make("errata/mbpp-v1", options={"path": str(tmp_path)}).reset(seed=0)


LEAKS = {
    "prints": "def f(xs):\n    print('SAW', xs)\n    return xs\n",
    "raises": "def f(xs):\n    raise ValueError(f'SAW {xs}')\n",
    "returns": "def f(xs):\n    return f'SAW {xs}'\n",
    "remembers": "seen = []\ndef f(xs):\n    seen.append(xs)\n    print('SAW', seen)\n    raise ValueError(seen)\n",
    "prints at exit": "import atexit\nseen = []\natexit.register(lambda: print('SAW', seen))\ndef f(xs):\n"
    "    seen.append(xs)\n    return 0\n",
    "prints from a thread": "import threading, time\nseen = []\ndef g():\n    while True:\n"
    "        print('SAW', seen, flush=True)\n        time.sleep(0.001)\n"
    "threading.Thread(target=g, daemon=True).start()\ndef f(xs):\n    seen.append(xs)\n    return 0\n",
    "writes to every descriptor": "import os\ndef f(xs):\n    for d in (0, 1, 2):\n        try:\n"
    "            os.write(d, f'SAW {xs}'.encode())\n        except OSError:\n            pass\n    return 0\n",
    "dies": "import os\ndef f(xs):\n    print('SAW', xs, flush=True)\n    if len(xs) == 0: os._exit(1)\n    return 0\n",
    "hangs": "def f(xs):\n    print('SAW', xs, flush=True)\n    while len(xs) == 0: pass\n    return 0\n",
    "changes its class name": "def f(xs):\n    raise type(f'SAW{xs}', (Exception,), {})()\n",
}


@pytest.mark.parametrize("name", LEAKS)
def test_what_a_program_sees_of_hidden_tests_is_not_in_the_observation(name):
    env = make("tinycode", n_train=5, n_validation=5, n_test=5, timeout_s=1.0)
    env.reset(options={"task": env.tasks[0]})
    tests = env.task.info["tests"]
    messages, reward, *_ = env.step(f"```python\n{LEAKS[name]}```")
    assert reward == 0.0
    text = messages[0].content
    assert "Your code was run" in text
    for case in tests.hidden:
        assert not case.args[0] or str(case.args[0]) not in text
    shown = [str(case.args[0]) for case in tests.public]
    # A program may print the inputs of public tests, which the question shows anyway.
    assert "SAW" not in text or "SAW []" in text or any(each in text for each in shown)


def test_a_public_failure_is_described():
    env = make("tinycode", n_train=5, n_validation=5, n_test=5)
    env.reset(options={"task": env.tasks[0]})
    case = env.task.info["tests"].public[0]
    messages, *_ = env.step("```python\ndef f(xs):\n    return 'no'\n```")
    assert f"Input: f({case.args[0]!r})" in messages[0].content
    assert f"Expected: {case.expected!r}" in messages[0].content
    assert "Got: 'no'" in messages[0].content


def test_right_and_wrong_get_the_same_words_when_public_tests_pass():
    """The feedback after a right program equals the feedback after one that passes only the shown tests.

    A difference would reveal the results of the hidden tests to the policy.
    """
    env = make("tinycode", n_train=5, n_validation=5, n_test=5)
    env.reset(options={"task": env.tasks[0]})
    public = {repr(case.args[0]): case.expected for case in env.task.info["tests"].public}
    cheat = f"```python\ndef f(xs):\n    return {public!r}.get(repr(xs))\n```"
    after_cheat, reward, *_ = env.step(cheat)
    assert reward == 0.0
    env.reset(options={"task": env.tasks[0]})
    after_right, reward, *_ = env.step(env.taskset.gold_response(env.task))
    assert reward == 1.0
    assert after_cheat == after_right


def test_execution_feedback_needs_a_task_set_that_runs_programs():
    with pytest.raises(ValueError, match="ModChain runs no programs"):
        envs.make("errata/modchain-v1", feedback="execution")
    with pytest.raises(ValueError, match="have no text for it"):
        envs.make("errata/tinycode-v1", feedback="execution", prompts="short-v1")


def test_a_machine_that_cannot_isolate_is_known_before_anything_is_sampled(monkeypatch):
    from envs.tasks import code
    from rewards.sandbox import SandboxError

    def refuse(options):
        raise SandboxError("nothing here")

    monkeypatch.setattr(code, "get_sandbox", refuse)
    with pytest.raises(SandboxError):
        make("tinycode", n_train=5, n_validation=5, n_test=5).reset(seed=0)


def test_a_broken_sandbox_truncates_the_episode(monkeypatch):
    from envs.tasks import code
    from rewards.sandbox import Ending, Outcome

    class Broken:
        def run(self, job, limits):
            return Outcome(Ending.BROKEN, detail="the fork server is gone")

    monkeypatch.setattr(code, "get_sandbox", lambda options: Broken())
    env = make("tinycode", n_train=5, n_validation=5, n_test=5)
    env.reset(options={"task": env.tasks[0]})
    *_, truncated, info = env.step(env.taskset.gold_response(env.task))
    assert truncated
    assert info["stop_reason"] is StopReason.ENV_ERROR
    assert "fork server" in info["error"]


@pytest.mark.parametrize(("option", "value"), [("isolation", "docker"), ("timeout_s", 0)])
def test_bad_options_name_themselves(option, value):
    with pytest.raises(ValueError, match=f"env.options.{option}={value}"):
        envs.make("errata/tinycode-v1", options={option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_mb": 1}, "memory_mb=1"), ({"total_s": -1}, "total_s=-1"), ({"workerz": 2}, "did you mean 'workers'"),
        ({"backend": "docker"}, "backend=docker: unknown"),
    ],
)  # fmt: skip
def test_bad_options_of_the_sandbox_name_themselves(options, message):
    with pytest.raises(ValueError, match=message):
        envs.make("errata/tinycode-v1", options={"sandbox": options}).reset(seed=0)


def test_options_of_the_sandbox_reach_it():
    options = {"sandbox": {"workers": 1, "memory_mb": 300, "modules": ["numpy"], "output_kb": 1}, "n_train": 5}
    pytest.importorskip("numpy")
    env = envs.make("errata/tinycode-v1", options=options, feedback="execution")
    env.reset(options={"task": env.tasks[0]})
    messages, *_ = env.step(
        "```python\nimport numpy\nprint('x' * 5000)\ndef f(xs):\n    return numpy.arange(3).tolist()\n```"
    )
    assert messages[0].content.count("x") < 1200
    assert "Got: [0, 1, 2]" in messages[0].content or "All 2 shown" in messages[0].content


def test_tinycode_splits_share_no_behaviour_and_no_step_is_idle():
    env = make("tinycode", n_train=300, n_validation=50, n_test=100)
    rng = random.Random(0)
    inputs = [[rng.randint(-9, 12) for _ in range(rng.randint(0, 9))] for _ in range(200)]

    def behaviour(task):
        namespace = {}
        exec(task.gold, namespace)
        return repr([namespace["f"](list(xs)) for xs in inputs])

    seen = {split: {behaviour(task) for task in env.taskset.load(split)} for split in Split}
    assert not seen[Split.TRAIN] & seen[Split.TEST]
    assert not seen[Split.TRAIN] & seen[Split.VALIDATION]
    assert not seen[Split.TEST] & seen[Split.VALIDATION]


def test_humaneval_needs_only_the_function():
    """A response without the imports and helpers of the prompt passes, as in the official harness."""
    env = make("humaneval")

    def function_alone(task):
        nodes = [node for node in ast.parse(task.gold).body if getattr(node, "name", "") == task.info["entry_point"]]
        return f"```python\n{ast.unparse(ast.Module(nodes, []))}\n```"

    scores = verdicts(env, env.taskset.load(Split.TEST), function_alone)
    assert not {key: score for key, score in scores.items() if score.verdict is not Verdict.CORRECT}
