"""A tiny comparison end to end, with resume and refusal, and the statistics of comparisons on made-up rows."""

import json
import shutil
from dataclasses import replace

import pytest

from experiments.arms import write_jsonl
from experiments.compare import say_crashed
from experiments.evidence.comparison import compare as compare_runs
from experiments.evidence.controls import control_table
from experiments.evidence.store import Store
from experiments.evidence.verdicts import points, verdicts
from rl.analysis.statistics import Bootstrap, Interval
from rl.tracking import read_jsonl, write_json, write_text
from tests import programs
from tests.helpers import row

TINY = [
    "env.options.n_train=64",
    "env.options.n_validation=10",
    "env.options.n_test=20",
    "training.episodes=192",
    "training.tasks_per_step=8",
    "arms.star.iterations=1",
    "include=[star,score]",
    "seeds=[0,1]",
    "evaluation.samples_per_task=2",
    "evaluation.fixed_first=8",
    "cross=8",
]
TWO = "executor_options.workers=2"


def compare(folder, *more):
    return programs.run("experiments.compare", f"runs_dir={folder}", *TINY, *more)


@pytest.mark.slow(70)
def test_the_whole_comparison_and_its_resume(tmp_path):
    done = compare(tmp_path, TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "compare").iterdir()
    for name in ("report.html", "exhibits/T1.md", "exhibits/F1.png", "comparison.json", "config.yaml", "run.json"):
        assert (folder / name).stat().st_size > 0
    # Every arm has finished with the same number of sampled episodes and one row per (arm, seed, mode, task, sample).
    results = {path.parent: json.loads(path.read_text()) for path in folder.glob("arms/*/*/result.json")}
    assert len(results) == 1 + 2 * 2
    assert {r["totals"]["episodes"] for r in results.values() if r["arm"] != "base"} == {192}
    for job, result in results.items():
        rows = read_jsonl(job / "rows.jsonl")
        keys = {(r["arm"], r["seed"], r["mode"], r["task_id"], r["sample"]) for r in rows}
        assert len(rows) == len(keys) == 20 * (1 + 3 + 1 + 2 + 1)  # greedy, controls, longer, samples, transfer
        assert {r["arm"] for r in rows} == {result["arm"]}
        assert (job / "policy" / "model.safetensors").exists()
    for word in ("SCoRe", "STaR", "base", "episodes/s", "sampling", "verification", "update", "report:"):
        assert word in done.stdout
    page = (folder / "report.html").read_text()
    for word in ("Greedy episodes", "Sampled episodes", "Who gets better", "Arms are matched on sampled episodes"):
        assert word in page
    assert set(json.loads((folder / "comparison.json").read_text())) == {"greedy", "sampled"}

    # If the result of one job is lost, the resumed comparison runs only this job.
    lost = folder / "arms" / "score" / "seed_1" / "result.json"
    before = lost.read_text()
    lost.unlink()
    again = compare(tmp_path, TWO, f"resume={folder}")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4 of 5 jobs are finished already" in again.stdout
    assert json.loads(before)["greedy"] == json.loads(lost.read_text())["greedy"]  # same seed, same result

    kept = (folder / "run.json").read_text()
    changed = compare(tmp_path, TWO, f"resume={folder}", "arms.star.optim.lr=0.5")
    assert changed.returncode == 2
    assert "optim.lr" in changed.stdout
    assert (folder / "run.json").read_text() == kept  # a refused change must not be stored for the next resume


def stored(folder, arm, seed, rows):
    job = folder / "arms" / arm / f"seed_{seed}"
    job.mkdir(parents=True)
    write_jsonl(job / "rows.jsonl", (row.to_json() for row in rows))
    totals = {
        "episodes": 10 * (arm != "base"),
        "sampled_tokens": 50,
        "gradient_tokens": 20,
        "seconds": {"sampling": 1.0, "update": 1.0},
    }
    write_json(job / "result.json", {"arm": arm, "seed": seed, "totals": totals, "seconds": 3.0})


def compared(folder, names=(), order=()):
    """The greedy comparison of a folder of made-up runs, after writing a config like that of a real comparison."""
    arms = {arm: {"name": name} for arm, name in (dict.fromkeys(order, None) | dict(names)).items() if arm != "base"}
    arms = {arm: {"name": node["name"] or arm} for arm, node in arms.items()}
    write_text(folder / "config.yaml", json.dumps({"env": {"name": "made up"}, "arms": arms, "include": list(arms)}))
    return compare_runs(Store(folder), "greedy")


def rows_with(arm, seed, n_fixed, n_broken, n=100):
    """Rows of ``n`` tasks, half right at first; ``n_fixed`` wrong ones become right, ``n_broken`` right ones wrong."""
    rows = []
    for i in range(n):
        first = i % 2 == 1
        rank = i // 2
        last = rank >= n_broken if first else rank < n_fixed
        rows.append(row(arm=arm, seed=seed, task_id=str(i), first=first, last=last))
    return rows


@pytest.fixture
def folder(tmp_path):
    stored(tmp_path, "base", 0, rows_with("base", 0, 0, 0))
    for seed in (0, 1, 2):
        stored(tmp_path, "winner", seed, rows_with("winner", seed, 40 + seed, 1))
        stored(tmp_path, "flat", seed, rows_with("flat", seed, 2, 2))
        stored(tmp_path, "worse", seed, rows_with("worse", seed, 0, 20))
    return tmp_path


ORDER = ["base", "winner", "flat", "worse"]


def test_the_numbers_of_a_comparison(folder):
    comparison = compared(folder, {}, ORDER)
    winner = comparison.arm("winner")
    assert winner.rates["delta"].mean == pytest.approx(0.40)  # mean of 39, 40, 41 points
    assert winner.rates["delta"].low > 0.25
    assert winner.against["flat"].low > 0
    assert comparison.arm("base").rates["delta"] == Interval(0.0, 0.0, 0.0)
    assert [seed.failed for seed in comparison.arm("flat").seeds] == [True, True, True]
    assert [seed.failed for seed in winner.seeds] == [False, False, False]
    assert winner.seeds[0].p_value < 1e-6
    assert comparison.arm("flat").seeds[0].p_value == 1.0
    assert points(Interval(0.4, 0.3, 0.5)) == "+40.0 [+30.0, +50.0]"


def test_the_sentences_say_what_the_intervals_say(folder):
    text = "\n".join(verdicts(compared(folder, {"winner": "Filtered SFT"}, ORDER)))
    assert "Filtered SFT: answers better the second time" in text  # the winner is named whichever arm it is
    assert "worse: makes its answers worse" in text
    assert "flat: the interval of delta includes zero" in text
    assert "3 of 3 seeds failed" in text
    assert "The largest delta is Filtered SFT's" in text
    assert "With 3 seeds that is rough" in text


@pytest.mark.parametrize(
    ("of_winner", "of_flat", "sentence", "said"),
    [
        ([0, 1], [0, 1], "With 2 seeds that is rough", "2 seeds"),
        ([0, 1], [1, 2], "With 1 seed that is rough", "1 seed"),
        ([0, 1], [2], "They have no seed in common, so that one run of each was compared", "no seed in common"),
    ],
)
def test_the_seeds_that_arms_share_are_counted(tmp_path, of_winner, of_flat, sentence, said):
    stored(tmp_path, "base", 0, rows_with("base", 0, 0, 0))
    for arm, seeds, n_fixed in (("winner", of_winner, 40), ("flat", of_flat, 0)):
        for seed in seeds:
            stored(tmp_path, arm, seed, rows_with(arm, seed, n_fixed, 0))
    text = "\n".join(verdicts(compared(tmp_path, {}, ORDER[:3])))
    assert "winner's delta is larger than that of flat" in text
    assert sentence in text
    assert f"{len(of_flat)} of {'1 seed' if len(of_flat) == 1 else '2 seeds'} failed (delta of at most 1 point)" in text
    assert said in Store(tmp_path).said_seeds


@pytest.mark.parametrize(
    ("deltas", "sentences"),
    [
        (
            (0, 0, 0),
            ["No trained arm has a delta above zero; the largest is 0.0 points, that of winner, flat and worse."],
        ),
        ((-10, -2, -5), ["Every trained arm has a delta below zero; the one nearest to zero is flat's, -2.0 points."]),
        ((-5, -5, -10), ["Every trained arm has a delta below zero", "that of winner and flat, -5.0 points."]),
        ((0, -2, -5), ["No trained arm has a delta above zero; the largest is 0.0 points, winner's."]),
        ((8, 8, 2), ["winner and flat share the largest delta, +8.0 points.", "winner and flat share the best acc@t2"]),
        ((8, 2, -2), ["The largest delta is winner's.", "The best acc@t2 is winner's: 58.0"]),
    ],
)
def test_the_ranking_is_true_of_ties_zeros_and_losses(tmp_path, deltas, sentences):
    stored(tmp_path, "base", 0, rows_with("base", 0, 0, 0))
    for arm, delta in zip(ORDER[1:], deltas, strict=True):
        for seed in (0, 1):
            stored(tmp_path, arm, seed, rows_with(arm, seed, max(0, delta), max(0, -delta)))
    text = "\n".join(verdicts(compared(tmp_path, {}, ORDER)))
    for sentence in sentences:
        assert sentence in text
    assert text.count("largest delta is ") == ("The largest delta is winner's." in sentences)


def test_no_sentence_hangs_on_the_last_bits(folder, monkeypatch):
    """Rounding errors, as another order of summation gives them, must not change a word of the verdicts."""
    before = verdicts(compared(folder, {}, ORDER))
    exact = Bootstrap.draws
    for noise in (1e-8, -1e-8):
        monkeypatch.setattr(Bootstrap, "draws", lambda self, cells, noise=noise: exact(self, cells) + noise)
        assert verdicts(compared(folder, {}, ORDER)) == before


@pytest.mark.parametrize(
    ("without", "others", "sentence"),
    [
        (10, 10, "It uses its attempt: acc@t2 falls by 30.0"),
        (
            0,
            40,
            "It answers anew rather than corrects: acc@t2 does not fall measurably with its first attempt at another",
        ),
        (40, 0, "It answers anew rather than corrects: acc@t2 does not fall measurably without a first attempt (C1)"),
    ],
)
def test_the_report_says_whether_an_arm_corrects_or_answers_again(folder, without, others, sentence):
    """The second attempt fixes 40 of 100 tasks; under the controls it fixes ``without`` and ``others`` of them."""
    for seed in (0, 1, 2):
        rows = rows_with("winner", seed, 40, 0)
        for mode, n_fixed in (("without_first", without), ("others_first", others), ("told_verdict", 50)):
            rows += [replace(one, mode=mode) for one in reversed(rows_with("winner", seed, n_fixed, 0))]
        shutil.rmtree(folder / "arms" / "winner" / f"seed_{seed}")
        stored(folder, "winner", seed, rows)
    comparison = compared(folder, {"winner": "RL"}, ORDER)
    winner = comparison.arm("winner")
    assert winner.controls["told_verdict"].mean == pytest.approx(1.0)
    assert winner.losses["without_first"].mean == pytest.approx((40 - without) / 100)
    text = "\n".join(verdicts(comparison))
    assert sentence in text
    assert text.count("C1)") + text.count("C2)") <= 2  # only the arm with controls mentions them
    assert not comparison.arm("flat").controls


def test_the_table_of_a_control_says_how_many_episodes_it_did_not_change(folder):
    for seed in (0, 1, 2):
        rows = rows_with("winner", seed, 40, 0)
        for mode, n_same in (("others_first", 0), ("other_error", 12)):
            changed = rows_with("winner", seed, 10, 0)
            rows += [replace(one, mode=mode, unchanged=i < n_same) for i, one in enumerate(changed)]
        shutil.rmtree(folder / "arms" / "winner" / f"seed_{seed}")
        stored(folder, "winner", seed, rows)
    compared(folder, {"winner": "RL"}, ORDER)
    store = Store(folder)
    error, attempt = (control_table(store, name) for name in ("other_error", "others_first"))
    assert error.rows[0][-1].endswith("This control changes nothing in 36 of 300 episodes.")
    assert error.values["RL"]["unchanged"] == 36
    assert "counts the same with and without it" in error.caption
    assert "changes nothing" not in attempt.rows[0][-1] + attempt.caption


def test_a_control_that_can_change_nothing_with_one_seed_counts_its_episodes_as_they_are(folder):
    for seed in (0, 1, 2):
        own, played = rows_with("winner", seed, 40, 0), ["others_first"] + ["other_error"] * (seed < 2)
        rows = own + [replace(one, mode=mode) for mode in played for one in rows_with("winner", seed, 10, 0)]
        shutil.rmtree(folder / "arms" / "winner" / f"seed_{seed}")
        stored(folder, "winner", seed, rows)
    winner = compared(folder, {"winner": "RL"}, ORDER).arm("winner")
    assert winner.losses["others_first"].mean == pytest.approx(0.3)
    assert winner.losses["other_error"].mean == pytest.approx(0.2)
    said = control_table(Store(folder), "other_error").rows[0][-1]
    assert said.endswith("This control changes nothing in 100 of 300 episodes.")


def test_a_crashed_seed_is_shown_and_left_out(folder):
    crashed = folder / "arms" / "flat" / "seed_3"
    crashed.mkdir()
    (crashed / "error.txt").write_text("Traceback")
    comparison = compared(folder, {}, [*ORDER, "never_ran"])
    assert comparison.arm("flat").crashed == [3]
    text = "\n".join(verdicts(comparison))
    assert "1 seed crashed and is missing: 3." in text
    assert "never_ran: no finished run" in text


def test_a_job_that_crashes_is_reported_and_the_others_go_on(tmp_path):
    # At this temperature, the untrained policy never turns a wrong answer right, so the rule keeps nothing.
    nothing_else = ["cross=0", "evaluation.samples_per_task=0", "evaluation.fixed_first=0"]
    done = compare(tmp_path, "executor=here", "seeds=[0]", "arms.star.temperature=0.01", *nothing_else)
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join((done.stdout + done.stderr).split())  # line breaks depend on the folder's name
    assert "star/0 crashed" in said
    assert "none of 192 episodes passes the rule" in said
    assert "STaR: no finished run" in said
    assert "SCoRe" in said
    (folder,) = (tmp_path / "compare").iterdir()
    assert (folder / "arms" / "star" / "seed_0" / "error.txt").exists()
    assert (folder / "report.html").exists()


def test_a_reason_that_jobs_share_is_printed_once_and_as_it_is(capsys):
    same = "Traceback ...\nValueError: no [file] there\n"
    say_crashed({"star/0": same, "score/0": "OSError: [Errno 28] full", "star/1": same})
    said = ["star/0, star/1 crashed: ValueError: no [file] there", "score/0 crashed: OSError: [Errno 28] full"]
    assert capsys.readouterr().out.splitlines() == said


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        compared(tmp_path, {}, ORDER)
