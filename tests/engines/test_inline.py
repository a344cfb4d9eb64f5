from __future__ import annotations

from pathlib import Path

import pytest
import torch

from corolla.errors import RefusedError, RunFailedError
from engines import serving
from engines.inline import InlineEngine
from tests.engines.conftest import dummy_config


@pytest.fixture(autouse=True)
def _tiny_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SERVER_APP", "tests.engines.tiny_apps:server")
    monkeypatch.setattr(serving, "CLIENT_APP", "tests.engines.tiny_apps:client")


@pytest.fixture
def engine() -> InlineEngine:
    return InlineEngine(name="inline", clients=4, threads=1)


def test_the_server_app_runs_over_all_clients(engine: InlineEngine, run_dir: Path) -> None:
    engine.run(config_yaml=dummy_config(run_dir), run_dir=run_dir, launch="token")
    assert (run_dir / "answered").read_text() == "4 token 1"


def test_torch_gets_as_many_threads_as_configured(engine: InlineEngine, run_dir: Path) -> None:
    torch.set_num_threads(2)
    engine.run(config_yaml=dummy_config(run_dir), run_dir=run_dir, launch="token")
    assert torch.get_num_threads() == 1


def test_a_failing_server_app_says_what_and_how_to_resume(
    engine: InlineEngine, run_dir: Path
) -> None:
    with pytest.raises(RunFailedError) as caught:
        engine.run(config_yaml=dummy_config(run_dir, fail="raise"), run_dir=run_dir, launch="t")
    assert str(caught.value) == (
        "ArithmeticError: cannot go on\n"
        f"Resume after the last finished round: corolla resume {run_dir}"
    )


def test_a_refusal_of_the_server_app_stays_a_refusal(engine: InlineEngine, run_dir: Path) -> None:
    with pytest.raises(RefusedError, match="space='x': is unknown"):
        engine.run(config_yaml=dummy_config(run_dir, fail="refuse"), run_dir=run_dir, launch="t")


def test_ctrl_c_passes_through(engine: InlineEngine, run_dir: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        engine.run(config_yaml=dummy_config(run_dir, fail="interrupt"), run_dir=run_dir, launch="t")


def test_counts_are_checked() -> None:
    assert InlineEngine(name="inline", clients=4, threads=1).check() == []
    faults = InlineEngine(name="inline", clients=0, threads=True).check()
    assert [str(fault) for fault in faults] == [
        "clients=0: is not a whole number >= 1. Use an integer >= 1.",
        "engine.threads=True: is not a whole number >= 1. Use an integer >= 1.",
    ]
