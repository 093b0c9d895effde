"""Metrics: one catalogue, files of JSON lines that a resumed run truncates to its checkpoint, and dashboards."""

import importlib.util
import json
import os

import pytest

from rl import trainer  # noqa: F401  importing it declares the metrics of runs
from rl.analysis.metrics import METRICS, catalogue, declare, page
from rl.backends.trackers import TRACKERS, Trackers
from rl.config import TrackingConfig
from rl.tracking import Tracker, files_below, read_jsonl
from tests.conftest import ROOT
from tests.helpers import episode


def test_the_page_of_metrics_is_the_catalogue():
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "python -m rl.analysis.metrics > docs/metrics.md"
    for name in ("policy/kl_ref_t<k>", "eval/<mode>/delta", "system/mfu", "critic/explained_variance"):
        assert f"| `{name}` |" in page()
    assert all(metric.unit and metric.meaning for metric in catalogue().values())


def test_a_metric_from_outside_is_declared_once_and_described_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(METRICS, "_values", dict(METRICS._values))
    declare({"mine/length_t<k>": ("words", "mean length")})
    tracker = Tracker(tmp_path)
    tracker.log(1, {"mine/length_t2": 3.0, "eval/greedy/accuracy_t3": 0.5, "eval/transfer/far/delta": 0.25})
    tracker.close()
    described = json.loads((tmp_path / "metrics.json").read_text())
    assert described["mine/length_t2"] == {"unit": "words", "meaning": "mean length"}
    assert described["eval/transfer/far/delta"]["unit"] == "fraction"


def test_unlisted_metrics_are_refused(tmp_path):
    tracker = Tracker(tmp_path)
    with pytest.raises(KeyError, match=r"nonsense.*not declared.*Call rl\.analysis\.metrics\.declare"):
        tracker.log(1, {"nonsense": 1.0})


def test_a_resumed_run_cuts_its_files_back(tmp_path):
    first = Tracker(tmp_path)
    first.log(1, {"policy/loss": 1.0})
    first.episodes(1, [episode()])
    sizes = first.sizes
    first.log(2, {"policy/loss": 2.0})
    first.episodes(2, [episode()])
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "half a li')  # killed while writing
    second = Tracker(tmp_path, sizes)
    second.log(2, {"policy/loss": 3.0})
    second.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "policy/loss": 1.0}, {"step": 2, "policy/loss": 3.0}]
    assert [row["step"] for row in read_jsonl(tmp_path / "episodes.jsonl")] == [1]


def test_dashboards_get_the_same_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from accelerate.state import PartialState
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState(cpu=True)
    mirror = Trackers(TrackingConfig(["tensorboard"]), tmp_path, {"optim.lr": 0.1, "name": "x", "resume": None})
    tracker = Tracker(tmp_path, None, mirror)
    tracker.log(7, {"policy/loss": 1.5, "critic/explained_variance": float("nan")})
    tracker.close()
    (events,) = (path for path in tmp_path.glob("events.*"))
    found = EventAccumulator(str(events)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("policy/loss")] == [(7, 1.5)]
    assert "critic/explained_variance" not in found.Tags()["scalars"]  # nan is null in JSON, and left out of dashboards


def test_a_tracker_from_outside_gets_config_and_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(TRACKERS, "_values", dict(TRACKERS._values))
    seen = []

    class Listing:
        def __init__(self, project, folder):
            seen.append((project, folder))

        def start(self):
            pass

        def store_init_configuration(self, values):
            seen.append(values)

        def log(self, values, step):
            seen.append((step, values))

        def finish(self):
            seen.append("finished")

    TRACKERS.register("listing")(Listing)
    mirror = Trackers(TrackingConfig(["listing"], "mine"), tmp_path, {"optim.lr": 0.1})
    mirror.log(7, {"policy/loss": 1.5})
    mirror.close()
    assert seen == [("mine", tmp_path), {"optim.lr": 0.1}, (7, {"policy/loss": 1.5}), "finished"]


def test_what_is_not_installed_is_named(tmp_path):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(ModuleNotFoundError, match="wandb is not installed; pip install wandb"):
        Trackers(TrackingConfig(["wandb"]), tmp_path, {})
    with pytest.raises(ValueError, match=r"backends=nonsense: unknown\. Known: tensorboard, wandb, trackio"):
        TrackingConfig(["nonsense"])


def test_files_are_found_by_depth_while_another_run_removes_its_folders(tmp_path, monkeypatch):
    places = ("b", "a/deep", "gone", "a/checkpoints/0001", "1/2/3/4", "1/2/3/4/5")
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "study.json").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    real = os.scandir

    def vanishing(path="."):
        if str(path).endswith("gone"):
            os.remove(os.path.join(path, "study.json"))
            os.rmdir(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    found = [path.parent.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, "study.json")]
    assert found == ["b", "linked", "a/deep", "1/2/3/4"]
    assert not (tmp_path / "gone").exists()
    assert [path.parent.name for path in files_below(tmp_path, "study.json", 1)] == ["b", "linked"]
    assert files_below(tmp_path / "nowhere", "study.json") == []
