"""One policy for all clients, and as much of it as wanted a client's own.

FedRLNAS (Yao et al., ICDCS 2021) learns one policy at the server from everybody's rewards; PerFedRLNAS (AAAI
2024) one per client. Between them, of client i,

    logits_i = s + r_i      s   <- s + lr mean_i g_i
                            r_i <- r_i + residual lr g_i

with g_i the step of equations 5-7 by logits_i, and the mean over a round's participants. With ``residual`` 0
this is FedRLNAS's; dimensions that are ``personal`` have no part in s and are learned as PerFedRLNAS does
(FedPNAS: a base for all, cells of one's own). A client never asked has s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from corolla.errors import Fault, RefusedError, nearest
from corolla.search.policy import ClientPolicies, Step, Vector, _Policy
from corolla.state import State
from corolla.types import ClientId, client_order


@dataclass(kw_only=True)
class SharedPolicies(ClientPolicies):
    """The shared logits, and the clients' own where they have any. ``names`` are the dimensions'.

    Raises:
        RefusedError: no dimension's name begins as one of ``settings.personal``.

    """

    names: Sequence[str]
    _shared: _Policy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = list(self.settings.personal)
        for start in own:
            if not any(name.startswith(start) for name in self.names):
                problem = f"no dimension's name begins with {start!r}"
                raise RefusedError(
                    Fault("policy.personal", own, problem, nearest(start, list(self.names)))
                )
        personal = [any(name.startswith(start) for start in own) for name in self.names]
        self._personal = np.array(personal, dtype=np.float64)[self._owner]  # per logit
        # Of a client's own step: whole where it is alone, `residual` beside the shared one.
        self._scale = self._personal + self.settings.residual * (1 - self._personal)
        self._shared = _Policy(np.zeros(len(self._owner)), *np.zeros((2, len(self._owner))))

    def learn(self, steps: Iterable[Step]) -> None:
        """Take a round's steps: everybody's own, and one of the mean of all, from the logits of before."""
        ordered = sorted(steps, key=lambda step: client_order(step.client))
        taken: dict[ClientId, Vector] = {}
        for step in ordered:  # nothing moves before all have looked
            direction = self.direction(step)
            taken[step.client] = taken.get(step.client, 0.0) + direction
        self._mean = None
        for client, direction in taken.items():
            if self._scale.any():
                self._move(self._own(client), direction, scale=self._scale)
        if taken:
            mean = np.mean(list(taken.values()), axis=0)
            self._move(self._shared, mean, scale=1 - self._personal)

    def knows(self, client: ClientId) -> bool:
        """Tell whether the client's logits were ever moved, by its own steps or by all clients'."""
        return bool(self._logits(client).any())

    def begin_new(self, *, average: bool) -> None:
        """Forget what is the clients' own; with ``average``, new ones start from what all share."""
        if not average:
            self._shared = _Policy(np.zeros(len(self._owner)), *np.zeros((2, len(self._owner))))
        self._policies, self._mean = {}, None

    def state(self) -> State:
        """Return the shared policy beside the clients' own."""
        own, shared = super().state(), self._shared
        arrays = {
            "shared": np.stack([shared.logits, shared.first, shared.second]),
            "shared_steps": np.array(shared.steps, dtype=np.int64),
        }
        return State({**own.arrays, **arrays}, own.meta)

    def load_state(self, state: State) -> None:
        """Invert `state`."""
        super().load_state(state)
        logits, first, second = (row.copy() for row in state.arrays["shared"])
        self._shared = _Policy(logits, first, second, int(state.arrays["shared_steps"]))

    def _logits(self, client: ClientId) -> Vector:
        own = self._policies.get(client)
        return self._shared.logits if own is None else self._shared.logits + own.logits
