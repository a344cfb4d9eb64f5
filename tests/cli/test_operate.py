"""What an operator asks and does beside a run: status, attach, stop, clean, and resume with changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import yaml

from corolla.cli import clean, operate
from corolla.cli.main import main
from corolla.errors import RefusedError
from corolla.launch import create, plan_run, resume
from corolla.records.checkpoints import CheckpointHeader
from corolla.records.client_store import ClientStore
from corolla.records.flower_run import flower_run, note_flower_run
from corolla.records.json_files import write_json
from corolla.records.phases import phase
from corolla.records.run_directory import RunDirectory
from corolla.records.run_lock import LAUNCHING, RunLock, holder
from corolla.records.standing import standing_of
from corolla.records.sweep import Job
from corolla.state import State
from engines.flower_cli import FlowerCallError, FlowerCli, RunStatus
from engines.inline import InlineEngine
from tests.strategies.conftest import SMALL, power_cut, run

TINY = [*SMALL, "method=fedavg", "evaluation.final=none", "evaluation.every=0"]


def created(path: Path, *overrides: str) -> RunDirectory:
    return create(plan_run([*TINY, f"run_dir={path}", *overrides]))


def line(round: int, participants: list[str], **failed: str) -> dict[str, object]:
    failures = [{"client": client, "reason": reason} for client, reason in failed.items()]
    return {
        "round": round,
        "participants": participants,
        "failures": len(failures),
        "failed": failures,
        "round_s": 10.0,
    }


def test_standing_says_round_time_left_and_who_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = created(tmp_path / "runs" / "a", "rounds=5")
    assert standing_of(directory).state == "stopped"
    with directory.lock():
        directory.append_round(line(1, ["0"], b="not connected"))
        rows = [(1, "0"), (2, "0"), (2, "b")]
        directory.append_clients({"round": round, "client": client} for round, client in rows)
        header = CheckpointHeader(method="m", space="s", space_fingerprint="f")
        directory.checkpoints.save(State({}), round=2, header=header)
        outside = {"unusable": {"site-d": "the site cannot take part [data-dir]"}}
        directory.append_round(line(2, ["0", "b"], c="out of [memory]") | outside)
        ended_s = (directory.path / "metrics.jsonl").stat().st_mtime
        standing = standing_of(directory, now_s=ended_s + 4)
        assert standing.held_by == f"pid {os.getpid()} on {os.uname().nodename}"
    # Three rounds of 10 s are left, and 4 s of the first of them are over.
    assert (standing.state, standing.done, standing.rounds, standing.left_s) == (
        "running",
        2,
        5,
        26.0,
    )
    assert {c: one.fails_now for c, one in standing.clients.items()} == {
        "0": False,
        "b": False,
        "c": True,
    }
    assert standing.clients["b"].failed == 1
    assert holder(directory.path) is None
    with RunLock(directory.path, LAUNCHING), phase("starting engine ray", run_dir=directory.path):
        # The engine starts, and nobody holds the run itself yet.
        assert main(["status", str(directory.path)]) == 0
        told = capsys.readouterr().out
        assert told.startswith("running, round 2 of 5")
        assert "at: starting engine ray" in told
        assert "corolla resume" not in told
    assert standing_of(directory).left_s is None  # nobody works on it
    assert main(["status", str(directory.path)]) == 0
    told = capsys.readouterr().out
    assert "stopped, round 2 of 5, 1 of 3 clients fail" in told
    assert "client c failed in round 2 (never answered): out of [memory]" in told
    assert "site-d takes no part: the site cannot take part [data-dir]" in told
    assert f"corolla resume {directory.path}" in told
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "runs/a: stopped, round 2 of 5" in capsys.readouterr().out
    jobs = [vars(Job(name, [], {})) for name in ("a", "b")]
    write_json(tmp_path / "runs" / "sweep.json", {"jobs": jobs})
    assert main(["status", "runs"]) == 0
    told = capsys.readouterr().out
    assert "runs/a: stopped, round 2 of 5" in told
    assert "runs/b: not begun" in told
    (directory.path / "metrics.jsonl").write_text("")
    assert main(["status", str(directory.path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("damaged, round 0 of 5")
    assert "it does not hold the lines of round 1" in told
    assert "corolla resume" not in told  # which refuses it


@pytest.mark.slow
def test_a_run_in_another_process_is_stopped_and_goes_on_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "corolla.cli.main", "run", *TINY]
    # As a shell starts what runs in the background: Ctrl-C is ignored.
    process = subprocess.Popen(
        [*command, "rounds=5000", f"run_dir={run_dir}"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        deadline = time.monotonic() + 120
        while not (run_dir / "metrics.jsonl").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert main(["stop", str(run_dir)]) == 0
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None
        assert f"corolla resume {run_dir}" in process.stderr.read().decode()
    finally:
        process.kill()
    done = len(RunDirectory.open(run_dir).metrics())
    assert "stopped, round" in capsys.readouterr().out
    assert main(["stop", str(run_dir)]) == 0
    assert "nothing to stop" in capsys.readouterr().out
    assert done < 5000


def test_the_run_of_a_launcher_that_was_killed_is_stopped_by_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = created(tmp_path / "run")
    values = yaml.safe_load(directory.config_text())
    values["engine"] = {
        "kind": "superlink",
        "_target_": "engines.superlink.SuperLinkEngine",
        "name": None,
        "address": "127.0.0.1:1",
        "root_certificates": None,
        "insecure": True,
        "server_runs": None,
        "node_timeout_s": 300.0,
        "root": None,
    }
    note_flower_run(directory.path, 77)
    assert flower_run(directory.path) == 77
    stopped: list[int] = []
    running = RunStatus(status="running", details="")
    with (
        mock.patch.object(RunDirectory, "config_text", return_value=yaml.safe_dump(values)),
        mock.patch.object(FlowerCli, "status", return_value=running),
        mock.patch.object(FlowerCli, "stop", lambda self, run_id: stopped.append(run_id)),
    ):
        assert main(["stop", str(directory.path)]) == 0
        assert stopped == [77]
        told = capsys.readouterr().out
        assert told.startswith("running, round 0 of")
        assert "run 77 on the SuperLink: running" in told
        assert "corolla resume" not in told  # a second one beside it
        with mock.patch.object(FlowerCli, "stop", side_effect=FlowerCallError("no route")):
            assert main(["stop", str(directory.path)]) == 2
            told = capsys.readouterr().err
            assert "engine.address" in told
            assert "no route" in told
            signalled: list[tuple[int, int]] = []
            with (
                mock.patch.object(os, "kill", lambda *told: signalled.append(told)),
                mock.patch.object(operate, "_wait_until_free"),
                directory.lock(),
            ):
                assert main(["stop", str(directory.path)]) == 0
            assert signalled == [(os.getpid(), signal.SIGTERM)]  # it works on it here
            assert "no route" in capsys.readouterr().out


def test_the_run_that_flwr_run_started_is_stopped_on_its_machine_and_named_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = created(tmp_path / "run")
    values = yaml.safe_load(directory.config_text())
    values["engine"] = {
        "kind": "superlink",  # SuperNodes with images of their own
        "_target_": "strategies.flower_run.FlowerEngine",
        "name": "flower",
        "node_timeout_s": 300.0,
    }
    note_flower_run(directory.path, 77)
    signalled: list[tuple[int, int]] = []
    with (
        mock.patch.object(RunDirectory, "config_text", return_value=yaml.safe_dump(values)),
        mock.patch.object(os, "kill", lambda *told: signalled.append(told)),
        mock.patch.object(operate, "_wait_until_free"),
        directory.lock(),
    ):
        assert main(["status", str(directory.path)]) == 0
        assert "Flower run 77; `flwr stop 77` stops it as well" in capsys.readouterr().out
        assert main(["stop", str(directory.path)]) == 0
        assert signalled == [(os.getpid(), signal.SIGTERM)]
        capsys.readouterr()
        with mock.patch.object(operate, "holder", return_value="pid 5 on another"):
            assert main(["stop", str(directory.path)]) == 2
        told = capsys.readouterr().err
        assert "pid 5 on another works on it" in told
        assert "flwr stop 77" in told
    assert main(["status", str(directory.path)]) == 0
    assert "Flower run" not in capsys.readouterr().out  # nobody works on it


def test_attach_follows_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = created(tmp_path / "run", "rounds=1")
    looks = iter(["pid 1 on here", "pid 1 on here", None])

    def held(path: Path) -> str | None:
        look = next(looks, None)
        if look is None:
            directory.append_round(line(1, ["0"]))
        return look

    with mock.patch.object(operate, "holder", held), directory.lock():
        assert main(["attach", str(directory.path)]) == 0
    told = capsys.readouterr()
    assert "round 1/1" in told.err
    assert "round 1 of 1" in told.out


def test_only_what_changes_no_number_may_change_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with power_cut(2):
        run(path, "method=fedavg", "evaluation.final=none", "evaluation.every=0")
    with pytest.raises(RefusedError) as refused:
        resume(path, ["seed=1", "method.server_lr=2", "report=true"])
    assert [fault.key for fault in refused.value.faults] == ["seed", "method.server_lr"]
    assert "round_timeout_s" in refused.value.faults[0].remedy
    with pytest.raises(RefusedError, match="its clients are simulated"):
        resume(path, ["engine=superlink", "engine.address=127.0.0.1:1", "engine.insecure=true"])
    with pytest.raises(RefusedError, match="round_timeout_s"):
        resume(path, ["round_timeout_s=-1"])
    with pytest.raises(RefusedError, match=r"engine\.thread"):
        resume(path, ["engine.thread=2"])
    prom = tmp_path / "metrics" / "corolla.prom"
    changes = ["round_timeout_s=77", "engine.threads=1", f"prometheus={prom}"]
    directory = resume(path, changes)
    assert directory.finished
    values = yaml.safe_load(directory.config_text())
    assert (values["round_timeout_s"], values["engine"]["kind"]) == (77.0, "inline")
    assert (values["engine"]["clients"], values["rounds"]) == (4, 3)
    # Of the last of three rounds, by this process, in which nobody failed.
    lines = [text for text in prom.read_text().splitlines() if not text.startswith("#")]
    exported = {text.partition("{")[0]: float(text.rpartition(" ")[2]) for text in lines}
    assert all('{run="run"}' in text for text in lines)
    assert (exported["corolla_round"], exported["corolla_rounds_planned"]) == (3, 3)
    assert (exported["corolla_participants"], exported["corolla_failures_total"]) == (2, 0)
    assert exported["corolla_finished"] == 1
    assert exported["corolla_round_seconds"] > 0


def test_another_engine_of_the_same_kind_is_taken_whole(tmp_path: Path) -> None:
    directory = created(tmp_path / "run")
    launched: list[object] = []

    def noted(self: InlineEngine, **arguments: object) -> None:
        launched.append(vars(self))

    with mock.patch.object(InlineEngine, "run", noted):
        resume(directory.path, ["engine=inline", "engine.threads=2"])
    assert launched == [{"name": "inline", "_clients": 4, "_threads": 2}]


def test_clean_removes_what_is_over_and_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, home = tmp_path / "state", tmp_path / "flower"
    over, old, now = (digit * 12 for digit in "0af")
    others = state / "runs" / "photographs"
    for name in (over, old, now, others.name):
        (state / "runs" / name / "site").mkdir(parents=True)
        (state / "runs" / name / "site" / "round-000001.safetensors").write_bytes(bytes(2**19))
    ClientStore(state / "runs" / over).note_finished()
    ago_s = time.time() - 40 * 86_400
    for folder in (state / "runs" / old, others):
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (ago_s, ago_s))
    for age, name in enumerate(("c.a.0.1.0.22", "c.a.0.2.0.11", "other.b.1.0.0.33")):
        (home / "apps" / name).mkdir(parents=True)
        os.utime(home / "apps" / name, (age, age))
    (state / "model").mkdir()
    command = ["clean", str(state), "--flower-home", str(home)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "1.0 MiB could go; nothing was removed" in told
    assert "its run is finished" in told
    assert "untouched for 40 days" in told
    assert len(list((state / "runs").iterdir())) == 4
    assert main([*command, "--delete"]) == 0
    assert {path.name for path in (state / "runs").iterdir()} == {now, others.name}
    assert sorted(path.name for path in (home / "apps").iterdir()) == [
        "c.a.0.2.0.11",
        "other.b.1.0.0.33",
    ]
    assert (state / "model").is_dir()
    capsys.readouterr()
    assert main(command) == 0
    assert "Nothing is left over" in capsys.readouterr().out
    assert main(["clean", str(tmp_path / "nowhere")]) == 2
    for days in ("-1", "nan"):
        assert main([*command, "--days", days, "--delete"]) == 2
    assert len(list((state / "runs").iterdir())) == 2
    assert clean.old_bundles(tmp_path) == []


def test_clean_refuses_a_folder_of_run_directories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / ("0" * 12)
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert main(["clean", str(tmp_path), "--days", "0", "--delete"]) == 2
    assert "holds run directories" in " ".join(capsys.readouterr().err.split())
    assert run.is_dir()
