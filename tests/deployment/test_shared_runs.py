"""Who submits and who writes the run directory in a container must be one user: asked before submission."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from corolla.config.compose import compose_values
from corolla.config.schema import RunConfig, require_config
from corolla.launch.shared_runs import MARKER, shared_runs_faults

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "superlink.sh"


def config(runs: Path, *more: str) -> RunConfig:
    settings = ["engine=superlink", "engine.server_runs=/runs", f"run_dir={runs / 'first'}"]
    return require_config(compose_values([*settings, *more]))


def started(runs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    stand_in = folder / "flower-superlink"
    stand_in.write_text('#!/bin/sh\necho "started $*"\n')
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(SCRIPT), str(runs), "--port=8000"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_superlink_of_another_user_is_found_before_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    assert shared_runs_faults(config(runs)) == []  # nothing is known
    done = started(runs, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "started --port=8000")
    assert (runs / MARKER).is_file()
    assert shared_runs_faults(config(runs)) == []
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    (fault,) = shared_runs_faults(config(runs))
    assert fault.key == "engine.server_runs"
    assert f"runs as uid {mine}, you are uid {mine + 1}" in fault.problem
    assert f"COROLLA_UID={mine + 1}" in fault.remedy
    assert (
        shared_runs_faults(config(runs, "engine.server_runs=null")) == []
    )  # folders are not shared


def test_a_superlink_that_cannot_write_does_not_start(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.write_text("no folder: nobody can write into it, not even root")
    done = started(runs, tmp_path)
    assert done.returncode == 2
    assert f"uid {os.getuid()} cannot write to {runs}" in done.stderr
    assert "COROLLA_UID" in done.stderr
    assert done.stdout == ""


def test_containers_are_given_the_time_that_they_take_to_stop() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["superlink"]["command"][:2] == ["superlink.sh", "/runs"]
    for name, service in services.items():
        if name != "gate":  # holds nothing that a kill could cost
            assert service["stop_grace_period"] == ("30s" if name == "superlink" else "60s")
