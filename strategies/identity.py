"""What a real node says about itself, checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Message

from corolla.limits.caps import SPEED
from corolla.limits.client_limits import BUDGET, CAP
from corolla.records.client_names import directory_name
from corolla.types import ClientId
from strategies.metrics import Metric, Metrics
from strategies.words import brief, last_line

_SPLITS = ("train", "validation", "test")
_MOST_CHARACTERS = 100
_MOST_DIGITS = 18  # of a name that is a number: it is one in seeds and in the order of clients
_IMAGES = Metric(least=0, most=1e9, whole=True)
_LIMIT = Metric(least=1e-6, most=1e18)
# Everything but the name and the sizes of the splits; what is not here is not kept.
FACTS: Metrics = {
    BUDGET: _LIMIT,  # MiB
    CAP: _LIMIT,  # multiply-accumulates
    SPEED: Metric(least=0, most=1e18),  # multiply-accumulates per second
}


def said_by(reply: Message | None) -> tuple[ClientId, dict[str, Any]]:
    """Return a node's name (empty: it gave itself none) and its facts, sizes by split.

    Raises:
        ValueError: it said nothing, an error, or what cannot be used; in a short line.

    """
    if reply is None:
        raise ValueError("no answer")
    if reply.has_error():
        raise ValueError(last_line(reply.error.reason) or "an error without a reason")
    info = reply.content.get("info")
    if not isinstance(info, ConfigRecord):
        raise ValueError("its answer holds no `info`")
    said: Mapping[str, Any] = dict(info)
    sizes = said.get("num_examples")
    if not isinstance(sizes, list) or len(sizes) != len(_SPLITS):
        raise ValueError("num_examples must be three numbers: training, validation, test images")
    facts: dict[str, Any] = {"num_examples": dict(zip(_SPLITS, sizes, strict=True))}
    for split, size in facts["num_examples"].items():
        fault = _IMAGES.fault(size) if type(size) is int else "must be a whole number"
        if fault:
            raise ValueError(f"num_examples of {split}: {_shown(size)} {fault}")
    if not facts["num_examples"]["train"]:
        raise ValueError("it has no training images")
    for key, metric in FACTS.items():
        if key in said:
            fault = metric.fault(said[key])
            if fault:
                raise ValueError(f"{key}: {_shown(said[key])} {fault}")
            facts[key] = said[key]
    return checked_name(said.get("client", "")) if said.get("client", "") else "", facts


def checked_name(name: object) -> ClientId:
    """Return a client's name; ValueError where it cannot stand in records, seeds and folders."""
    if not isinstance(name, str):
        raise ValueError("its name must be a text")
    if len(name) > _MOST_CHARACTERS or not name.isprintable() or name != name.strip():
        problem = f"must be {_MOST_CHARACTERS} printable characters at most, no blanks around them"
        raise ValueError(f"its name {_shown(name)} {problem}")
    if name.isdecimal() and (not name.isascii() or len(name) > _MOST_DIGITS):
        raise ValueError(f"its name {_shown(name)} must have {_MOST_DIGITS} digits 0-9 at most")
    directory_name(name)  # refuses what no folder can be called
    return name


def _shown(value: object) -> str:
    return brief(repr(value), 60)
