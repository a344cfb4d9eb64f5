"""SPIDER: FedAvg of a mixed DARTS network, while every client prunes a copy of its own to fit its data.

SPIDER (TMLR), algorithm 1: the server averages supernets alone; local architectures and weights stay with the
clients (`clients.local_global`), which search them as `corolla.search` says. docs/spider.md has formulas
and departures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from corolla.config.build import build
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.search.decisions import Search
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.tasks import Reply
from strategies.base import Outcome
from strategies.ditto import Ditto


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
        if share not in (True, False, "auto"):
            remedy = "Use true, false or auto (in simulation only)"
            faults.append(Fault("share", share, "is not known", remedy))
        space = federation.space
        if not isinstance(space, MixedDartsSpace):
            remedy = "Use space=darts_s2_mixed or another of the mixed DARTS spaces"
            faults.append(Fault("space", space.name, "holds no mixed networks to prune", remedy))
        try:
            searcher: Search = build(search, "search")
        except RefusedError as error:
            raise RefusedError(faults + list(error.faults)) from error
        if isinstance(space, MixedDartsSpace):
            faults += _time_faults(federation, searcher.rounds_needed(space.plan), searcher.clock)
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
        phases = [reply.metrics["phase"] for reply in replies if "phase" in reply.metrics]
        metrics = {"mean_phase": sum(phases) / len(phases)} if phases else {}
        return Outcome({**outcome.metrics, **metrics}, {**outcome.columns, **columns})


def _decisions(reply: Reply) -> list[dict[str, Any]] | None:
    """Return what a client says it decided; None where it says nothing, or nothing that can be read."""
    try:
        decisions = json.loads(reply.notes["decisions"])
    except (KeyError, TypeError, ValueError):
        return None
    known = isinstance(decisions, list) and all(isinstance(d, dict) for d in decisions)
    return decisions if known else None


def _time_faults(federation: Federation, needed: int, clock: str) -> list[Fault]:
    """Return a fault where a client cannot be expected to come to the end of its search."""
    rounds = federation.rounds
    if clock == "participations":
        share = federation.participants / federation.clients
        expected, wanted = (
            int(rounds * share),
            -(-needed * federation.clients // federation.participants),
        )
        problem = (
            f"the search takes {needed} rounds of a client's own (warm-up, one step each, recovery); with "
            f"{federation.participants} of {federation.clients} clients a round it gets {expected}"
        )
    else:
        expected, wanted = rounds, needed
        problem = f"the search takes {needed} rounds (warm-up, one step each, recovery)"
    if expected >= needed:
        return []
    remedy = (
        f"Use rounds={wanted} or more, or shorten search.warmup_rounds or search.recovery_rounds"
    )
    return [Fault("rounds", rounds, problem, remedy)]
