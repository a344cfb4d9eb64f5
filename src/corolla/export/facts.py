"""What a shipped model carries beside its weights: all that is needed to ask it, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from corolla.config.build import build_dataset, build_trainer_settings, class_prior
from corolla.config.schema import Prior, RunConfig, require_config
from corolla.export.client_models import described
from corolla.records.json_files import to_json
from corolla.records.run_directory import RunDirectory
from corolla.report.load import load_run
from corolla.training.settings import BALANCED

FORMAT = 1
_COSTS = (
    "params",
    "macs",
    "payload_bytes",
    "activation_bytes",
    "training_memory_mib",
    "latency_ms",
)
_ACCURACIES = ("val_accuracy", "test_accuracy", "fine_tuned_accuracy", "global_accuracy")


def facts_of(run_dir: Path, client: str) -> dict[str, Any]:
    """Return what describes the model of ``client``, as JSON can hold it.

    ``input`` says what a picture must become: the central square, scaled to ``resolution``, bytes / 255,
    minus ``mean``, by ``std``. ``class_prior`` has how frequent each class was among the client's training
    images, and whether the logits have it added (docs/scoring.md).

    Raises:
        RefusedError: no such run or client.
        CorruptStateError: a damaged summary, instead of which figures of a round would be taken.

    """
    directory = RunDirectory.open(run_dir)
    if directory.finished:
        directory.summary()  # `load_run` forgives a damaged one, and what is shipped must not
    space, architecture, _ = described(run_dir, client)
    config = require_config(yaml.safe_load(directory.config_text()))
    run, dataset = load_run(run_dir), build_dataset(config)
    known = run.per_client.get(client, {})
    facts = {
        "format": FORMAT,
        "client": client,
        "run": run.name,
        "method": config.method.name,
        "seed": config.seed,
        "rounds": run.rounds_done,
        "finished": run.summary is not None,
        "site": known.get("site"),
        "dataset": config.images.name if config.images else dataset.name,
        "classes": list(config.images.classes) if config.images else list(dataset.class_names),
        "input": {
            "channels": dataset.channels,
            "resolution": dataset.resolution,
            "mean": _per_channel(dataset.mean, dataset.channels),
            "std": _per_channel(dataset.std, dataset.channels),
        },
        "space": config.space.supernet | {"name": config.space.name},
        "choices": architecture.to_list(),
        "architecture": space.values(architecture),
        "class_prior": _prior(config, class_prior(config, space), known),
        "deploy": config.evaluation.deploy,
        "accuracy": {key: known[key] for key in _ACCURACIES if known.get(key) is not None},
        "costs": {key: known[key] for key in _COSTS if known.get(key) is not None},
        "num_examples": known.get("num_examples"),
        "versions": run.environment.get("versions", {}),
        "commit": run.environment.get("commit"),
    }
    found: dict[str, Any] = to_json(facts)
    return found


def _prior(config: RunConfig, setting: Prior, known: Mapping[str, Any]) -> dict[str, Any]:
    counts = known.get("label_counts")
    total = sum(counts) if counts else 0
    balanced = build_trainer_settings(config).loss in BALANCED
    added: bool | str = setting != "none" and balanced
    if setting == "client" and not balanced:
        added = "if it is an average over clients"
    frequencies = [count / total for count in counts] if counts and total else None
    return {"setting": setting, "added": added, "frequencies": frequencies}


def _per_channel(values: Any, channels: int) -> list[float]:
    listed = [float(value) for value in values]
    return listed * channels if len(listed) == 1 else listed
