"""What the terminal's tables say."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from corolla.cli.tables import (
    candidates,
    clients,
    comparison,
    global_model,
    headline,
    shared_models,
)
from tests.report.test_report_compare import finished


def test_architectures_are_read_by_their_candidates() -> None:
    dimensions = [
        {"name": "stem.width", "choices": [8]},
        {"name": "mb1.width", "choices": [16, 24]},
        {"name": "mb1.kernel", "choices": [3, 5]},
        {"name": "mb2.depth", "choices": [1, 2, 3]},
        {"name": "normal.0-2", "choices": ["none", "sep_conv_3x3"]},
    ]
    assert candidates([0, 1, 0, 2, 1], dimensions) == (
        "mb1 width 24 kernel 3, mb2 depth 3, normal 0-2 sep 3"
    )


def test_shared_models_have_a_table_of_their_own() -> None:
    """Global and personalised accuracies never share a column."""
    assert shared_models({"method": "m"}) is None
    entry = {"params": 1200, "macs": 2_500_000, "test_images": 1500, "test_accuracy": 0.8125}
    table = shared_models({"pooled": {"tier 1": entry, "tier 2": {**entry, "test_accuracy": 0.5}}})
    console = Console(width=80)
    with console.capture() as told:
        console.print(table)
    assert "over all test images together" in told.get()
    rows = [line.split("│")[1:-1] for line in told.get().splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["tier 1", "1,200", "2.50", "1,500", "81.25"],
        ["tier 2", "1,200", "2.50", "1,500", "50.00"],
    ]
    asked = {"final": "sample", "clients": 2, "known_clients": 9, "pooled": {"tier 1": entry}}
    assert "over the test images of 2 of 9 clients" in str(
        getattr(shared_models(asked), "title", "")
    )


def test_the_global_model_is_no_row_of_the_personalised_table() -> None:
    spread = {"mean": 0.5, "std": 0.125, "worst_decile": 0.25}
    summary = {"clients": 2, "test_accuracy": spread, "global": {"test_accuracy": spread}}
    own, shared = headline(summary), global_model(summary)
    assert shared is not None
    assert [list(table.columns[0].cells) for table in (own, shared)] == [
        ["deployed, last round"],
        ["global model"],
    ]
    assert global_model({"clients": 2}) is None


def test_a_comparison_has_the_pooled_accuracy_in_a_column_of_its_own(tmp_path: Path) -> None:
    paths = [finished(tmp_path / str(seed), 0.5, seed) for seed in (0, 1)]
    for path, accuracy in zip(paths, (0.25, 0.75), strict=True):
        summary = json.loads((path / "summary.json").read_text())
        summary["pooled"] = {"global": {"test_accuracy": accuracy}}
        (path / "summary.json").write_text(json.dumps(summary))
    table, _ = comparison(paths)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    # By hand: (25 + 75) / 2, and 50 / sqrt(2).
    assert [cell.replace("\u00a0", " ") for cell in cells["global, pooled %"]] == ["50.0 ± 35.4"]


def test_two_steps_are_two_rows(tmp_path: Path) -> None:
    """Of two step sizes no mean is taken; seeds of each are pooled: (0.5 + 0.7) / 2, sd 0.1 * sqrt(2)."""
    paths = [
        finished(tmp_path / f"{lr}-{seed}", mean, seed, trainer={"lr": lr})
        for lr, means in ((0.01, (0.5, 0.7)), (0.1, (0.8, 0.8)))
        for seed, mean in enumerate(means)
    ]
    table, to_know = comparison(paths)
    console = Console(width=80)
    with console.capture() as told:
        console.print(table)
    rows = [line.split("│")[:3] for line in told.get().splitlines() if "│" in line]
    assert [[cell.strip().replace("\u00a0", " ") for cell in row] for row in rows] == [
        ["m ·", "0, 1", "60.0 ± 14.1"],
        ["lr 0.01", "", ""],
        ["m ·", "0, 1", "80.0 ± 0"],
        ["lr 0.1", "", ""],
    ]
    assert to_know == [
        "Runs of one method are separate groups where these settings differ: trainer.lr."
    ]
    with console.capture() as told:
        Console.print(console, table, width=44)
    assert "…" not in told.get()


def test_architectures_of_many_clients_are_left_to_the_report() -> None:
    entry = {"params": 10, "macs": 10}
    for number, told in ((10, True), (11, False)):
        each = {str(i): {**entry, "choices": [i % 2]} for i in range(number)}
        summary = {"method": "m", "dataset": "d", "space": "s", "per_client": each}
        table = clients({**summary, "dimensions": [{"name": "a.width", "choices": [8, 16]}]})
        assert ("architecture" in [column.header for column in table.columns]) == told
        assert (table.caption is None) == told
