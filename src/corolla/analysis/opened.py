"""One run as an object: its tables, its models, its scores per client, its report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

from corolla.analysis.frames import frame
from corolla.analysis.predictions import Predictions
from corolla.config import own_parts
from corolla.config.schema import RunConfig, require_config
from corolla.errors import Fault, RefusedError
from corolla.export import load_client_model
from corolla.launch import plan_run, start
from corolla.launch import resume as carry_on
from corolla.records.run_directory import RunDirectory
from corolla.report import load, write_report

if TYPE_CHECKING:
    import pandas as pd

_NOT_TOTALS = ("per_client", "dimensions", "class_names", "failures")


def run(overrides: Sequence[str] = (), *, config_dir: Path | str | None = None) -> OpenedRun:
    """Carry out the run that these Hydra overrides describe, as `corolla run` does, and open it.

    Args:
        overrides: as on the command line.
        config_dir: a folder of parts of your own (docs/own-parts.md).

    Raises:
        RefusedError: before anything started, with every fault that was found.
        RunFailedError: it started and could not be finished; `resume` carries it on.

    """
    if isinstance(overrides, str):
        problem = "is a text, and a list of overrides is needed"
        raise RefusedError(Fault("overrides", overrides, problem, f"Give {[overrides]}"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that the engine starts
    own_parts.use([] if config_dir is None else [config_dir])
    plan = plan_run(list(overrides))
    opened = OpenedRun(start(plan).path)
    if plan.config.report:
        opened.report()
    return opened


def resume(run_dir: Path | str) -> OpenedRun:
    """Carry on an interrupted run to its end, and open it."""
    return OpenedRun(carry_on(Path(run_dir)).path)


def open_run(run_dir: Path | str) -> OpenedRun:
    """Open a run directory; also while the run goes on, or of one that was interrupted."""
    return OpenedRun(Path(run_dir))


class OpenedRun:
    """A run directory, read when asked: every property reads the files as they are now.

    Accuracies are fractions. Columns are the names of docs/metrics.md; what is nested in a record
    has a column per number, its names joined by "/".

    Raises:
        RefusedError: there is no run directory at ``path``.

    """

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory.open(path)
        own_parts.use_those_of(self.path)

    def __repr__(self) -> str:
        """Say what was run, and how far it is."""
        found = self.records
        return f"<OpenedRun {found.title} · round {found.rounds_done} · {self.path}>"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return require_config(yaml.safe_load(self.directory.config_text()))

    @property
    def records(self) -> load.Run:
        """What the report reads of the run: plain records."""
        return load.load_run(self.path)

    @property
    def rounds(self) -> pd.DataFrame:
        """``metrics.jsonl``: one row per round, which is the index."""
        return frame(self.records.rounds, "round")

    @property
    def clients(self) -> pd.DataFrame:
        """``clients.jsonl``: one row per client and round that it took part in."""
        return frame(self.records.clients)

    @property
    def summary(self) -> pd.DataFrame:
        """What each client deploys: accuracies, architecture and costs; one row per client, the index.

        Of a run that has not ended: each client's latest line.
        """
        found = self.records.per_client.items()
        return frame(({"client": client, **record} for client, record in found), "client")

    @property
    def totals(self) -> pd.Series[Any]:
        """``summary.json`` without the clients: means, spreads, costs. RefusedError before the end."""
        summary = self.directory.summary()
        kept = {key: value for key, value in summary.items() if key not in _NOT_TOTALS}
        row = frame([kept]).iloc[0].rename(self.path.name)
        return row[[name for name in row.index if "per_client" not in name]]

    @property
    def scores(self) -> pd.DataFrame:
        """Of each client's own model on its own test images: accuracy, balanced accuracy, macro F1.

        ``recorded`` is the accuracy in summary.json: the same, unless a method deploys more than one
        network (kNN-Per's neighbours): then a warning says so. Raises: as `Predictions`.
        """
        return frame(self._predictions.scores(), "client")

    def confusion(self, client: str | int) -> pd.DataFrame:
        """Test images of ``client`` by true class (rows) and by the class its model names (columns)."""
        names = list(self._predictions.class_names)
        table = frame(self._predictions.confusion(str(client)))
        return table.set_axis(names, axis=0).set_axis(names, axis=1).rename_axis("true class")

    @cached_property
    def _predictions(self) -> Predictions:
        return Predictions.of(self.directory, self.config)

    def model(self, client: str | int) -> nn.Module:
        """Return what ``client`` deploys, in evaluation mode; see `corolla.export.load_client_model`."""
        return load_client_model(self.path, str(client))

    def report(self, output: Path | str | None = None) -> Path:
        """Write the HTML page, by default ``report.html`` in the run directory, and return its path."""
        return write_report([self.path], None if output is None else Path(output))
