"""Which architecture each client's private model has, for methods whose clients keep models of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from corolla.errors import Fault, RefusedError, nearest
from corolla.federation import Federation
from corolla.limits.client_limits import Limits
from corolla.search.costliest import costliest_fitting
from corolla.search.evolution import draw_fitting
from corolla.settings import CountOrNone, settings
from corolla.spaces.architecture import Architecture
from corolla.state import State, Stateful
from corolla.tasks import Reply
from corolla.types import ClientId, client_order, client_seed, generator

_DRAW = 0x9A7E  # keeps these draws apart from others of the same seed and client
_KINDS = ("smallest", "middle", "largest", "fitting", "costliest", "random")


@settings
class PrivateArchitecturesSettings:
    """Which architectures the clients' own models have: see `PrivateArchitectures`."""

    architectures: str | Sequence[int]
    candidates: CountOrNone


class PrivateArchitectures(Stateful):
    """Gives every client an architecture for the whole run; by seed, client and its limits alone.

    Args:
        federation: as it is before the start; limits are asked for later.
        which: ``fitting``: of the smallest, middle, largest and ``candidates`` drawn ones that the
            client's limits allow, the one with most multiply-accumulates (without limits the largest);
            ``costliest``: the one with most that a local search finds to fit;
            ``random``: drawn among those that fit; ``smallest``, ``middle``, ``largest`` or choice
            indices: the same for everybody, whatever the limits; ``same``: ``shared`` for clients without
            limits, ``fitting`` for the others.
        candidates: see ``fitting``; 0 or more.
        shared: architecture of the network that travels, of methods that have one.

    Raises:
        RefusedError: values that are not known or out of range.

    """

    def __init__(
        self,
        federation: Federation,
        which: str | Sequence[int],
        *,
        candidates: int,
        shared: Architecture | None = None,
    ) -> None:
        kinds = _KINDS if shared is None else (*_KINDS, "same")
        if isinstance(which, str) and which not in kinds:
            remedy = f"{nearest(which, kinds)}, or a list of choice indices"
            raise RefusedError(Fault("architectures", which, "is not known", remedy))
        self._space, self._seed = federation.space, federation.seed
        self._which, self._candidates, self._shared = which, candidates, shared
        self._fixed: Architecture | None = None
        if which not in ("fitting", "costliest", "random", "same"):
            self._fixed = self._space.named(which, key="architectures")
        self._found: dict[tuple[Any, ...], Architecture] = {}  # what `_find` gave: no state
        self._settled: dict[ClientId, Architecture] = {}

    def of(self, federation: Federation, client: ClientId) -> Architecture:
        """Return the client's architecture: what it has trained already, else what its limits allow.

        Raises:
            RefusedError: not even the smallest architecture fits.

        """
        if client in self._settled:
            return self._settled[client]
        if self._fixed is not None:
            return self._fixed
        limits = federation.limits(client)
        if self._which == "same" and self._shared is not None and limits == Limits():
            return self._shared
        # Not by client alone: the limits of a node that joins late are not known at once.
        key = (client, federation.budgets.get(client), federation.caps.get(client))
        if key not in self._found:
            self._found[key] = self._find(federation, client)
        return self._found[key]

    def knows(self, client: ClientId) -> bool:
        """Tell whether the client has answered before."""
        return client in self._settled

    def settle(self, replies: Iterable[Reply]) -> None:
        """Remember what clients trained: a limit that is measured again changes no model any more."""
        for reply in replies:
            self._settled.setdefault(reply.client, reply.task.architecture)

    def state(self) -> State:
        """Return what was settled."""
        clients = sorted(self._settled, key=client_order)
        return State({}, {client: self._settled[client].to_list() for client in clients})

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        self._settled = {client: Architecture.of(choices) for client, choices in state.meta.items()}

    def _find(self, federation: Federation, client: ClientId) -> Architecture:
        space = self._space
        rng = generator(self._seed, client_seed(client), _DRAW)

        def fits(architecture: Architecture) -> bool:
            return federation.fits(client, architecture)

        if self._which == "costliest":
            return costliest_fitting(space, fits=fits, rng=rng)
        count = 1 if self._which == "random" else self._candidates
        drawn = draw_fitting(space, count, fits=fits, rng=rng)
        if self._which == "random":
            return drawn[0] if drawn else space.smallest()
        named = [space.smallest(), space.middle(), space.largest()]
        return max(
            [*drawn, *(architecture for architecture in named if fits(architecture))],
            key=lambda one: (space.costs(one, batch_size=federation.batch_size).macs, one.choices),
        )
