"""Thousands of clients need not all be scored at the end: a sample, or nobody."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from corolla.cli import tables
from corolla.launch import plan_run
from corolla.report.facts import facts
from corolla.report.load import load_run
from strategies.evaluation import Evaluator
from tests.strategies.conftest import SMALL, run


def table_text(table: Table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


QUICK = ("method=fedavg", "rounds=1", "evaluation.fine_tune_epochs=0")


def test_a_sample_is_scored_and_its_models_collected(tmp_path: Path) -> None:
    everybody = run(tmp_path / "all", *QUICK)
    assert everybody.metrics()[-1]["evaluation"]["clients"] == 4
    sampled = run(
        tmp_path / "some", *QUICK, "evaluation.final=sample", "evaluation.final_clients=2"
    )
    summary, whole = sampled.summary(), everybody.summary()
    assert (summary["clients"], summary["known_clients"], summary["final"]) == (2, 4, "sample")
    asked = set(summary["per_client"])
    assert len(asked) == 2
    assert set(sampled.saved_clients()) == asked
    # The rounds are the same, so the same clients score the same.
    scores = whole["test_accuracy"]["per_client"]
    assert summary["test_accuracy"]["per_client"] == {c: scores[c] for c in sorted(asked)}
    # Nobody scored all clients in the last round: it is no rival of rounds in which all were.
    assert summary["best"] is None
    assert "evaluation" not in sampled.metrics()[-1]
    assert "over 2 of 4 clients" in table_text(tables.headline(summary))
    told = dict(facts(load_run(sampled.path)))
    assert told["scored at the end"] == "2, a sample drawn by the seed"
    assert told["clients"] == "4"


def test_nobody_is_scored(tmp_path: Path) -> None:
    directory = run(tmp_path / "none", *QUICK, "evaluation.final=none")
    summary = directory.summary()
    assert (summary["clients"], summary["known_clients"], summary["per_client"]) == (0, 4, {})
    assert "test_accuracy" not in summary
    assert directory.saved_clients() == []
    assert "over 0 of 4 clients" in table_text(tables.headline(summary))
    tables.clients(summary)
    page = load_run(directory.path)
    assert dict(facts(page))["scored at the end"] == "nobody"
    assert set(page.per_client) == {"0", "1", "2", "3"}  # with what the rounds recorded of them


def test_who_is_drawn_depends_on_the_seed_and_not_on_who_else_is_there() -> None:
    class Known:
        def __init__(self, clients: list[str]) -> None:
            self._clients = clients

        def clients(self) -> list[str]:
            return self._clients

    def drawn(clients: list[str], seed: int = 0) -> list[str]:
        settings = ["evaluation.final=sample", "evaluation.final_clients=5", f"seed={seed}"]
        config = plan_run([*SMALL, *settings, "run_dir=unused"]).config
        evaluator = Evaluator(config=config, strategy=None, roster=Known(clients), grid=None)  # type: ignore[arg-type]
        return evaluator.finally_asked()

    names = [str(i) for i in range(50)]
    few = drawn(names)
    assert len(few) == 5
    assert few == drawn(names[::-1])
    assert few != drawn(names, seed=1)
    left = [name for name in names if name != few[0]]
    assert set(few[1:]) <= set(drawn(left))
    assert drawn(names[:3]) == names[:3]
