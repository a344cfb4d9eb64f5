"""A client's own memory: free, within the container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from corolla.training.available_memory import available_mib


def _cgroup(path: Path, most: str, used: str) -> Path:
    (path / "memory.max").write_text(f"{most}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text("anon 5\ninactive_file 0\nfile 9\n")
    return path


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    # By hand: 300 MiB allowed, 100 MiB in use, nine tenths of the 200 MiB left.
    group = _cgroup(tmp_path, str(300 * 2**20), str(100 * 2**20))
    assert available_mib("cpu", cgroup=group) == pytest.approx(180)


def test_files_in_memory_are_no_memory_in_use(tmp_path: Path) -> None:
    group = _cgroup(tmp_path, str(300 * 2**20), str(300 * 2**20))
    (group / "memory.stat").write_text(f"inactive_file {100 * 2**20}\n")
    assert available_mib("cpu", cgroup=group) == pytest.approx(90)


def test_a_container_that_is_full_has_nothing(tmp_path: Path) -> None:
    assert available_mib("cpu", cgroup=_cgroup(tmp_path, "100", "200")) == 0


@pytest.mark.parametrize("limit", [None, "max", "a lot"])
def test_without_a_limit_the_machines_memory_counts(limit: str | None, tmp_path: Path) -> None:
    group = tmp_path if limit is None else _cgroup(tmp_path, limit, "0")
    free = 0.9 * psutil.virtual_memory().available / 2**20
    assert available_mib("cpu", cgroup=group) == pytest.approx(free, rel=0.2)
