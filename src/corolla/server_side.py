"""What the server computes with in its own process, where it has images of its own."""

from __future__ import annotations

from functools import cached_property

from corolla.config.build import build_dataset, build_server_set, build_trainer
from corolla.config.schema import RunConfig
from corolla.data.server_set import ServerImages
from corolla.errors import Fault, RefusedError
from corolla.training.trainer import LocalTrainer
from corolla.training.variants import Statistics, VariantScorer


class ServerSide:
    """The server's images and its trainer; each is made when first asked for, and kept.

    A strategy is built before a run starts, only to be checked: its constructor asks for neither.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._scorers: dict[Statistics, VariantScorer] = {}

    @cached_property
    def images(self) -> ServerImages:
        """The server's images. RefusedError where they cannot be read (any more)."""
        server_set = build_server_set(self._config)
        if server_set is None:
            remedy = "Use server_set=held_out or server_set=dataset"
            raise RefusedError(Fault("server_set", "none", "the server has no images", remedy))
        return server_set.load(build_dataset(self._config))

    @cached_property
    def labelled(self) -> bool:
        """Whether the server's images come with labels; no file is read to tell."""
        server_set = build_server_set(self._config)
        return server_set is not None and server_set.labelled

    @cached_property
    def trainer(self) -> LocalTrainer:
        """The clients' trainer, on this machine's device."""
        return build_trainer(self._config)

    def scorer(self, statistics: Statistics) -> VariantScorer:
        """Return what scores variants of a network on the server's images; RefusedError without labels."""
        if not self.labelled:
            target = self._config.server_set.get("_target_")
            problem = "the server's images have no labels to score networks by"
            remedy = "Use server_set=held_out, or server_set=dataset with server_set.labelled=true"
            raise RefusedError(Fault("server_set", target, problem, remedy))
        if statistics not in self._scorers:
            own = self.images
            self._scorers[statistics] = VariantScorer(
                self.trainer,
                own.images,
                batch_size=self.trainer.settings.eval_batch_size,
                statistics=statistics,
            )
        return self._scorers[statistics]
