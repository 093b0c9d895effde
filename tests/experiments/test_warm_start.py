"""A warm start learns the tokens of the demonstrated attempts and nothing else, and saves a model for later runs."""

import json
import random
from collections import Counter

import pytest
from transformers import AutoModelForCausalLM

from envs import Split
from envs.tasks.mend import Mend
from envs.tasks.sums import Sums
from experiments.base_schema import WarmStartConfig
from experiments.cli import UserError, console
from experiments.demonstrations import DEMONSTRATIONS, Shares, golds, mend, sums
from experiments.progress import Display
from experiments.warm_start import demonstrated, main, warm_start
from rl.backends.sft import IGNORED
from rl.config import EnvConfig, EvalConfig, ModelConfig, OptimConfig
from rl.workbench import Workbench, make_env
from tests.conftest import ROOT
from tests.programs import run
from tests.test_docs import blocks


@DEMONSTRATIONS.register("gold_twice")
def gold_twice(taskset, task, rng):
    return [taskset.gold_response(task)] * 2


@DEMONSTRATIONS.register("gold_once")
def gold_once(taskset, task, rng):
    return [taskset.gold_response(task)]


def config(demonstration="gold_twice", output=None):
    sizes = {"n_train": 24, "n_validation": 4, "n_test": 8}
    return WarmStartConfig(
        name="warm",
        demonstration=demonstration,
        n_conversations=32,
        batch_size=8,
        optim=OptimConfig(lr=1e-3),
        output=output,
        model=ModelConfig(path=str(ROOT / "models" / "modchain")),
        env=EnvConfig(name="modchain", id="errata/modchain-v1", options=sizes, max_new_tokens=[12]),
        evaluation=EvalConfig(n_tasks=8, samples_per_task=0),
    )


def test_it_learns_saves_and_evaluates(tmp_path):
    folder, losses = tmp_path / "run", []
    folder.mkdir()
    result = warm_start(config(output=str(tmp_path / "model")), folder, lambda what, share, rates: losses.append(what))
    with Display(console) as display:
        display.summary(result, folder)  # works although there are no training episodes
    assert result.notes["conversations"] == 32
    assert result.notes["steps"] == 4
    assert result.greedy["n"] == 8
    assert "fine-tuning" in losses
    first = json.loads((folder / "conversations.jsonl").read_text().splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"] * 2
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    base = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "modchain").state_dict()
    assert any((saved[name] != base[name]).any() for name in base)


def test_every_attempt_is_learned_with_its_end_and_nothing_else():
    bench = Workbench.build(config())
    task = bench.tasks(Split.TRAIN)[0]
    env = make_env(bench.config.env, bench.taskset, Split.TRAIN)
    attempts = gold_twice(bench.taskset, task, None)
    messages, row = demonstrated(env, task, attempts, bench.renderer)
    learned = [label for label in row.labels if label != IGNORED]
    action = [*bench.tokenizer.encode(attempts[0], add_special_tokens=False), bench.renderer.end_id]
    assert learned == action * 2
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    turns = [message["content"] for message in messages if message["role"] == "assistant"]
    assert turns == attempts


def test_slips_are_read_and_not_learned_where_that_is_asked():
    bench = Workbench.build(config())
    task = bench.tasks(Split.TRAIN)[0]
    env = make_env(bench.config.env, bench.taskset, Split.TRAIN)
    gold = bench.taskset.gold_response(task)

    def learned(attempts, learn_slips):
        _, row = demonstrated(env, task, attempts, bench.renderer, learn_slips)
        return [label for label in row.labels if label != IGNORED]

    def action(text):
        return [*bench.tokenizer.encode(text, add_special_tokens=False), bench.renderer.end_id]

    wrong = "ans " + str((int(task.gold) + 1) % 10)
    assert learned([wrong, gold], True) == action(wrong) + action(gold)
    assert learned([wrong, gold], False) == action(gold)
    assert learned([gold, wrong], False) == action(gold) + action(wrong)


def test_an_episode_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="it wrote 1 attempt, but the episode takes more"):
        warm_start(config("gold_once"), tmp_path, lambda *_: None)


def test_golds_of_other_tasks_are_the_wrong_attempts_of_any_environment():
    taskset, rng, found = Sums(), random.Random(0), Counter()
    task, *others = taskset.load(Split.TRAIN)
    gold, wrong = taskset.gold_response(task), {taskset.gold_response(other) for other in others}
    for _ in range(2000):
        first, second = golds(taskset, task, rng, right=0.4, corrects=0.15, repeats=0.8)
        found[
            "right" if first == gold else "corrects" if second == gold else "repeats" if second == first else "other"
        ] += 1
        assert {first, second} <= wrong | {gold}
        assert first != gold or second == gold
    assert abs(found["right"] / 2000 - 0.4) < 0.04
    assert abs(found["corrects"] / (2000 - found["right"]) - 0.15) < 0.04
    assert found["repeats"] / (2000 - found["right"]) > 0.75


def test_one_answer_alone_makes_no_wrong_attempts():
    class Constant:
        load = staticmethod(lambda split: ["a", "b"])
        gold_response = staticmethod(lambda task: "7")

    with pytest.raises(ValueError, match="all training tasks have the answer '7'"):
        golds(Constant(), "a", random.Random(0), right=0.0, corrects=0.15, repeats=0.8)


def test_a_model_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="there is a model already; name another folder"):
        main.run(config(output=str(tmp_path)))


def test_shares_of_the_demonstrated_sums():
    taskset, rng, found = Sums(), random.Random(0), Counter()
    (task, *_) = taskset.load(Split.TRAIN)
    for _ in range(4000):
        first, second = sums(taskset, task, rng, right=0.4, corrects=0.15, repeats=0.8)
        if first == task.gold:
            found["right"] += 1
            assert second == first
        else:
            found["corrects" if "=" in second else "repeats" if second == first else "other"] += 1
    assert abs(found["right"] / 4000 - 0.4) < 0.03
    wrong = 4000 - found["right"]
    assert abs(found["corrects"] / wrong - 0.15) < 0.03
    assert found["repeats"] / wrong > 0.75


@pytest.mark.parametrize("notation", ["toy", "plain"])
def test_demonstrated_equations_are_right_copied_mended_or_wrong_in_another_way(notation):
    taskset, rng, found = Mend(n_train=40, notation=notation), random.Random(0), Counter()
    for task in taskset.load(Split.TRAIN) * 10:
        first, second = mend(taskset, task, rng, right=0.25, corrects=0.5, repeats=0.25)
        before, after = (taskset.verify(task, text).value for text in (first, second))
        if before:
            found["right"] += 1
            assert second == first
        elif after:
            found["corrects"] += 1
            assert second == taskset.worked_out(task, first) != taskset.gold_response(task)
        else:
            found["repeats" if second == first else "other"] += 1
    assert abs(found["right"] / 400 - 0.25) < 0.1
    wrong = 400 - found["right"]
    assert abs(found["corrects"] / wrong - 0.5) < 0.1
    assert abs(found["other"] / wrong - 0.25) < 0.1


@pytest.mark.parametrize("options", [{"right": 1.5}, {"corrects": 0.5, "repeats": 0.6}])
def test_shares_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match="demonstration_options"):
        Shares(**options)


def test_the_printed_warm_start_on_own_rows_runs(tmp_path):
    (text,) = (one for one in blocks(ROOT / "docs" / "own_model.md", "bash") if "demonstration=golds" in one)
    rows = [{"question": f"{i // 9} +{i % 9 + 1} _ _ _ _", "answer": str((i // 9 + i % 9 + 1) % 10)} for i in range(81)]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, place in (("my.jsonl", tmp_path), ("models/mine", tmp_path), ("my_model", ROOT / "models")):
        text = text.replace(f"={name}", f"={place}/{'modchain' if name == 'my_model' else name}")
    first, second = (line.removeprefix("python -m ").split() for line in text.strip().splitlines())
    # What this model is asked in, and how it answers.
    form = ["env.prompts=toy-v1", "env.options.verify=regex", "env.max_new_tokens=[3]", "threads=1"]
    form += ["env.options.verify_options.pattern=': (.)$'", "env.options.verify_options.stated=': {}'"]
    size = ["n_conversations=16", "batch_size=8", "evaluation.n_tasks=4", "evaluation.samples_per_task=0"]
    done = run(*first, *form, *size, f"runs_dir={tmp_path}/runs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "mine" / "config.json").exists()
    shown = run(*second, *form, "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert f"{tmp_path}/models/mine" in shown.stdout
