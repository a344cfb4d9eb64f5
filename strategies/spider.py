"""SPIDER: FedAvg of a mixed DARTS network, while every client prunes a copy of its own to fit its data.

SPIDER (TMLR), algorithm 1: the server averages supernets alone; local architectures and weights stay with the
clients (`clients.local_global`), which search them as `corolla.search` says. docs/spider.md has formulas
and departures.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from corolla.config.build import build
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.tasks import Reply
from strategies.base import Outcome
from strategies.ditto import Ditto
from strategies.search_faults import search_faults

_LOG = logging.getLogger("corolla")


class Spider(Ditto):
    """Ditto on the largest architecture of a mixed DARTS space, whose local models are searched."""

    returns_models = False  # local weights never leave the client

    def __init__(
        self,
        *,
        federation: Federation,
        search: Mapping[str, Any],
        weights: Literal["uniform", "examples"],
        server_momentum: float,
        lambda_local: float,
        local_lr_scale: float,
        global_optimizer: Literal["keep", "reset"],
        share: bool | Literal["auto"],
    ) -> None:
        faults = []
        if not isinstance(share, bool) and share != "auto":
            remedy = "Use true, false or auto (in simulation only)"
            faults.append(Fault("share", share, "is not known", remedy))
        try:
            faults += search_faults(federation, build(search, "search"))
        except RefusedError as error:
            faults += error.faults
        if faults:
            raise RefusedError(faults)
        super().__init__(
            federation=federation,
            architecture="largest",
            weights=weights,
            server_momentum=server_momentum,
            lambda_local=lambda_local,
            local_lr_scale=local_lr_scale,
            global_optimizer=global_optimizer,
        )

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Average the supernets; note the decisions of the clients that tell them."""
        outcome = super().absorb(server_round, replies)
        columns = {
            reply.client: {"decisions": decisions}
            for reply in replies
            if (decisions := _decisions(reply)) is not None
        }
        if server_round == self.federation.rounds:
            self._warn_of_undecided(replies)
        phases = [reply.metrics["phase"] for reply in replies if "phase" in reply.metrics]
        metrics = {"mean_phase": sum(phases) / len(phases)} if phases else {}
        return Outcome({**outcome.metrics, **metrics}, {**outcome.columns, **columns})

    def _warn_of_undecided(self, replies: Sequence[Reply]) -> None:
        late = [reply.client for reply in replies if reply.metrics.get("phase", 3.0) < 3]
        if late:
            _LOG.warning(
                "the search of %d clients did not end: %s. They deploy networks with undecided edges",
                len(late),
                ", ".join(late[:10]),
            )


def _decisions(reply: Reply) -> list[dict[str, Any]] | None:
    """Return what a client says it decided; None where it says nothing, or nothing that can be read."""
    try:
        decisions = json.loads(reply.notes["decisions"])
    except (KeyError, TypeError, ValueError):
        return None
    known = isinstance(decisions, list) and all(isinstance(d, dict) for d in decisions)
    return decisions if known else None
