"""A small federation in this process, and what can be done to it while it runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import pytest
import yaml

from corolla.config.build import build_space, build_strategy, build_trainer_settings, header_of
from corolla.config.schema import RunConfig, parse_config
from corolla.errors import RunFailedError
from corolla.federation import Federation
from corolla.launch import plan_run, resume, start
from corolla.records.checkpoints import Checkpoints
from corolla.records.run_directory import RunDirectory
from corolla.state import State
from corolla.tasks import Reply, Task
from corolla.training.results import DivergedError
from corolla.types import Arrays
from strategies.exchange import Order

SMALL = [
    "engine=inline",
    "clients=4",
    "clients_per_round=2",
    "rounds=3",
    "local_epochs=1",
    "partition.alpha=100",
    "partition.balanced=true",
    "partition.images_per_client=30",  # 18 to train on, 6 and 6
    "evaluation.every=2",
    "evaluation.fine_tune_epochs=1",
    "report=false",
    "tensorboard=false",
]
# What a method needs beyond that, if it does not run on every space; before the test's own overrides.
NEEDS = {
    "spider": [
        "space=darts_s2_mixed_small",
        "space.supernet.resolution=8",
        "space.supernet.channels=4",
        "space.supernet.cells=3",
        "space.supernet.nodes=1",
        "method.search.clock=rounds",
        "method.search.warmup_rounds=0",
        "method.search.recovery_rounds=1",
    ]
}
NEEDS["global_nas"] = [*NEEDS["spider"], "server_set=held_out", "server_set.images=50"]
NEEDS["fedmd"] = [
    "server_set=held_out",
    "server_set.images=50",
    "method.subset_images=20",
    "method.architectures=random",
]
NEEDS["fedkemf"] = ["server_set=held_out", "server_set.images=50", "method.architectures=random"]
NEEDS["perfed_ckt"] = [
    "server_set=held_out",
    "server_set.images=50",
    "method.public_images=20",
    "method.clusters=1",
    "method.architectures=random",
]
NEEDS["direct_fednas"] = NEEDS["spider"][:5]
NEEDS["fednas"] = [*NEEDS["spider"][:5], "method.search_rounds=2"]
_TIERED = [
    "server_set=held_out",
    "server_set.images=50",
    "method.tiers.count=2",
    "method.tiers.evolution={population:4,generations:1,mutants:2,crossovers:2}",
]
NEEDS["superfednas"] = [*_TIERED, "space=mobilenetv3_8"]
NEEDS["fedoras"] = [
    *_TIERED,
    "space=fedoras_small",
    "space.supernet.resolution=8",
    "space.supernet.stages=[{width:8,blocks:2},{width:16,blocks:1}]",
    "method.fine_tuning.rounds=1",
    "method.tiers.quantile=1.0",
]
NEEDS["deepfednas"] = [
    "space=mobilenetv3_8",
    "method.tiers.count=2",
    "method.tiers.evolution={population:4,generations:1,mutants:2,crossovers:2}",
    "method.proposals.cache.entries=4",
    "method.proposals.cache.evolution={population:4,generations:1,mutants:2,crossovers:2}",
]
NEEDS["fedpnas"] = ["space=elastic_cnn", "space.supernet.resolution=8"]
NEEDS["fedmn"] = [
    "space=lenet_modules",
    "space.supernet.base.resolution=16",
    "space.supernet.modules=2",
]
NEEDS["heterofl"] = ["space=mobilenetv2_width_8", "method.assignment=dynamic"]
NEEDS["fedrolex"] = NEEDS["heterofl"]
NEEDS["fedtp"] = [
    "space=vit_32",
    "space.supernet.resolution=8",
    "space.supernet.width=8",
    "space.supernet.depth=2",
    "space.supernet.heads=2",
    "space.supernet.head_dim=4",
    "space.supernet.hidden=8",
]
NEEDS["hapfnas"] = [
    "space=mobilenetv2_8",
    "server_set=held_out",
    "server_set.images=50",
    "method.supernet_training.rounds=1",
    "method.supernet_training.epochs=1",
    "method.supernet_training.batch_size=25",
    "method.personal_search.rounds=1",
    "method.personal_search.predictor.initial=10",
    "method.personal_search.predictor.front=2",
    "method.personal_search.predictor.evolution.generations=2",
    "method.personal_search.predictor.forest.trees=5",
    "method.personal_search.recalibration_images=30",
]


def run(run_dir: Path, *overrides: str) -> RunDirectory:
    """Run the small federation to its end."""
    return start(plan_run(small(f"run_dir={run_dir}", *overrides)))


def small(*overrides: str) -> list[str]:
    """Return the overrides of a small federation in which the method that they name can run."""
    methods = [text.removeprefix("method=") for text in overrides if text.startswith("method=")]
    return [*SMALL, *(need for method in methods for need in NEEDS.get(method, [])), *overrides]


def resumed(run_dir: Path) -> RunDirectory:
    return resume(run_dir)


@contextmanager
def power_cut(round: int) -> Iterator[None]:
    """Have the run inside end after the lines of ``round`` are written and before its checkpoint."""
    save = Checkpoints.save

    def crash(self: Checkpoints, *arguments: Any, **settings: Any) -> None:
        if settings["round"] == round:
            raise OSError("power cut")
        save(self, *arguments, **settings)

    with (
        mock.patch.object(Checkpoints, "save", crash),
        pytest.raises(RunFailedError, match=r"power cut[\s\S]*corolla resume"),
    ):
        yield


def without_times(value: Any) -> Any:
    """Drop everything measured in seconds or MiB of this process."""
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in value.items()
            if not (key.endswith("_s") or key == "peak_memory_mib")
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value


def results(directory: RunDirectory) -> str:
    """Return all that a run found, as text, without its times."""
    found = [directory.summary(), directory.metrics(), directory.clients()]
    return json.dumps(without_times(found), sort_keys=True, indent=1)


def federation_of(config: RunConfig, **known: Any) -> Federation:
    """Return the federation of a configuration, without limits unless they are ``known``."""
    space, trainer = build_space(config), build_trainer_settings(config)
    return Federation.of(config, space=space, trainer=trainer, **{"budgets": {}, **known})


def strategy_of(config: RunConfig, **known: Any) -> Any:
    """Return the strategy of a configuration, in `federation_of`."""
    return build_strategy(config, federation=federation_of(config, **known))


def reply_to(task: Task, arrays: Arrays, num_examples: int = 10, **more: Any) -> Reply:
    """Return a client's reply; what it cost is nothing unless told."""
    costs: dict[str, Any] = {"metrics": {}, "round_s": 1.0, "bytes_down": 0, "bytes_up": 0, **more}
    return Reply(task=task, arrays=arrays, num_examples=num_examples, **costs)


def config_of(directory: RunDirectory) -> RunConfig:
    """Return the configuration that a run was made with."""
    config, faults = parse_config(yaml.safe_load(directory.config_text()))
    assert config is not None, faults
    return config


def saved_state(directory: RunDirectory) -> State:
    """Return the newest state of a run's checkpoints."""
    config = config_of(directory)
    header = header_of(config, build_space(config))
    return directory.checkpoints.load("latest", expected=header)[1]


def strategy_state(directory: RunDirectory) -> State:
    """Return the strategy's part of `saved_state`."""
    state = saved_state(directory)
    return State(state.part("strategy/"), state.meta["strategy"])


def own_models(directory: RunDirectory) -> dict[str, Arrays]:
    """Return the models that the simulated clients keep, by client."""
    found = {client: directory.client_states.load(client, 1000) for client in ("0", "1", "2", "3")}
    return {client: entry[1].part("model/") for client, entry in found.items() if entry}


def changed_replies(orders: Iterable[Order], images: Mapping[str, int]) -> list[Reply]:
    """Return the networks that were sent, each changed in its client's own way: client -> its images."""
    replies = []
    for order in orders:
        client = order.task.client
        rng = np.random.default_rng(int(client))
        arrays = {
            name: (array * rng.uniform(0.8, 1.2)).astype(array.dtype)
            for name, array in order.arrays.items()
        }
        replies.append(reply_to(order.task, arrays, images[client]))
    return replies


def diverging(*_: Any, **__: Any) -> NoReturn:
    """Stand in for a training that diverges."""
    raise DivergedError(loss=math.inf, epoch=0, batch=0, lr=0.1)
