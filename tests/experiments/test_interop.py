"""The page about other tools runs as printed, on a stored comparison."""

import shlex
from pathlib import Path

from experiments.export import export
from tests.conftest import ROOT
from tests.experiments.test_evidence import stored  # noqa: F401
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "interop.md"


def test_exports_and_frame_run_as_printed(stored, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    place = Path("runs/compared/arms/score")
    place.mkdir(parents=True)
    (place / "seed_0").symlink_to(stored / "arms" / "score" / "seed_0")
    Path("runs/compared/config.yaml").symlink_to(stored / "config.yaml")
    commands = [shlex.split(line.partition("#")[0]) for line in blocks(PAGE, "bash")[0].splitlines()]
    for *program, run, to in commands:
        assert program == ["python", "-m", "experiments.export"]
        paths = export(Path(run.removeprefix("run=")), to.removeprefix("to="))
        assert paths
        assert all(path.exists() for path in paths)
    exec(blocks(PAGE, "python")[0], {})
    assert "score" in capsys.readouterr().out
