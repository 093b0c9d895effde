"""Controls C1 to C5 tell a policy that corrects its attempt from those that answer anew, copy, or use only errors."""

import json
import random
import re
from dataclasses import replace

import pytest

from envs import Split
from envs.tasks.repair import INVERSES, Repair, run, written
from experiments.arms import write_jsonl
from experiments.evidence.comparison import compare
from experiments.evidence.controls import control_table
from experiments.evidence.store import Store
from experiments.evidence.verdicts import (
    AGAIN,
    ANEW,
    BY_ATTEMPT,
    CORRECTING,
    badges,
    does_it_correct,
    lead,
    verdicts,
    way_of,
)
from rl.analysis.statistics import Interval
from rl.config import EnvConfig, ModelConfig
from rl.controls import control_rows
from rl.evaluate import play, to_rows
from rl.rollout import Rollout
from rl.workbench import Workbench, make_env
from tests.conftest import ROOT
from tests.engine_scripted import ScriptedEngine
from tests.helpers import modchain_config

N = 40


def first(task, number):
    """The first attempt of every policy, with a random constant: nine of ten constants are wrong."""
    return written(task.info["slots"], random.Random(f"first/{number}").randrange(10))


def anew(task, attempt, got, want):
    """Gives the right answer at the second attempt, whatever is in the prompt."""
    return task.gold


def copies(task, attempt, got, want):
    """Repeats the attempt in its prompt; if there is none, gives the right answer."""
    return attempt or task.gold


def repairs(task, attempt, got, want):
    """Computes the right constant from the attempt in its prompt and the result that the feedback reports for it."""
    constant = re.search(r"c(\d)", attempt)
    if constant is None or not got.isdigit():
        return written(task.info["slots"], 0)
    off = (want - int(got)) % 10
    return written(task.info["slots"], int(constant[1]) + off * INVERSES.get(task.info["slots"][2], 1))


def tries_again(task, attempt, got, want):
    """Keeps its attempt if the feedback shows the wanted result, and otherwise gives a random constant."""
    if attempt and got == str(want):
        return attempt
    return written(task.info["slots"], random.Random(f"{task.id}/{attempt}/{got}").randrange(10))


def reads_the_gold(task, attempt, got, want):
    """Ignores its attempt and uses only the error: right if the feedback reports the result of its first attempt."""
    results = [str(run(written(task.info["slots"], constant), 0)) for constant in range(10)]
    return task.gold if got in results and got == str(run(first(task, task.id), 0)) else written(task.info["slots"], 0)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The comparison's arm of each policy by name, and the store; policies act in the real environment and sandbox."""
    folder = tmp_path_factory.mktemp("policies")
    config = modchain_config()
    config.model = ModelConfig(path=str(ROOT / "models" / "repair"))
    options = {"n_train": 20, "n_validation": 10, "n_test": N}
    config.env = EnvConfig(name="repair", id="errata/repair-v1", options=options, max_new_tokens=[6, 9]).settled()
    bench = Workbench.build(config)
    by_question = {task.question: task for task in bench.tasks(Split.TEST)}

    for policy in (anew, copies, repairs, tries_again, reads_the_gold):

        def answer(request, policy=policy):
            text = bench.tokenizer.decode(request.prompt_ids)
            question, *said = (
                part.split("<|end|>")[0].strip() for part in re.split(r"<\|(?:user|assistant)\|>", text)[1:]
            )
            task = by_question[question]
            if len(said) == 1:
                # Half of the first attempts of a policy that keeps right ones are right, so that it has some to keep.
                kept = policy is tries_again and random.Random(task.id).random() < 0.5
                return task.gold if kept else first(task, task.id)
            got, want = re.match(r"(?:got (\S+) want )?(\d)?", said[1]).groups()
            return policy(task, said[0], got or "", int(want or 0))

        engine = ScriptedEngine(answer, bench.tokenizer.encode, bench.renderer.end_id)

        def rollout(feedback=None, engine=engine):
            make = lambda: make_env(bench.config.env, bench.taskset, Split.TEST, 2, feedback)  # noqa: E731
            return Rollout(engine, bench.renderer, make, [6, 9], 64)

        tasks = bench.tasks(Split.TEST)
        episodes = play(rollout(), tasks, 1, 0.0, "greedy")
        rows = to_rows(episodes, 1, policy.__name__, 0, "greedy", 2)
        env = make_env(bench.config.env, bench.taskset, Split.TEST, 2)
        rows += control_rows(rollout, env, episodes, tasks, bench.renderer, policy.__name__, 0)
        own = folder / policy.__name__
        own.mkdir()
        write_jsonl(own / "rows.jsonl", (row.to_json() for row in rows))
        result = {"arm": policy.__name__, "seed": 0, "totals": {"episodes": 1}, "seconds": 1.0}
        (own / "result.json").write_text(json.dumps(result))
    store = Store(folder)
    return {line.name: line for line in compare(store, "greedy").arms}, store


def test_a_policy_that_answers_anew_loses_nothing_anywhere(judged):
    line = judged[0]["anew"]
    assert line.rates["delta"].low > 0.5
    assert all(abs(loss.mean) < 1e-9 for name, loss in line.losses.items())
    said = does_it_correct(line.losses, line.mending)
    assert said.startswith("It answers anew rather than corrects")
    assert "does not use the error" in said


def test_a_policy_that_copies_uses_its_attempt_and_not_the_error(judged):
    line = judged[0]["copies"]
    assert abs(line.rates["delta"].mean) < 1e-9
    assert line.losses["other_attempt"].mean > 0
    assert abs(line.losses["other_error"].mean) < 1e-9
    assert "does not use the error" in does_it_correct(line.losses, line.mending)


def test_a_policy_that_repairs_uses_both(judged):
    line = judged[0]["repairs"]
    assert line.rates["accuracy_t2"].mean == 1.0
    assert (
        min(line.losses[name].low for name in ("without_first", "others_first", "other_error", "other_attempt")) > 0.3
    )
    said = does_it_correct(line.losses, line.mending)
    assert "It uses its attempt: acc@t2 falls by" in said
    assert all(f"({name})" in said for name in ("C1", "C2", "C5"))
    assert "It uses the error" in said


def test_a_policy_that_keeps_right_attempts_and_guesses_otherwise_does_not_correct(judged):
    """Every control costs it accuracy, but only where its own first attempt was right."""
    line = judged[0]["tries_again"]
    assert min(loss.low for loss in line.losses.values()) > 0.1
    assert max(loss.low for loss in line.mending.values()) <= 0
    assert way_of(line.losses, line.mending) == AGAIN
    said = does_it_correct(line.losses, line.mending)
    assert said.startswith("It keeps right attempts and tries again otherwise, rather than corrects")
    assert "uses the error only to tell right from wrong" in said


def test_a_policy_that_needs_the_error_alone_does_not_correct(judged):
    """The feedback gives the answer away, so using the error is no evidence that the policy corrects its attempt."""
    line = judged[0]["reads_the_gold"]
    said = does_it_correct(line.losses, line.mending)
    assert line.losses["other_error"].low > 0
    assert said.startswith("It answers anew rather than corrects")
    assert "another attempt under its own error (C5)" in said
    assert "It uses the error" in said


C2, C4, C5 = "others_first", "other_error", "other_attempt"


@pytest.mark.parametrize(
    ("losses", "at_wrong", "way", "shown"),
    [
        ({C2: 0.5, C4: 0.4, C5: 0.5}, {}, CORRECTING, ["corrects", "uses its attempt", "uses the error"]),
        ({C2: 0.5}, {}, CORRECTING, ["corrects", "uses its attempt"]),  # nothing is told that C4 could exchange
        ({C2: 0.5, C4: 0.0, C5: 0.1}, {}, BY_ATTEMPT, ["improves", "uses its attempt", "error not used"]),
        ({C2: 0.5, C4: 0.4, C5: 0.5}, {C4: 0.0}, BY_ATTEMPT, ["improves", "uses its attempt"]),
        ({C2: 0.5, C4: 0.0, C5: 0.5}, {C4: 0.3}, BY_ATTEMPT, ["improves", "uses its attempt", "error not used"]),
        ({C2: 0.5, C4: 0.4, C5: 0.5}, {C5: 0.0}, AGAIN, ["tries again", "uses the error"]),
        ({C2: 0.5}, {C2: 0.0}, AGAIN, ["tries again"]),
        ({C2: 0.0, C4: 0.4}, {}, ANEW, ["answers anew", "uses the error"]),
        ({"without_first": 0.5}, {}, "", ["improves"]),
        ({}, {}, "", ["improves"]),
    ],
)
def test_an_arm_corrects_only_if_it_uses_its_attempt_and_an_error_that_it_is_told(judged, losses, at_wrong, way, shown):
    def intervals(means):
        return {name: Interval(mean, mean - 0.05, mean + 0.05) for name, mean in means.items()}

    comparison, found, mending = compare(judged[1], "greedy"), intervals(losses), intervals(losses | at_wrong)
    line = replace(next(one for one in comparison.arms if one.name == "repairs"), losses=found, mending=mending)
    assert way_of(found, mending) == way
    assert [badge.text for badge in badges(comparison, line)] == shown
    said = lead(replace(comparison, arms=[line]))
    assert said.startswith(f"repairs answers better the second time{way and ' '}{way}.")


def test_sentences_and_tables_of_all_five_carry_intervals(judged):
    _, store = judged
    sentences = " ".join(verdicts(compare(store, "greedy")))
    assert re.search(
        r"repairs: answers better.*It uses its attempt.*\[.*\(C5\).*It uses the error.*\[.*\(C4\)", sentences
    )
    assert re.search(r"anew: answers better.*It answers anew rather than corrects", sentences)
    table = control_table(store, "other_error")
    assert {row[0] for row in table.rows} == {"anew", "copies", "repairs", "tries_again", "reads_the_gold"}


def test_the_hooks_of_repair_change_one_thing():
    taskset, rng = Repair(n_test=20), random.Random(0)
    for task in taskset.load(Split.TEST):
        response = written(task.info["slots"], 3)
        score = taskset.verify(task, response)
        changed = taskset.other_error(task, response, score, rng)
        assert changed != score.observation
        assert changed.split("want")[1] == score.observation.split("want")[1]
        other = taskset.other_attempt(task, response, rng)
        assert other != response
        assert re.sub(r"c\d", "c", other) == re.sub(r"c\d", "c", response)
        assert taskset.other_attempt(task, "no program", rng) is None
