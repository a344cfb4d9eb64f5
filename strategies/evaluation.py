"""Evaluation of all clients, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from corolla.config.schema import RunConfig
from corolla.records.phases import phase
from corolla.tasks import Failure, Reply
from corolla.types import ClientId, client_order, client_seed, generator
from strategies.base import CorollaStrategy, Deployment
from strategies.roster import Roster
from strategies.waiting import gather

_FINAL = 0xF1A15  # keeps the draws of the final sample apart from others of the same seed
_PIECE = 32  # clients asked at once: bounds the payloads that exist at the same time


class Evaluator:
    """Has clients score what they would run now, without and with fine-tuning."""

    def __init__(
        self, *, config: RunConfig, strategy: CorollaStrategy, roster: Roster, grid: Grid
    ) -> None:
        self._config = config
        self._strategy = strategy
        self._roster = roster
        self._grid = grid
        self._run_dir = None if config.run_dir is None else Path(config.run_dir)

    @property
    def keeps_statistics(self) -> bool:
        """Whether models are scored with the BatchNorm statistics that they come with."""
        return self._config.evaluation.statistics == "aggregate"

    def evaluate(
        self, server_round: int, *, clients: Collection[ClientId] | None = None
    ) -> tuple[list[Reply], list[Failure]]:
        """Return the scores of every connected client's deployed model, or of those ``clients`` alone."""
        with phase("evaluation", self._number(clients), run_dir=self._run_dir):
            return self._ask(server_round, clients)

    def finally_asked(self) -> list[ClientId]:
        """Return the clients whose models are scored and collected at the end: all, a sample, or nobody."""
        known, evaluation = self._roster.clients(), self._config.evaluation
        if evaluation.final == "none":
            return []
        if evaluation.final == "all":
            return known
        seed = self._config.seed

        def draw(client: ClientId) -> float:
            # Each client has a draw of its own: who else is connected changes nothing for it.
            return float(generator(seed, _FINAL, client_seed(client)).random())

        return sorted(sorted(known, key=draw)[: evaluation.final_clients], key=client_order)

    def as_it_is(
        self, server_round: int, deployment: Deployment
    ) -> tuple[list[Reply], list[Failure]]:
        """Return one model's scores, with nothing of the client's own in it.

        Of those asked at the end that it fits.
        """
        return self._ask(server_round, self._able(deployment), as_is=deployment)

    def statistics(
        self, server_round: int, deployment: Deployment
    ) -> tuple[list[Reply], list[Failure]]:
        """Return what the images of each of these clients make of a model's BatchNorm statistics."""
        return self._ask(server_round, self._able(deployment), as_is=deployment, statistics=True)

    def _able(self, deployment: Deployment) -> list[ClientId]:
        fits, architecture = self._strategy.federation.fits, deployment.architecture
        return [client for client in self.finally_asked() if fits(client, architecture)]

    def deploy(
        self, server_round: int, *, keep_models: bool = True
    ) -> tuple[list[Reply], list[Failure]]:
        """Return scores before and after fine-tuning, and, where wanted, each client's own weights."""
        wanted = self._config.evaluation.return_models
        if wanted == "auto":
            wanted = not self._config.on_nodes
        everybody = self._config.evaluation.final == "all"  # those who join meanwhile included
        asked = None if everybody else self.finally_asked()
        epochs = self._config.evaluation.fine_tune_epochs
        words = "final evaluation and fine-tuning" if epochs else "final evaluation"
        with phase(words, self._number(asked), run_dir=self._run_dir):
            return self._ask(
                server_round,
                asked,
                fine_tune_epochs=epochs,
                return_arrays=bool(wanted) and keep_models,
                extra={"deploy": True, "keep": keep_models},
            )

    def _number(self, clients: Collection[ClientId] | None) -> int:
        return len(self._roster.clients() if clients is None else clients)

    def _ask(
        self, server_round: int, clients: Collection[ClientId] | None = None, **settings: Any
    ) -> tuple[list[Reply], list[Failure]]:
        wanted = self._roster.clients() if clients is None else clients
        nodes = self._roster.nodes(self._grid)
        if clients is not None:
            nodes = {client: node for client, node in nodes.items() if client in clients}
        replies: list[Reply] = []
        failures: list[Failure] = []
        for piece in _pieces(sorted(nodes, key=client_order)):
            messages = self._strategy.start_evaluation(server_round, piece, nodes, **settings)
            answers = gather(
                self._grid,
                messages,
                timeout_s=self._config.round_timeout_s,
                real_nodes=self._config.on_nodes,
            )
            valid, failed = self._strategy.sorted_replies(answers)
            replies += valid
            failures += failed
        # Everybody counts: a mean over fewer clients must not look like one over all.
        gone = sorted(set(wanted) - set(nodes), key=client_order)
        return replies, failures + [Failure(client, "not connected") for client in gone]


def _pieces(clients: Sequence[ClientId]) -> Iterator[Sequence[ClientId]]:
    for start in range(0, len(clients), _PIECE):
        yield clients[start : start + _PIECE]
