"""`import corolla` as a user has it, on runs of four clients."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import corolla
from corolla.cli import main
from corolla.errors import RefusedError
from corolla.records.atomic import write_text
from corolla.records.seals import write_sealed
from tests.strategies.conftest import small

pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[corolla.OpenedRun]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        corolla.run(small(f"method={method}", "rounds=1", f"run_dir={folder / method}"))
        for method in ("fedavg", "local")
    ]


def test_import_is_light_and_other_names_are_errors() -> None:
    code = "import corolla, sys; assert not {'torch', 'pandas', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="ruin"):
        corolla.ruin  # noqa: B018


def test_a_text_is_no_list_of_overrides() -> None:
    with pytest.raises(
        RefusedError,
        match=r"overrides='rounds=1': is a text, and a list of overrides is needed. Give \['rounds=1'\]",
    ):
        corolla.run("rounds=1")


def test_tables_are_the_records(runs: list[corolla.OpenedRun]) -> None:
    run = runs[0]
    assert list(run.rounds.index) == [1]
    line = json.loads((run.path / "metrics.jsonl").read_text())
    evaluated = run.rounds.loc[1, "evaluation/global/test_accuracy/mean"]
    assert evaluated == line["evaluation"]["global"]["test_accuracy"]["mean"]
    assert len(run.clients) == 2  # a round of two
    assert list(run.summary.index) == ["0", "1", "2", "3"]
    per_client = run.directory.summary()["test_accuracy"]["per_client"]
    assert run.summary["test_accuracy"].to_dict() == per_client
    assert run.totals["test_accuracy/mean"] == pytest.approx(run.summary["test_accuracy"].mean())
    assert not [name for name in run.totals.index if "per_client" in name]
    assert "fedavg" in repr(run)


def test_scores_are_those_of_the_saved_models(runs: list[corolla.OpenedRun]) -> None:
    run = runs[1]
    scores = run.scores
    assert scores["accuracy"].to_list() == pytest.approx(scores["recorded"].to_list())
    for client in scores.index:
        counts = run.confusion(client).to_numpy()
        rows = counts.sum(axis=1)
        here = rows > 0
        assert counts.sum() == scores.loc[client, "images"]
        assert scores.loc[client, "accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
        recall = np.diag(counts)[here] / rows[here]
        assert scores.loc[client, "balanced_accuracy"] == pytest.approx(recall.mean())
        # F1 of a class: 2 right / (true + named)
        f1 = 2 * np.diag(counts)[here] / (rows[here] + counts.sum(axis=0)[here])
        assert scores.loc[client, "f1"] == pytest.approx(f1.mean())
    with pytest.raises(RefusedError, match="no such client"):
        run.confusion("9")


def test_model_and_report(runs: list[corolla.OpenedRun]) -> None:
    assert not runs[0].model(1).training
    assert runs[0].report().name == "report.html"


def test_compare_pairs_clients(runs: list[corolla.OpenedRun]) -> None:
    table = corolla.compare(runs)
    row = table.iloc[0]
    difference = runs[0].summary["test_accuracy"] - runs[1].summary["test_accuracy"]
    assert (row["a"], row["b"], row["pairs"], row["seeds"]) == ("fedavg", "local", 4, 1)
    assert row["difference"] == pytest.approx(difference.mean())
    assert np.isnan(row["seeds_low"])
    assert corolla.compare(runs, measure="f1").iloc[0]["pairs"] == 4


def test_compare_refuses_what_is_no_pair(runs: list[corolla.OpenedRun], tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="nothing to compare"):
        corolla.compare(runs[:1])
    with pytest.raises(RefusedError, match=r"f11.*no such column.*test_accuracy"):
        corolla.compare(runs, measure="f11")
    other = corolla.run(
        small("method=local", "rounds=1", "partition.alpha=1", f"run_dir={tmp_path / 'other'}")
    )
    with pytest.raises(RefusedError, match="tested on other images"):
        corolla.compare([runs[0], other])


def test_a_model_that_is_not_all_that_answers_is_said(
    runs: list[corolla.OpenedRun], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    shutil.copytree(runs[0].path, tmp_path / "run")
    run = corolla.open_run(tmp_path / "run")
    summary = run.directory.summary()
    summary["test_accuracy"]["per_client"]["2"] += 0.5
    write_sealed(run.path / "summary.json", summary)
    assert "client 2: its saved model alone" in (run.scores, caplog.text)[1]
    # A run that goes on has tables already.
    (run.path / "summary.json").unlink()
    assert len(run.rounds) == 1
    assert len(run.summary) == 4
    with pytest.raises(RefusedError, match="not finished"):
        _ = run.totals


def test_table_prints_the_comparison(
    runs: list[corolla.OpenedRun], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = [str(run.path) for run in runs]
    assert main(["table", *paths, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["fedavg", "local"]
    assert rows[0]["last_mean"] == pytest.approx(runs[0].summary["test_accuracy"].mean())
    assert rows[1]["global_mean"] is None
    assert main(["table", *paths, "--format", "csv", "-o", str(tmp_path / "t.csv")]) == 0
    assert pd.read_csv(tmp_path / "t.csv")["bytes_mean"][1] == 0
    capsys.readouterr()
    assert main(["table", *paths]) == 0
    head, rule, *lines = capsys.readouterr().out.splitlines()
    assert len({line.count(" | ") for line in (head, rule, *lines)}) == 1
    assert main(["table", *paths, "--format", "latex"]) == 0
    out = capsys.readouterr().out
    assert r"as trained \% &" in out
    assert out.count(r"\\") == 3
    assert main(["table", *paths, "-o", str(tmp_path / "none" / "t.md")]) == 2
    write_text(tmp_path / "file", "")
    assert main(["table", str(tmp_path / "file")]) == 2
