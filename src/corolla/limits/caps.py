"""Caps on multiply-accumulates: how much one image's forward pass may take at a client.

A rule (``_target_`` of conf/cap) gives every client its cap. The rule by data size is HAPFNAS's (Yang &
Liu, Entropy 2025, 27(7), 759; its constants are those of the code attributed to the authors, and are in
conf/cap/data_size_paper.yaml). Ours: margins and step as shares of what the space spans, so that it
serves small spaces; a range; the speed that a client measures; a node's own word, which wins.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch

from corolla.errors import Fault, RefusedError
from corolla.limits.client_limits import CAP
from corolla.settings import Count, NonNegative, Positive, Seed, settings
from corolla.spaces.supernet import Supernet
from corolla.training.latency import latency
from corolla.types import ClientId, client_seed, generator

Facts = Mapping[str, Any]
Unit = Literal["macs", "range"]

SPEED = "macs_per_s"
"""The fact that a client's speed is."""

_DRAW = 0xCA9  # keeps the caps' draws apart from others of the same seed
_NEAR = 0.99  # of a cap that a rounded one may not be below
LAST_RESORT = "or take a space with smaller architectures"


class CapRule(Protocol):
    """Gives clients their caps, as a pure function of what is known of them."""

    remedy: ClassVar[str]  # what to do where not even the smallest architecture is within a cap

    def measured(self, space: Supernet, *, device: str) -> dict[str, float]:
        """Return what this machine has to measure for its client's facts; mostly nothing."""
        return {}

    @abstractmethod
    def caps(
        self, facts: Mapping[ClientId, Facts], *, space: Supernet, sizes: Mapping[ClientId, int]
    ) -> dict[ClientId, float]:
        """Return the cap of each client in ``facts``, in multiply-accumulates.

        ``sizes``: training images of the clients that the run began with; a client that joins later
        is held against them, so that nobody's cap changes.
        """


def with_caps(
    facts: Mapping[ClientId, Facts],
    rule: CapRule | None,
    *,
    space: Supernet,
    sizes: Mapping[ClientId, int],
) -> dict[ClientId, dict[str, Any]]:
    """Return copies of the facts with each client's cap; one that a client gave itself stays."""
    completed = {client: dict(known) for client, known in facts.items()}
    open_ = {client: known for client, known in completed.items() if CAP not in known}
    if rule is not None and open_:
        for client, cap in rule.caps(open_, space=space, sizes=sizes).items():
            completed[client][CAP] = cap
    return completed


@settings
class DataSizeCap(CapRule):
    """Linear in the number of training images; the more a client has, the more it may compute.

    From smallest architecture + ``low_margin`` at the client with the fewest images to largest
    architecture + ``high_margin`` at the one with the most, then rounded to a multiple of ``step``: the
    nearest, but the next one up where the nearest is under 99 % of it. Where all have equally many, all
    get the upper end. A client that joins later with fewer or more than any before gets the end.
    """

    remedy: ClassVar[str] = f"Raise cap.low_margin, {LAST_RESORT}"

    unit: Unit  # macs: margins and step are multiply-accumulates; range: shares of what the space spans
    low_margin: float  # added to the smallest architecture's need
    high_margin: float  # added to the largest's; below 0 not even the largest client can run that
    step: Positive | None  # None: no rounding

    def caps(
        self, facts: Mapping[ClientId, Facts], *, space: Supernet, sizes: Mapping[ClientId, int]
    ) -> dict[ClientId, float]:
        """Return each client's point on the line."""
        smallest, largest = _span(space)
        scale = largest - smallest if self.unit == "range" else 1.0
        low, high = smallest + self.low_margin * scale, largest + self.high_margin * scale
        if low > high:
            problem = (
                f"the client with the fewest images would get a cap of {low:,.0f} multiply-accumulates, "
                f"above the {high:,.0f} of the one with the most"
            )
            remedy = (
                "Lower cap.low_margin or raise cap.high_margin; with cap.unit=range they are shares of "
                "what the space spans"
            )
            raise RefusedError(Fault("cap.low_margin", self.low_margin, problem, remedy))
        own = {client: int(known["num_examples"]["train"]) for client, known in facts.items()}
        all_sizes = (sizes or own).values()
        least, most = min(all_sizes), max(all_sizes)
        step = (self.step or 0.0) * scale
        by_client = {}
        for client, size in own.items():
            share = 1.0 if least == most else (size - least) / (most - least)
            share = min(1.0, max(0.0, share))
            cap = (1 - share) * low + share * high  # exact at both ends
            by_client[client] = _rounded(cap, step) if step else cap
        return by_client


@settings
class RangeCap(CapRule):
    """Drawn uniformly from ``low`` to ``high`` and fixed: a draw depends on seed and client alone."""

    remedy: ClassVar[str] = f"Raise cap.low, {LAST_RESORT}"

    unit: Unit  # macs, or range: 0 is the smallest architecture's need, 1 the largest's
    low: NonNegative
    high: NonNegative
    seed: Seed

    def __post_init__(self) -> None:
        if self.low > self.high:
            problem = f"with high={self.high!r} is not an ascending range from 0 on"
            remedy = "Set cap.low and cap.high, two numbers of 0 or more, the lower first"
            raise RefusedError(Fault("low", self.low, problem, remedy))

    def caps(
        self, facts: Mapping[ClientId, Facts], *, space: Supernet, sizes: Mapping[ClientId, int]
    ) -> dict[ClientId, float]:
        """Return a draw per client."""
        low, high = self.low, self.high
        if self.unit == "range":
            smallest, largest = _span(space)
            low, high = (smallest + end * (largest - smallest) for end in (low, high))
        return {
            client: float(generator(self.seed, _DRAW, client_seed(client)).uniform(low, high))
            for client in facts
        }


@settings
class SpeedCap(CapRule):
    """What a client computes within a latency, at the speed that it measures once where it runs.

    Speed: multiply-accumulates per second of the smallest architecture's forward pass, a median after
    warm-up (`corolla.training.latency.latency`). So the smallest architecture is within the cap exactly
    where it takes no longer than ``latency_ms``; larger ones mostly run at a higher speed than it does.
    In simulation the launching machine measures for all clients; two such runs of one seed differ.
    """

    remedy: ClassVar[str] = f"Raise cap.latency_ms, {LAST_RESORT}"

    latency_ms: Positive  # that one image may take
    batch_size: Count  # images per pass that is measured

    def measured(self, space: Supernet, *, device: str) -> dict[str, float]:
        """Return this machine's speed in multiply-accumulates per second."""
        smallest = space.smallest()
        with torch.random.fork_rng(devices=[]):  # nothing else's draws change
            model = space.subnet(smallest).to(device)
        taken_ms = latency(model, space.in_channels, space.resolution, self.batch_size)
        return {SPEED: self.batch_size * space.costs(smallest).macs / (taken_ms / 1000)}

    def caps(
        self, facts: Mapping[ClientId, Facts], *, space: Supernet, sizes: Mapping[ClientId, int]
    ) -> dict[ClientId, float]:
        """Return speed times latency; 0 for a client that told no speed."""
        return {
            client: float(known.get(SPEED, 0.0)) * self.latency_ms / 1000
            for client, known in facts.items()
        }


def _span(space: Supernet) -> tuple[float, float]:
    """Return multiply-accumulates of the smallest and of the largest architecture."""
    return (
        float(space.costs(space.smallest()).macs),  # cached, as space.macs is not
        float(space.costs(space.largest()).macs),
    )


def _rounded(cap: float, step: float) -> float:
    nearest_step = step * math.floor(cap / step + 0.5)
    return nearest_step if nearest_step >= _NEAR * cap else nearest_step + step
