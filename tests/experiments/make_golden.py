"""Writes the numbers that ``test_evidence.py`` compares with: ``python -m tests.experiments.make_golden``."""

import gzip
import json
import tarfile
import tempfile
from pathlib import Path

from experiments.evidence import build
from experiments.evidence.store import Store
from tests.experiments.test_evidence import DATA, GOLDEN


def main() -> None:
    """Writes every exhibit of the stored run as JSON."""
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(DATA / "small_comparison.tar.gz") as archive:
            archive.extractall(place, filter="data")
        exhibits = {one.id: one.to_json() for one in build(Store(Path(place) / "small"))}
    GOLDEN.write_bytes(gzip.compress(json.dumps(exhibits).encode(), mtime=0))


if __name__ == "__main__":
    main()
