from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from engines import flower_cli
from engines.flower_cli import FlowerCallError, FlowerCli, RunStatus, flower_env, write_connection


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlowerCli:
    """The command line with a `flwr` that prints $ANSWER, notes its arguments, exits with $CODE."""
    script = tmp_path / "flwr"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho "$ANSWER"\nexit $CODE\n')
    script.chmod(0o755)
    monkeypatch.setattr(flower_cli, "scripts", lambda: tmp_path)
    return FlowerCli(connection="site", home=tmp_path / "home")


def answer(cli: FlowerCli, text: str, code: int = 0) -> None:
    cli._env |= {"ANSWER": text, "CODE": str(code)}


def test_submit_returns_the_run_id_and_passes_the_configuration_on(
    cli: FlowerCli, tmp_path: Path
) -> None:
    answer(cli, 'Using SuperLink: site\n{"success": true, "run-id": "123"}')
    assert cli.submit(Path("/app"), run_config=Path("/run.toml")) == 123
    assert (tmp_path / "arguments").read_text().strip() == (
        "run /app site --run-config /run.toml --format json"
    )


@pytest.mark.parametrize(
    ("status", "finished", "completed"),
    [
        ("running", False, False),
        ("finished:completed", True, True),
        ("finished:failed", True, False),
        ("finished:stopped", True, False),
    ],
)
def test_only_finished_completed_is_a_good_end(
    cli: FlowerCli, status: str, finished: bool, completed: bool
) -> None:
    answer(cli, f'{{"success": true, "runs": [{{"status": "{status}", "status-details": "N/A"}}]}}')
    assert cli.status(1) == RunStatus(status=status, details="")
    assert (cli.status(1).finished, cli.status(1).completed) == (finished, completed)


def test_a_failing_command_says_what_flower_said(cli: FlowerCli) -> None:
    answer(cli, '{"success": false, "error-message": "\\u001b[31mno such run\\u001b[0m"}', code=1)
    with pytest.raises(FlowerCallError, match=r"^`flwr stop` failed: no such run$"):
        cli.stop(1)


def test_success_is_believed_only_with_exit_status_0(cli: FlowerCli) -> None:
    answer(cli, '{"success": true}', code=1)
    with pytest.raises(FlowerCallError, match="`flwr list` failed"):
        cli.reach()


def test_a_connection_with_certificates_is_not_insecure(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.crt"
    write_connection(tmp_path, name="a", address="b:1", root_certificates=certificate)
    assert tomllib.loads((tmp_path / "config.toml").read_text()) == {
        "superlink": {
            "default": "a",
            "a": {"address": "b:1", "root-certificates": str(certificate)},
        }
    }
    write_connection(tmp_path, name="a", address="b:1")
    assert tomllib.loads((tmp_path / "config.toml").read_text())["superlink"]["a"] == {
        "address": "b:1",
        "insecure": True,
    }


def test_flowers_helpers_are_found_and_nobody_calls_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    env = flower_env(tmp_path)
    assert env["FLWR_HOME"] == str(tmp_path)
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert (Path(env["PATH"].split(os.pathsep)[0]) / "flower-superexec").is_file()


def test_the_users_own_choice_of_telemetry_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert flower_env(None)["FLWR_TELEMETRY_ENABLED"] == "1"
