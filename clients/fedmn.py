"""The client of FedMN: its router chooses modules for its data; it trains these and sends them back."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from clients.deploy import deploy, scores, training_metrics
from clients.site import Site
from clients.subnet import SubnetClient
from corolla.spaces.architecture import Architecture
from corolla.spaces.modular import require_modular
from corolla.spaces.supernet import to_arrays
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.routing import (
    RoutedNetwork,
    RouterSettings,
    chosen,
    load_router,
    router_of,
    summary_of,
)
from corolla.types import Arrays

ROUTER = "router/"  # names of the router's arrays begin so
TEMPERATURE = "temperature"  # of a task; without it nothing is drawn, and the router does not learn


class FedMNClient(SubnetClient):
    """Gets all modules and the router; keeps nothing between rounds."""

    settings: RouterSettings

    def __init__(self, *, site: Site, settings: RouterSettings) -> None:
        super().__init__(site=site, settings=settings)
        self._space = require_modular(site.space, type(self).__name__)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train router and network; return both, without the modules that no step had on."""
        site, space = self._site, self._space
        model, routed = self._routed(task, arrays)
        before, _ = self._assembled(routed, to_arrays(model))
        metrics = self._scores_before(before, task)
        result = self._train(routed, task)
        trained = to_arrays(model)
        own, architecture = self._assembled(routed, trained)
        metrics |= scores(site, own, shared=False) | training_metrics(result)
        metrics["own_architecture"] = architecture.to_list()
        used = space.of([row.nonzero()[:, 0].tolist() for row in routed.get_buffer("used")])
        back = space.cut(trained, used) | _router_arrays(routed)
        return Answer(num_examples=result.num_examples, arrays=back, metrics=metrics)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Score the network of the modules that the router chooses."""
        model, routed = self._routed(task, arrays)
        own, architecture = self._assembled(routed, to_arrays(model))
        told = {"own_architecture": architecture.to_list()}
        return self._answer(scores(self._site, own, shared=True) | told)

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy that network; it is kept at the site."""
        model, routed = self._routed(task, arrays)
        own, architecture = self._assembled(routed, to_arrays(model))
        site = replace(self._site, model_dir=self._site.own_model_dir)
        task = replace(task, architecture=architecture, return_arrays=False)
        told = {"own_architecture": architecture.to_list()}
        return deploy(site, task, own, shared=True).saying(told)

    def _routed(self, task: Task, arrays: Arrays) -> tuple[nn.Module, RoutedNetwork]:
        """Return the network with all modules, and what trains it with its router."""
        site, space = self._site, self._space
        whole = {name: array for name, array in arrays.items() if not name.startswith(ROUTER)}
        model = self._load(task, whole)
        router = router_of(space, self.settings.router_hidden)
        load_router(router, State(arrays).part(ROUTER))
        summary = summary_of(space, model, site.data.train, trainer=site.trainer)
        temperature = task.extra.get(TEMPERATURE)
        routed = RoutedNetwork(space, model, router, summary, temperature=temperature)
        return model, routed.to(site.trainer.device)

    def _assembled(self, routed: RoutedNetwork, arrays: Arrays) -> tuple[nn.Module, Architecture]:
        """Return the network of the modules that the router chooses, with copies of its weights."""
        space = self._space
        architecture = chosen(space, routed.router, routed.get_buffer("summary"))
        model = space.load(architecture, space.cut(arrays, architecture))
        return model.to(self._site.trainer.device), architecture


def _router_arrays(routed: RoutedNetwork) -> Arrays:
    return {ROUTER + name: array for name, array in to_arrays(routed.router).items()}
