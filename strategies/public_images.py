"""What strategies share whose clients keep models of their own and agree on images of the server's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corolla.data.server_set import ServerImages
from corolla.errors import Fault, RefusedError, gathered, refuse
from corolla.federation import Federation
from corolla.types import ClientId
from strategies.base import CorollaStrategy, Deployment
from strategies.private_architectures import PrivateArchitectures, PrivateArchitecturesSettings


class PublicImages(CorollaStrategy):
    """Outputs on public images travel, models of any architecture do not."""

    settings: PrivateArchitecturesSettings
    clients_keep_models = True
    takes_robust = True
    refuses_private = ("none of its models' arrays are sent anyway", "Use private=[]")
    returns_models = False  # private models never leave the client

    def __init__(self, *, federation: Federation, settings: PrivateArchitecturesSettings) -> None:
        super().__init__(federation=federation, settings=settings)
        method, faults = type(self).__name__, []
        if federation.server is None:
            problem = f"clients of {method} agree on images of the server's, and it has none"
            remedy = "Use server_set=held_out, or server_set=dataset with images of its own"
            faults.append(Fault("server_set", "none", problem, remedy))
        if federation.robust is not None and federation.robust.factor is not None:
            problem = f"limits the steps of models; clients of {method} send logits instead"
            remedy = "Use robust=trimmed_mean or robust=median with robust.factor=null"
            faults.append(Fault("robust.factor", federation.robust.factor, problem, remedy))
        with gathered(faults):
            self._private = PrivateArchitectures(
                federation, settings.architectures, candidates=settings.candidates
            )
        refuse(faults)

    def deployed(self, client: ClientId) -> Deployment:
        """Return the architecture; the weights are the client's own."""
        return Deployment(self._private.of(self.federation, client), {})

    def _public(self) -> ServerImages:
        """Return the server's images. RefusedError where there are too few."""
        server = self.federation.server
        if server is None:
            raise RuntimeError(f"{type(self).__name__} was built without images of the server's")
        public = server.images
        if len(public.images) < 2:
            problem = "clients agree on 2 images or more"
            remedy = "Raise server_set.images, or put more images into its folder"
            raise RefusedError(Fault("server_set", f"{len(public.images)} images", problem, remedy))
        return public

    def _mean(self, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the plain mean, or what the run's rule makes of it."""
        rule = self.federation.robust
        robust = None if rule is None else rule.mean(said, np.ones(len(said)))
        return said.mean(0) if robust is None else robust
