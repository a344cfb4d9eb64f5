"""TensorBoard events that mirror ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RefusedError
from corolla.records.json_files import numeric_leaves


class EventMirror:
    """Writes the numbers of each round as scalars, nested keys joined by "/".

    Args:
        directory: Where event files go; each mirror adds one. resumed_after: The round a resumed
        run goes on from; TensorBoard then hides what an earlier event
            file says of later rounds.

    Raises: RefusedError when TensorBoard is not installed.
    """

    def __init__(self, directory: Path, *, resumed_after: int | None = None) -> None:
        try:
            # imported here: it takes a while, and nothing else needs it
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            remedy = "Install the package tensorboard, or use tensorboard=false"
            raise RefusedError(Fault("tensorboard", True, str(error), remedy)) from error
        purge_step = None if resumed_after is None else resumed_after + 1
        self._writer = SummaryWriter(log_dir=str(directory), purge_step=purge_step)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Write the finite numbers of one round; ``metrics["round"]`` is the step."""
        for key, value in numeric_leaves(metrics, skip=frozenset({"round"})).items():
            self._writer.add_scalar(key, value, global_step=int(metrics["round"]))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and end the writer's thread."""
        self._writer.close()
