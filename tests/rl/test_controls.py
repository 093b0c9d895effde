"""The controls of self-correction, with scripted policies that are known to use or ignore their first attempt."""

from dataclasses import replace

import pytest

from envs import Split
from rewards.lookup import UnknownNameError
from rl.analysis.controls import CONTROLS, OTHER_ATTEMPT, OTHER_ERROR, OTHERS_FIRST, TOLD_VERDICT, WITHOUT_FIRST, Change
from rl.config import EvalConfig
from rl.controls import control_rows
from rl.evaluate import play
from rl.rollout import Rollout
from rl.workbench import make_env
from tests.engine_scripted import ScriptedEngine
from tests.helpers import build_trainer, modchain_config


def rows_of(script, n=10, names=(), feedback=None, stop_rule="never", **hooks):
    """Episodes of a scripted policy on modchain, and its evaluation rows by control; the task set gets the hooks."""
    config = modchain_config()
    env = replace(config.env, feedback=feedback or config.env.feedback, stop_rule=stop_rule)
    _, bench = build_trainer(replace(config, env=env))
    for name, hook in hooks.items():
        setattr(bench.taskset, name, hook)
    tokenizer, renderer = bench.tokenizer, bench.renderer
    engine = ScriptedEngine(script(tokenizer), tokenizer.encode, renderer.end_id)

    def rollout(feedback=None):
        make = lambda: make_env(bench.config.env, bench.taskset, Split.TEST, 2, feedback)  # noqa: E731
        return Rollout(engine, renderer, make, [3, 7], 64)

    tasks = bench.tasks(Split.TEST)[:n]
    episodes = play(rollout(), tasks, 1, 0.0, "greedy")
    env = make_env(bench.config.env, bench.taskset, Split.TEST, 2)
    rows = control_rows(rollout, env, episodes, tasks, renderer, "x", 3, names)
    return episodes, {name: [row for row in rows if row.mode == name] for name in {row.mode: 0 for row in rows}}


def prompt_of(request, tokenizer):
    return tokenizer.decode(request.prompt_ids)


def test_each_control_changes_what_stands_before_the_second_attempt():
    seen = []

    def script(tokenizer):
        def answer(request):
            text = prompt_of(request, tokenizer)
            if text.count("<|assistant|>") == 1:
                return f": {sum(map(ord, text)) % 10}"
            seen.append(text)
            return ": 1"

        return answer

    episodes, rows = rows_of(script)
    # Without feedback the second prompt names no error, so the controls that exchange or keep an error are not played.
    played = [WITHOUT_FIRST, OTHERS_FIRST, TOLD_VERDICT]
    assert {name: len(found) for name, found in rows.items()} == dict.fromkeys(played, 10)
    assert all(row.arm == "x" and row.seed == 3 for found in rows.values() for row in found)
    own, without, others, told = (seen[i : i + 10] for i in range(0, 40, 10))
    for i, text in enumerate(own):
        question = text.split("<|assistant|>")[0]
        assert without[i].startswith(question)
        assert "<|assistant|> <|end|>" in without[i]
        mine = text.split("<|assistant|>")[1].split("<|end|>")[0]
        theirs = own[(i + 5) % 10].split("<|assistant|>")[1].split("<|end|>")[0]
        assert mine in told[i]
        assert theirs in others[i]
        assert ("right" in told[i]) != ("wrong" in told[i])
        assert ("right" in told[i]) == (episodes[i].turns[0].reward == 1.0)
    for control in (OTHERS_FIRST, TOLD_VERDICT):
        assert [row.task_id for row in rows[control]] == [episode.task_id for episode in episodes]


def test_a_policy_that_repeats_its_first_attempt_loses_it_with_it():
    """A policy that copies the attempt before it loses its accuracy if that attempt is removed."""

    def script(tokenizer):
        def answer(request):
            text = prompt_of(request, tokenizer)
            if text.count("<|assistant|>") == 1:
                return ": 4"
            before = text.split("<|assistant|>")[1].split("<|end|>")[0].strip()
            return before or ": 0"

        return answer

    episodes, rows = rows_of(script, n=20)
    own = [episode.turns[-1].reward == 1.0 for episode in episodes]
    assert OTHERS_FIRST not in rows  # all first attempts are equal
    assert any(own)
    assert [row.correct[-1] for row in rows[WITHOUT_FIRST]] != own


def test_episodes_that_a_control_leaves_as_they_are_are_marked():
    """Every row is marked exactly if its second prompt is that of the episode without the control."""
    prompts, others = [], {}

    def script(tokenizer):
        def answer(request):
            text = prompt_of(request, tokenizer)
            if text.count("<|assistant|>") == 1:
                return f": {len(text) % 2}"
            prompts.append(text)
            return ": 1"

        return answer

    def chosen(task):
        return others.setdefault(task.id, len(others) % 3 == 0)

    # Told only right or wrong, another observation is no other error; another attempt with the same text is none.
    hooks = {
        "other_error": lambda task, response, score, rng: "seen" if chosen(task) else None,
        "other_attempt": lambda task, response, rng: response if chosen(task) else ": 7",
    }
    episodes, rows = rows_of(script, 20, feedback="verdict", **hooks)
    own, played = prompts[:20], prompts[20:]
    assert list(rows) == [name for name in CONTROLS if name != TOLD_VERDICT]
    marked = [row.unchanged for found in rows.values() for row in found]
    assert played[40:60] == own  # so that C3 has no rows
    assert marked == [text == own[i % 20] for i, text in enumerate(played[:40] + played[60:])]
    n = {name: sum(row.unchanged for row in found) for name, found in rows.items()}
    assert n == {WITHOUT_FIRST: 0, OTHERS_FIRST: n[OTHERS_FIRST], OTHER_ERROR: 7, OTHER_ATTEMPT: 7}
    assert [row.unchanged for row in rows[OTHER_ERROR]] == [others[episode.task_id] for episode in episodes]


@pytest.mark.parametrize("stop_rule", ["never", "on_correct"])
def test_an_episode_that_ends_with_the_exchanged_attempt_counts_in_no_rate(stop_rule):
    """The attempts at even tasks are right at the task where C2 shows them, and no second attempt is ever right."""
    tasks = build_trainer(modchain_config())[1].tasks(Split.TEST)[:10]

    def script(tokenizer):
        def answer(request):
            text = prompt_of(request, tokenizer)
            (i,) = (i for i, task in enumerate(tasks) if tokenizer.decode(tokenizer.encode(task.question)) in text)
            shown_at = tasks[(i + 5) % 10].gold if i % 2 == 0 else str((int(tasks[i].gold) + 1) % 10)
            return f": {shown_at}" if text.count("<|assistant|>") == 1 else f": {(int(tasks[i].gold) + 1) % 10}"

        return answer

    episodes, rows = rows_of(script, stop_rule=stop_rule)
    own = {episode.task_id for episode in episodes if episode.turns[0].correct}
    found = {row.task_id: row for row in rows[OTHERS_FIRST]}
    assert len(own) < 5
    for i, task in enumerate(tasks):
        row, shown = found[task.id], episodes[(i + 5) % 10].turns[0].text.strip()
        ended = stop_rule == "on_correct" and shown == f": {task.gold}"
        assert ended or i % 2 == 0 or stop_rule == "never"
        assert row.failed == ended
        assert ("control put there" in row.broken_by) == ended
        assert row.correct == ((True,) if ended else (shown == f": {task.gold}", False))


def test_a_control_of_ones_own_is_played_by_its_name():
    @CONTROLS.register("everybody_says_four", id="C9", label="four", reads="a four")
    def everybody_says_four(scene):
        return Change(first=": 4")

    def script(tokenizer):
        def answer(request):
            text = prompt_of(request, tokenizer)
            return ": 1" if text.count("<|assistant|>") == 1 else text.split("<|assistant|>")[1].split("<|end|>")[0]

        return answer

    try:
        EvalConfig(controls=True, only_controls=["everybody_says_four"])
        _, rows = rows_of(script, names=["everybody_says_four"])
    finally:
        del CONTROLS._values["everybody_says_four"]
    assert list(rows) == ["everybody_says_four"]
    assert all(row.texts[-1].strip() == ": 4" for row in rows["everybody_says_four"])


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"controls": True, "only_controls": ["other_eror"]}, UnknownNameError, "did you mean 'other_error'"),
        ({"only_controls": ["other_error"]}, ValueError, "controls=false"),
    ],
)
def test_names_that_play_nothing_are_refused(fields, error, says):
    with pytest.raises(error, match=says):
        EvalConfig(**fields)
