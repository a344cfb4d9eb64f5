"""Trackio (https://github.com/gradio-app/trackio): a database on this machine; `trackio show` shows it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from corolla.trackers.protocol import Start, require


class TrackioTracker:
    """A run of ``project`` by the directory's name; the same one when it is resumed."""

    def __init__(self, *, project: str) -> None:
        require("trackio", "trackio")
        self._project = project
        self._trackio: Any = None

    def start(self, start: Start) -> None:
        """Begin, or go on by name."""
        self._trackio = importlib.import_module("trackio")
        self._trackio.init(
            project=self._project,
            name=start.run_dir.name,
            resume="allow",
            config=dict(start.config),
            embed=False,
        )

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Log one round."""
        self._trackio.log(dict(metrics), step=round)

    def finish(self, summary: Mapping[str, float], *, complete: bool) -> None:
        """Log the summary, and end."""
        if summary:
            self._trackio.log({f"summary/{key}": value for key, value in summary.items()})
        self._trackio.finish()
