"""Tables of conversations, in a readable file and on the dashboards that can show tables."""

import sys
from types import SimpleNamespace

import pytest
from accelerate.state import PartialState

from rl.backends.trackers import TRACKERS, Trackers
from rl.config import AlgorithmConfig, TrackingConfig
from rl.rollout_metrics import conversation_rows
from rl.tracking import Tracker, read_jsonl
from tests.helpers import build_trainer, modchain_config
from tests.rl.resuming import SIMPLE, config, online, play

ROWS = [
    {"task_id": "a", "attempt": 1, "prompt": "1 2\n+", "answer": "3 |x|", "verdict": "correct", "reward": 1.0},
    {"task_id": "a", "attempt": 2, "prompt": "check", "answer": "4", "verdict": "wrong", "reward": 0.0},
]


@pytest.fixture(scope="module")
def step():
    trainer, bench = build_trainer(modchain_config(algorithm=AlgorithmConfig(name="x", group_size=4)))
    return trainer.train_step(), bench


def test_a_row_is_a_turn_as_it_was_read_and_said(step):
    step, bench = step
    rows = conversation_rows(step, 3, bench.tokenizer.decode)
    assert len(rows) == 6
    assert len({row["group"] for row in rows}) == 3, "conversations of different groups"
    shown = [step.episodes[i] for i in (0, 10, 21)]  # of 32 episodes
    for one, first, second in zip(shown, rows[::2], rows[1::2], strict=True):
        assert [first["attempt"], second["attempt"]] == [1, 2]
        assert first["prompt"].startswith("<|user|>")
        assert "check" in second["prompt"]
        assert first["prompt"] not in second["prompt"], "only what is new is shown"
        whole = bench.tokenizer.decode(one.turns[1].prompt_ids)
        assert [row["answer"] for row in (first, second)] == [turn.text for turn in one.turns]
        assert whole.endswith(second["prompt"])
        assert first["verdict"] == one.turns[0].score.verdict.value
        assert [first["tokens"], first["reward"]] == [len(one.turns[0].action_ids), one.turns[0].reward]
    assert len(conversation_rows(step, 10_000, bench.tokenizer.decode)) == sum(len(e.turns) for e in step.episodes)
    assert conversation_rows(step, 0, bench.tokenizer.decode) == []


def test_a_run_writes_them_as_often_as_was_asked_for_and_a_resumed_one_cuts_them_back(tmp_path):
    cfg = config(SIMPLE, save_every=1)
    cfg.tracking = TrackingConfig(conversations=2, conversations_every=2)
    play(cfg, tmp_path / "whole")
    rows = read_jsonl(tmp_path / "whole" / "conversations.jsonl")
    assert [row["step"] for row in rows] == [2] * 4 + [4] * 4 + [6] * 4
    play(cfg, tmp_path / "cut", stop_after=3)
    run = online(cfg, tmp_path / "cut")
    run._tracker.conversations(99, [{"task_id": "after the checkpoint"}])
    run._tracker.close()
    play(cfg, tmp_path / "cut")
    assert read_jsonl(tmp_path / "cut" / "conversations.jsonl") == rows
    plain = config(SIMPLE)
    play(plain, tmp_path / "plain")
    assert not (tmp_path / "plain" / "conversations.jsonl").exists()


def test_tensorboard_shows_them_as_text(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState(cpu=True)
    tracker = Tracker(tmp_path, None, Trackers(TrackingConfig(["tensorboard"]), tmp_path, {}))
    tracker.conversations(7, ROWS)
    tracker.close()
    (events,) = tmp_path.glob("events.*")
    found = EventAccumulator(str(events)).Reload()
    (event,) = found.Tensors("conversations/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert event.step == 7
    assert "**step 7, task_id a, attempt 2, verdict wrong, reward 0.0**" in text
    assert "    1 2\n    +" in text


def stand_in(monkeypatch, name, **functions):
    """Replaces a dashboard's package with a stand-in that has the given functions."""
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions, __spec__=SimpleNamespace(), __version__="0"))
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted, *_: wanted)


def test_wandb_and_trackio_get_tables_of_their_own_kind(tmp_path, monkeypatch):
    logged = []
    run = SimpleNamespace(log=lambda values, step, **_: logged.append((step, values)), finish=lambda: None)
    for name in ("wandb", "trackio"):
        stand_in(
            monkeypatch,
            name,
            init=lambda **_: run,
            config=SimpleNamespace(update=lambda *_, **__: None),
            Table=lambda columns=None, data=None, dataframe=None: (columns, data, dataframe),
        )
    PartialState(cpu=True)
    mirror = Trackers(TrackingConfig(["wandb", "trackio"]), tmp_path, {"x": 1})
    mirror.table("conversations", ROWS, 3)
    mirror.close()
    (step, of_wandb), (again, of_trackio) = logged
    assert (step, again) == (3, 3)
    columns, data, _ = of_wandb["conversations"]
    assert columns == list(ROWS[0])
    assert data == [list(row.values()) for row in ROWS]
    assert of_trackio["conversations"][2].to_dict("records") == ROWS


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_packages_take_them_offline(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Set before the import, since trackio reads its folder when it is imported.
    for key, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    pytest.importorskip(name)
    PartialState(cpu=True)
    mirror = Trackers(TrackingConfig([name], "for-tests"), tmp_path, {"x": 1})
    mirror.log(1, {"policy/loss": 0.5})
    mirror.table("conversations", ROWS, 2)
    mirror.close()
    assert any(path.is_file() and path.stat().st_size for path in tmp_path.rglob("*"))


def test_a_dashboard_from_outside_without_tables_is_left_alone(tmp_path, monkeypatch):
    for table in ("_values", "_options", "_facts"):
        monkeypatch.setattr(TRACKERS, table, dict(getattr(TRACKERS, table)))
    plain = SimpleNamespace(start=lambda: None, store_init_configuration=lambda _: None, finish=lambda: None)
    TRACKERS.register("plain")(lambda project, folder: plain)
    mirror = Trackers(TrackingConfig(["plain"]), tmp_path, {})
    mirror.table("conversations", ROWS, 1)
    mirror.close()


def test_idle_and_odd_values_are_refused():
    with pytest.raises(ValueError, match=r"tracking\.conversations_every=3: has no effect"):
        TrackingConfig(conversations_every=3)
    with pytest.raises(ValueError, match=r"tracking\.conversations_every=0: must be positive"):
        TrackingConfig(conversations=1, conversations_every=0)
    with pytest.raises(ValueError, match=r"tracking\.conversations=-1: must be at least 0"):
        TrackingConfig(conversations=-1)
