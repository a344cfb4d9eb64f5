"""Every client's search in a trained supernet: stage 2 of HAPFNAS, and the controls of it.

Yang & Liu, Entropy 27(7) 759, 2025, Algorithm 2. On the client: it receives the supernet once, searches,
and returns its architecture with all that it measured. At the server: the client scores the subnets that it
is sent, a few per exchange, and never holds the supernet; the server fits its predictor and evolves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from corolla.errors import refuse
from corolla.federation import Federation
from corolla.limits.client_limits import Limits
from corolla.search.costliest import costliest_fitting
from corolla.search.evolution import Fits, draw_fitting
from corolla.search.measured import Measured, finite, from_lists, to_choices
from corolla.search.predictor_search import (
    CORRELATIONS,
    Course,
    PersonalSearchSettings,
    PredictorSearch,
    best_of,
    search_seed,
)
from corolla.spaces.architecture import Architecture
from corolla.state import State, Stateful
from corolla.tasks import Reply, Task
from corolla.types import Arrays, ClientId, client_order, generator
from strategies.exchange import Order
from strategies.search_faults import validation_faults

_LOG = logging.getLogger("corolla")


class PersonalSearch(Stateful):
    """State: what each client measured, and the architecture that it found."""

    def __init__(self, *, settings: PersonalSearchSettings, federation: Federation) -> None:
        by = settings.by
        if by == "predictor" and settings.fitness == "validation":
            problem = "architectures would be chosen on images that are trained on"
            refuse(validation_faults(federation, problem))
        self.federation, self.space = federation, federation.space
        self.search = PredictorSearch(self.space, settings.predictor)
        self._by, self._piece = by, settings.subnets_per_exchange
        self._at_server = settings.where == "server"
        self.leaks = by == "predictor" and settings.fitness == "test"
        self.rounds = 0
        if by == "predictor":
            turns = -(-federation.clients // federation.participants)
            self.rounds = settings.rounds or turns * self._exchanges()
        self._measured: dict[ClientId, list[Measured]] = {}
        self._found: dict[ClientId, Architecture] = {}
        self._correlation: dict[ClientId, dict[str, float]] = {}
        # Of the searches that the server has under way, what need not be computed again: no state.
        self._courses: dict[ClientId, tuple[Limits, Course]] = {}
        self._dearest: dict[
            ClientId, tuple[Limits, Architecture]
        ] = {}  # likewise, of ``costliest``

    def _exchanges(self) -> int:
        """Return how many exchanges one client's search takes."""
        if not self._at_server:
            return 1
        parts = (self.search.initial, self.search.front)
        return sum(-(-part // self._piece) for part in parts)

    # --- who, what ------------------------------------------------------------------------------------

    def cohort(self, server_round: int, available: Sequence[ClientId]) -> list[ClientId]:
        """Return who searches in this round: some of those that have found nothing yet, taking turns."""
        due = [c for c in sorted(available, key=client_order) if c not in self._found]
        count = self.federation.participants
        # By turns: one that always fails must not keep the others from ever being asked.
        first = server_round * count % len(due) if due else 0
        return sorted((due[first:] + due[:first])[:count], key=client_order)

    def orders(self, weights: Arrays, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send the supernet to search in, or the next subnets to score."""
        orders = []
        for client in cohort:
            task = Task(
                client=client,
                round=server_round,
                architecture=self.space.smallest(),
                return_arrays=False,
                extra={"work": "search", **self.federation.limits(client).to_extra()},
            )
            if not self._at_server:
                orders.append(Order(task=task, arrays=weights, returns={}, needs=("val_accuracy",)))
                continue
            wanted = self._course(client).wanted(self._measured.get(client, []))[: self._piece]
            extra = {"work": "score", "choices": to_choices(wanted)}
            arrays = {
                f"{number}/{name}": array
                for number, architecture in enumerate(wanted)
                for name, array in self.space.cut(weights, architecture).items()
            }
            orders.append(Order(task=replace(task, extra=extra), arrays=arrays, returns={}))
        return orders

    def _course(self, client: ClientId) -> Course:
        """Return the client's search at the server, restarted where its limits have changed."""
        limits = self.federation.limits(client)
        known = self._courses.get(client)
        if known is None or known[0] != limits:
            seed = search_seed(self.federation.seed, client)
            known = limits, self.search.course(fits=self._fits(client), seed=seed)
            self._courses[client] = known
        return known[1]

    def _fits(self, client: ClientId) -> Fits:
        return lambda architecture: self.federation.fits(client, architecture)

    # --- what came back ---------------------------------------------------------------------------------

    def absorb(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """Keep what was measured and found; an answer that makes no sense counts as none."""
        for reply in replies:
            client = reply.client
            try:
                measured = self._read(reply)
                if self._at_server:
                    measured = self._measured.get(client, []) + measured
                    course = self._course(client)
                    if not course.wanted(measured):
                        result = course.result(measured)
                        self._conclude(client, result.best, result.correlations)
                else:  # it is not asked what else it might have measured, nor is its forest grown again
                    self._conclude(client, best_of(measured), _told_correlations(reply))
            except (ValueError, KeyError, TypeError) as error:
                _LOG.warning("the search of client %s cannot be used: %s", client, error)
                continue
            self._measured[client] = measured
        entries = list(self._correlation.values())
        keys = sorted({key for entry in entries for key in entry})
        return {
            "searched": len(self._found),
            **{key: float(np.mean([e[key] for e in entries if key in e])) for key in keys},
        }

    def _read(self, reply: Reply) -> list[Measured]:
        asked = reply.task.extra.get("choices")
        told = from_lists(
            self.space, reply.notes if asked is None else {**reply.notes, "choices": asked}
        )
        # A client that measured before its limits changed has a little more than is asked for.
        most = 4 * (self.search.initial + self.search.front)
        if len(told) > most:
            raise ValueError(
                f"{len(told):,} measured subnets were returned, {most:,} at most were asked for"
            )
        for one in told:
            if not self._fits(reply.client)(one.architecture):
                raise ValueError(f"{one.architecture.to_list()} is beyond the client's limits")
        return told

    def _conclude(
        self, client: ClientId, best: Measured, correlations: Mapping[str, float]
    ) -> None:
        self._found[client] = best.architecture
        self._correlation[client] = dict(correlations)
        self._courses.pop(client, None)

    def warn_of_unsearched(self, clients: Sequence[ClientId]) -> None:
        """Say aloud, when no round of search is left, who found nothing."""
        left = [client for client in clients if client not in self._found]
        if left:
            _LOG.warning(
                "the search is over, and %d of %d clients found no architecture: %s. They train the best "
                "that the server knows to be measured, else the smallest. Their failures are in "
                "metrics.jsonl; more time: round_timeout_s, more rounds: personal_search.rounds",
                len(left),
                len(clients),
                names_of(left),
            )

    # --- what a client runs -----------------------------------------------------------------------------

    def architecture(self, client: ClientId) -> Architecture:
        """Return what the client found; what it measured best so far; else the smallest architecture.

        All within the client's limits, which may be others than at the time of the search.
        """
        fits = self._fits(client)
        if client in self._found and fits(self._found[client]):
            return self._found[client]
        if self._by == "random":
            rng = generator(*search_seed(self.federation.seed, client))
            return draw_fitting(self.space, 1, fits=fits, rng=rng)[0]
        if self._by == "costliest":
            return self._costliest(client)
        measured = finite(one for one in self._measured.get(client, ()) if fits(one.architecture))
        if measured:
            return min(measured, key=lambda one: one.rank).architecture
        return self.space.smallest()

    def _costliest(self, client: ClientId) -> Architecture:
        limits = self.federation.limits(client)
        known = self._dearest.get(client)
        if known is None or known[0] != limits:
            rng = generator(*search_seed(self.federation.seed, client))
            known = limits, costliest_fitting(self.space, fits=self._fits(client), rng=rng)
            self._dearest[client] = known
        return known[1]

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Return the search's entries for summary.json."""
        if self._by != "predictor":
            return {}
        measured = len(self._measured.get(client, []))
        return {
            "searched": client in self._found,
            "measured": measured,
            **self._correlation.get(client, {}),
        }

    def state(self) -> State:
        """Return what was measured and found."""
        arrays: Arrays = {}
        for client, measured in self._measured.items():
            choices = [one.architecture.to_list() for one in measured]
            arrays[f"choices/{client}"] = np.array(choices, dtype=np.int64)
            arrays[f"scores/{client}"] = np.array([[one.loss, one.accuracy] for one in measured])
        meta = {
            "found": {client: found.to_list() for client, found in self._found.items()},
            "correlation": self._correlation,
        }
        return State(arrays, meta)

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        scores = state.part("scores/")
        self._measured = {
            client: [
                Measured(Architecture.of(row), float(loss), float(accuracy))
                for row, (loss, accuracy) in zip(choices.tolist(), scores[client], strict=True)
            ]
            for client, choices in state.part("choices/").items()
        }
        found = state.meta["found"].items()
        self._found = {client: Architecture.of(choices) for client, choices in found}
        self._correlation = dict(state.meta["correlation"])


def names_of(clients: Sequence[ClientId], most: int = 20) -> str:
    """Return the clients' names for a message, not all of very many."""
    rest = f" and {len(clients) - most} more" if len(clients) > most else ""
    return ", ".join(clients[:most]) + rest


def _told_correlations(reply: Reply) -> dict[str, float]:
    """Return what a client reports of its predictor; what cannot be a correlation is left out."""
    told = {key: reply.metrics[key] for key in CORRELATIONS if key in reply.metrics}
    return {key: value for key, value in told.items() if -1.0 <= value <= 1.0}  # NaN is out, too
