"""Conversations from other sources are verified here, learned from and evaluated; unusable lines are named."""

import json
from dataclasses import replace
from functools import partial

import pytest

import envs
from envs import Split
from experiments.arms import run_base, run_offline
from experiments.base_schema import WarmStartConfig
from experiments.evidence import load_rows
from experiments.schema import CompareConfig, TuneConfig
from rl.config import OfflineConfig, OptimConfig, RunConfig, SFTConfig, TrainConfig
from rl.recorded import read_conversations, replay
from tests.helpers import modchain_config

OPTIONS = {"n_train": 64, "n_validation": 10, "n_test": 20}


@pytest.fixture(scope="module")
def env():
    return envs.make("errata/modchain-v1", options=OPTIONS, prompts="toy-v1")


def said(task, *texts, **more):
    """A conversation from another framework, whose requests for another attempt differ from the environment's."""
    messages = [{"role": "user", "content": task.question}]
    for text in texts:
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "look again, please"}]
    return {"messages": messages[:-1], **more}


def right(task):
    return f": {task.gold}"


def wrong(task):
    return f": {(int(task.gold) + 1) % 10}"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_verdicts_are_computed_here_and_requests_are_ours(env, modchain, tmp_path):
    first, second = env.tasks[:2]
    rows = [
        said(first, wrong(first), right(first), reward=0.0),  # the file's own reward must not count
        said(second, right(second)),
        {"task_id": second.id, "messages": [{"role": "assistant", "content": "words that it has no token for"}]},
    ]
    found = read_conversations(write(tmp_path / "a.jsonl", rows), env, env.tasks)
    renderer = modchain[2]
    episodes = list(replay(found, lambda: envs.make("errata/modchain-v1", OPTIONS, prompts="toy-v1"), renderer, 64))
    assert [[turn.correct for turn in one.turns] for one in episodes] == [[False, True], [True], [False]]
    assert episodes[2].turns[0].score.verdict == "no_answer"
    assert [one.task_id for one in episodes] == [first.id, second.id, second.id]
    assert [one.group_id for one in episodes] == [0, 1, 1]
    _, request = episodes[0].turns
    assert renderer.tokenizer.decode(request.prompt_ids).count("check") == 1, (
        "not the file's request, the environment's"
    )
    assert {one.stop_reason.value for one in episodes} == {"attempts_used", "ended"}


def test_a_data_set_and_an_own_export_and_examples_before_the_question(env, tmp_path):
    import datasets

    task, other = env.tasks[:2]
    rows = [said(task, wrong(task), right(task)), said(other, right(other), wrong(other))]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert [one.task for one in read_conversations(str(tmp_path / "saved"), env, env.tasks)] == [task, other]
    shown = said(other, right(other))["messages"] + said(task, wrong(task), right(task))["messages"]
    marked = {"messages": shown, "task_id": task.id, "replies": [{"message": 3}]}
    examples, own = read_conversations(write(tmp_path / "b.jsonl", [{"messages": shown}, marked]), env, env.tasks)
    assert examples.texts == (wrong(task), right(task))
    assert own.texts == (wrong(task),)


def test_a_request_that_asks_the_question_again_begins_nothing_anew(env, tmp_path):
    task, other = env.tasks[:2]
    example = [{"role": "user", "content": other.question}, {"role": "assistant", "content": right(other)}]
    again = {"role": "user", "content": task.question}
    own = [{"role": "assistant", "content": text} for text in (wrong(task), right(task))]
    row = {"messages": [*example, again, own[0], again, own[1]], "task_id": task.id}
    (found,) = read_conversations(write(tmp_path / "a.jsonl", [row]), env, env.tasks)
    assert found.texts == (wrong(task), right(task))


def test_what_other_roles_said_is_no_attempt(env, tmp_path):
    task = env.tasks[0]
    rows = [
        said(task, right(task), role="verifier"),
        said(task, right(task), replies=[{"message": 0}]),
        said(task, right(task), replies="none"),
        said(task, right(task), task_id=["a list"]),
    ]
    with pytest.raises(ValueError, match="3 of 4 conversations cannot be used") as refused:
        read_conversations(write(tmp_path / "a.jsonl", rows), env, env.tasks)
    for words in (
        "was written by the role verifier, so it holds no attempt",
        "the assistant did not write",
        "must name messages by their index",
    ):
        assert words in str(refused.value)
    texts = {"verify": "check", "says_right": ":"}
    roles = envs.make("errata/modchain-v1", OPTIONS, between="verify", prompts_text=texts)
    with pytest.raises(ValueError, match=r"env\.between"):
        read_conversations(write(tmp_path / "b.jsonl", [said(task, right(task))]), roles, roles.tasks)


def test_lines_that_cannot_be_used_are_named(env, tmp_path):
    task = env.tasks[0]
    lines = [
        json.dumps(said(task, right(task))),
        '{"messages": [',
        json.dumps({"text": "a"}),
        json.dumps({"messages": [{"role": "tool", "content": "a"}]}),
        json.dumps({"messages": [{"role": "user", "content": "never asked"}]}),
        json.dumps({"messages": [{"role": "user", "content": task.question}]}),
    ]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="5 of 6 conversations cannot be used") as refused:
        read_conversations(str(path), env, env.tasks)
    told = {line.strip().partition(":")[0]: line for line in str(refused.value).splitlines()[1:]}
    wanted = {2: "no JSON", 3: "no column is called messages", 4: "message 1 must be", 5: "never asked", 6: "assistant"}
    assert {int(place.removeprefix("line ")) for place in told} == set(wanted)
    for line, words in wanted.items():
        assert words in told[f"line {line}"]
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_conversations(str(tmp_path / "gone"), env, env.tasks)


def test_a_task_id_that_asks_another_question_is_refused(env, tmp_path):
    task, other = env.tasks[:2]
    opening = env.reset(options={"task": task})[0][-1].content
    again = {"messages": [{"role": "assistant", "content": right(task)}], "task_id": task.id}
    fine = [
        said(task, right(task), task_id=task.id),
        said(task, right(task), task_id=task.id, question=f"  {task.question} "),
        {**again, "question": opening},
        {**again, "question": ""},
        {**again, "messages": [{"role": "user", "content": "asked in other words"}, *again["messages"]]},
    ]
    found = read_conversations(write(tmp_path / "a.jsonl", fine), env, env.tasks)
    assert [one.task for one in found] == [task] * len(fine)
    shifted = [
        said(task, right(task), task_id=other.id),
        said(task, right(task), task_id=other.id, question=task.question),
        {**again, "question": "What is 3 + 4?"},
        {**again, "question": task.question[:-2]},
        {**again, "question": f"{task.question}\n{task.question}"},
    ]
    with pytest.raises(ValueError, match="5 of 6 conversations cannot be used") as refused:
        read_conversations(write(tmp_path / "b.jsonl", [fine[0], *shifted]), env, env.tasks)
    assert str(refused.value).count("but it is about") == 5
    assert f"line 2: its task_id {other.id!r} asks {other.question!r}" in str(refused.value)


def test_choices_that_the_environment_adds_to_a_question_are_no_other_question(tmp_path):
    rows = [{"question": f"Which, {i}?", "choices": ["a", "b"], "answer": "A"} for i in range(20)]
    options = {"path": write(tmp_path / "my.jsonl", rows), "verify": "choice"}
    choices = envs.make("errata/rows-v1", options=options)
    row = {"messages": [{"role": "assistant", "content": "A"}], "task_id": choices.tasks[0].id}
    for n, line in enumerate(choices.tasks[0].question.splitlines()):
        assert n or read_conversations(write(tmp_path / "a.jsonl", [row | {"question": line}]), choices, choices.tasks)


def test_more_attempts_than_the_environment_allows_are_refused(env, tmp_path):
    task = env.tasks[0]
    rows = [said(task, right(task)), said(task, *[wrong(task)] * 3, right(task))]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"line 2: it holds 4 attempts, .*\.attempts=2; set env\.attempts=4"):
        read_conversations(path, env, env.tasks)
    longer = envs.make("errata/modchain-v1", OPTIONS, prompts="toy-v1", attempts=4)
    assert [len(one.texts) for one in read_conversations(path, longer, longer.tasks)] == [1, 4]


def exported(task, *texts, **more):
    """A conversation as this project exports it."""
    about = {"run": "arms/score/seed_0", "arm": "score", "seed": 0, "mode": "greedy", "failed": False}
    about |= {"stop_reason": "attempts_used", "replies": [{"message": 2 * i + 1} for i in range(len(texts))]}
    return said(task, *texts, task_id=task.id, question=task.question, **about | more)


@pytest.mark.parametrize(
    "other",
    [
        {"arm": "base"}, {"seed": 1}, {"mode": "sampled"}, {"mode": "training", "step": 3}, {"mode": "transfer/hard"},
        {"run": "again"}, {"replies": None},
    ],
)  # fmt: skip
def test_one_rate_mixes_no_runs_and_no_modes(env, tmp_path, other):
    first, second = env.tasks[:2]
    rows = [exported(first, wrong(first), right(first)), exported(second, wrong(second), right(second), **other)]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=r"one rate would mix.*(?s:\n.*)score, seed 0, greedy: 1 conversation"):
        read_conversations(path, env, env.tasks, one_origin=True)
    assert len(read_conversations(path, env, env.tasks)) == 2, "offline methods may learn from several runs"
    rows[1] = rows[0] | {"sample": 1, "step": None, "gold": first.gold}
    assert len(read_conversations(write(tmp_path / "b.jsonl", rows), env, env.tasks, one_origin=True)) == 2


def test_what_an_export_marks_as_failed_counts_in_no_rate(env, modchain, tmp_path):
    first, second = env.tasks[:2]
    rows = [
        exported(first, wrong(first), right(first)),
        exported(second, right(second), failed=True),
        exported(second, failed=True),
        exported(second, *[right(second)] * 5, failed=True),
        exported(second, wrong(second), wrong(second)),
        said(second, right(second), right(second), failed=True),  # another program's word for a wrong answer
    ]
    rows[2]["messages"] = [{"role": "user", "content": second.question}]
    found = read_conversations(write(tmp_path / "a.jsonl", rows), env, env.tasks)
    assert [one.failed for one in found] == [False, True, True, True, False, False]
    make = partial(envs.make, "errata/modchain-v1", OPTIONS, prompts="toy-v1")
    episodes = list(replay(found, make, modchain[2], 64))
    assert [one.failed for one in episodes] == [False, True, True, True, False, False]
    assert [one.task_id for one in episodes] == [first.id, *[second.id] * 5]
    assert [turn.correct for one in episodes for turn in one.turns] == [False, True, False, False, True, True]
    assert episodes[1].error == "the file marks this conversation as failed"
    only = write(tmp_path / "b.jsonl", rows[1:2])
    (episode,) = replay(read_conversations(only, env, env.tasks), make, modchain[2], 64)
    assert episode.failed


@pytest.mark.parametrize("given", [{}, {"task_id": None}, {"task_id": None, "question": None}])
def test_a_task_of_another_split_is_called_that(env, tmp_path, given):
    test = envs.make("errata/modchain-v1", options=OPTIONS, prompts="toy-v1", split="test")
    task, own = test.tasks[0], env.tasks[0]
    rows = [said(own, right(own)), exported(task, right(task)) | given, said(task, "1")]
    rows[1] = {name: value for name, value in rows[1].items() if value is not None}
    rows.append({"messages": [*test.reset(options={"task": task})[0], {"role": "assistant", "content": "1"}]})
    rows[-1]["messages"][:-1] = [{"role": one.role, "content": one.content} for one in rows[-1]["messages"][:-1]]
    with pytest.raises(ValueError, match="3 of 4 conversations cannot be used") as refused:
        read_conversations(write(tmp_path / "a.jsonl", rows), env, env.tasks)
    assert str(refused.value).count("about a task of the split test, and no task of that split is read here") == 3


def test_offline_methods_learn_from_them_and_evaluate_reads_them(tmp_path):
    base = modchain_config()
    train, test = (envs.make(base.env.id, options=OPTIONS, split=split).tasks for split in (Split.TRAIN, Split.TEST))
    learned = write(tmp_path / "train.jsonl", [said(task, wrong(task), right(task)) for task in train[:8]])
    judged = write(tmp_path / "test.jsonl", [said(task, wrong(task), right(task)) for task in test for _ in range(2)])
    shared = {name: getattr(base, name) for name in ("seed", "threads", "name", "model", "env")}
    evaluation = replace(base.evaluation, conversations=judged)
    offline = OfflineConfig(
        name="STaR", rule="star", conversations=learned, epochs=1, optim=OptimConfig(lr=1e-4, schedule="linear")
    )
    own = {"training": base.training, "offline": offline}
    cfg = SFTConfig(**shared, **own, evaluation=replace(base.evaluation, samples_per_task=0))
    (tmp_path / "sft").mkdir()
    result = run_offline(cfg, tmp_path / "sft", lambda *_: None)
    assert result.notes["rounds"][0]["kept"] == 8
    (tmp_path / "base").mkdir()
    result = run_base(RunConfig(**shared, evaluation=evaluation), tmp_path / "base", lambda *_: None)
    assert (result.sampled["n"], result.sampled["delta"], result.greedy) == (40.0, 1.0, {})
    assert (result.sampled["accuracy_t1"], result.sampled["accuracy_t2"]) == (0.0, 1.0)
    assert (load_rows(tmp_path / "base")["mode"] == "sampled").sum() == 40


@pytest.mark.parametrize("n_single", [1, 20])
def test_conversations_with_fewer_attempts_measure_no_later_attempt(tmp_path, n_single):
    base = modchain_config()
    test = envs.make(base.env.id, options=OPTIONS, split=Split.TEST).tasks
    rows = [said(task, right(task)) for task in test[:n_single]]
    rows += [said(task, wrong(task), right(task)) for task in test[n_single:]]
    judged = write(tmp_path / "test.jsonl", rows)
    shared = {name: getattr(base, name) for name in ("seed", "threads", "name", "model")}
    evaluation = replace(base.evaluation, conversations=judged)
    cfg = RunConfig(**shared, env=base.env, evaluation=evaluation)
    with pytest.raises(ValueError, match=rf"{n_single} of 20 conversations hold fewer attempts than env\.attempts=2"):
        run_base(cfg, tmp_path, lambda *_: None)
    if n_single == len(test):
        result = run_base(replace(cfg, env=replace(base.env, attempts=1)), tmp_path, lambda *_: None)
        assert result.sampled["accuracy_t1"] == 1.0
        assert "accuracy_t2" not in result.sampled


def test_no_trained_policy_gets_the_rates_of_a_file():
    base = modchain_config()
    shared = {"name": "mine", "evaluation": replace(base.evaluation, conversations="x.jsonl")}
    kinds = (TrainConfig, SFTConfig, CompareConfig, TuneConfig, WarmStartConfig)
    for kind in kinds:
        more = {"include": ["star"]} if kind in kinds[2:4] else {}
        with pytest.raises(ValueError, match=r"evaluation\.conversations: .*experiments\.evaluate"):
            kind(**shared, **more)
    assert RunConfig(**shared).evaluation.conversations


def test_more_than_one_round_of_the_same_conversations_is_refused():
    with pytest.raises(ValueError, match=r"set offline\.iterations=1"):
        OfflineConfig(name="STaR", rule="star", conversations="a.jsonl", iterations=3)
