"""A sweep is written down before it starts, carried on, looked at in between; no run stops another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corolla.cli import commands, main, operate
from corolla.errors import RunFailedError
from corolla.launch import Plan, create, plan_run
from corolla.records.json_files import write_json
from corolla.records.run_directory import RunDirectory
from corolla.records.sweep import Job, Sweep
from tests.strategies.conftest import SMALL

FEW = [o for o in SMALL if not o.startswith(("rounds", "evaluation.fine"))]
FEW += ["method=fedavg", "rounds=1", "evaluation.fine_tune_epochs=0"]


def _finished(path: Path) -> list[bool]:
    sweep = Sweep.open(path)
    return [sweep.finished(job) for job in sweep.jobs]


def test_a_failing_run_stops_no_other_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = commands.complete

    def failing(plan: Plan, console: object) -> RunDirectory:
        if plan.config.seed == 0:
            raise RunFailedError("no power")
        return complete(plan, console)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("corolla.cli.sweeping.complete", failing)
        assert main(["run", "-m", *FEW, "seed=0,1", f"run_dir={tmp_path / 'sweep'}"]) == 3
    assert "no power" in capsys.readouterr().err
    assert _finished(tmp_path / "sweep") == [False, True]
    assert main(["report", str(tmp_path / "sweep")]) == 0
    out = capsys.readouterr().out
    assert "Not begun yet: 00-seed_0" in out
    assert (tmp_path / "sweep" / "report-compare.html").is_file()
    (tmp_path / "sweep").rename(tmp_path / "moved")  # it is where it is
    assert main(["resume", str(tmp_path / "moved")]) == 0
    assert _finished(tmp_path / "moved") == [True, True]
    assert "fedavg │  0, 1 │" in capsys.readouterr().out
    assert main(["run", "-m", *FEW, "seed=0,1", f"run_dir={tmp_path / 'moved'}"]) == 2
    assert "sweep.json is there already" in capsys.readouterr().err


def test_jobs_that_are_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "sweep.json", {"jobs": []})
    for command in (["run", "-m", "seed=0,1", "jobs=0"], ["resume", "--jobs", "0", str(tmp_path)]):
        assert main(command) == 2
        assert "jobs='0': is not how many runs may go at once" in capsys.readouterr().err
    assert main(["run", "jobs=2"]) == 2
    assert (
        "jobs=2: is for sweeps alone: how many of their runs go at once. Add -m"
        in capsys.readouterr().err
    )


def test_a_value_that_is_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", "seed=0,1,0", "method=fedavg,local"]) == 2
    assert "seed='0,1,0': names a value twice. Give each value once" in capsys.readouterr().err


def test_a_sweep_is_no_run_and_belongs_to_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep.create(tmp_path / "sweep", [Job("a", [], {}), Job("b", [], {})])
    assert main(["attach", str(sweep.path)]) == 2
    assert "a sweep of several runs. Name one of its runs: a, b" in capsys.readouterr().err
    assert main(["stop", str(sweep.path)]) == 0
    assert "nothing to stop" in capsys.readouterr().out
    with sweep.lock():
        assert main(["resume", str(sweep.path)]) == 2
    assert f"in use by pid {os.getpid()}" in capsys.readouterr().err
    a = create(plan_run([*FEW, f"run_dir={sweep.path / 'a'}"]))
    asked: list[Path] = []
    with monkeypatch.context() as patch:  # whoever started the sweep was killed
        patch.setattr(operate, "_interrupt", lambda held_by, path: asked.append(path))
        patch.setattr(operate, "_wait_until_free", asked.append)
        with a.lock():
            assert main(["stop", str(sweep.path)]) == 0
    assert asked == [a.path, a.path]


@pytest.mark.slow
def test_side_by_side_stopped_and_carried_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stop reaches the runs, which say how to go on; afterwards only what is left is run."""
    code = "import sys; from corolla.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["run", "-m", *FEW, "rounds=300", "seed=0,1,2", "jobs=2", f"run_dir={tmp_path}/sweep"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True
    )
    both = [tmp_path / "sweep" / f"0{i}-seed_{i}" for i in (0, 1)]
    try:
        end = time.monotonic() + 200
        while not all((path / "metrics.jsonl").exists() for path in both):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        assert main(["stop", str(tmp_path / "sweep")]) == 0
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"{both[1]}: stopped, round" in capsys.readouterr().out
    assert f"Carry on with: corolla resume {tmp_path}/sweep" in said
    for path in both:
        assert f"Carry on with: corolla resume {path}" in path.with_suffix(".log").read_text()
        assert not (path / "progress.json").exists()
    assert not Sweep.open(tmp_path / "sweep").begun(Sweep.open(tmp_path / "sweep").jobs[2])
