"""MLflow: https://mlflow.org. Where it writes is its own MLFLOW_TRACKING_URI, or ``uri``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from corolla.records.atomic import write_text
from corolla.records.json_files import flat
from corolla.trackers.protocol import Start, require

_FILE = ".mlflow_run"  # its runs' ids are its own: the directory remembers which is its
_LONGEST = 500  # of a parameter's text, in MLflow


class MlflowTracker:
    """A run of ``experiment``; the same one when the directory's run is resumed."""

    def __init__(self, *, experiment: str, uri: str | None) -> None:
        require("mlflow", "mlflow")
        self._experiment, self._uri = experiment, uri
        self._mlflow: Any = None

    def start(self, start: Start) -> None:
        """Begin, or go on by the id that the directory keeps."""
        self._mlflow = importlib.import_module("mlflow")
        if self._uri is not None:
            self._mlflow.set_tracking_uri(self._uri)
        self._mlflow.set_experiment(self._experiment)
        file = start.run_dir / _FILE
        known = file.read_text().strip() if file.is_file() else None
        begun = self._mlflow.start_run(run_id=known, run_name=start.run_dir.name)
        if known is None:
            write_text(file, begun.info.run_id)
            values = flat(start.config).items()
            self._mlflow.log_params({key: str(value)[:_LONGEST] for key, value in values})

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Log one round."""
        self._mlflow.log_metrics(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, float], *, complete: bool) -> None:
        """Log the summary, and end the run."""
        self._mlflow.log_metrics({f"summary/{key}": value for key, value in summary.items()})
        self._mlflow.end_run("FINISHED" if complete else "FAILED")
