"""FedRep: a representation that all share, and a head of each client's own.

Collins et al., ICML 2021, https://arxiv.org/abs/2102.07078. The server averages the body; heads are private
parts of the model (``private: [head]``) and never travel. Both phases of training are the client's
(`clients.fedrep`). Departure: bodies count by images (FedAvg's ``weights``).
"""

from __future__ import annotations

from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from strategies.fedavg import FedAvg, FedAvgSettings


class HeadsAtClients(FedAvg):
    """FedAvg of bodies; its clients do something of their own with their private heads.

    With nothing private there are no such heads: it is FedAvg.
    """

    def __init__(self, *, federation: Federation, settings: FedAvgSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        if self._private_names and self._private_names.isdisjoint(self.space.parts["head"]):
            problem = f"{federation.method or type(self).__name__} keeps heads at the clients"
            remedy = "Leave `private` out, add head to it, or use method=fedavg"
            raise RefusedError(Fault("private", list(federation.private), problem, remedy))


class FedRep(HeadsAtClients):
    """The server's part; what differs happens in `clients.fedrep`."""
