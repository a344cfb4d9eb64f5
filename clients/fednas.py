"""The clients of FedNAS and Direct FedNAS: train weights and alpha of a mixed DARTS network, return both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import nn

from clients.site import Site
from clients.subnet import SubnetClient
from clients.validation_loss import validation_loss_of
from corolla.search.architect import ArchitectSettings, Mixed, Sampled
from corolla.settings import settings
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import KINDS
from corolla.tasks import Answer, Task
from corolla.training.results import TrainResult
from corolla.types import Arrays

ALPHA = "alpha/"
"""Beginning of the names of alpha's arrays, one for each kind of cell."""
_VALIDATION = 0xFED4A5  # keeps the validation batches' order apart from others


@settings
class FedNasClientSettings:
    """Settings of these clients."""

    architect: ArchitectSettings
    runs: Literal["all", "sampled"]  # operations of an edge: FedNAS, or Direct FedNAS


class FedNasClient(SubnetClient):
    """A subnet's client; where alpha came with the network, it is searched while it trains."""

    settings: FedNasClientSettings

    def __init__(self, *, site: Site, settings: FedNasClientSettings) -> None:
        super().__init__(site=site, settings=settings)
        self._architect: Mixed | Sampled | None = None  # of the network that was loaded

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train; return alpha beside the weights where it came."""
        answer = super().fit(task, arrays)
        return replace(answer, arrays={**answer.arrays, **self._alphas()})

    def _alphas(self) -> Arrays:
        if self._architect is None:
            return {}
        alphas = self._architect.alphas.items()
        return {ALPHA + kind: alpha.detach().cpu().numpy().copy() for kind, alpha in alphas}

    def _load(self, task: Task, arrays: Arrays) -> nn.Module:
        own = {name: array for name, array in arrays.items() if not name.startswith(ALPHA)}
        model = super()._load(task, own)
        if len(own) == len(arrays):
            return model
        network, site = cast(DartsNetwork, model), self._site
        device = site.trainer.device
        alphas = {kind: torch.tensor(arrays[ALPHA + kind]).to(device) for kind in KINDS}
        if self.settings.runs == "sampled":
            self._architect = Sampled(network, alphas, self.settings.architect)
        else:
            loss = validation_loss_of(site, task, _VALIDATION, shared=True)
            self._architect = Mixed(alphas, self.settings.architect, loss)
        network.mixture = self._architect.mixture
        return model

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        extra: dict[str, Any] = {}
        if self._architect is not None:
            extra = {"hook": self._architect, "sparse": self.settings.runs == "sampled"}
        return self._site.train(model, task, loss=task.extra.get("loss"), **extra)
