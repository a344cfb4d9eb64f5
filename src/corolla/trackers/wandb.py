"""Weights & Biases: https://docs.wandb.ai. `WANDB_MODE=offline` keeps everything on this machine."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from corolla.trackers.identity import identity_of
from corolla.trackers.protocol import Start, require


class WandbTracker:
    """A run of ``project``; the same one when the directory's run is resumed."""

    def __init__(self, *, project: str, entity: str | None) -> None:
        require("wandb", "wandb")
        self._project, self._entity = project, entity
        self._run: Any = None

    def start(self, start: Start) -> None:
        """Begin, or go on by the id that the directory keeps."""
        self._run = importlib.import_module("wandb").init(
            project=self._project,
            entity=self._entity,
            name=start.run_dir.name,
            id=identity_of(start.run_dir, "wandb"),
            resume="allow",
            config=dict(start.config),
            dir=str(start.run_dir),
        )
        # Its own steps only grow, and a resumed run repeats a round: rounds are an axis of ours.
        self._run.define_metric("*", step_metric="round")

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Log one round."""
        self._run.log({**metrics, "round": round})

    def finish(self, summary: Mapping[str, float], *, complete: bool) -> None:
        """Set the summary, and end the run; a run that broke off is marked as failed."""
        self._run.summary.update({f"summary/{key}": value for key, value in summary.items()})
        self._run.finish(exit_code=0 if complete else 1)
