"""Every key of every method's configuration, with values that nobody should write: refused by name.

What is checked is all that happens before a start, from the composed configuration on.
"""

from __future__ import annotations

import copy
import logging
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

from corolla.config.compose import _compose
from corolla.config.groups import methods
from corolla.errors import RefusedError
from corolla.launch import plan_of
from tests.strategies.conftest import small

BAD: list[Any] = [
    *(math.nan, math.inf, -math.inf, -1, 0, 1.5, 1e-320, 1e308, 2**64),
    *("text", True, None, [], {}, [1, math.inf], "../../evil"),
]
NEVER = {repr(value) for value in (math.nan, math.inf, -math.inf, 2**64, [1, math.inf])}
# What may be taken for a value of a kind; of the others, not one.
TAKEN = {
    bool: {"True"},
    int: {"0", "None"},
    float: {"0", "1.5", "1e-320", "1e+308", "None"},
    str: {"'text'", "True", "None"},  # `auto` stands beside true and false
    list: {"None", "[]"},
    dict: {"{}"},
    type(None): {
        "0",
        "1.5",
        "1e-320",
        "1e+308",
        "True",
        "None",
        "'text'",
        "'../../evil'",
        "[]",
        "{}",
    },
}
# The small federation writes them without a point, and they may have one.
FLOATS = ("partition.alpha=100.0", "clients_per_round=0.5", "round_timeout_s=1200.0")
LABELS = ("engine.name",)  # text that nothing but the report shows
SHARES = ("momentum", "server_momentum", "label_smoothing", "settle", "decay", "normalise_decay")
READS = {  # groups that the method reads; others are only looked at
    "hapfnas": ("server_set",),
    "fedavg": (
        *("space", "dataset", "partition", "trainer", "engine", "evaluation", "rounds", "clients"),
        *("clients_per_round", "local_epochs", "batch_size", "seed", "stage", "from", "run_dir"),
        *("new_clients", "device", "round_timeout_s", "memory_budget_mib"),
        *("link_mbit_s", "train_on_validation", "report", "tensorboard", "cap", "private"),
    ),
}
METHODS = methods()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # Hydra logs every class that it does not find
    yield
    logging.disable(logging.NOTSET)


def composed(method: str, *more: str) -> DictConfig:
    config = _compose(small(f"method={method}", *FLOATS, *more))
    OmegaConf.set_struct(config, False)
    config.pop("experiment", None)
    plan(config)  # as it is, it is taken
    return config


def plan(config: DictConfig) -> None:
    plan_of(plain(config))


def plain(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


class Trial:
    """A configuration, one key of which is another."""

    def __init__(self, config: DictConfig) -> None:
        self._config = config
        self._plain = pickle.dumps(plain(config))
        self._unresolved = OmegaConf.to_yaml(config)

    def with_value(self, key: str, value: Any) -> dict[str, Any]:
        if f"{{{key}}}" in self._unresolved:  # others take their value from it
            changed = copy.deepcopy(self._config)
            OmegaConf.update(changed, key, value, merge=False)
            return plain(changed)
        values: dict[str, Any] = pickle.loads(self._plain)  # ten times quicker
        *above, last = key.split(".")
        inner = values
        for name in above:
            inner = inner[name]
        assert last in inner
        inner[last] = value
        return values

    def refused(self, key: str, value: Any) -> str | None:
        """Return what is said of ``value`` at ``key``, None where it is taken."""
        try:
            plan_of(self.with_value(key, value))
        except RefusedError as error:
            said = [(fault.key, fault.problem, fault.remedy) for fault in error.faults]
            assert said, key
            assert all(all(part) for part in said), said
            return str(error)
        return None


def refused(config: DictConfig, key: str, value: Any) -> str | None:
    return Trial(config).refused(key, value)


def leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in node:
        key = f"{prefix}.{name}" if prefix else str(name)
        child = node._get_node(name)
        if isinstance(child, DictConfig) and len(child):
            yield from leaves(child, key)
        else:
            yield key


def check(config: DictConfig, trial: Trial, key: str, values: list[Any]) -> None:
    taken = {repr(value) for value in values if trial.refused(key, value) is None}
    # The stage of new clients is planned on its own; here its settings are only of the right kinds.
    if not key.startswith("method.new_clients."):
        found = type(OmegaConf.select(config, key))
        kind = {DictConfig: dict, ListConfig: list}.get(found, found)
        may = TAKEN[kind] | ({"'../../evil'"} if key in LABELS else set())
        assert taken <= may, f"{key}: took {sorted(taken - may)}"
        shares = key.split(".")[-1] in SHARES
        assert not (shares and taken & {"1.5", "1e+308"}), key
    assert not taken & NEVER, f"{key}: took {sorted(taken & NEVER)}"


def keys_of(method: str, config: DictConfig) -> list[str]:
    tops = ("method", *READS.get(method, ()))
    return [key for key in leaves(config) if key.split(".")[0] in tops]


def test_every_key_of_a_run_with_one_bad_value_each() -> None:
    config = composed("fedavg")
    trial = Trial(config)
    for position, key in enumerate(keys_of("fedavg", config)):
        check(config, trial, key, [BAD[position % len(BAD)]])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_key_of_every_method(method: str) -> None:
    """With every bad value for the keys that all runs share, and a few of them for the method's own.

    Each field of each settings class meets all values in tests/test_settings.py.
    """
    config = composed(method)
    trial = Trial(config)
    for position, key in enumerate(keys_of(method, config)):
        some = [BAD[(position + step) % len(BAD)] for step in (0, 5, 10)]
        check(config, trial, key, some if key.startswith("method.") else BAD)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("method.server_momentum", math.nan, "server_momentum=nan"),
        ("method.server_momentum", "much", "server_momentum='much'"),
        ("method.server_momentum", 1.5, "Use a number, 0 or more, below 1"),
        ("method.server_momentum", -0.5, "server_momentum=-0.5"),
        ("method.warmup_rounds", -1, "warmup_rounds=-1: is out of range"),
        ("method.warmup_rounds", "few", "warmup_rounds='few'"),
        ("method.max_draws", 0, "max_draws=0: is out of range"),
        ("method.max_draws", "few", "max_draws='few'"),
        ("batch_size", 1, "BatchNorm, which needs two or more images a batch"),
        ("method.client", "corolla.errors.Fault", "method.client"),
        ("method.client", "clients.ditto.Ditto", "method.client"),
        ("method.client", "clients.knn_per.KnnPerClient", "method.k=None: is missi"),
        ("evaluation.fine_tune_lr", math.inf, "evaluation.fine_tune_lr=inf"),
        ("round_timeout_s", 1e-9, "round_timeout_s=1e-09"),
        ("link_mbit_s", 1e-320, "link_mbit_s=1e-320"),
        ("method.name", "../../evil", "Use letters, digits"),
        ("space.supernet.resolution", [8, 9999], "is more than 1024 pixels a side"),
        ("space.supernet.resolution", [0], "space.resolution=0"),
        ("memory_budget_mib", [1, math.inf], "memory_budget_mib=[1, inf]"),
        ("memory_budget_mib", [5, 1], "is not a range of MiB above 0"),
        ("trainer", None, "trainer=None"),
        ("seed", 2**64, "seed=18446744073709551616"),
        ("rounds", "5", "rounds='5': is not a whole number"),
        ("rounds", True, "rounds=True: is not a whole number"),
        ("space.loop.cuda.threads", 0, "space.loop.cuda.threads=0"),
        ("method.new_clients.search", "few", "method.new_clients.search='few': is not known"),
        ("method.new_clients.strategy", "foo", "method.new_clients.strategy='foo': "),
        ("method.new_clients.start", "few", "method.new_clients.start='few'"),
    ],
)
def test_what_once_started(key: str, value: Any, said: str, default: DictConfig) -> None:
    found = refused(default, key, value)
    assert found is not None
    assert said in found


@pytest.fixture(scope="module")
def default() -> DictConfig:
    return composed("perfedrlnas")


def test_more_processes_than_a_machine_can_hold_and_fedavgs_momentum() -> None:
    config = composed("fedavg", "engine=ray")
    found = refused(config, "engine.actors", 100_000)
    assert found is not None
    assert "engine.actors=100000: is too many client processes" in found
    assert refused(config, "method.server_momentum", 1.5) is not None


def test_batches_of_one_where_nothing_is_normalised_over_them() -> None:
    norm = [
        "space=resnet18",
        "space.supernet.resolution=8",
        "space.supernet.norm=group",
        "space.supernet.width=8",
    ]
    composed("fedavg", *norm, "space.supernet.groups=2", "batch_size=1")
