"""pFedMe: clients solve for models near the server's, which moves towards what theirs make of it.

T. Dinh, Tran & Nguyen, NeurIPS 2020, https://arxiv.org/abs/2006.08848, algorithm 1. S: those that answered.

    w <- (1 - beta) w + beta * mean of w_k over S

Departures: only those who are drawn train (in the paper all do, and those drawn are averaged); BN statistics
are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from corolla.aggregation.server_step import stepped
from corolla.settings import Positive, settings
from corolla.tasks import Reply
from corolla.training.moreau import MoreauSettings
from strategies.base import Outcome
from strategies.ditto import Ditto
from strategies.fedavg import FedAvgSettings
from strategies.metrics import Metrics, prefixed


@settings
class PFedMeSettings(MoreauSettings, FedAvgSettings):
    """FedAvg's settings, the clients', and the server's step."""

    beta: Positive  # the server's step; with 0 it would never move


class PFedMe(Ditto):
    """FedAvg's server with a step of its own; the personal models stay with the clients, as Ditto's."""

    settings: PFedMeSettings
    reply_metrics: ClassVar[Metrics] = prefixed("stale_")
    summary_metrics: ClassVar[tuple[str, ...]] = ("stale_test_accuracy",)

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Step towards the mean of what came back."""
        before = self._arrays
        outcome = super().absorb(server_round, replies)
        self._arrays = stepped(before, self._arrays, self.settings.beta)
        return outcome
