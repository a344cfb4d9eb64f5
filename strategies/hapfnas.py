"""HAPFNAS: a supernet trained by distillation, a search per client, heteroFedAvg of what they found.

Yang & Liu, Entropy 27(7) 759, 2025. Three stages in one run, one after the other; each is a part of its own
(`strategies.distilled_supernet`, `strategies.personal_search`, `strategies.retraining`), and its controls
take its place. Departures: docs/hapfnas.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from corolla.config.build import build
from corolla.errors import Fault, gathered, refuse
from corolla.federation import Federation
from corolla.search.predictor_search import CORRELATIONS, PersonalSearchSettings
from corolla.settings import settings
from corolla.state import Keeps, State
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, client_order
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.metrics import (
    CHOICES,
    COUNT,
    SCORED_LOSS,
    SECONDS,
    SHARE,
    Metric,
    Metrics,
    Notes,
    Numbers,
)
from strategies.personal_search import PersonalSearch, names_of
from strategies.retraining import RetrainingSettings, retraining_orders, retraining_step
from strategies.supernet_training import SupernetTraining

_LOG = logging.getLogger("corolla")


@settings
class HapfnasSettings:
    """HAPFNAS's stages."""

    supernet_training: Mapping[str, Any]  # a node of conf/method/supernet_training
    personal_search: PersonalSearchSettings
    retraining: RetrainingSettings


class Hapfnas(CorollaStrategy):
    """State: the supernet of stage 1, the weights of stage 3, and what each stage knows."""

    takes_robust = True
    refuses_private = (
        "its server trains the whole supernet, and clients search in it",
        "Use private=[], or another method, such as method=perfedrlnas",
    )
    reply_metrics: ClassVar[Metrics] = {
        "measured": COUNT,
        "scoring_s": SECONDS,
        "search_s": SECONDS,
        **dict.fromkeys(CORRELATIONS, Metric(least=-1, most=1, or_none=True)),
    }
    reply_notes: ClassVar[Notes] = {
        "own_architecture": CHOICES,
        "choices": CHOICES,
        "losses": Numbers(each=SCORED_LOSS, most=100_000),
        "accuracies": Numbers(each=SHARE, most=100_000),
    }
    keeps: ClassVar[Keeps] = {
        "_supernet": "supernet/",
        "_weights": "weights/",
        "_velocity": "velocity/",
        "_training": "training/",
        "_search": "search/",
        "_done": "done",
    }
    may_be_infinite = ("search/scores/",)  # losses of subnets that diverged

    settings: HapfnasSettings

    def __init__(self, *, federation: Federation, settings: HapfnasSettings) -> None:
        """Rounds that the first two stages leave are the third one's."""
        super().__init__(federation=federation, settings=settings)
        faults: list[Fault] = []
        node = settings.supernet_training
        with gathered(faults):
            self._training: SupernetTraining = build(
                node, "supernet_training", federation=federation
            )
        with gathered(faults):
            self._search = PersonalSearch(settings=settings.personal_search, federation=federation)
        refuse(faults)
        self._retraining = settings.retraining
        self._searched_from = self._training.rounds
        self._retrained_from = self._searched_from + self._search.rounds
        self._supernet: Arrays = self.space.initial_state(federation.seed)  # of stage 1
        self._weights = self._supernet  # of stage 3, which starts from it
        self._velocity: Arrays = {}
        self._done = 0  # the last round that anybody answered in
        # The knowledge model; of other trainings the smallest, which is within everybody's limits.
        self._shared = self._training.deployed(self._supernet).architecture
        self._unable: set[ClientId] = set()  # of those that were warned of: no state
        faults = self._rounds_faults()
        if not federation.on_nodes:  # of those, who cannot train it sits stage 1 out
            faults += self._knowledge_faults(node.get("knowledge"))
        refuse(faults)

    def summary(self) -> None:
        """Log what is about to run, and what must not be overlooked."""
        super().summary()
        if self._search.leaks:
            _LOG.warning("architectures are chosen on TEST images: their accuracies are too high")

    def stage(self, server_round: int) -> int:
        """Return 1 (supernet), 2 (search) or 3 (retraining)."""
        if server_round <= self._searched_from:
            return 1
        return 2 if server_round <= self._retrained_from else 3

    def deploys(self, server_round: int) -> bool:
        """Only what was searched and trained is ever chosen by validation."""
        return self.stage(server_round) == 3

    def loss_of_deployed(self) -> str | None:
        """Return stage 3's own loss, once it has trained."""
        return self._retraining.loss if self._done > self._retrained_from else None

    def cohort(self, server_round: int, available: Sequence[ClientId]) -> list[ClientId]:
        """Draw as any method does; in stage 2, take those that have not searched yet."""
        stage = self.stage(server_round)
        if stage == 2:
            return self._search.cohort(server_round, available)
        if stage == 1:
            available = self._able(available)
        return super().cohort(server_round, available)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Ask for what the round's stage needs."""
        stage = self.stage(server_round)
        if stage == 1:
            return self._training.orders(self._supernet, server_round, cohort)
        if stage == 2:
            return self._search.orders(self._supernet, server_round, cohort)
        return retraining_orders(
            self.federation,
            self._retraining,
            self._weights,
            {client: self._search.architecture(client) for client in cohort},
            server_round=server_round,
            first_round=self._retrained_from,
        )

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Hand the replies to the round's stage."""
        stage = self.stage(server_round)
        if replies:
            self._done = server_round
        metrics: dict[str, Any] = {"stage": stage}
        if stage == 1:
            self._supernet, distilled = self._training.absorb(self._supernet, server_round, replies)
            self._weights = self._supernet
            metrics |= distilled
        elif stage == 2:
            metrics |= self._search.absorb(replies)
            if server_round == self._retrained_from and self.roster is not None:
                self._search.warn_of_unsearched(self.roster.clients())
        else:
            self._weights, self._velocity = retraining_step(
                self.federation, self._retraining, self._weights, self._velocity, replies
            )
        return Outcome(metrics, {reply.client: {"stage": stage} for reply in replies})

    def deployed(self, client: ClientId) -> Deployment:
        """Return the client's architecture with its slice; before stage 3, what stage 1 trains."""
        if self._done < self._retrained_from:
            return self._training.deployed(self._supernet)
        architecture = self._search.architecture(client)
        return Deployment(architecture, self.space.cut(self._weights, architecture))

    def _learn_limits(self, nodes: Mapping[ClientId, int]) -> Mapping[ClientId, int]:
        """Hand the limits of nodes that joined since to the stages, which give architectures by them."""
        nodes = super()._learn_limits(nodes)
        self._training.federation = self._search.federation = self.federation
        return nodes

    def _rounds_faults(self) -> list[Fault]:
        rounds, before = self.federation.rounds, self._retrained_from
        if rounds > before:
            return []
        problem = (
            f"leaves no round to retrain in: {self._training.rounds} train the supernet, "
            f"{self._search.rounds} search"
        )
        remedy = f"Use rounds={before + 1} or more, or lower method.supernet_training.rounds"
        return [Fault("rounds", rounds, problem, remedy)]

    def _knowledge_faults(self, knowledge: Any) -> list[Fault]:
        """Return what is wrong where clients cannot train the model that stage 1 sends to everybody."""
        limited = sorted({*self.federation.budgets, *self.federation.caps}, key=client_order)
        unable = [c for c in limited if not self.federation.fits(c, self._shared)]
        if not unable:
            return []
        costs = self.space.costs(self._shared, batch_size=self.federation.batch_size)
        problem = (
            f"takes {costs.macs:,} multiply-accumulates and {costs.training_memory_mib:.1f} MiB to "
            f"train, beyond the limits of client {names_of(unable)}"
        )
        remedy = "Use smallest, which every client can train, or raise the limits (cap, memory_budget_mib)"
        return [Fault("supernet_training.knowledge", knowledge, problem, remedy)]

    def _able(self, available: Sequence[ClientId]) -> list[ClientId]:
        """Return who can train what stage 1 sends to everybody: of real nodes, perhaps not all."""
        able = [client for client in available if self.federation.fits(client, self._shared)]
        unable = set(available) - set(able) - self._unable
        if unable:
            self._unable |= unable
            who = names_of(sorted(unable, key=client_order))
            _LOG.warning("the knowledge model is beyond the limits of %s: left out of stage 1", who)
        return able

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Add how far the client's search came and how good its predictor was."""
        return {**super().describe(client), **self._search.describe(client)}

    def state(self) -> State:
        """Return the weights and what the stages know; before stage 3 its weights are the supernet's."""
        state = super().state()
        if self._weights is self._supernet:
            arrays = {n: a for n, a in state.arrays.items() if not n.startswith("weights/")}
            return State(arrays, state.meta)
        return state

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        super().load_state(state)
        self._weights = self._weights or self._supernet
