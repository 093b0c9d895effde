"""The data frame of a folder's episodes agrees with the files that it is made from."""

import json
import subprocess
import sys

import pytest

from experiments.evidence import load_rows
from experiments.evidence.store import Store
from tests.conftest import ROOT
from tests.experiments.test_evidence import stored  # noqa: F401


@pytest.fixture(scope="module")
def frame(stored):  # noqa: F811
    return load_rows(stored)


def test_it_has_every_evaluated_and_every_kept_training_episode_once(frame, stored):  # noqa: F811
    n_lines = {
        name: sum(len(path.read_text().splitlines()) for path in stored.glob(f"arms/*/*/{name}.jsonl"))
        for name in ("rows", "episodes")
    }
    assert n_lines["rows"] > 1000
    assert (frame["mode"] != "training").sum() == n_lines["rows"]
    assert (frame["mode"] == "training").sum() == n_lines["episodes"] > 0


def test_its_means_are_those_of_the_tables(frame, stored):  # noqa: F811
    store = Store(stored)
    for arm in store.arms:
        rows = frame[(frame["arm"] == arm) & (frame["mode"] == "sampled") & ~frame["failed"]]
        told = store.rows_of(arm, "sampled")
        assert rows["correct_2"].mean() == pytest.approx(sum(row.correct[row.at(2)] for row in told) / len(told))
        assert rows["accuracy_t2"].mean() == pytest.approx(rows["correct_2"].astype(float).mean())
        assert set(rows["seed"]) == set(store.seeds(arm))


def test_a_training_episode_has_its_step_and_advantages_and_the_longer_ones_their_attempts(frame, stored):  # noqa: F811
    first = json.loads((stored / "arms/score/seed_0/episodes.jsonl").read_text().splitlines()[0])
    row = frame[(frame["mode"] == "training") & (frame["arm"] == "score")].iloc[0]
    assert (row["step"], row["task_id"], row["text_2"]) == (1, first["task_id"], first["turns"][1]["text"])
    assert row["advantage_2"] == pytest.approx(sum(first["advantages"][1]) / len(first["advantages"][1]))
    longer = frame[frame["mode"] == "longer"]
    assert longer["attempts"].eq(5).all()
    assert longer["text_5"].notna().all()
    assert frame[frame["mode"] == "greedy"]["correct_5"].isna().all()
    assert frame["run"].iloc[0] == "arms/base/seed_0"


def test_an_attempt_that_a_control_put_there_is_not_the_policys(frame, stored):  # noqa: F811
    """Without its own first attempt a policy has no first accuracy and no delta; its second attempt counts."""
    about = ["correct_1", "reward_1", "verdict_1", "answer_1", "tokens_1", "truncated_1", "error_1"]
    rates = ["accuracy_t1", "delta", "delta_i_to_c", "fix_rate", "changed_answer", "edit_distance", "response_tokens"]
    own = frame[frame["mode"] == "greedy"].set_index(["arm", "seed", "task_id"])
    for mode in ("without_first", "others_first"):
        rows = frame[frame["mode"] == mode]
        assert len(rows)
        assert rows[about + rates].isna().all(axis=None)
        assert rows[~rows["failed"]]["accuracy_t2"].notna().all()
        assert rows["text_1"].notna().all()
    told = frame[frame["mode"] == "told_verdict"].set_index(["arm", "seed", "task_id"])
    told = told[~told["failed"]]
    assert len(told)
    assert told["correct_1"].equals(own.loc[told.index, "correct_1"])
    assert told["accuracy_t1"].notna().all()


def test_a_study_and_a_folder_of_studies(tmp_path):
    for seed in (0, 1):
        place = tmp_path / "collapse" / "1" / "seeds" / f"seed_{seed}"
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps({"seed": seed, "rows": []}))
        sample = {"arm": "replace", "seed": seed, "step": 3, "prompt": "p", "answer": "a", "right": True}
        (place / "rows.jsonl").write_text(json.dumps(sample) + "\n")
    (tmp_path / "collapse" / "1" / "study.json").write_text('{"study": "collapse"}')
    frame = load_rows(tmp_path / "collapse")
    assert frame.to_dict("records") == [
        {"study": "collapse", "arm": "replace", "seed": seed, "step": 3, "prompt": "p", "answer": "a", "right": True}
        for seed in (0, 1)
    ]
    assert len(load_rows(tmp_path)) == 2


def test_a_folder_without_a_run_and_what_is_no_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        load_rows(tmp_path)
    (tmp_path / "result.json").touch()
    with pytest.raises(NotADirectoryError, match=r"result.json is a file: load_rows takes the folder"):
        load_rows(tmp_path / "result.json")
    with pytest.raises(TypeError, match="takes the folder of runs, got None"):
        load_rows(None)  # type: ignore[arg-type]


def test_it_is_imported_without_torch_and_pandas():
    code = "from experiments.evidence import load_rows; import sys; assert not {'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
