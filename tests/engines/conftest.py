"""The dummy app, a run directory, and the demand that nothing which a test started is left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

DUMMY_APP = Path(__file__).parent / "dummy_app"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail the test if a process that was started during it lives on after it."""
    before = _alive_below_us()
    yield
    deadline = time.monotonic() + 15
    while (left := _alive_below_us() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _alive_below_us() -> set[tuple[int, str]]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add((process.pid, process.name()))
        except psutil.Error:
            continue
    return found


def dummy_config(run_dir: Path, **settings: Any) -> str:
    """Return the YAML that the dummy app gets as its run-config value ``config``."""
    return yaml.safe_dump({"run_dir": str(run_dir), **settings})


def rounds_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``; [] if there is no file."""
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_rounds(run_dir: Path, count: int, *, seconds: float) -> None:
    """Return once ``count`` rounds were written."""
    deadline = time.monotonic() + seconds
    while len(rounds_of(run_dir)) < count:
        assert time.monotonic() < deadline, "the run wrote no round in time"
        time.sleep(0.1)
