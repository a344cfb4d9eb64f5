"""What a run has cost so far; part of the checkpoint, so a resumed run counts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from corolla.tasks import Reply


@dataclass
class Totals:
    """Sums over rounds. Evaluations are counted apart: all methods are evaluated alike."""

    bytes_down: int = 0
    bytes_up: int = 0
    samples_processed: int = 0  # images that went forward and backward in training
    client_s: float = 0.0  # time that clients spent on rounds, added up
    wall_s: float = 0.0  # time that rounds took
    evaluation_s: float = 0.0

    def add(self, replies: Sequence[Reply], elapsed_s: float) -> None:
        """Count one round."""
        for reply in replies:
            self.bytes_down += reply.bytes_down
            self.bytes_up += reply.bytes_up
            self.samples_processed += int(reply.metrics.get("samples_processed", 0))
            self.client_s += reply.metrics.get("handling_s", 0.0)
        self.wall_s += elapsed_s

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for the checkpoint and the summary."""
        return asdict(self)
