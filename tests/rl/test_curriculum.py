"""Curricula over running pass rates: which tasks are chosen or skipped, and that a resumed run chooses the same."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from envs import Task
from rewards import Score, Verdict
from rl.config import AlgorithmConfig, TrainingConfig
from rl.curriculum import CURRICULA, Curriculum, Draw, passed, running
from rl.tracking import read_jsonl
from rl.types import derive_seed
from rl.workbench import Workbench
from tests.helpers import build_trainer, episode, log_step, modchain_config
from tests.rl.resuming import config, play, without_times
from tests.rl.test_distributed import run_two

BAND = {"low": 0.2, "high": 0.8, "smoothing": 0.5, "explore": 0.0}
TASKS = [Task(name, name, name) for name in "abcdef"]


class Stream(Curriculum):
    """A curriculum over a few tasks that repeat in order, with its current position in this stream."""

    def __init__(self, name="pass_rate", options=BAND):
        super().__init__(name, options, lambda position: TASKS[position % len(TASKS)], len(TASKS), seed=0)
        self.position = 0

    def next(self, n):
        taken = self.take(self.position, n)
        self.position = taken[-1] + 1
        return taken


def drawn(one, n):
    return [TASKS[position % len(TASKS)].id for position in one.next(n)]


def test_a_running_rate_by_hand():
    assert running([1.0], 0.5) == 1.0
    assert running([1.0, 0.0], 0.5) == 0.5
    assert running([1.0, 0.0, 1.0], 0.25) == 0.25 * 0.25 + 0.75
    assert running([1.0, 0.0], 0.0) == 0.0


def test_solved_and_hopeless_tasks_are_passed_over_and_counted():
    one = Stream()
    assert drawn(one, 6) == list("abcdef")
    assert one.metrics()["curriculum/new_fraction"] == 1.0
    one.learn([(0, 1.0), (1, 0.0), (2, 0.5), (3, 0.25), (4, 0.9), (5, 0.8)])
    assert drawn(one, 3) == ["c", "d", "f"]
    found = one.metrics()
    assert found["curriculum/solved_fraction"] == 2 / 6  # tasks a and e
    assert found["curriculum/hopeless_fraction"] == 1 / 6
    assert found["curriculum/pass_rate"] == pytest.approx((0.5 + 0.25 + 0.8) / 3)
    one.learn([(8, 1.0), (9, 0.0), (11, 0.0)])  # c at 0.75, d at 0.125, f at 0.4
    assert drawn(one, 2) == ["c", "f"]
    assert one.metrics()["curriculum/hopeless_fraction"] == 2 / 6


def test_a_pass_without_a_task_ends_with_the_next_as_it_comes():
    one = Stream()
    one.next(6)
    one.learn([(position, 1.0) for position in range(6)])
    assert drawn(one, 2) == ["a", "b"]
    assert one.position == 6 + 7 + 7


def test_what_is_passed_over_is_looked_at_again_with_the_share_that_was_asked_for():
    one = Stream(options=BAND | {"explore": 0.25})
    one.next(6)
    one.learn([(position, float(position < 3)) for position in range(6)])
    one.metrics()
    one.next(500)
    found = one.metrics()
    # The wait for a task is geometric with a chance of 1/4, cut off after a whole pass of six tasks.
    share = 0.25 / (1 - 0.75**7)
    assert 500 / (one.position - 6) == pytest.approx(share, abs=0.03)
    assert found["curriculum/solved_fraction"] == pytest.approx((1 - share) / 2, abs=0.03)
    assert found["curriculum/hopeless_fraction"] == pytest.approx((1 - share) / 2, abs=0.03)


def test_learnability_draws_by_the_variance_of_what_is_earned():
    learnability = CURRICULA["learnability"]
    chances = [learnability([rate], smoothing=0.5, explore=0.1).chance for rate in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert chances == [0.1, 0.75, 1.0, 0.75, 0.1]
    assert [learnability([rate], smoothing=0.5, explore=0.1).easy for rate in (0.25, 0.75)] == [False, True]


def test_uniform_is_the_stream_as_it_was():
    trainer, _ = build_trainer(modchain_config(algorithm=AlgorithmConfig(name="x", group_size=2)))
    episodes = log_step(trainer)[1] + log_step(trainer)[1]
    assert sorted({episode.group_id for episode in episodes}) == list(range(16))
    assert trainer.source.curriculum is None
    one = Stream("uniform", {})
    one.learn([(0, 1.0)])
    assert one.next(13) == list(range(13))


def test_only_episodes_that_say_something_count_as_passed_or_not():
    group = [episode((0.0, 1.0)), episode((1.0, 0.0)), episode((0.0, 1.0), error="x")]
    assert passed(group) == 0.5
    assert passed(group[2:]) is None
    unscored = replace(group[0], turns=tuple(replace(turn, score=None) for turn in group[0].turns))
    assert passed([unscored]) == 1.0
    masked = [replace(one, turns=tuple(replace(turn, trained=False) for turn in one.turns)) for one in group[:2]]
    assert passed(masked) == 0.5  # by a group reward; the verdicts are there
    assert passed([replace(unscored, turns=tuple(replace(turn, trained=False) for turn in unscored.turns))]) is None
    unjudged = tuple(replace(turn, trained=False, score=Score(0.0, Verdict.ERROR)) for turn in group[0].turns)
    assert passed([replace(group[0], turns=unjudged)]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.9, "high": 0.1}, r"low=0\.9 lies above high=0\.1"),
        ({"high": 1.5}, r"curriculum_options\.high=1\.5: must be in \[0, 1\]"),
        ({"smoothing": 1.0}, r"smoothing=1\.0: a task's pass rate would stay that of its first group"),
        ({"explore": -0.1}, r"explore=-0\.1: must be in"),
        ({"lowest": 0.1}, r"curriculum_options\.lowest: pass_rate has no such option; did you mean 'low'"),
    ],
)
def test_nonsense_is_refused_by_its_key(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(curriculum="pass_rate", curriculum_options=options)
    with pytest.raises(ValueError, match=r"training\.curriculum=passrate: unknown; did you mean 'pass_rate'"):
        TrainingConfig(curriculum="passrate")


def test_a_run_passes_over_what_a_fixed_policy_always_fails():
    """With a learning rate near 0 pass rates hardly change, so in the end only tasks within the band are chosen."""
    cfg = modchain_config(algorithm=AlgorithmConfig(name="x", group_size=8), lr=1e-12, episodes=12 * 64)
    cfg.env.options = {"n_train": 16, "n_validation": 5, "n_test": 20}
    cfg.training = replace(
        cfg.training, curriculum="pass_rate", curriculum_options={"explore": 0.0, "low": 0.1, "high": 0.9}
    )
    trainer, _ = build_trainer(cfg)
    seen = [log_step(trainer) for _ in range(12)]
    first, last = seen[0][0], seen[-1][0]
    assert first["curriculum/new_fraction"] == 1.0
    assert last["curriculum/new_fraction"] == 0.0
    dropped = [metrics["curriculum/solved_fraction"] + metrics["curriculum/hopeless_fraction"] for metrics, _ in seen]
    assert dropped[0] == 0.0
    assert dropped[-1] > 0.2
    assert 0.1 <= last["curriculum/pass_rate"] <= 0.9
    mixed = [metrics["group/mixed_fraction"] for metrics, _ in seen]
    assert sum(mixed[6:]) >= sum(mixed[:6])


def test_a_curriculum_from_outside_is_a_function_of_what_a_task_came_to(monkeypatch):
    for table in ("_values", "_options", "_facts"):
        monkeypatch.setattr(CURRICULA, table, dict(getattr(CURRICULA, table)))
    CURRICULA.register("not_twice")(lambda history: Draw(history[-1], 0.0, True))
    one = Stream("not_twice", {})
    one.next(6)
    one.learn([(0, 0.5), (2, 0.5)])
    assert drawn(one, 4) == list("bdef")


def curriculum():
    cfg = config(AlgorithmConfig(name="x", group_size=4, dynamic_sampling=1), save_every=1)
    cfg.env.options = {"n_train": 12, "n_validation": 5, "n_test": 20}
    options = {"smoothing": 0.3, "low": 0.3}
    cfg.training = replace(cfg.training, curriculum="pass_rate", curriculum_options=options, episodes=9 * 16)
    return cfg


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(tmp_path):
    cfg = curriculum()
    expected, written = play(cfg, tmp_path / "whole")
    metrics = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    assert sum(row.get("curriculum/solved_fraction", 0) + row.get("curriculum/hopeless_fraction", 0) for row in metrics)
    for n in (2, len(written) - 1):
        play(cfg, tmp_path / f"cut_{n}", stop_after=n)
        resumed, _ = play(cfg, tmp_path / f"cut_{n}")
        assert torch.equal(resumed, expected)
        again = read_jsonl(tmp_path / f"cut_{n}" / "metrics.jsonl")
        assert [without_times(row) for row in again] == [without_times(row) for row in metrics]


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(tmp_path):
    whole, _ = play(curriculum(), tmp_path / "one")
    run_two("tests.rl.two_process_run", [str(tmp_path / "two"), "CURRICULUM"], fsdp=False)
    model = Workbench.build(curriculum()).model
    stored = load_file(tmp_path / "two" / "policy" / "model.safetensors")
    weights = torch.cat([stored[name].flatten() for name, _ in model.named_parameters()])
    assert (weights - whole).abs().max() < 1e-5
    rows = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    of_curriculum = [[{k: v for k, v in row.items() if k.startswith("curriculum/")} for row in part] for part in rows]
    assert of_curriculum[0] == of_curriculum[1]


def test_processes_share_one_stream():
    """Whether pass rates come from one process or from two does not change which tasks are chosen."""

    def chosen(shares):
        one, found = Stream(options=BAND | {"explore": 0.3}), []
        for _ in range(20):
            positions = one.next(4)
            found += positions
            rates = [(p, derive_seed(1, p) / 2**63) for p in positions]
            one.learn([pair for rank in range(shares) for pair in rates[rank::shares]])
        return found, one.state()

    assert chosen(1) == chosen(2)
