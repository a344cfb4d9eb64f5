"""The client of kNN-Per: trains as FedAvg's, predicts with its own images' neighbours as well.

Marfoq et al., ICML 2022; formulas and departures in `corolla.training.knn` and docs/baselines.md.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from clients.deploy import deploy, plain_scores, scores
from clients.site import Site
from clients.subnet import SubnetClient
from corolla.data.images import Images
from corolla.tasks import Task
from corolla.training.knn import Embedded, KnnSettings, choose_lambda, embed, mixture


class KnnPerClient(SubnetClient):
    """The personalised model is the mixture; the datastore is built from the images when it is needed."""

    def __init__(self, *, site: Site, k: int, scale: float, lambda_step: float) -> None:
        super().__init__(site=site)
        self._settings = KnnSettings(k=k, scale=scale, lambda_step=lambda_step)

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, Any]]:
        """Train as FedAvg does; when asked to deploy, score the mixture before and after fine-tuning."""
        site, task = self._site, Task.from_config(config)
        if "deploy" not in task.extra:
            return super().fit(parameters, config)
        model = self._received(task, parameters, config)
        alone = scores(site, model, shared=True, prefix="global_")
        arrays, num_examples, metrics = deploy(site, task, model, shared=True, score=self._mixed)
        return arrays, num_examples, alone | metrics

    def evaluate(self, parameters: list[Any], config: Any) -> tuple[float, int, dict[str, Any]]:
        """Evaluate the mixture, and the received model alone."""
        site, task = self._site, Task.from_config(config)
        model = self._received(task, parameters, config)
        metrics = scores(site, model, shared=True, score=self._both)
        return metrics["val_loss"], len(site.data.train), metrics

    def _received(self, task: Task, parameters: list[Any], config: Any) -> nn.Module:
        return self._load(task, dict(zip(config["names"], parameters, strict=True)))

    def _both(self, site: Site, model: nn.Module) -> dict[str, Any]:
        alone = {f"global_{key}": value for key, value in plain_scores(site, model).items()}
        return alone | self._mixed(site, model)

    def _mixed(self, site: Site, model: nn.Module) -> dict[str, Any]:
        """Build the datastore, choose lambda on the validation images, score both splits with it."""
        data, settings = site.data, self._settings
        store = self._embed(model, data.train)
        validation = mixture(self._embed(model, data.validation), store, settings)
        weight = choose_lambda(validation, settings.grid())
        test = mixture(self._embed(model, data.test), store, settings)
        found: dict[str, Any] = {"knn_lambda": weight}
        for split, mixed in (("val", validation), ("test", test)):
            result = mixed.score(weight)
            found[f"{split}_accuracy"] = result.accuracy
            found[f"{split}_loss"] = result.loss
        return found

    def _embed(self, model: nn.Module, images: Images) -> Embedded:
        site, data = self._site, self._site.data
        return embed(
            model,
            images,
            trainer=site.trainer,
            classes=site.space.num_classes,
            mean=data.mean,
            std=data.std,
        )
