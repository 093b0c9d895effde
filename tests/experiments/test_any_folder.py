"""Reports of folders that were not written by a comparison, and exhibits and rates that are added by other modules."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from experiments.cli import UserError
from experiments.evidence import build, load_rows
from experiments.evidence.comparison import compare
from experiments.evidence.episodes import pack
from experiments.evidence.model import EXHIBITS, Absent, Figure, Panel, Series, Table, exhibit
from experiments.evidence.page import page
from experiments.evidence.store import Store
from experiments.evidence.verdicts import verdicts
from experiments.report import write_report
from rl.analysis.rates import RATES, rate
from rl.analysis.rows import EvalRow
from tests.conftest import ROOT
from tests.experiments.test_compare import rows_with, stored
from tests.experiments.test_evidence import stored as comparison  # noqa: F401


def run(folder, arm, seed, rows, **config):
    """Writes a run's folder as ``experiments.train`` leaves it."""
    place = folder.parent / "arms" / arm / f"seed_{seed}"
    stored(folder.parent, arm, seed, rows)
    shutil.move(place, folder)
    shutil.rmtree(folder.parent / "arms")
    (folder / "config.yaml").write_text(json.dumps({"seed": seed, "env": {"name": "made up", "attempts": 2}, **config}))
    return folder


def test_a_sweep_becomes_a_report_with_an_arm_for_every_point(tmp_path):
    """Four runs over two learning rates and two seeds become two arms, named by the config key in which they differ."""
    for job, (lr, seed) in enumerate([(0.1, 0), (0.1, 1), (0.5, 0), (0.5, 1)]):
        rows = rows_with("SCoRe", seed, 40 if lr == 0.1 else 2, 1)
        run(tmp_path / "multirun" / "2026" / str(job), "SCoRe", seed, rows, algorithm={"optim": {"lr": lr}})
    (tmp_path / "multirun" / "2026" / "multirun.yaml").touch()
    store = Store(tmp_path / "multirun")
    assert store.arms == ["SCoRe, algorithm.optim.lr=0.1", "SCoRe, algorithm.optim.lr=0.5"]
    assert store.complete == [0, 1]
    found = write_report(tmp_path / "multirun")["greedy"]
    assert found.arm(store.arms[0]).rates["delta"].mean == pytest.approx(0.39)
    assert "The largest delta is SCoRe, algorithm.optim.lr=0.1's." in "\n".join(verdicts(found))
    assert (tmp_path / "multirun" / "report.html").exists()
    assert {row.arm for row in store.rows} == set(store.arms), "rows are named after the arm that they belong to here"


def test_one_run_alone_and_several_beside_each_other(tmp_path):
    alone = run(tmp_path / "train" / "2026-01-01", "RLOO", 3, rows_with("RLOO", 3, 10, 0))
    write_report(alone)
    assert Store(alone).arms == ["RLOO"]
    run(tmp_path / "train" / "2026-01-02", "STaR", 3, rows_with("STaR", 3, 2, 2))
    store = Store(tmp_path / "train")
    assert store.arms == ["RLOO", "STaR"]
    assert "not started as one comparison" in page(store, build(store, ["T1", "T4"]), 10).html


def test_seeds_that_not_every_arm_has_are_told_apart_from_the_means(tmp_path):
    """If arms have finished different seeds, as after a crash, rates use the shared seeds and the report says so."""
    for arm, seed in (("RLOO", 0), ("RLOO", 1), ("STaR", 0)):
        run(tmp_path / f"{arm}{seed}", arm, seed, rows_with(arm, seed, 10 * seed, 0))
    (said,) = Store(tmp_path).notes
    assert "every trained arm finished, 0 (RLOO has 0, 1; STaR has 0)" in said
    ranking = verdicts(write_report(tmp_path)["greedy"])
    assert said in (tmp_path / "report.html").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "RLOO0")
    (said,) = Store(tmp_path).notes
    assert "No seed is finished by every trained arm (RLOO has 1; STaR has 0)" in said
    assert ranking


def test_two_runs_of_one_arm_and_seed_are_not_averaged_in_silence(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, "RLOO", 0, rows_with("RLOO", 0, 10, 0))
    store = Store(tmp_path)
    assert list(store.runs) == [("RLOO", 0)]
    assert "another run of RLOO with seed 0" in store.notes[0]


def test_a_folder_without_a_finished_run_says_so(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="no finished run"):
        Store(tmp_path)


def episodes_of(attempts, seed):
    """Ten tasks: 1 and 6 are right at once and stop; of the others, even ones are right at the last attempt alone."""
    rows = []
    for i in range(10):
        correct = (True,) if i % 5 == 1 else (False,) * (attempts - 1) + (i % 2 == 0,)
        n, texts = len(correct), tuple(f"answer {right}" for right in correct)
        rows.append(
            EvalRow(
                "a", seed, "greedy", str(i), 0, attempts, correct, tuple(map(float, correct)),
                tuple("correct" if right else "wrong" for right in correct), texts, texts, (3,) * n, (False,) * n,
                "solved" if n < attempts else "attempts_used", False,
            )
        )  # fmt: skip
    return rows


@pytest.mark.parametrize(("attempts", "goal"), [(1, "accuracy_t1"), (2, "delta"), (3, "delta")])
def test_any_number_of_attempts_makes_a_report(tmp_path, attempts, goal):
    for arm in ("a", "b"):
        for seed in (0, 1):
            run(tmp_path / f"{arm}{seed}", arm, seed, episodes_of(attempts, seed))
    store = Store(tmp_path)
    found = write_report(tmp_path)["greedy"]
    assert found.goal == goal
    values = {one.id: one for one in build(store, ["T1", "T5"])}["T1"].values["a"]
    assert [name for name in values if name.startswith("accuracy_t")] == [f"accuracy_t{k + 1}" for k in range(attempts)]
    assert ("delta" in values) == (attempts > 1)
    if attempts == 3:
        assert values["delta"][0] == 0.0
        assert values["delta_t3"][0] == pytest.approx(values["accuracy_t3"][0] - values["accuracy_t1"][0])
        assert values["delta_t3"][0] == pytest.approx(0.4)
    sentences = "\n".join(verdicts(found))
    assert "nan" not in sentences
    assert ("acc@t1" in sentences) == (attempts == 1)
    assert ("From the first to attempt 3: +40.0" in sentences) == (attempts == 3)


def test_two_folders_are_compared_arm_by_arm(tmp_path):
    """The second folder fixes 20 more of the same 100 tasks; folders with different tasks are refused."""
    for name, n_fixed, lr in (("one", 20, 0.1), ("two", 40, 0.5)):
        run(tmp_path / name, "SCoRe", 0, rows_with("SCoRe", 0, n_fixed, 0), algorithm={"optim": {"lr": lr}})
    store = Store([tmp_path / "one", tmp_path / "two"])
    assert store.arms == ["SCoRe (A)", "SCoRe (B)"]
    assert store.notes[1] == f"B is {tmp_path / 'two'}."
    assert store.folder == tmp_path / "one_and_two"
    (table, dots) = build(store, ["T6", "F0"])
    assert table.values["SCoRe (B) minus SCoRe (A)"]["delta"][0] == pytest.approx(0.2)
    assert "configs differ in algorithm.optim.lr 0.1 / 0.5." in table.caption
    assert [row.mean for row in dots.rows] == pytest.approx([40, 20]), "the best first"
    places = [json.loads((tmp_path / name / "rows.jsonl").read_text().splitlines()[0]) for name in ("one", "two")]
    assert places[0]["task_id"] == places[1]["task_id"]
    path = tmp_path / "two" / "rows.jsonl"
    path.write_text(path.read_text().replace(f'"task_id": "{places[0]["task_id"]}"', '"task_id": "another"'))
    with pytest.raises(UserError, match="evaluated on different greedy tasks"):
        build(Store([tmp_path / "one", tmp_path / "two"]), ["T6"])


def asked(folder, **changed):
    """Stores the questions of a run's rows, as an evaluation does; values by task id replace the question or answer."""
    ids = dict.fromkeys(json.loads(line)["task_id"] for line in (folder / "rows.jsonl").read_text().splitlines())
    rows = [{"task_id": i, "question": f"What is {i}?", "gold": i} for i in ids]
    lines = [json.dumps(row | changed) if i == 1 else json.dumps(row) for i, row in enumerate(rows)]
    (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("changed", [{"question": "What is new?"}, {"gold": "another"}, {"gold": ""}])
def test_tasks_of_one_id_that_ask_something_else_are_not_paired(tmp_path, changed, together):
    """Ids of a file's rows are line numbers; after the file was edited they stand for other questions."""
    old, new = (run(tmp_path / arm, arm, 0, rows_with(arm, 0, 10, 0)) for arm in ("RLOO", "STaR"))
    several = [old, new] if together else tmp_path
    for folder in (old, new):
        asked(folder)
    build(Store(several), "T1")
    asked(new, **changed)
    said = r"task '.*' asked 'What is .*\?' with the answer '.*' in .*RLOO, but .* in .*STaR: the data were changed"
    for only in ("T1", "T5", "F0", "F3"):
        with pytest.raises(UserError, match=said):
            build(Store(several), only)
    with pytest.raises(UserError, match=said):
        write_report(several)
    assert {path.name for path in tmp_path.iterdir()} == {"RLOO", "STaR"}, "no folder is left of what was refused"
    if not together:
        frame = load_rows(tmp_path)
        for folder in (old, new):
            told = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
            own = frame[frame["run"] == folder.name].set_index("task_id")
            for one in told:
                assert set(own.loc[[one["task_id"]], "question"]) == {one["question"]}
                assert set(own.loc[[one["task_id"]], "gold"]) == {one["gold"]}


def test_a_changed_training_file_is_told_beside_the_same_configs(tmp_path):
    for name, sha in (("one", "aa"), ("two", "aa")):
        folder = run(tmp_path / name, "SCoRe", 0, rows_with("SCoRe", 0, 20, 0))
        (folder / "data.json").write_text(json.dumps([{"file": "my.jsonl", "sha256": sha, "rows": 9}]))
    (table,) = build(Store([tmp_path / "one", tmp_path / "two"]), ["T6"])
    assert table.caption.endswith("Their configs are the same.")
    (folder / "data.json").write_text(json.dumps([{"file": "my.jsonl", "sha256": "bb", "rows": 9}]))
    (table,) = build(Store([tmp_path / "one", tmp_path / "two"]), ["T6"])
    assert table.caption.endswith("Their configs are the same. Not all runs read the same version of my.jsonl.")


@pytest.mark.parametrize(
    ("changes", "is_own"),
    [({"options": {"path": "hard/my.jsonl"}}, False), ({"id": "x"}, False), ({"attempts": 2}, True)],
)
def test_transfer_to_other_tasks_shows_no_question_of_ones_own_tasks(tmp_path, changes, is_own):
    rows = rows_with("RLOO", 0, 10, 0)
    rows += [replace(row, mode="transfer/hard") for row in rows]
    folder = run(tmp_path / "a", "RLOO", 0, rows, evaluation={"transfer": {"hard": changes}})
    asked(folder)
    frame = load_rows(folder)
    questions = {mode: part["question"] for mode, part in frame.groupby("mode")}
    assert questions["greedy"].notna().all()
    assert questions["transfer/hard"].notna().all() == is_own
    index = pack(Store(folder), 10_000).index()
    shown = {index["modes"][mode]: set() for mode in index["columns"]["mode"]}
    for mode, task in zip(index["columns"]["mode"], index["columns"]["task"], strict=True):
        shown[index["modes"][mode]].add(index["tasks"][task][1])
    assert (shown["greedy"] == shown["transfer/hard"]) == is_own
    assert is_own or all("transfer/hard" in one for one in shown["transfer/hard"])


def test_variants_are_folded_in_a_report_of_two_comparisons(tmp_path):
    arms = {"base": "base", "score": "SCoRe", **{f"score_{i}": f"SCoRe, part {i}" for i in range(4)}}
    for name in ("one", "two"):
        for arm in arms:
            config = {"algorithm": {"stages": {}}} if arm != "base" else {}
            stored(tmp_path / name, arm, 0, rows_with(arm, 0, 3, 0))
            (tmp_path / name / "arms" / arm / "seed_0" / "config.yaml").write_text(json.dumps(config))
        entries = {arm: {"name": shown, "stages": {}} for arm, shown in arms.items() if arm != "base"}
        top = {"env": {"name": "made up"}, "include": list(entries), "arms": entries}
        (tmp_path / name / "config.yaml").write_text(json.dumps(top))
    store = Store([tmp_path / "one", tmp_path / "two"])
    assert [arm for arm in store.arms if arm not in store.minor] == ["base (A)", "SCoRe (A)", "base (B)", "SCoRe (B)"]


def test_an_exhibit_and_a_rate_from_outside_reach_table_figure_and_page(comparison, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(RATES, "_values", dict(RATES._values))
    monkeypatch.setattr(EXHIBITS, "_values", dict(EXHIBITS._values))

    @rate("long", "long answers", "%")
    def long(row):
        """Last answers of more than ten characters."""
        return len(row.texts[-1]) > 10

    @exhibit("F20", "Answers by length")
    def by_length(store):
        """How long answers are."""
        y = [store.interval(arm, store.mode, "long").mean for arm in store.arms]
        return Figure("n = 40 tasks, 2 seeds.", [Panel("", "arm", "long (%)", [Series("all", range(len(y)), y)])])

    folder = tmp_path / "run"
    shutil.copytree(comparison, folder)
    store = Store(folder)
    made = {one.id: one for one in build(store, ["T1", "F1", "F20"])}
    assert "long answers (%)" in made["T1"].header
    assert made["T1"].values["SCoRe"]["long"][0] > 0
    assert not [panel for panel in made["F1"].panels if "long" in panel.y_label], "that run did not log it"
    assert isinstance(made["F20"], Figure)
    assert made["F20"].title == "Answers by length"
    text = page(store, list(made.values()), 10).html
    assert "Answers by length" in text
    assert "long answers (%)" in text
    assert compare(store, "greedy").arm("score").rates["long"].mean > 0


def test_the_example_of_the_docs_runs_as_printed(comparison, tmp_path):  # noqa: F811
    text = (ROOT / "docs" / "evidence.md").read_text()
    (tmp_path / "my_exhibits.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    folder = tmp_path / "run"
    shutil.copytree(comparison, folder)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", f"run={folder}", "only=T7", "plugins=[my_exhibits]"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Short answers (T7)" in done.stdout
    assert "| SCoRe | 100.0 |" in (folder / "exhibits" / "T7.md").read_text()


def test_the_kinds_of_exhibit(comparison):  # noqa: F811
    assert all(isinstance(one, Table | Figure | Absent) for one in build(Store(comparison), ["T4", "F11"]))
