"""What is private to clients stays out of messages, and no strategy knows of it.

Parts of the model (``private=[head, norm]``) are left out of what is sent and of what must come back. A
valid reply is completed by what the order held before, so the server's average of such an entry is the
entry itself. The client puts its own arrays in their place (`clients.private_parts`).
"""

from __future__ import annotations

from dataclasses import replace

from corolla.errors import Fault, RefusedError
from corolla.federation import Federation
from corolla.tasks import Reply
from corolla.types import Arrays
from strategies.reading import Order


def private_names(
    federation: Federation, *, method: str, refused: tuple[str, str] | None
) -> frozenset[str]:
    """Return the names of the supernet's arrays that are private to clients.

    Args:
        federation: with the private parts' names.
        method: for messages.
        refused: why no part of this method's model can be private, and what to do instead.

    Raises:
        RefusedError: that, a part of which the space has no array, or parts that are the whole model.

    """
    parts, space = federation.private, federation.space
    if parts and refused is not None:
        problem, remedy = refused
        raise RefusedError(Fault("private", list(parts), f"{method}: {problem}", remedy))
    empty = [part for part in parts if not space.names_in([part])]
    names = space.names_in(parts)
    problem = ""
    if empty:
        problem = f"space {space.name!r} has no arrays in {', '.join(empty)}"
        others = ",".join(part for part in parts if part not in empty)
        remedy = f"Leave it out, as in private=[{others}], or take another space"
    elif names == space.supernet_shapes.keys():
        problem = f"these are all arrays of space {space.name!r}, so nothing would travel"
        remedy = "Leave a part out, or use method=local"
    if problem:
        who = federation.method or method
        raise RefusedError(Fault("private", list(parts), f"{who}: {problem}", remedy))
    return names


class Withholding:
    """Takes private arrays out of a round's orders, and completes the replies to them."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        # Clients that were given the same arrays still share them: they are serialised once.
        self._public: dict[int, tuple[Arrays, Arrays]] = {}

    def public(self, order: Order) -> Order:
        """Return the order as it travels; one of which nothing is private, as it is."""
        of = order.task.architecture if order.of == "task" else order.of
        if of is None or self._names.isdisjoint(order.arrays):
            return order
        returns = {n: shape for n, shape in order.returns.items() if n not in self._names}
        task = replace(order.task, withheld=of)
        return replace(order, task=task, arrays=self._without(order.arrays), returns=returns)

    def completed(self, reply: Reply, order: Order) -> Reply:
        """Return the reply with what ``order`` held in the place of what did not travel."""
        if reply.task is order.task:  # nothing was left out
            return reply
        arrays = {
            name: order.arrays[name] if name in self._names else reply.arrays[name]
            for name in order.returns
        }
        return replace(reply, task=order.task, arrays=arrays)

    def _without(self, arrays: Arrays) -> Arrays:
        if id(arrays) not in self._public:
            public = {name: array for name, array in arrays.items() if name not in self._names}
            self._public[id(arrays)] = (arrays, public)  # kept alive: the id is not used twice
        return self._public[id(arrays)][1]
