"""What a reply may say, and within which bounds: the one table of metrics and notes.

Whatever is not here, and not declared by the method itself (`CorollaStrategy.reply_metrics`,
`reply_notes`), is dropped with a warning. What is here and out of bounds makes the reply a failure.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from strategies.words import brief

_LOG = logging.getLogger("corolla")
_MOST_WARNINGS = 20  # of things not asked for: clients choose their names


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number, within bounds that belong to it."""

    least: float
    most: float
    whole: bool = False
    or_none: bool = False  # NaN and infinity are answers, too: the model diverged

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with ``value``; None where nothing is."""
        if type(value) not in (int, float):
            return "must be a number"
        if isinstance(value, float) and not math.isfinite(value):
            diverged = self.or_none and value != -math.inf
            return None if diverged else "must be finite"
        if not self.least <= value <= self.most:
            return f"must lie in {self.least:g}..{self.most:g}"
        if self.whole and value != int(value):
            return "must be whole"
        return None


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text of a method's own; the method reads it."""

    most: int  # characters

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with ``value``; None where nothing is."""
        if not isinstance(value, str):
            return "must be a text"
        too_long = len(value) > self.most
        return f"must have {self.most:,} characters at most" if too_long else None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A list of numbers of a method's own."""

    each: Metric
    most: int  # entries

    def fault(self, value: Any) -> str | None:
        """Return what is wrong with ``value``; None where nothing is."""
        if not isinstance(value, list):
            return "must be a list"
        if len(value) > self.most:
            return f"must have {self.most:,} entries at most"
        faults = (self.each.fault(one) for one in value)
        return next((f"has an entry that {fault}" for fault in faults if fault), None)


Note = Text | Numbers
Metrics = Mapping[str, Metric]
Notes = Mapping[str, Note]

# Kinds of numbers. A loss or a time beyond these was not measured.
SHARE = Metric(least=0, most=1)
FLAG = Metric(least=0, most=1, whole=True)
COUNT = Metric(least=0, most=1e15, whole=True)
SECONDS = Metric(least=0, most=1e8)
MILLISECONDS = Metric(least=0, most=1e9)
MIB = Metric(least=0, most=1e9)
LOSS = Metric(least=-1e-3, most=1e18)  # a divergence may round to just below 0
SCORED_LOSS = Metric(least=-1e-3, most=math.inf, or_none=True)  # of a model that may have diverged
CHOICES = Numbers(each=Metric(least=0, most=1e6, whole=True), most=1_000_000)

SCORES: Metrics = {
    "val_accuracy": SHARE,
    "test_accuracy": SHARE,
    "val_loss": SCORED_LOSS,
    "test_loss": SCORED_LOSS,
}
ACCURACIES = ("val_accuracy", "test_accuracy")


def prefixed(prefix: str, metrics: Metrics = SCORES) -> dict[str, Metric]:
    """Return the same metrics of another model, such as ``global_val_accuracy``."""
    return {prefix + name: metric for name, metric in metrics.items()}


# Of clients of any method; what one method's clients say alone stands beside that method.
REPLY_METRICS: Metrics = {
    "num_examples": Metric(least=1, most=1e12, whole=True),
    "handling_s": SECONDS,
    "train_loss": LOSS,
    "train_s": SECONDS,
    "samples_processed": COUNT,
    "peak_memory_mib": MIB,
    "latency_ms": MILLISECONDS,
    "state_restarted": FLAG,  # what the client kept was lost
    "loss": SCORED_LOSS,  # Flower's own name in an evaluation
    **SCORES,
    **prefixed("received_"),
    **prefixed("fine_tuned_"),
}
# Of methods whose clients score a model that all share beside their own.
GLOBAL_METRICS: Metrics = {**prefixed("global_"), "global_train_loss": LOSS}


@dataclass(kw_only=True)
class Admission:
    """The tables of a run's method, and which names beyond them were warned of."""

    metrics: Metrics = field(default_factory=lambda: dict(REPLY_METRICS))
    notes: Notes = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def known(self, said: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of ``said`` that are in ``table``.

        Raises:
            ValueError: one is out of bounds.

        """
        admitted = {}
        for name, value in said.items():
            if name not in table:
                self._warn(str(name))
                continue
            fault = table[name].fault(value)
            if fault:
                raise ValueError(f"{name}{_shown(value)} {fault}")
            admitted[name] = value
        return admitted

    def _warn(self, name: str) -> None:
        name = brief(name, 80)  # what is kept of them is as short
        if name in self._warned or len(self._warned) > _MOST_WARNINGS:
            return
        self._warned.add(name)
        if len(self._warned) > _MOST_WARNINGS:
            _LOG.warning(
                "replies hold still more that was not asked for: dropped, and no longer named here"
            )
            return
        _LOG.warning("replies hold %r, which was not asked for: dropped", name)


def _shown(value: Any) -> str:
    """Return a number for a message; nothing of anything else, and of one with thousands of digits."""
    is_short = type(value) is float or (type(value) is int and abs(value) < 10**18)
    return f" is {value}," if is_short else ""
