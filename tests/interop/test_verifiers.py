"""Our environments run in the real verifiers package and its task sets run here, with equal scores for a response."""

import asyncio
import sys
from types import SimpleNamespace

import pytest

import envs
from envs import Split
from envs.for_verifiers import to_verifiers
from rewards import Verdict
from tests.conftest import ROOT
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "interop.md"
pytestmark = pytest.mark.interop

PACKAGE = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    answer: str

class Sum(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.25)
    async def short(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 5 and trace.last_reply != self.data.answer)

class Config(vf.TasksetConfig):
    n: int = 40

class Sums(vf.Taskset[Sum, Config]):
    def load(self):
        for i in range(self.config.n):
            yield Sum(Data(id=str(i), prompt=f"{i} + 1?", answer=str(i + 1)), self.config.task)

__all__ = ["Sums"]
"""


@pytest.fixture(scope="module")
def vf():
    return pytest.importorskip("verifiers.v1")


@pytest.fixture(scope="module")
def ours():
    return envs.make("errata/modchain-v1", options={"n_train": 12}, attempts=2)


def traced(vf, task, *texts):
    """The scored trace of a rollout in which the model gives these texts, one per turn."""
    nodes = [vf.MessageNode(message=vf.UserMessage(content=task.data.prompt_text))]
    for text in texts:
        nodes.append(vf.MessageNode(parent=len(nodes) - 1, message=vf.AssistantMessage(content=text), sampled=True))
        nodes.append(vf.MessageNode(parent=len(nodes) - 1, message=vf.UserMessage(content="check")))
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=nodes[:-1],
    )
    asyncio.run(task.score(trace))
    return trace


def replies(task):
    return f": {task.gold}", f": {(int(task.gold) + 1) % 10}", "nothing"


def test_a_trace_is_paid_what_our_verifier_pays(vf, ours):
    questions, _ = to_verifiers(ours)
    taskset = questions(vf.TasksetConfig(id="ours"))
    by_id = {task.id: task for task in ours.tasks}
    found = list(taskset)
    assert [task.key for task in found] == list(by_id)
    for question in found:
        task = by_id[question.data.id]
        assert question.data.prompt == task.question
        for first in replies(task):
            for second in replies(task):
                trace = traced(vf, question, first, second)
                wanted = [ours.taskset.verify(task, text).value for text in (first, second)]
                assert trace.reward == sum(wanted)
                assert [trace.metrics["attempt_1"], trace.metrics["attempt_2"]] == wanted
    assert taskset.shuffle(0).take(3).bounded


def test_its_environment_plays_every_attempt_with_our_requests(vf, ours):
    questions, attempts = to_verifiers(ours)
    question = next(iter(questions(vf.TasksetConfig(id="ours"))))
    heard = []

    class Talk:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            pass

        async def turn(self, text=None):
            heard.append(text)
            said = vf.AssistantMessage(content=f": {len(heard)}")
            return SimpleNamespace(messages=[said], terminated=False)

    agents = SimpleNamespace(agent=SimpleNamespace(interaction=lambda task: Talk()))
    asyncio.run(attempts.run(SimpleNamespace(), question, agents))
    assert heard == [None, "check"]
    assert issubclass(attempts, vf.Env)


@pytest.fixture(scope="module")
def theirs(vf, tmp_path_factory):
    place = tmp_path_factory.mktemp("package")
    (place / "sums_for_tests.py").write_text(PACKAGE)
    sys.path.insert(0, str(place))
    yield envs.make("errata/verifiers-v1", options={"name": "sums-for-tests", "settings": {"n": 30}}, attempts=1)
    sys.path.remove(str(place))


def test_a_task_set_of_theirs_is_paid_what_its_own_rewards_are(vf, theirs):
    from sums_for_tests import Config, Sums

    own = {f"sums-for-tests/{task.data.id}": task for task in Sums(Config(id="sums_for_tests", n=30))}
    taskset = theirs.taskset
    tasks = [task for split in Split for task in taskset.load(split)]
    assert len(tasks) == len(own) == 30
    for task in tasks:
        assert task.gold == own[task.id].data.answer
        for text in (task.gold, "1234", "something longer", ""):
            score = taskset.verify(task, text)
            assert score.value == traced(vf, own[task.id], text).reward
            assert (score.verdict is Verdict.CORRECT) == (text == task.gold)
    messages, _ = theirs.reset(options={"task": tasks[0]})
    assert messages[-1].content == tasks[0].question
    assert theirs.step(tasks[0].gold)[1] == 1.0


def test_what_counts_as_right_is_worth_one(vf, theirs):
    lenient = envs.make(
        "errata/verifiers-v1", options={"name": "sums-for-tests", "settings": {"n": 30}, "right": 0.25}, attempts=1
    ).taskset
    for task in lenient.load(Split.TRAIN):
        for text, value in ((task.gold, 1.0), ("1234", 1.0), ("something longer", 0.0)):
            score = lenient.verify(task, text)
            assert (score.value, score.verdict is Verdict.CORRECT) == (value, value == 1.0)
        assert theirs.taskset.verify(task, "1234").value == 0.25


def test_the_package_of_the_page_is_one_of_verifiers(vf, tmp_path, monkeypatch):
    from verifiers.v1.utils.loaders import environment_class, taskset_class

    (tmp_path / "ours.py").write_text(next(code for code in blocks(PAGE, "python") if "__all__" in code))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(list(taskset_class("ours")(vf.TasksetConfig(id="ours")))) == 16
    assert environment_class("ours").__name__ == "Attempts"


def test_what_is_not_there_is_refused(vf):
    with pytest.raises(ImportError, match=r"env\.options\.name=gone_for_good"):
        envs.make("errata/verifiers-v1", options={"name": "gone_for_good"})
    with pytest.raises(ValueError, match=r"env\.options\.name is missing"):
        envs.make("errata/verifiers-v1")
