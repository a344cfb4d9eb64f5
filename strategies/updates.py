"""From valid replies to what the averages take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from corolla.aggregation.regions import Region
from corolla.aggregation.updates import Update, Weights, update_weight
from corolla.tasks import Reply, Task


def updates_of(
    replies: Sequence[Reply],
    regions: Mapping[str, Region] | Callable[[Task], Mapping[str, Region]],
    weights: Weights,
) -> list[Update]:
    """Return one update per reply, in their order.

    ``regions``: where all arrays belong, or a function of the task that was sent.
    """
    return [
        Update(
            arrays=reply.arrays,
            regions=regions(reply.task) if callable(regions) else regions,
            weight=update_weight(weights, reply.num_examples),
            client=reply.client,
        )
        for reply in replies
    ]
