"""From configuration nodes to objects. A ``_target_`` in YAML is the registry; faults name their key."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
from hydra.utils import get_class

from corolla.aggregation.robust import RobustRule
from corolla.config.schema import Prior, RunConfig, StageConfig
from corolla.config.signatures import require_like, require_overrides
from corolla.data.dataset import Dataset
from corolla.data.image_folder import ImageFolder
from corolla.data.partition.partition import Partition
from corolla.data.partition.partitioner import Partitioner
from corolla.data.server_set import DATASET_KEY, ServerSet
from corolla.errors import Fault, RefusedError
from corolla.limits.caps import CapRule
from corolla.records.checkpoints import CheckpointHeader
from corolla.settings import (
    field_names,
    is_settings,
    parameters_of,
    settings_class,
    settings_of,
    signature_settings,
)
from corolla.spaces.supernet import Supernet
from corolla.trackers import Tracker
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer

T = TypeVar("T")

_OLD_MODULES = {"corolla.caps.": "corolla.limits.caps."}  # in run directories of older releases
# Keys that the run reads: no settings, except of classes that take them.
_LABELS = {"engine": ("kind", "name"), "space.supernet": ("name",)}
_STUMBLES = (ImportError, AttributeError, TypeError, ValueError, LookupError, ArithmeticError)


def build(node: Mapping[str, Any], key: str, *, like: type[Any] | None = None, **known: Any) -> Any:
    """Return the object that ``node`` describes; ``known`` are arguments that no YAML can hold.

    Raises:
        RefusedError: a target that does not exist, settings it does not have, values it refuses, or what
            is not as the base class or protocol ``like`` wants it.

    """
    values = {k: v for k, v in node.items() if k != "_target_"}
    if "_target_" not in node:
        remedy = "Add _target_: MODULE.CLASS, or take one of the files in conf/"
        raise RefusedError(Fault(key, dict(node), "names no class: it has no _target_", remedy))
    kind = class_of(node["_target_"], key)
    for label in [one for one in _LABELS.get(key, ()) if one in values]:
        if label not in (field_names(kind) if is_settings(kind) else parameters_of(kind)):
            del values[label]
    found = made(kind, values, key, **known)
    if like is not None:
        require_like(found, like, key)
    return found


def made(
    kind: type[Any], values: Mapping[str, Any], key: str, *, others: bool = False, **known: Any
) -> Any:
    """Return a ``kind`` with the settings ``values`` that stand at ``key``.

    A class that names its settings class by the annotation ``settings`` is handed one value of it; any other
    takes its settings one by one, and they are checked by the annotations of its constructor.

    Args:
        kind: what is made.
        values: from YAML.
        key: comes before the names of what is refused.
        others: some of ``values`` are not for this class.
        known: arguments that no YAML can hold.

    """
    # Not hydra.utils.instantiate: it turns dataclasses and lists among the arguments into its own.
    require_overrides(kind, key)
    with named(key, kind.__qualname__):
        named_class = settings_class(kind)
        if named_class is not None:
            return kind(settings=settings_of(named_class, values, key, others=others), **known)
        if others:
            return kind(**known)
        if is_settings(kind):
            return settings_of(kind, {**values, **known}, key)
        checked = settings_of(signature_settings(cast(Any, kind), frozenset(known)), values, key)
        return kind(**checked.__dict__, **known)


def check_settings(kind: type[Any], values: Mapping[str, Any], key: str) -> Any:
    """Return the settings that ``kind`` names, None where it names none; refuse what `made` would refuse."""
    with named(key, kind.__qualname__):
        named_class = settings_class(kind)
        return named_class and settings_of(named_class, values, key, others=True)


def setting_names(kind: type[Any], key: str) -> list[str]:
    """Return what ``kind``, which stands at ``key``, takes as settings of its own."""
    with named(key, kind.__qualname__):
        return field_names(settings_class(kind))


def class_of(target: Any, key: str) -> type[Any]:
    """Return the class of this dotted name. RefusedError where there is none."""
    name = str(target)
    for old, new in _OLD_MODULES.items():
        name = new + name.removeprefix(old) if name.startswith(old) else name
    with named(key, target):
        return cast("type[Any]", get_class(name))


@contextmanager
def named(key: str, target: Any) -> Iterator[None]:
    """Turn what an import or a constructor raises into a fault that names ``key``."""
    try:
        yield
    except RefusedError as error:
        raise RefusedError([_under(key, fault) for fault in error.faults]) from error
    except _STUMBLES as error:
        remedy = "Correct the file or override"
        if isinstance(error, ImportError):
            remedy += "; a module of your own is found with --config-dir FOLDER, or installed"
        raise RefusedError(Fault(key, target, str(error), remedy)) from error


@contextmanager
def of_stage(stage: StageConfig) -> Iterator[None]:
    """Give what is refused the keys at which the stage for new clients sets it: they lie below its own."""
    try:
        yield
    except RefusedError as error:
        own = tuple(f"method.{name}." for name in stage.settings)
        raise RefusedError(
            [
                replace(f, key=f"method.new_clients.{f.key.removeprefix('method.')}")
                if f"{f.key}.".startswith(own)
                else f
                for f in error.faults
            ]
        ) from error


def _under(key: str, fault: Fault) -> Fault:
    top = fault.key.split(".")[0]
    whole = top == key.split(".")[0] or top in RunConfig.model_fields
    path = fault.key if whole else f"{key}.{fault.key}"
    return Fault(path, fault.value, fault.problem, fault.remedy)


def build_space(config: RunConfig) -> Supernet:
    """Return the supernet for the run's images; the same one again for the same settings.

    A space keeps what it has measured of its subnets, and nothing else.
    """
    if config.images is None:
        problem = (
            "the classes of the images are not known: this is no configuration of a started run"
        )
        remedy = "Start the run with `corolla run`"
        raise RefusedError(Fault("images", None, problem, remedy))
    settings, known = config.space.supernet, config.images
    kind: Any = class_of(settings["_target_"], "space.supernet") if "_target_" in settings else None
    written = pickle.dumps(settings)
    return _space_of(kind, written, len(known.classes), known.channels)


@lru_cache(maxsize=8)
def _space_of(_kind: Any, written: bytes, num_classes: int, in_channels: int) -> Supernet:
    known = {"num_classes": num_classes, "in_channels": in_channels}
    return cast(Supernet, build(pickle.loads(written), "space.supernet", like=Supernet, **known))


def class_prior(config: RunConfig, space: Supernet) -> Prior:
    """Return ``evaluation.prior``; a private classifier was never averaged: it knows its client's classes."""
    prior = config.evaluation.prior
    averaged = space.names_in(config.private).isdisjoint(space.parts["head"])
    return prior if averaged or prior != "client" else "auto"


def build_dataset(config: RunConfig) -> Dataset:
    """Return the data set; no file is touched."""
    return cast(Dataset, build(config.dataset, "dataset", like=Dataset))


def build_partitioner(config: RunConfig) -> Partitioner:
    """Return what splits the pool among clients."""
    return cast(Partitioner, build(config.partition, "partition", like=Partitioner))


def build_partition(config: RunConfig, dataset: Dataset) -> Partition:
    """Split the pool among the run's clients, without what is the server's.

    RefusedError where a client would lack a split.
    """
    # Also of clients that training leaves out: their images must never be in anybody else's.
    count = config.clients + config.new_clients
    server_set = build_server_set(config)
    held_out = (
        ()
        if server_set is None
        else server_set.held_out(len(dataset.labels()), dataset.train_size())
    )
    partition = build_partitioner(config).split(
        dataset, clients=count, seed=config.seed, held_out=held_out
    )
    if isinstance(dataset, ImageFolder):
        return replace(partition, notes=(*partition.notes, *dataset.notes()))
    return partition


def build_server_set(config: RunConfig) -> ServerSet | None:
    """Return where the server's own images come from, None where it has none; no file is touched."""
    node = dict(config.server_set)
    if not node:
        return None
    known: dict[str, Any] = {}
    if "dataset" in node:
        known["dataset"] = build(node.pop("dataset"), DATASET_KEY)
    return cast(ServerSet, build(node, "server_set", **known))


def build_cap(config: RunConfig) -> CapRule | None:
    """Return what gives clients their caps on multiply-accumulates, None where nothing does."""
    return cast(CapRule, build(config.cap, "cap")) if config.cap else None


def build_robust(config: RunConfig) -> RobustRule | None:
    """Return what averages are made by instead of plain means, None where they are plain."""
    return cast(RobustRule, build(config.robust, "robust")) if config.robust else None


def build_tracker(config: RunConfig) -> Tracker | None:
    """Return what else hears of the run's rounds, None where nothing does."""
    return cast(Tracker, build(config.tracker, "tracker", like=Tracker)) if config.tracker else None


def build_trainer_settings(config: RunConfig) -> TrainerSettings:
    """Return optimiser, schedule and augmentation of local training."""
    settings: TrainerSettings = group_settings(TrainerSettings, config.trainer, "trainer")
    return settings


def build_trainer(config: RunConfig) -> LocalTrainer:
    """Return the local trainer for this machine's device, with the space's measured loop settings."""
    device = device_of(config)
    if device not in config.space.loop:
        remedy = f"Add it to the space's file, or use a device that is there: {sorted(config.space.loop)}"
        problem = f"space {config.space.name!r} does not say how to train on {device}"
        raise RefusedError(Fault(f"space.loop.{device}", None, problem, remedy))
    loop = group_settings(LoopSettings, config.space.loop[device], f"space.loop.{device}")
    return LocalTrainer(settings=build_trainer_settings(config), loop=loop, device=device)


def build_client(config: RunConfig, **known: Any) -> Any:
    """Return the method's client: `clients.client.Client`."""
    kind = class_of(config.method.client, "method.client")
    return made(kind, config.method.settings, "method", others=True, **known)


def build_strategy(config: RunConfig, **known: Any) -> Any:
    """Return the method's Strategy for the run's stage."""
    method = config.method
    if config.stage == "new_clients" and method.new_clients is not None:
        kind = class_of(method.new_clients.strategy, "method.new_clients.strategy")
        values = method.settings | method.new_clients.settings
        with of_stage(method.new_clients):
            return made(kind, values, "method", others=True, **known)
    kind = class_of(method.strategy, "method.strategy")
    return made(kind, method.settings, "method", others=True, **known)


def build_engine(config: RunConfig, **known: Any) -> Any:
    """Return what starts the run."""
    return build(config.engine, "engine", **known)


def device_of(config: RunConfig) -> str:
    """Return ``cpu`` or ``cuda``; RefusedError where cuda was asked for and is not there."""
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RefusedError(
            Fault("device", "cuda", "torch sees no CUDA device here", "Use device=cpu or auto")
        )
    return config.device


def header_of(config: RunConfig, space: Supernet) -> CheckpointHeader:
    """Return the header of this run's checkpoints."""
    return CheckpointHeader(
        method=config.method.name, space=space.name, space_fingerprint=space.fingerprint()
    )


def group_settings(kind: type[T], values: Mapping[str, Any], key: str) -> T:
    """Return the settings class ``kind`` filled from a group of YAML."""
    with named(key, kind.__qualname__):
        return settings_of(kind, values, key)
