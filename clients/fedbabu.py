"""The client of FedBABU: trains the body below a head that nobody trains; fine-tunes to predict.

Oh, Kim & Yun, ICLR 2022, https://arxiv.org/abs/2106.06042. In training no optimiser has the head.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from clients.subnet import PersonalClient
from corolla.settings import CountOrNone, settings
from corolla.tasks import Task
from corolla.training.head import frozen
from corolla.training.results import TrainResult

_ADAPTATION = 0xBAB0  # keeps the adaptation's batch order apart from the rounds'


@settings
class BabuSettings:
    """How clients of FedBABU make the common model their own."""

    adapt_epochs: CountOrNone  # F; 0: the personalised model is the common one
    adapts: Literal["all", "body", "head"]  # what they train


class FedBabuClient(PersonalClient):
    """The personalised model is (body, common head) after F epochs on the training images; none keeps it."""

    settings: BabuSettings

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        private = self._site.space.names_in(self._site.config.private)
        with frozen(model, self._head & private):
            return super()._train(model, task)

    @property
    def _head(self) -> frozenset[str]:
        return self._site.space.names_in(["head"])

    def _personal(self, model: nn.Module, task: Task) -> tuple[int, bool, str | None]:
        site, settings = self._site, self.settings
        if not settings.adapt_epochs:
            return 0, True, None
        body = {name for name, _ in model.named_parameters()} - self._head
        held = {"all": frozenset[str](), "body": self._head, "head": body}[settings.adapts]
        with frozen(model, held):
            result = site.train(model, task, _ADAPTATION, epochs=settings.adapt_epochs)
        return result.samples_processed, False, None
