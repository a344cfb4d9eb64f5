"""One path for every batch, of the few that a client of FedorAS was sent.

Dudziak et al., 2022, https://arxiv.org/abs/2206.11239: each choice is drawn on its own among those of the
paths that came. Where what was sent does not hold such a path (spaces in which one choice's tensors depend on
another), or it is beyond the client's limits or dead, one of the paths as they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from corolla.aggregation.regions import Region
from corolla.spaces.architecture import Architecture
from corolla.spaces.paths import holds
from corolla.spaces.supernet import Supernet
from corolla.training.subnet_draws import Fits, Role

_STREAM = 4  # of a seed; 0 to 2 are `corolla.training.torch_settings`'s, 3 is `SubnetDraws`'


class PathDraws:
    """Draws a path for each batch, a pure function of seed, epoch and batch; counts samples.

    Args:
        space: whose paths.
        paths: that came, at least one; each fits.
        held: what came, as `corolla.spaces.paths.box` says.
        fits: tells what may be trained.
        images: of the client.
        batch_size: of its batches, the last one the rest.
        seed: such as ``(run's seed, round, client_seed(client))``.

    """

    def __init__(
        self,
        space: Supernet,
        paths: Sequence[Architecture],
        *,
        held: Mapping[str, Region],
        fits: Fits,
        images: int,
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        self._space, self._paths, self._held, self._fits = space, list(paths), held, fits
        self._images, self._batch_size = images, batch_size
        self._seed = [int(part) for part in seed]
        self._known: dict[Architecture, bool] = {}  # whether what came holds it
        self._samples: Counter[Architecture] = Counter()

    def batch(self, epoch: int, batch: int) -> list[tuple[Role, Architecture]]:
        """Return the path of a batch, both counted from 0."""
        key = np.random.SeedSequence(self._seed, spawn_key=(_STREAM, epoch, batch))
        rng = np.random.default_rng(key)
        whole, *_ = (self._paths[int(i)] for i in rng.integers(len(self._paths), size=1))
        picks = rng.integers(len(self._paths), size=len(whole.choices))
        mixed = Architecture(
            tuple(self._paths[int(pick)].choices[d] for d, pick in enumerate(picks))
        )
        path = mixed if self._can_train(mixed) else whole
        self._samples[path] += min(self._batch_size, self._images - batch * self._batch_size)
        return [("random", path)]

    def _can_train(self, path: Architecture) -> bool:
        if path not in self._known:
            space = self._space
            self._known[path] = (
                space.is_live(path) and self._fits(path) and holds(self._held, space, path)
            )
        return self._known[path]

    def shares(self, names: Iterable[str]) -> list[float]:
        """Return for each array the share of the samples so far that went through it."""
        total = max(sum(self._samples.values()), 1)
        through: Counter[str] = Counter()
        for path, samples in self._samples.items():
            through.update(dict.fromkeys(self._space.regions(path), samples))
        return [through[name] / total for name in names]
