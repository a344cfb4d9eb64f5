"""PerFedRLNAS: a policy per client draws its architecture from the server's supernet, learned by REINFORCE.

Yao & Li, AAAI 2024; equations 4-9 live in `corolla.search`. Departures (docs/perfedrlnas.md): the reward's
accuracy is measured on validation images, never on test; an architecture known not to fit a client's memory
is not sent, its reward of equation 9 is given and another is drawn; entries that nobody trained keep their
value; optimiser and baseline of the policy are settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from corolla.aggregation.coverage import momentum_average
from corolla.aggregation.updates import Update, update_weight
from corolla.config.build import settings_of
from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.search.deploy import most_probable
from corolla.search.policy import ClientPolicies, PolicySettings
from corolla.search.reward import Outcome as Observed
from corolla.search.reward import RewardHistory, RewardSettings
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Reply
from corolla.types import Arrays, ClientId, client_seed
from strategies.base import CorollaStrategy, Deployment, Outcome
from strategies.exchange import Order


class PerFedRLNAS(CorollaStrategy):
    """State: the supernet, one policy per client that ever took part, the rewards' baselines."""

    def __init__(
        self,
        *,
        federation: Federation,
        policy: Mapping[str, Any],
        reward: Mapping[str, Any],
        warmup_rounds: int,
        settle: float,
        weights: Literal["uniform", "examples"],
        server_momentum: float,
        max_draws: int,
    ) -> None:
        super().__init__(federation=federation)
        update_weight(weights, 1)  # refuses an unknown one before anything starts
        settings = dict(reward)
        if settings.get("memory") == "auto":
            settings["memory"] = bool(federation.budgets)
        self._policies = ClientPolicies(
            sizes=[len(dimension) for dimension in self.space.dimensions],
            settings=settings_of(PolicySettings, policy, "policy"),
        )
        self._reward = RewardHistory(settings=settings_of(RewardSettings, settings, "reward"))
        if not 0 <= settle < 1:
            remedy = "Give a share of the rounds: 0 for none, 0.25 for the last quarter"
            raise RefusedError(Fault("settle", settle, "lies outside [0, 1)", remedy))
        self._warmup = warmup_rounds
        self._searched = federation.rounds - round(settle * federation.rounds)
        if settle and self._searched <= warmup_rounds:
            problem = f"leaves no round to search in: {self._searched} come before, {warmup_rounds} warm up"
            raise RefusedError(Fault("settle", settle, problem, "Lower it, or raise rounds"))
        self._weights = weights
        self._momentum = server_momentum
        self._max_draws = max_draws
        self._supernet = self.space.initial_state(federation.seed)
        self._velocity: Arrays = {}

    # --- drawing --------------------------------------------------------------------------------------

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Draw an architecture per client (eq. 4), cut its weights out of the supernet."""
        orders = []
        for client in cohort:
            *_, architecture = self._draws(server_round, client)
            arrays = self.space.cut(self._supernet, architecture)
            orders.append(
                Order(
                    task=self.task(server_round, client, architecture),
                    arrays=arrays,
                    returns={name: array.shape for name, array in arrays.items()},
                    needs=("val_accuracy",),
                )
            )
        return orders

    def _draws(self, server_round: int, client: ClientId) -> list[Architecture]:
        """Return what was drawn until one fitted; only the last is sent. The same for the same state."""
        if server_round > self._searched:
            return [self._chosen(client)]
        rng = self.rng(server_round, client_seed(client))
        draws = []
        for _ in range(self._max_draws):
            draws.append(Architecture(self._policies.sample(client, rng)))
            if self._fits(client, draws[-1]):
                return draws
        return [*draws, self.space.smallest()]

    def _fits(self, client: ClientId, architecture: Architecture) -> bool:
        budget = self.federation.budgets.get(client)
        return budget is None or self._memory_mib(architecture) <= budget

    def _memory_mib(self, architecture: Architecture) -> float:
        costs = self.space.costs(architecture, batch_size=self.federation.batch_size)
        return costs.training_memory_mib

    # --- learning -------------------------------------------------------------------------------------

    def absorb(self, server_round: int, replies: Sequence[Reply]) -> Outcome:
        """Aggregate the subnets, then reward and update the policy of each client that answered."""
        self._aggregate(replies)
        if not replies:
            return Outcome()
        observed = {
            reply.client: Observed(
                accuracy=reply.metrics["val_accuracy"],
                round_s=reply.round_s,
                memory_share=self._memory_share(reply.client, reply.task.architecture),
            )
            for reply in replies
        }
        judged = self._reward.judge(observed)
        columns = {}
        for reply in replies:
            client, architecture = reply.client, reply.task.architecture
            rejected = self._draws(server_round, client)[:-1]
            columns[client] = {
                "reward": judged[client].reward,
                "advantage": judged[client].advantage,
                "log_prob": self._policies.log_prob(client, architecture.choices),
                "draws": len(rejected) + 1,
            }
            if client in self.federation.budgets:
                columns[client]["memory_budget_mib"] = self.federation.budgets[client]
                columns[client]["memory_mib"] = self._memory_mib(architecture)
            if self._warmup < server_round <= self._searched:
                for misfit in rejected:
                    given = self._reward.judge_misfit(client, observed)
                    self._policies.update(client, misfit.choices, given.advantage)
                self._policies.update(client, architecture.choices, judged[client].advantage)
        return Outcome(self._round_metrics(replies, columns), columns)

    def _aggregate(self, replies: Sequence[Reply]) -> None:
        updates = [
            Update(
                arrays=reply.arrays,
                regions=self.space.regions(reply.task.architecture),
                weight=update_weight(self._weights, reply.num_examples),
                client=reply.client,
            )
            for reply in replies
        ]
        self._supernet, self._velocity = momentum_average(
            self._supernet, updates, self._velocity, momentum=self._momentum
        )

    def _memory_share(self, client: ClientId, architecture: Architecture) -> float:
        budget = self.federation.budgets.get(client)
        return 0.0 if budget is None else min(1.0, self._memory_mib(architecture) / budget)

    def _round_metrics(
        self, replies: Sequence[Reply], columns: Mapping[ClientId, Mapping[str, float]]
    ) -> dict[str, float]:
        entropies = [self._policies.entropy(reply.client).normalised for reply in replies]
        return {
            "policy_entropy": float(np.mean(entropies)),  # 1: uniform, 0: decided
            "reward_mean": float(np.mean([columns[reply.client]["reward"] for reply in replies])),
        }

    # --- deployment and state ---------------------------------------------------------------------------

    def deployed(self, client: ClientId) -> Deployment:
        """Return the policy's most probable architecture that fits, with the supernet's slice."""
        architecture = self._chosen(client)
        return Deployment(architecture, self.space.cut(self._supernet, architecture))

    def _chosen(self, client: ClientId) -> Architecture:
        choices = most_probable(
            self._policies.probabilities(client),
            lambda candidate: self._fits(client, Architecture(candidate)),
            smallest=self.space.smallest().choices,
        )
        return Architecture(choices)

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Add the policy's entropy (1: uniform, 0: decided)."""
        return {
            **super().describe(client),
            "policy_entropy": self._policies.entropy(client).normalised,
            # Probabilities of the dimensions that have a choice.
            "policy": [
                [round(float(p), 4) for p in row]
                for row in self._policies.probabilities(client)
                if len(row) > 1
            ],
        }

    def state(self) -> State:
        """Return supernet, velocity, policies with their optimisers, reward baselines."""
        policies, reward = self._policies.state(), self._reward.state()
        return State(
            arrays={
                **{f"supernet/{name}": array for name, array in self._supernet.items()},
                **{f"velocity/{name}": array for name, array in self._velocity.items()},
                **{f"policies/{name}": array for name, array in policies.arrays.items()},
                **{f"reward/{name}": array for name, array in reward.arrays.items()},
            },
            meta={"policies": policies.meta, "reward": reward.meta},
        )

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        self._supernet = state.part("supernet/")
        self._velocity = state.part("velocity/")
        self._policies.load_state(State(state.part("policies/"), state.meta["policies"]))
        self._reward.load_state(State(state.part("reward/"), state.meta["reward"]))
