"""An unhealthy run reports and records it and continues; it stops only if ``stop_on`` says so, and can be resumed."""

import json
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments.arms import run_base, run_offline
from experiments.evidence.page import _health
from experiments.online import run_online
from experiments.run_health import News, RunHealth, findings
from experiments.watch import run_view, runs_view
from rl.backends.distributed import Distributed
from rl.config import AlgorithmConfig, BudgetConfig, EvalConfig, OfflineConfig, SFTConfig
from rl.types import RunStoppedError
from tests.helpers import modchain_config


def cut_off_run(**training):
    cfg = modchain_config(episodes=48, algorithm=AlgorithmConfig(name="test", group_size=2), lr=1e-4)
    short = replace(cfg.env, max_new_tokens=[1, 1])
    budget = replace(cfg.training, validate_every=2, save_every=0, **training)
    evaluation = EvalConfig(n_tasks=4, samples_per_task=0)
    return replace(cfg, env=short, training=budget, evaluation=evaluation)


def shown(what):
    file = StringIO()
    Console(file=file, width=200).print(what)
    return file.getvalue()


def quiet(*_):
    pass


def test_what_is_wrong_is_said_once_written_down_and_shown(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"command": []}')
    result = run_online(cut_off_run(), folder, quiet)
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("are cut off by the token limit") == 1
    assert "health, step 0: 100 % of the attempts are cut off" in out
    assert "env.max_new_tokens" in out
    info = json.loads((folder / "run.json").read_text())
    assert info["command"] == []
    first = info["health"][0]
    assert (first["check"], first["from"], first["to"]) == ("cut_off", 0, None)
    assert "are cut off by the token limit in the evaluation" in result.notes["health"][0]
    assert "health, since step 0: 100 % of the attempts are cut off" in shown(run_view(folder, 0))
    (folder / "config.yaml").write_text("seed: 0\n")
    assert "cut_off" in shown(runs_view(tmp_path))


def test_a_run_stops_on_a_check_only_if_it_is_told_to_and_goes_on_without(tmp_path):
    with pytest.raises(RunStoppedError, match=r"training.stop_on=\['cut_off'\]: 100 % of the attempts are cut off"):
        run_online(cut_off_run(stop_on=["cut_off"]), tmp_path, quiet)
    assert (tmp_path / "checkpoints").exists()  # the run can be resumed
    assert not (tmp_path / "result.json").exists()
    before, log = findings(tmp_path), (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(RunStoppedError, match="100 % of the attempts are cut off"):  # the problem still lasts
        run_online(cut_off_run(stop_on=["failed", "cut_off"]), tmp_path, quiet)
    assert (tmp_path / "metrics.jsonl").read_text() == log
    assert run_online(cut_off_run(), tmp_path, quiet).totals["episodes"] == 48
    assert findings(tmp_path)[: len(before)] == before  # earlier findings are kept as they were


def row(step, check):
    rates = {"rollout/truncated_t1": 0.9 * (check == "cut_off"), "rollout/failed_fraction": 0.3 * (check == "failed")}
    return {"step": step, "optim/lr": 1e-5, "rollout/episodes": 8 * step, "rollout/accuracy_t1": 0.3} | rates


@pytest.mark.parametrize(
    ("logged", "stop_on", "stops"),
    [
        (["cut_off"] * 5, ["cut_off"], True),
        (["failed"] * 5, ["cut_off", "failed"], True),
        (["cut_off"] * 5, ["failed"], False),
        (["cut_off"] * 5, [], False),
        (["cut_off"] * 4 + [""] * 4, ["cut_off"], False),  # it was over before the run ended
        (["cut_off"] * 4 + [""] * 4 + ["cut_off"] * 4, ["cut_off"], True),
        ([""] * 5, ["cut_off", "failed"], False),
    ],
)
def test_a_problem_that_lasts_stops_the_resumed_run(tmp_path, logged, stop_on, stops):
    lines = [json.dumps(row(step, check)) for step, check in enumerate(logged, 1)]
    after = json.dumps(row(len(logged) + 1, "cut_off"))  # after the checkpoint, so that it is not read
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, after]))
    health = RunHealth(BudgetConfig(stop_on=stop_on), tmp_path, (1,), Distributed())
    health.read(len(logged), 0.5)
    saved = []
    if stops:
        with pytest.raises(RunStoppedError, match=r"training.stop_on=\['.*give training.stop_on=\[\] and resume="):
            health.stop(lambda: saved.append(1))
    else:
        health.stop(lambda: saved.append(1))
    assert len(saved) == stops


def test_an_offline_method_stops_before_it_samples_where_the_base_has_the_problem(tmp_path):
    cfg = cut_off_run()
    budget = BudgetConfig(episodes=48, stop_on=["cut_off"])
    method = OfflineConfig(name="star", rule="star", group_size=2, iterations=1)
    shared = {"name": "x", "model": cfg.model, "env": cfg.env, "engine": cfg.engine, "evaluation": cfg.evaluation}
    for _ in range(2):  # and again when it is resumed
        with pytest.raises(RunStoppedError, match="100 % of the attempts are cut off"):
            run_offline(SFTConfig(**shared, offline=method, training=budget), tmp_path, quiet)
        assert not (tmp_path / "rounds.jsonl").read_text()


def test_an_evaluation_says_what_its_rates_say(tmp_path):
    cfg = cut_off_run()
    result = run_base(cfg, tmp_path, quiet)
    assert [line.split(". Usual")[0] for line in result.notes["health"]] == [
        "100 % of the attempts are cut off by the token limit in the evaluation"
    ]


def test_findings_of_other_processes_are_told_once_each(tmp_path):
    news = News()
    assert list(news.of(tmp_path)) == []
    one = {"check": "failed", "from": 3, "to": None, "said": "2 % of [it]"}
    (tmp_path / "run.json").write_text(json.dumps({"health": [one]}))
    assert [shown(line) for line in news.of(tmp_path)] == ["health, step 3: 2 % of [it]\n"]
    assert list(news.of(tmp_path)) == []
    (tmp_path / "run.json").write_text(json.dumps({"health": [one | {"to": 5}]}))
    assert [shown(line) for line in news.of(tmp_path)] == ["health, step 5: failed is over\n"]


def test_the_page_lists_what_was_found_and_nothing_where_all_is_well():
    one = {"check": "failed", "from": 3, "to": None, "said": "5 % <of> the episodes"}
    runs = {("score", 0): None, ("score", 1): None}
    unwell = SimpleNamespace(unwell=lambda: [("score", 1, one)], names={"score": "SCoRe"}, runs=runs)
    text = _health(unwell)  # type: ignore[arg-type]
    assert "Health: 1 finding in 1 of 2 runs" in text
    assert "SCoRe, seed 1, failed from step 3 to the end: 5 % &lt;of&gt; the episodes" in text
    assert _health(SimpleNamespace(unwell=list, names={}, runs=runs)) == ""  # type: ignore[arg-type]
