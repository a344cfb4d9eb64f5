"""How well a trained supernet ranks architectures: its proxy loss against training each of them alone.

    python -m benchmarks.supernet_quality [NAME=]RUN_DIR... [--architectures 8] [--epochs 15] [--images N]

Runs are those of a method with a supernet training (HAPFNAS); their supernet is that of stage 1, as the last
checkpoint keeps it. Runs of one NAME are averaged. Proxy: cross-entropy on all clients' validation images,
BN statistics recalibrated on their training images. Alone: trained from scratch, once, on the training
images of all clients of the FIRST run together, tested on their test images; with --images on N images
that no client has, tested on up to 10,000 of those left. Rank correlation is between minus the loss and the
accuracy: 1 is the same order. Few images tell architectures apart badly: look at the spread of accuracies.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.recording import write_result
from corolla.config.build import (
    build_dataset,
    build_partition,
    build_space,
    build_trainer,
    header_of,
)
from corolla.config.schema import RunConfig, parse_config
from corolla.data.federation import FederationData
from corolla.data.images import Images
from corolla.errors import RefusedError
from corolla.records.run_directory import RunDirectory
from corolla.search.predictor import rank_correlation
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.training.subnet_scorer import SubnetScorer
from corolla.types import Arrays, generator

_DRAW = 0x9A71
_MOST_TESTED = 10_000  # images


class PooledRun:
    """A run's configuration, and the images of all its clients together."""

    def __init__(self, folder: str) -> None:
        self.directory = RunDirectory.open(Path(folder))
        config, faults = parse_config(yaml.safe_load(self.directory.config_text()))
        if config is None:
            raise RefusedError(faults)
        self.config: RunConfig = config
        self.space: Supernet = build_space(config)
        dataset = build_dataset(config)
        self._dataset, self._partition = dataset, build_partition(config, dataset)
        data = FederationData(dataset, self._partition)
        clients = [data.client(client) for client in config.population]
        self.mean, self.std = clients[0].mean, clients[0].std
        self.train = _together([client.train for client in clients])
        self.validation = _together([client.validation for client in clients])
        self.test = _together([client.test for client in clients])

    def use_others(self, count: int) -> None:
        """Train and test alone on images that no client has: ``count``, and those left."""
        taken = np.concatenate([held.all() for held in self._partition.clients.values()])
        free = np.setdiff1d(np.arange(len(self._dataset.labels())), taken)
        if not 1 <= count < len(free):
            raise SystemExit(
                f"--images {count}: there are {len(free)} that no client has; use 1 or more, and fewer"
            )
        drawn = generator(_DRAW, 1).permutation(free)
        self.train = self._dataset.images(drawn[:count])
        self.test = self._dataset.images(drawn[count : count + _MOST_TESTED])

    def supernet(self) -> Arrays:
        """Return the supernet as stage 1 left it."""
        header = header_of(self.config, self.space)
        _, state = self.directory.load_checkpoint("latest", expected=header)
        return state.part("strategy/supernet/")

    def losses(self, architectures: list[Architecture]) -> list[float]:
        """Return the proxy loss of each architecture."""
        scorer = SubnetScorer(
            self.space,
            self.supernet(),
            build_trainer(self.config),
            validation=self.validation,
            recalibration=self.train,
            mean=self.mean,
            std=self.std,
            batch_size=100,
            recalibration_images=1000,
        )
        return [scorer(architecture).loss for architecture in architectures]

    def alone(self, architecture: Architecture, epochs: int) -> float:
        """Return the test accuracy of the architecture trained by itself, with a cosine of the step."""
        trainer = build_trainer(self.config).replaced(
            loss="cross_entropy", lr_schedule="cosine", warmup_rounds=1
        )
        weights = self.space.cut(self.space.initial_state(self.config.seed), architecture)
        model = self.space.load(architecture, weights)
        for epoch in range(epochs):
            trainer.train(
                model,
                self.train,
                mean=self.mean,
                std=self.std,
                epochs=1,
                batch_size=self.config.batch_size,
                lr=trainer.settings.learning_rate(epoch + 1, epochs),
                seed=(self.config.seed, epoch),
            )
        return trainer.evaluate(model, self.test, mean=self.mean, std=self.std).accuracy


def main() -> None:
    """Train the architectures alone, score them in every supernet, print and write the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", metavar="[NAME=]RUN_DIR", nargs="+")
    parser.add_argument("--architectures", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--images", type=int, metavar="N", help="train alone on N that no client has"
    )
    options = parser.parse_args()
    named = [(run.rpartition("=")[0], run.rpartition("=")[2]) for run in options.runs]
    first = PooledRun(named[0][1])
    if options.images is not None:
        first.use_others(options.images)
    architectures = spread_out(first.space, options.architectures)
    accuracies = []
    for architecture in architectures:
        accuracies.append(first.alone(architecture, options.epochs))
        macs = first.space.known_macs(architecture) / 1e6
        print(f"{architecture.to_list()} {macs:.2f} MMACs: alone {100 * accuracies[-1]:.1f} %")
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, folder in named:
        run = PooledRun(folder)
        losses = run.losses(architectures)
        ranks = rank_correlation([-loss for loss in losses], accuracies)
        if ranks is None:
            raise SystemExit(f"{folder}: all losses are equal, there is no order to compare")
        name = name or run.config.method.name
        found[name].append(
            {
                "seed": run.config.seed,
                "losses": losses,
                "kendall": ranks.kendall,
                "spearman": ranks.spearman,
            }
        )
        print(f"{name} seed {run.config.seed}: tau {ranks.kendall:.2f}, rho {ranks.spearman:.2f}")
    figures = {
        f"{key}_{name}": float(np.mean([one[key] for one in runs]))
        for name, runs in found.items()
        for key in ("kendall", "spearman")
    }
    raw = {
        "epochs": options.epochs,
        "images": len(first.train),
        "tested_on": len(first.test),
        "architectures": [
            {
                "choices": architecture.to_list(),
                "macs": first.space.known_macs(architecture),
                "alone": accuracy,
            }
            for architecture, accuracy in zip(architectures, accuracies, strict=True)
        ],
        "supernets": found,
    }
    print(f"written: {write_result('supernet_quality', figures, raw)}")


def spread_out(space: Supernet, count: int) -> list[Architecture]:
    """Return the smallest, the largest, and random ones evenly spread over the costs between."""
    rng = generator(_DRAW)
    drawn = sorted({space.sample(rng) for _ in range(400)}, key=space.known_macs)
    low, high = space.known_macs(space.smallest()), space.known_macs(space.largest())
    targets = np.linspace(low, high, count)[1:-1]
    between = [min(drawn, key=lambda a: abs(space.known_macs(a) - target)) for target in targets]
    return [space.smallest(), *dict.fromkeys(between), space.largest()]


def _together(parts: list[Images]) -> Images:
    return Images(
        torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
    )


if __name__ == "__main__":
    main()
