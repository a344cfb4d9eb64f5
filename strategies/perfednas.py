"""Improved PerFedNAS: any search proposes a subnet per participant, and is told what its training was worth.

The general algorithm (algorithm 1) of a survey of personalised federated learning: sample clients, cut each
a subnet out of the supernet, train, score, aggregate, hand the scores to the search. Space, search
(`corolla.search.proposals`) and reward (`corolla.search.rewards`) are groups of conf/. Which published
systems are points of this grid, and what departs from the algorithm: docs/perfednas.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from corolla.aggregation.updates import Weights
from corolla.config.build import build
from corolla.errors import Fault, gathered, refuse
from corolla.federation import Federation
from corolla.search.evolution import Fits
from corolla.search.proposals.near_cap import NearCap
from corolla.search.proposals.prescreen import Prescreened, PrescreenSettings
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.search.rewards import Reward, Seen
from corolla.settings import Count, CountOrNone, Decay, Share, settings
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps, State
from corolla.tasks import FAILURE_KINDS, Failure, Reply
from corolla.types import Arrays, ClientId, client_seed, generator
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order
from strategies.final_choice import FinalChoice, from_meta, to_meta
from strategies.search_faults import validation_faults
from strategies.training_rules import Averaging, TrainingRule

_FINAL = 0xF17A1  # keeps the last draws apart from others of the same seed and client


@settings
class SubnetRounds:
    """What PerFedNAS and PerFedRLNAS share: how subnets are proposed, trained and deployed."""

    prescreen: PrescreenSettings | None  # proposals are the best predicted of several draws
    warmup_rounds: CountOrNone  # first rounds in which the search proposes but does not learn
    settle: Decay  # share of the rounds, at the end, in which clients train what they will deploy
    weights: Weights  # of clients in the averages
    server_momentum: Decay  # 0: plain averaging
    max_draws: Count  # draws until an architecture fits a client; then the smallest
    # what is proposed is moved to this share of the costliest that fits, or more; None: left as drawn
    near_cap: Share | None = None
    # at the end a client scores so many draws besides what was chosen for it, and deploys the best
    final_draws: CountOrNone = 0
    damping: Share = 0.0  # say of clients that do not hold an entry, for its old value
    training: Mapping[str, Any] = field(  # a node of conf/method/training
        default_factory=lambda: {"_target_": "strategies.training_rules.Coverage"}
    )


@settings
class PerFedNASSettings(SubnetRounds):
    """PerFedNAS's settings."""

    proposals: Mapping[str, Any]  # a node of conf/method/proposals
    reward: Mapping[str, Any]  # a node of conf/method/reward


class PerFedNAS(CorollaStrategy):
    """State: the supernet, what the search has learned, the rewards' baselines."""

    takes_robust = True
    keeps: ClassVar[Keeps] = {
        "_supernet": "supernet/",
        "_velocity": "velocity/",
        "_proposals": "proposals/",
        "_reward": "reward/",
        "_rule": "training/",
    }
    settings: PerFedNASSettings

    def __init__(self, *, federation: Federation, settings: SubnetRounds) -> None:
        super().__init__(federation=federation, settings=settings)
        faults: list[Fault] = []
        rounds, warmup = federation.rounds, settings.warmup_rounds
        context = SearchContext(
            space=self.space, seed=federation.seed, max_draws=settings.max_draws
        )
        with gathered(faults):
            self._unscreened: Proposals = self._make_proposals(context)
            self._proposals: Proposals = self._unscreened
            if settings.near_cap is not None:
                self._proposals = NearCap(
                    share=settings.near_cap, search=self._proposals, context=context
                )
            if settings.prescreen is not None and settings.prescreen.candidates > 1:
                faults += _prescreen_faults(self._unscreened, settings.prescreen)
                self._proposals = Prescreened(
                    settings=settings.prescreen, search=self._proposals, context=context
                )
        averaging = Averaging(settings.weights, settings.server_momentum, settings.damping)
        with gathered(faults):
            self._rule: TrainingRule = build(
                settings.training,
                "training",
                federation=federation,
                averaging=averaging,
                rounds=self.supernet_rounds(federation, settings),
            )
        with gathered(faults):
            self._reward: Reward = self._make_reward(budgets=bool(federation.budgets))
        learns = not faults and self._proposals.learns
        chooses = learns and any("val_" in name for name in self._reward.needs)
        if settings.final_draws or chooses:
            problem = "architectures would be chosen on images that are trained on"
            faults += validation_faults(federation, problem)
        self._searched = rounds - round(settings.settle * rounds)
        if settings.settle and self._searched <= warmup:
            problem = (
                f"leaves no round to search in: {self._searched} come before, {warmup} warm up"
            )
            faults.append(
                Fault("settle", settings.settle, problem, "Lower method.settle, or raise rounds")
            )
        refuse(faults)
        compares = any(key.startswith("received_") for key in self._reward.needs)
        self._asked = {"received": True} if compares else {}  # where evaluation.received is auto
        self._supernet = self.space.initial_state(federation.seed)
        self._velocity: Arrays = {}
        self._drawn: dict[tuple[int, ClientId], list[Architecture]] = {}  # of `orders`: no state
        self._final: dict[ClientId, FinalChoice] | None = None  # None: not chosen yet
        self._trying: Mapping[ClientId, Architecture] = {}
        self._failed: dict[int, list[ClientId]] = {}  # of the round that is absorbed: no state

    def supernet_rounds(self, federation: Federation, settings: SubnetRounds) -> int:
        """Return how many of the rounds train the supernet."""
        return federation.rounds

    def _make_proposals(self, context: SearchContext) -> Proposals:
        made: Proposals = build(self.settings.proposals, "proposals", context=context)
        return made

    def _make_reward(self, *, budgets: bool) -> Reward:
        made: Reward = build(self.settings.reward, "reward", budgets=budgets)
        return made

    # --- proposing ------------------------------------------------------------------------------------

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Have a subnet proposed per client, cut its weights out of the supernet."""
        orders, self._drawn = [], {}
        drawn = self._round_draws(server_round, cohort)
        self._rule.ordered([draws[-1] for draws in drawn.values()])
        for client in cohort:
            draws = drawn[client]
            self._drawn[server_round, client] = draws
            arrays = self.space.cut(self._supernet, draws[-1])
            task = self.task(server_round, client, draws[-1], extra=self._asked)
            orders.append(Order.both_ways(task, arrays, needs=self._reward.needs))
        return orders

    def _draws(self, server_round: int, client: ClientId) -> list[Architecture]:
        """Return what was drawn until one fitted; only the last is sent. The same for the same state."""
        if server_round > self._searched:
            return [self._chosen(client)]
        rng = self.rng(server_round, client_seed(client))
        return self._proposals.draws(client, rng, fits=self._fits(client))

    def _round_draws(
        self, server_round: int, cohort: Sequence[ClientId]
    ) -> dict[ClientId, list[Architecture]]:
        """Return what was drawn for everybody: some searches look at the whole cohort."""
        if server_round > self._searched:
            return {client: [self._chosen(client)] for client in cohort}
        return self._proposals.draws_of_round(
            cohort,
            {client: self.rng(server_round, client_seed(client)) for client in cohort},
            fits={client: self._fits(client) for client in cohort},
        )

    def _fits(self, client: ClientId) -> Fits:
        return partial(self.federation.fits, client)

    def _memory_mib(self, architecture: Architecture) -> float:
        costs = self.space.costs(architecture, batch_size=self.federation.batch_size)
        return costs.training_memory_mib

    # --- learning -------------------------------------------------------------------------------------

    def learn_failures(self, server_round: int, failures: Sequence[Failure]) -> None:
        """Keep for `absorb` whose architecture did not fit its device or diverged there."""
        failed = [failure.client for failure in failures if failure.kind in FAILURE_KINDS]
        self._failed = {server_round: failed}

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Aggregate the subnets, score them, and let the search learn from the scores."""
        drawn, self._drawn = self._drawn, {}
        failed = self._failed.get(server_round, [])
        if not replies and not failed:
            return Outcome()
        trained = self._aggregate(server_round, replies) if replies else {}
        seen = {
            reply.client: Seen(
                metrics=reply.metrics,
                round_s=reply.round_s,
                memory_share=self._memory_share(reply.client, reply.task.architecture),
            )
            for reply in replies
        }
        judged = self._reward.judge(seen)
        columns: dict[ClientId, dict[str, Any]] = {}
        observed = []

        def draws_of(client: ClientId) -> list[Architecture]:
            return drawn.get((server_round, client)) or self._draws(server_round, client)

        for reply in replies:
            client, architecture = reply.client, reply.task.architecture
            draws = draws_of(client)
            columns[client] = {
                "reward": judged[client].reward,
                "advantage": judged[client].advantage,
                **self._proposals.columns(client, architecture),
                "draws": len(draws),
            }
            if client in self.federation.budgets:
                columns[client]["memory_budget_mib"] = self.federation.budgets[client]
                columns[client]["memory_mib"] = self._memory_mib(architecture)
            observed.append(
                Observation(
                    client=client,
                    architecture=architecture,
                    reward=judged[client].reward,
                    advantage=judged[client].advantage,
                    misfits=draws[:-1],
                    misfit_advantage=(
                        self._reward.judge_misfit(client, seen).advantage if draws[1:] else 0.0
                    ),
                )
            )
        for client in failed:
            # Equation 9, learned the hard way: it was sent, and did not fit or diverged.
            worth = self._reward.judge_misfit(client, seen)
            observed.append(
                Observation(
                    client=client,
                    architecture=draws_of(client)[-1],
                    reward=worth.reward,
                    advantage=worth.advantage,  # no misfits: what came after them is none better
                )
            )
        if self.settings.warmup_rounds < server_round <= self._searched:
            self._proposals.observe(observed)
        if not replies:
            return Outcome()
        metrics = {
            **trained,
            **self._proposals.metrics([reply.client for reply in replies]),
            "reward_mean": float(np.mean([columns[reply.client]["reward"] for reply in replies])),
        }
        return Outcome(metrics, columns)

    def _aggregate(self, server_round: int, replies: Sequence[Reply]) -> dict[str, float]:
        self._supernet, self._velocity, metrics = self._rule.trained(
            self._supernet, self._velocity, server_round, replies
        )
        return metrics

    def _memory_share(self, client: ClientId, architecture: Architecture) -> float:
        budget = self.federation.budgets.get(client)
        return 0.0 if budget is None else min(1.0, self._memory_mib(architecture) / budget)

    # --- deployment and state ---------------------------------------------------------------------------

    def final_candidates(self, client: ClientId) -> list[Architecture]:
        """Return what the search has chosen and ``final_draws`` draws of it; nothing once it is done."""
        if not self.settings.final_draws or self._final is not None:
            return []
        rng = generator(self.federation.seed, client_seed(client), _FINAL)
        fits, chosen = self._fits(client), [self._chosen(client)]
        for _ in range(self.settings.final_draws):
            chosen.append(self._proposals.draws(client, rng, fits=fits)[-1])
        return list(dict.fromkeys(chosen))

    @contextmanager
    def trying(self, architectures: Mapping[ClientId, Architecture]) -> Iterator[None]:
        """Deploy ``architectures`` inside."""
        self._trying = architectures
        try:
            yield
        finally:
            self._trying = {}

    def settle_on(self, choices: Mapping[ClientId, FinalChoice]) -> None:
        """Deploy ``choices`` from now on."""
        self._final = dict(choices)

    def deployed(self, client: ClientId) -> Deployment:
        """Return what the search, or the client itself at the end, has chosen, with the supernet's slice."""
        if client in self._trying:
            return self._slice(self._trying[client])
        if self._final and client in self._final:
            return self._slice(self._final[client].architecture)
        return self._slice(self._chosen(client))

    def global_models(self) -> dict[str, Deployment]:
        """Return the one model of a search that is about one architecture for all."""
        chosen = self._proposals.chosen_for_all()
        return {} if chosen is None else {"global": self._slice(chosen)}

    def _slice(self, architecture: Architecture) -> Deployment:
        return Deployment(architecture, self.space.cut(self._supernet, architecture))

    def _chosen(self, client: ClientId) -> Architecture:
        return self._proposals.chosen(client, fits=self._fits(client))

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Add the search's own columns for the client, such as its policy's entropy."""
        final = (self._final or {}).get(client)
        chosen = {"final_choice": {"tried": final.tried, "won": final.won}} if final else {}
        return {**super().describe(client), **self._proposals.describe(client), **chosen}

    def state(self) -> State:
        """Return what is kept, and what clients chose; of a rule without memory there is nothing."""
        state = super().state()
        kept = {key: value for key, value in state.meta.items() if value or key != "training"}
        return State(state.arrays, {**kept, **to_meta(self._final)})

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        super().load_state(State(state.arrays, {"training": {}, **state.meta}))
        self._drawn = {}
        self._final = from_meta(state.meta)


def _prescreen_faults(search: Proposals, prescreen: PrescreenSettings) -> list[Fault]:
    """Return what is wrong where a forest would choose what the search gives out to the whole cohort."""
    if type(search).draws_of_round is Proposals.draws_of_round:
        return []
    problem = (
        f"{type(search).__name__} proposes for all clients of a round together, so none of its proposals "
        "can be picked out of several"
    )
    remedy = "Use method.prescreen.candidates=1"
    return [Fault("prescreen.candidates", prescreen.candidates, problem, remedy)]
