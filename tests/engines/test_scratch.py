"""An engine's folder: what killed runs have left goes, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from corolla.records.run_lock import RunLock
from engines.scratch import scratch_folder


def test_folders_of_killed_runs_go_with_the_next(tmp_path: Path) -> None:
    for name in ("corolla-dead", "corolla-works", "corolla-young", "corolla-run"):
        (tmp_path / name).mkdir()
    for name in ("corolla-dead", "corolla-works", "corolla-young"):
        (tmp_path / name / ".scratch.lock").touch()
    (tmp_path / "corolla-run" / ".lock").touch()  # a run directory
    working = RunLock(tmp_path / "corolla-works", ".scratch.lock")
    for name in ("corolla-dead", "corolla-works"):
        os.utime(tmp_path / name / ".scratch.lock", (0, 0))
    with scratch_folder(tmp_path) as own, scratch_folder(tmp_path) as other:
        left = {path.name for path in tmp_path.iterdir()} - {Path(own).name, Path(other).name}
        assert Path(own).is_dir()
        assert Path(other).is_dir()
    working.release()
    assert left == {"corolla-works", "corolla-young", "corolla-run"}
    assert not Path(own).exists()
