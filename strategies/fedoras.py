"""FedorAS: clients train random paths of a supernet, operations are averaged by the samples that saw them.

Dudziak, Laskaridis & Fernandez-Marques, 2022, https://arxiv.org/abs/2206.11239: as many paths a client as its
uplink carries, an architecture per tier searched on images of the server's own, and each tier trained on by
its clients. `strategies.tiered` with `corolla.aggregation.operation_average`; departures:
docs/fednas_family.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from clients.paths import VISITS
from corolla.aggregation.regions import cut
from corolla.errors import Fault, refuse
from corolla.federation import Federation
from corolla.settings import Count, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.paths import box, box_shapes, box_size, to_extra
from corolla.types import ClientId, client_seed, generator
from strategies.exchange import Order
from strategies.metrics import SHARE, Notes, Numbers
from strategies.tiered import Tiered, TieredSettings
from strategies.training_rules import Distilled

_PATHS = 0xFED0A5  # keeps the further paths' draws apart from others of the same seed


@settings
class FedorASSettings(TieredSettings):
    """Settings of FedorAS."""

    paths: Count  # that a client is sent at most
    sent_params: (
        Count | None
    )  # numbers that a client is sent at most; None: as many as the paths have


class FedorAS(Tiered):
    """`Tiered`, with several paths for every client."""

    settings: FedorASSettings
    refuses_private = ("its clients get arrays of several networks at once", "Use private=[]")
    reply_notes: ClassVar[Notes] = {VISITS: Numbers(each=SHARE, most=1_000_000)}

    def __init__(self, *, federation: Federation, settings: FedorASSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        faults = []
        if isinstance(self._rule, Distilled):
            problem = "needs one network from each client, and these return parts of several"
            remedy = "Use method/training=operations"
            faults.append(Fault("training", settings.training["_target_"], problem, remedy))
        least = box_size(box(self.space, [self.space.smallest()]), self.space)
        if settings.sent_params is not None and settings.sent_params < least:
            problem = f"is below the {least:,} of the smallest architecture of {self.space.name!r}"
            remedy = f"Use {least} or more, or null"
            faults.append(Fault("sent_params", settings.sent_params, problem, remedy))
        refuse(faults)

    def orders(self, server_round: int, cohort: Sequence[ClientId]) -> list[Order]:
        """Send everybody some paths of the supernet; after the search, the model of its tier."""
        orders = super().orders(server_round, cohort)
        if self._tunes(server_round):
            return orders
        return [self._with_paths(order) for order in orders]

    def _with_paths(self, order: Order) -> Order:
        task = order.task
        paths = self._paths(task.round, task.client, task.architecture)
        held = box(self.space, paths)
        limits = self.federation.limits(task.client).to_extra()
        extra = {**task.extra, **to_extra(paths), **limits}
        return replace(
            order,
            task=replace(task, architecture=paths[0], extra=extra),
            arrays=cut(self._supernet, held),
            returns=box_shapes(held, self.space),
            of=None,
        )

    def _paths(
        self, server_round: int, client: ClientId, first: Architecture
    ) -> list[Architecture]:
        """Return the client's paths: what the search proposes, and more of it while they may be sent."""
        rng = generator(self.federation.seed, server_round, client_seed(client), _PATHS)
        fits, own = self._fits(client), self.settings
        paths: list[Architecture] = []
        proposed = [first]
        for _ in range(own.paths + own.max_draws):
            together = [*paths, *proposed]
            fit = own.sent_params is None or box_size(box(self.space, together), self.space) <= (
                own.sent_params
            )
            if fit and proposed[0] not in paths:
                paths = together
            if len(paths) == own.paths:
                break
            proposed = self._proposals.draws(client, rng, fits=fits)[-1:]
        return paths or [self.space.smallest()]
