"""Is it the search or the shared weights? Fine-tunes slices of a finished PerFedRLNAS run's supernet.

    python -m benchmarks.supernet_share RUN_DIR

For every client, from the last checkpoint: its own deployed architecture, a common one (middle), the
largest, and a uniformly random one, each scored before and after the run's own fine-tuning, on test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml

from benchmarks.recording import write_result
from corolla.config.build import build_dataset, build_partition, build_space, build_trainer
from corolla.config.schema import RunConfig, parse_config
from corolla.data.federation import FederationData
from corolla.launch import header_of
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.types import client_seed, generator


def main() -> None:
    """Score the slices, print the means, write results/supernet_share.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_dir", type=Path)
    options = parser.parse_args()
    directory = RunDirectory.open(options.run_dir)
    config, _ = parse_config(yaml.safe_load(directory.config_text()))
    if config is None:
        raise SystemExit("config.yaml is of another release")
    scores = _scores(directory, config)
    figures = {name: float(np.mean(values)) for name, values in scores.items()}
    for name, value in figures.items():
        print(f"{name:<24} {100 * value:.1f} %")
    print(f"written: {write_result('supernet_share', figures, scores)}")


def _scores(directory: RunDirectory, config: RunConfig) -> dict[str, list[float]]:
    space, trainer, dataset = build_space(config), build_trainer(config), build_dataset(config)
    data = FederationData(dataset, build_partition(config, dataset))
    _, state = directory.load_checkpoint("latest", expected=header_of(config, space))
    supernet = state.part("strategy/supernet/")
    found: dict[str, list[float]] = {}
    for client, entry in directory.summary()["per_client"].items():
        own = data.client(client)
        images = {"mean": own.mean, "std": own.std}
        candidates = {
            "own": Architecture.of(entry["choices"]),
            "middle": space.middle(),
            "largest": space.largest(),
            "random": space.sample(generator(config.seed, client_seed(client))),
        }
        for name, architecture in candidates.items():
            model = space.load(architecture, space.cut(supernet, architecture))
            trainer.recalibrate(model, own.train, batch_size=config.batch_size, **images)
            before = trainer.evaluate(model, own.test, **images).accuracy
            trainer.train(
                model,
                own.train,
                epochs=config.evaluation.fine_tune_epochs,
                batch_size=config.batch_size,
                lr=config.evaluation.fine_tune_lr or trainer.settings.lr,
                seed=(config.seed, config.rounds, client_seed(client)),
                **images,
            )
            after = trainer.evaluate(model, own.test, **images).accuracy
            found.setdefault(name, []).append(before)
            found.setdefault(f"{name}_fine_tuned", []).append(after)
    return found


if __name__ == "__main__":
    main()
