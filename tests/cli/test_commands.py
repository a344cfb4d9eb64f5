"""The commands as a user types them, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corolla.cli import main
from corolla.config.overrides import sweep
from corolla.export import load_client_model
from corolla.records.run_directory import RunDirectory
from tests.conftest import make_space
from tests.strategies.conftest import SMALL, config_of, run


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "start a run" in capsys.readouterr().out


def test_run_prints_table_and_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extras = ["rounds=1", "report=true", "tensorboard=true"]
    assert main(["run", *SMALL, *extras, f"run_dir={tmp_path / 'run'}"]) == 0
    out = capsys.readouterr().out
    for expected in ("mb1 width", "worst decile", "deployed, last round", "report.html"):
        assert expected in out
    assert (tmp_path / "run" / "report.html").is_file()
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_multirun_runs_all_combinations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [o for o in SMALL if not o.startswith("rounds")]
    code = main(
        ["run", "-m", *arguments, "rounds=1", "seed=0,1", "method=fedavg,perfedrlnas",
         f"run_dir={tmp_path}"]
    )  # fmt: skip
    assert code == 0
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/summary.json"))]
    assert [(s["seed"], s["method"]) for s in found] == [
        (0, "fedavg"),
        (0, "perfedrlnas"),
        (1, "fedavg"),
        (1, "perfedrlnas"),
    ]
    assert "mean ± sd over seeds" in capsys.readouterr().out
    assert (tmp_path / "report-compare.html").is_file()


def test_multirun_checks_all_runs_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", *SMALL, "trainer.lr=0.1,0", f"run_dir={tmp_path / 'm'}"]) == 2
    assert not (tmp_path / "m").exists()


def test_sweep_keeps_lists_and_single_values_whole() -> None:
    assert sweep(["seed=0,1", "memory_budget_mib=[1,2]"]) == [
        ["seed=0", "memory_budget_mib=[1,2]"],
        ["seed=1", "memory_budget_mib=[1,2]"],
    ]


@pytest.mark.slow
def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("perfedrlnas", "fedavg", "local", "mobilenetv3_8", "digits", "cifar10_small"):
        assert name in out


def _exported(directory: RunDirectory, kind: str, output: Path) -> Path:
    path = str(directory.path)
    assert main(["export", path, "--client", "2", "--format", kind, "-o", str(output)]) == 0
    return output


def test_a_darts_genotype_goes_out_and_in_again(tmp_path: Path) -> None:
    small = ["rounds=1", "clients=3", "space=darts_small", "evaluation.fine_tune_epochs=0"]
    directory = run(tmp_path / "run", *small)
    for kind, start in (("genotype", "Genotype(normal=["), ("svg", "<svg")):
        output = _exported(directory, kind, tmp_path / f"cells.{kind}")
        assert output.read_text().startswith(start)
    text = (tmp_path / "cells.genotype").read_text().strip()
    expected = directory.summary()["per_client"]["2"]["choices"]
    assert make_space("darts_small").named(text).to_list() == expected


def test_other_spaces_have_no_genotype(
    finished: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished.path), "--client", "1", "--format", "svg"]) == 2
    assert "Only DARTS architectures have a genotype" in " ".join(capsys.readouterr().err.split())


def test_saved_model_reproduces_the_reported_accuracy(finished: RunDirectory) -> None:
    """What is reported is what is saved, BN statistics included."""
    from corolla.config.build import build_dataset, build_partition, build_trainer
    from corolla.data.federation import FederationData

    directory = finished
    config = config_of(directory)
    dataset = build_dataset(config)
    data = FederationData(dataset, build_partition(config, dataset))
    trainer = build_trainer(config)
    for client, accuracy in directory.summary()["test_accuracy"]["per_client"].items():
        own = data.client(client)
        model = load_client_model(directory.path, client)
        result = trainer.evaluate(model, own.test)
        assert result.accuracy == pytest.approx(accuracy)


def test_export_of_an_unknown_client(
    finished: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished.path), "--client", "17"]) == 2
    assert "client='17': the run holds no model of this client" in capsys.readouterr().err
