"""FedRolex: HeteroFL whose windows of channels move on by one every round, so that all are trained.

Alam, Liu, Yan & Zhang, NeurIPS 2022, https://arxiv.org/abs/2212.01548. Everything else, departures included,
is `strategies.heterofl`'s. A client's personalised model is the window of the last round that trained.
"""

from __future__ import annotations

from strategies.heterofl import HeteroFL


class FedRolex(HeteroFL):
    """Round t (1, 2, ...) trains channels {(i + t) mod C : i < m} of every axis."""

    refuses_private = (
        "its windows of channels move: what a client keeps would meet other channels in every round",
        "Use private=[], or method=heterofl",
    )

    def _shift(self, server_round: int) -> int:
        return server_round
