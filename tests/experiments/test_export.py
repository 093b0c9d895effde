"""Exports agree with the files that they are made from, for a real comparison and a made-up study."""

import csv
import json
import re
import shutil

import pytest

from experiments.arms import write_jsonl
from experiments.cli import UserError
from experiments.conversations import conversations
from experiments.evidence.latex import tabulars, tex
from experiments.evidence.model import Table
from experiments.evidence.store import Store
from experiments.export import FORMATS, export, tables
from rewards.lookup import UnknownNameError
from tests.experiments.test_evidence import stored  # noqa: F401


@pytest.fixture(scope="module")
def small(stored, tmp_path_factory):  # noqa: F811
    """Folder with one seed of two arms of the stored run: an online arm with training episodes and an offline arm."""
    place = tmp_path_factory.mktemp("exported")
    for arm in ("score", "star"):
        (place / "arms" / arm).mkdir(parents=True)
        (place / "arms" / arm / "seed_0").symlink_to(stored / "arms" / arm / "seed_0")
    (place / "config.yaml").symlink_to(stored / "config.yaml")
    return place


@pytest.fixture(scope="module")
def told(small):
    (path,) = export(small, "jsonl")
    assert path == small / "export" / "jsonl" / "conversations.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_episode_but_those_of_controls_is_a_conversation(told, small):
    rows = [row for row in Store(small).rows if row.mode in ("greedy", "sampled", "longer") or "/" in row.mode]
    kept = Store(small).episodes("score", 0)
    assert len(told) == len(rows) + len(kept)
    for row, one in zip((row for row in rows if row.arm == "score"), told, strict=False):
        own = [one["messages"][reply["message"]] for reply in one["replies"]]
        assert [message["content"] for message in own] == list(row.texts)
        assert {message["role"] for message in own} == {"assistant"}
        assert [reply["verdict"] for reply in one["replies"]] == list(row.verdicts)
        assert [message["role"] for message in one["messages"]] == ["user", "assistant"] * len(row.texts)
        assert one["messages"][0]["content"] == one["question"] == row.task_id
        assert one["messages"][2]["content"] == "check"


def test_training_episodes_carry_an_advantage_of_every_token(told, small):
    kept = Store(small).episodes("score", 0)
    trained = [one for one in told if one["mode"] == "training"]
    for episode, one in zip(kept, trained, strict=True):
        assert one["step"] == episode["step"]
        assert [reply["advantages"] for reply in one["replies"]] == episode["advantages"]


def test_inspect_logs_say_what_the_rows_say(small):
    """Checks the fields of the logs; ``make test-interop`` checks that the real package can read them."""
    paths = export(small, "inspect")
    logs = [json.loads(path.read_text()) for path in paths]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_[^_]+_[0-9a-f]{32}\.json$", path.name) for path in paths)
    (log,) = [one for one in logs if one["eval"]["metadata"] == {"arm": "score", "seed": 0, "mode": "greedy"}
              | {"run": "arms/score/seed_0"}]  # fmt: skip
    rows = Store(small).rows_of("score", "greedy")
    assert [sample["scores"]["attempt_2"]["value"] == "C" for sample in log["samples"]] == [r.correct[1] for r in rows]
    shown = log["results"]["scores"][1]
    assert shown["metrics"]["accuracy"]["value"] == pytest.approx(sum(row.correct[1] for row in rows) / len(rows))
    for one in logs:
        assert len({(sample["id"], sample["epoch"]) for sample in one["samples"]}) == len(one["samples"])


def test_a_data_set_that_datasets_opens(small, told):
    import datasets

    (path,) = export(small, "datasets")
    found = datasets.load_from_disk(str(path))
    assert found["messages"][0] == told[0]["messages"]
    assert len(found) == len(told)


def test_tables_as_csv_and_latex(small, monkeypatch):
    written = dict(tables(small))
    monkeypatch.setattr("experiments.export.tables", lambda folder: written.items())  # do not make them twice
    assert {"T1", "T5"} <= set(written)
    paths = {path.name: path for path in [*export(small, "csv"), *export(small, "latex")]}
    for name, table in written.items():
        with paths[f"{name}.csv"].open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == table.flat()[0]
        assert len(rows) == len(table.rows)
        tex = paths[f"{name}.tex"].read_text()
        parts = tex.split(r"\begin{tabular}")[1:]
        names = len(header) - len(table.header) + 1
        widths = []
        for part in parts:
            assert part.count(r" \\") == len(rows) + 1
            (width,) = {len(re.findall(r"(?<!\\)&", line)) + 1 for line in part.splitlines() if line.endswith(r" \\")}
            assert width - names <= 7, "what fits a page"
            widths.append(width - names)
        assert sum(widths) == len(header) - names, "no column is lost"
        for line in tex.splitlines():
            assert not re.search(r"(?<!\\)[%#]", line), "a bare % would comment the rest of the row out"
    assert paths["T1.tex"].read_text().count(r"\begin{tabular}") > 1
    assert r"i$\to$c" in paths["T1.tex"].read_text()
    assert (r"[" in paths["T1.tex"].read_text()) == any("\n" in cell for row in written["T1"].rows for cell in row)
    assert len(paths["episodes.csv"].read_text().splitlines()) == 1 + len(Store(small).rows) + 30


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("i->c", r"i$\to$c"), ("a -> b", r"a $\to$ b"), ("-> <- >", r"$\to$ \textless{}- \textgreater{}"),
        ("a→b", r"a$\to$b"),
        ("5 % & #1", r"5 \% \& \#1"), ("n_1^2", r"n\_1\textasciicircum{}2"), ("a\\b{}", r"a\textbackslash{}b\{\}"),
        ("-1.5", "-1.5"), ("\u22121", "--1"), ("+0.5\n-1, 2", r"+0.5 {\scriptsize [-1, 2]}"),
    ],
)  # fmt: skip
def test_a_cell_as_latex(cell, written):
    assert tex(cell) == written


@pytest.mark.parametrize(("n", "sheets"), [(1, 1), (2, 1), (8, 1), (9, 2), (18, 3)])
def test_a_wide_table_is_cut_into_parts_that_fit_a_page(n, sheets):
    header = ["arm", *(f"c{i}" for i in range(1, n))]
    table = Table("", header, [[f"{name}{i}" for i in range(n)] for name in "ab"])
    parts = tabulars(table)
    assert len(parts) == sheets
    assert [name for part in parts for name in re.findall(r"c\d+", part)] == header[1:]
    assert all(part.count("a0") == part.count("b0") == 1 for part in parts)
    long = Table("", ["arm", "says"], [["a", "x" * 41]])
    assert r"{lp{6cm}}" in tabulars(long)[0]


def test_a_folder_is_a_path_or_a_text(small, tmp_path):
    (path,) = export(str(small), "jsonl", str(tmp_path / "out"))
    assert path == tmp_path / "out" / "conversations.jsonl"
    assert sum(1 for _ in conversations(str(small))) == len(path.read_text().splitlines())
    assert dict(tables(str(small)))["T4"] == dict(tables(small))["T4"]


@pytest.fixture
def study(tmp_path):
    place = tmp_path / "studies" / "collapse"
    for seed in (0, 1):
        (place / "seeds" / f"seed_{seed}").mkdir(parents=True)
        (place / "seeds" / f"seed_{seed}" / "result.json").write_text(json.dumps({"seed": seed, "rows": []}))
        sample = {"arm": "replace", "seed": seed, "step": 3, "prompt": "p", "answer": "a", "right": True, "worth": 0.5}
        (place / "seeds" / f"seed_{seed}" / "rows.jsonl").write_text(json.dumps(sample) + "\n")
    (place / "study.json").write_text('{"study": "collapse"}')
    (place / "exhibits").mkdir()
    table = {"kind": "table", "caption": "A & B, 5 %.", "header": ["claim", "n_1"], "rows": [["it_is", "1\n0.5, 1.5"]]}
    (place / "exhibits" / "S1.json").write_text(json.dumps(table | {"values": {}, "id": "S1", "title": "Claims"}))
    return tmp_path / "studies"


def test_a_study_and_a_folder_of_studies(study):
    (path,) = export(study, "jsonl")
    one = json.loads(path.read_text().splitlines()[0])
    assert one["messages"] == [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]
    assert (one["replies"][0]["verdict"], one["mode"], one["more"]["worth"]) == ("correct", "collapse", 0.5)
    (path,) = export(study, "latex")
    assert path.name == "collapse_S1.tex"
    assert r"it\_is & 1 {\scriptsize [0.5, 1.5]} \\" in path.read_text()
    assert r"\caption{Claims. A \& B, 5 \%.}" in path.read_text()


def test_what_cannot_be_exported_is_refused(small, tmp_path, stored):  # noqa: F811
    with pytest.raises(UnknownNameError, match="did you mean 'latex'"):
        export(small, "latx")
    with pytest.raises(FileNotFoundError, match="no finished run"):
        export(tmp_path, "jsonl")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="name an empty folder"):
        export(small, "jsonl", tmp_path)
    moved = tmp_path / "moved"
    (moved / "arms").mkdir(parents=True)
    (moved / "arms" / "star").symlink_to(small / "arms" / "star")
    config = (stored / "config.yaml").read_text().replace("id: errata/modchain-v1", "id: gone:errata/none-v1")
    (moved / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="cannot be built here"):
        list(conversations(moved))


@pytest.mark.parametrize("what", ["question", "gold", "gone"])
def test_tasks_that_changed_since_the_run_are_named(stored, tmp_path, what):  # noqa: F811
    run = tmp_path / "arms" / "star" / "seed_0"
    shutil.copytree(stored / "arms" / "star" / "seed_0", run)
    shutil.copy(stored / "config.yaml", tmp_path)
    one = next(conversations(tmp_path))
    old, asked = one.task_id, {"task_id": one.task_id, "question": one.question, "gold": one.gold}
    write_jsonl(run / "tasks.jsonl", [asked])
    assert next(conversations(tmp_path)) == one
    write_jsonl(run / "tasks.jsonl", [asked | {what: "another one"}])
    if what == "gone":
        (run / "rows.jsonl").write_text((run / "rows.jsonl").read_text().replace(json.dumps(old), '"a lost task"'))
    message = "'a lost task' of these runs is not in" if what == "gone" else "another one.*changed after the run"
    with pytest.raises(UserError, match=message) as refused:
        list(conversations(tmp_path))
    assert what == "gone" or repr(old) in str(refused.value)


def test_a_format_of_ones_own(small, tmp_path):
    @FORMATS.register("names")
    def names(folder, out):
        (out / "names.txt").write_text("\n".join(sorted({one.arm for one in conversations(folder)})))
        return [out / "names.txt"]

    try:
        (path,) = export(small, "names", tmp_path / "out")
        assert path.read_text() == "score\nstar"
    finally:
        del FORMATS._values["names"]
