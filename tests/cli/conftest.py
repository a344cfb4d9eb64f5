from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corolla.records.run_directory import RunDirectory
from tests.strategies.conftest import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of one round; tests only read it."""
    return run(tmp_path_factory.mktemp("cli") / "run", "rounds=1")


@pytest.fixture
def copied(finished: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The same for a test that changes it."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")
