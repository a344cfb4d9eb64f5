"""The arithmetic of summaries: spread over clients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from corolla.types import client_order


def spread(
    values: Mapping[str, float],
    *,
    images: Mapping[str, int] | None = None,
    per_client: bool = True,
) -> dict[str, Any]:
    """Return how ``values`` (client to, say, accuracy) are spread over clients, each counting once.

    Keys: ``mean``; ``std``, the population's, as these are all clients; ``worst_decile``, the mean
    of the lowest ceil(n / 10) values; ``weighted_mean``, in which each counts by its ``images``, where all
    have some; and unless it is switched off ``per_client``, the values in client order. The order of
    ``values`` does not matter, not even in the last bit.

    Raises: ValueError when there is no value, or a client's is not finite.
    """
    if not values:
        raise ValueError("spread over no clients at all: at least one value is needed")
    bad = [client for client, value in values.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(f"spread over clients: the values of {bad} are not finite")
    numbers = sorted(float(value) for value in values.values())
    mean = _mean(numbers)
    result: dict[str, Any] = {
        "mean": mean,
        "std": math.sqrt(_mean((value - mean) ** 2 for value in numbers)),
        "worst_decile": _mean(numbers[: -(-len(numbers) // 10)]),
    }
    counts = {client: (images or {}).get(client, 0) for client in values}
    if all(counts.values()):
        total = math.fsum(values[client] * count for client, count in counts.items())
        result["weighted_mean"] = total / sum(counts.values())
    if per_client:
        result["per_client"] = {c: float(values[c]) for c in sorted(values, key=client_order)}
    return result


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)  # fsum: exact, so the order cannot matter
