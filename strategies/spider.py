"""SPIDER: FedAvg of a mixed DARTS network, while every client prunes a copy of its own to fit its data.

SPIDER (TMLR), algorithm 1: the server averages supernets alone; local architectures and weights stay with the
clients (`clients.spider`), which search them as `corolla.search` says. docs/spider.md has formulas
and departures.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from corolla.aggregation.updates import Weights
from corolla.config.build import build
from corolla.errors import refuse
from corolla.federation import Federation
from corolla.search.decisions import Decision
from corolla.settings import Decay, settings
from corolla.tasks import Reply
from strategies.base import Outcome
from strategies.ditto import Ditto
from strategies.fedavg import FedAvgSettings
from strategies.metrics import (
    CHOICES,
    COUNT,
    FLAG,
    SCORED_LOSS,
    SHARE,
    Metric,
    Metrics,
    Notes,
    Text,
)
from strategies.search_faults import search_faults

_LOG = logging.getLogger("corolla")
_DECISION = {field.name for field in fields(Decision)}
_MARGIN = Metric(least=-1e18, most=1e18, or_none=True)  # of accuracies, or of weights
_MOST_DECISIONS, _MOST_CHARACTERS = 1000, 200


@settings
class SpiderSettings:
    """Settings of SPIDER's server; the clients' are `corolla.training.pull.PullSettings` and theirs."""

    weights: Weights  # of clients in the average
    server_momentum: Decay  # 0: plain averaging
    search: Mapping[str, Any]  # a node of conf/method/search


class Spider(Ditto):
    """Ditto on the largest architecture of a mixed DARTS space, whose local models are searched."""

    settings: SpiderSettings  # type: ignore[assignment]  # the architecture is no choice here
    returns_models = False  # local weights never leave the client
    summary_metrics = ("phase",)
    reply_metrics: ClassVar[Metrics] = {
        "phase": Metric(least=1, most=3, whole=True),
        "validation_in_training": FLAG,
        # Of clients that tell their architecture:
        "params": COUNT,
        "macs": COUNT,
        "undecided": COUNT,
    }
    reply_notes: ClassVar[Notes] = {"own_architecture": CHOICES, "decisions": Text(most=1_000_000)}

    def __init__(self, *, federation: Federation, settings: SpiderSettings) -> None:
        refuse(search_faults(federation, build(settings.search, "search")))
        whole = FedAvgSettings(
            architecture="largest",
            weights=settings.weights,
            server_momentum=settings.server_momentum,
        )
        super().__init__(federation=federation, settings=whole)

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
    except (KeyError, TypeError, ValueError, RecursionError):  # the last: thousands of brackets
        return None
    known = isinstance(decisions, list) and len(decisions) <= _MOST_DECISIONS
    return decisions if known and all(_is_decision(one) for one in decisions) else None


def _is_decision(one: object) -> bool:
    """Tell whether ``one`` is what `corolla.search.decisions.Decision.to_dict` gives."""
    if not isinstance(one, dict) or one.keys() != _DECISION:
        return False
    removed, scores = one["removed"], one["scores"]
    return (
        COUNT.fault(one["round"]) is None
        and all(_is_name(one[key]) for key in ("cell", "where", "kept"))
        and isinstance(removed, list)
        and all(_is_name(name) for name in removed)
        and isinstance(scores, dict)
        and all(_is_name(name) and _is_pair(pair) for name, pair in scores.items())
        and _MARGIN.fault(one["margin"]) is None
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_CHARACTERS


def _is_pair(value: object) -> bool:
    """Tell whether ``value`` is an accuracy and a loss."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return SHARE.fault(value[0]) is None and SCORED_LOSS.fault(value[1]) is None
