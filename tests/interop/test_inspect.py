"""The real Inspect reads every exported log, with the same texts and verdicts as the stored episodes."""

import pytest

from experiments.evidence.store import Store
from experiments.export import export
from tests.experiments.test_evidence import stored  # noqa: F401
from tests.experiments.test_export import small  # noqa: F401

pytestmark = pytest.mark.interop


def test_inspect_lists_and_reads_every_log(small):  # noqa: F811
    log = pytest.importorskip("inspect_ai.log")
    paths = export(small, "inspect")
    listed = log.list_eval_logs(str(paths[0].parent))
    assert len(listed) == len(paths)
    headers = [log.read_eval_log(one, header_only=True) for one in listed]
    assert {one.status for one in headers} == {"success"}
    found = [log.read_eval_log(str(path)) for path in paths]
    rows = Store(small).rows_of("score", "greedy")
    (greedy,) = [one for one in found if (one.eval.metadata["arm"], one.eval.metadata["mode"]) == ("score", "greedy")]
    for row, sample in zip(rows, greedy.samples, strict=True):
        assert [message.text for message in sample.messages if message.role == "assistant"] == list(row.texts)
        assert [score.value == "C" for score in sample.scores.values()] == list(row.correct)
    accuracy = greedy.results.scores[1].metrics["accuracy"].value
    assert accuracy == pytest.approx(sum(row.correct[1] for row in rows) / len(rows))
