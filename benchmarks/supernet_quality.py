"""How well a trained supernet ranks architectures: its proxy loss against training each of them alone.

    python -m benchmarks.supernet_quality [NAME=]RUN_DIR... [--architectures 8] [--epochs 15] [--images N]
    python -m benchmarks.supernet_quality --again [[NAME=]RUN_DIR...] [--space NAME]

Runs are those of a method with a supernet training (HAPFNAS); their supernet is that of stage 1, as the last
checkpoint keeps it. Runs of one NAME are averaged. Proxy: cross-entropy on all clients' validation images,
BN statistics recalibrated on their training images. Alone: trained from scratch, once, on the training
images of all clients of the FIRST run together, tested on their test images; with --images on N images
that no client has, tested on up to 10,000 of those left. Rank correlation is between minus the loss and the
accuracy: 1 is the same order. Few images tell architectures apart badly: look at the spread of accuracies.

Larger architectures are mostly better, and to know that needs no supernet: `by_macs` and `by_params` are the
correlations of these costs alone. What a supernet knows beyond them: `given_macs`, Kendall's partial tau
(Biometrika 32, 1942), and, where there are enough, tau over the pairs of like cost. --again trains
nothing: accuracies and losses are those of results/supernet_quality.json; supernets of runs that are given
take the place of those of the same NAME and seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.orders import add_correlations, table
from benchmarks.recording import RESULTS, write_result
from benchmarks.space_sizes import space_named
from corolla.config.build import (
    build_dataset,
    build_partition,
    build_space,
    build_trainer,
    header_of,
)
from corolla.config.schema import RunConfig, require_config
from corolla.data.federation import FederationData
from corolla.data.images import Images
from corolla.records.json_files import read_json, write_json
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.training.subnet_scorer import SubnetScorer
from corolla.types import Arrays, generator

_DRAW = 0x9A71
_MOST_TESTED = 10_000  # images
_NAME = "supernet_quality"


class PooledRun:
    """A run's configuration, and the images of all its clients together."""

    def __init__(self, folder: str) -> None:
        self.directory = RunDirectory.open(Path(folder))
        self.config: RunConfig = require_config(yaml.safe_load(self.directory.config_text()))
        config = self.config
        self.space: Supernet = build_space(config)
        dataset = build_dataset(config)
        self._dataset, self._partition = dataset, build_partition(config, dataset)
        data = FederationData(dataset, self._partition)
        clients = [data.client(client) for client in config.population]
        self.train = self.recalibration = _together([client.train for client in clients])
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
        _, state = self.directory.checkpoints.load("latest", expected=header)
        return state.part("strategy/supernet/")

    def losses(self, architectures: list[Architecture]) -> list[float]:
        """Return the proxy loss of each architecture."""
        scorer = SubnetScorer(
            self.space,
            self.supernet(),
            build_trainer(self.config),
            validation=self.validation,
            recalibration=self.recalibration,
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
                epochs=1,
                batch_size=self.config.batch_size,
                lr=trainer.settings.learning_rate(epoch + 1, epochs),
                seed=(self.config.seed, epoch),
            )
        return trainer.evaluate(model, self.test).accuracy


def main() -> None:
    """Measure, or with --again go on from what was measured; print and write the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", metavar="[NAME=]RUN_DIR", nargs="*")
    parser.add_argument("--architectures", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--images", type=int, metavar="N", help="train alone on N that no client has"
    )
    parser.add_argument(
        "--again", action="store_true", help="train nothing, start from the results file"
    )
    parser.add_argument("--space", help="with --again, where the file has no numbers of parameters")
    options = parser.parse_args()
    if not options.again and not options.runs:
        parser.error("give runs, or --again")
    runs = [(run.rpartition("=")[0], PooledRun(run.rpartition("=")[2])) for run in options.runs]
    if options.again:
        path = RESULTS / f"{_NAME}.json"
        content = read_json(path)
        if options.space is not None:
            add_params(content["raw"], space_named(options.space))
        add_losses(content["raw"], runs)
        # The environment stays that of the measurement.
        write_json(path, content | {"figures": add_correlations(content["raw"])}, indent=1)
    else:
        raw = measure(runs, options)
        write_result(_NAME, {}, raw)  # kept, should there be no order to correlate
        path = write_result(_NAME, add_correlations(raw), raw)
        content = {"raw": raw}
    print(table(content["raw"]))
    print(f"written: {path}")


def measure(runs: Sequence[tuple[str, PooledRun]], options: argparse.Namespace) -> dict[str, Any]:
    """Train the architectures alone, score them in every supernet; return accuracies and losses."""
    first = runs[0][1]
    if options.images is not None:
        first.use_others(options.images)
    rows: list[dict[str, Any]] = []
    for architecture in spread_out(first.space, options.architectures):
        accuracy = first.alone(architecture, options.epochs)
        macs = first.space.known_macs(architecture)
        rows.append({"choices": architecture.to_list(), "macs": macs, "alone": accuracy})
        print(f"{architecture.to_list()} {macs / 1e6:.2f} MMACs: alone {100 * accuracy:.1f} %")
    raw: dict[str, Any] = {
        "epochs": options.epochs,
        "images": len(first.train),
        "tested_on": len(first.test),
        "architectures": rows,
        "supernets": {},
    }
    add_losses(raw, runs)
    add_params(raw, first.space)
    return raw


def add_losses(raw: dict[str, Any], runs: Sequence[tuple[str, PooledRun]]) -> None:
    """Score the file's architectures in the runs' supernets; each takes the place of its name and seed."""
    architectures = [Architecture(tuple(row["choices"])) for row in raw["architectures"]]
    for name, run in runs:
        one = {"seed": run.config.seed, "losses": run.losses(architectures)}
        name = name or run.config.method.name
        others = [old for old in raw["supernets"].get(name, []) if old["seed"] != one["seed"]]
        raw["supernets"][name] = sorted([*others, one], key=lambda found: found["seed"])


def add_params(raw: dict[str, Any], space: Supernet) -> None:
    """Add to each architecture its number of parameters in the space, which must be the one of the file."""
    for row in raw["architectures"]:
        try:
            architecture = space.check(Architecture(tuple(row["choices"])))
        except ValueError as error:
            raise SystemExit(f"--space {space.name}: {error}") from error
        costs = space.costs(architecture)
        if costs.macs != row["macs"]:
            raise SystemExit(
                f"--space {space.name}: {costs.macs} MACs for {row['choices']}, the file has"
                f" {row['macs']}; name the space that the file was measured in"
            )
        row["params"] = costs.params


def spread_out(space: Supernet, count: int) -> list[Architecture]:
    """Return the smallest, the largest, and random ones evenly spread over the costs between."""
    rng = generator(_DRAW)
    drawn = sorted({space.sample(rng) for _ in range(400)}, key=space.known_macs)
    low, high = space.known_macs(space.smallest()), space.known_macs(space.largest())
    targets = np.linspace(low, high, count)[1:-1]
    between = [min(drawn, key=lambda a: abs(space.known_macs(a) - target)) for target in targets]
    return [space.smallest(), *dict.fromkeys(between), space.largest()]


def _together(parts: list[Images]) -> Images:
    pixels = torch.cat([part.pixels for part in parts])
    return replace(parts[0], pixels=pixels, labels=torch.cat([part.labels for part in parts]))


if __name__ == "__main__":
    main()
