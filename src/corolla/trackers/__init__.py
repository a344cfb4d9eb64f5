"""Where a run's numbers go beside its own files: one small file per service, one protocol."""

from corolla.trackers.protocol import Guarded, Start, Tracker

__all__ = ["Guarded", "Start", "Tracker"]
