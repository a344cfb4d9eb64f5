"""DARTS space of networks that keep any set of operations on any edge: what SPIDER's clients search in.

SPIDER (TMLR): a client starts from the mixed network, the space's largest architecture, and deletes
operations and edges one after the other. So an architecture here is a subset of the operations per edge.
The largest one is also the DARTS supernet as a fixed model, for FedAvg and Ditto.
"""

from __future__ import annotations

from corolla.spaces.architecture import Architecture
from corolla.spaces.darts import DartsSpace
from corolla.spaces.darts_cells import checked_alive
from corolla.spaces.darts_genotype import KINDS, Alive, Genotype

ABSENT = "absent"


class MixedDartsSpace(DartsSpace):
    """A subset of the operations per edge; 28 dimensions at 4 nodes, ``normal.0-2`` to ``reduce.4-5``.

    Candidate i of a dimension holds operation j when bit j of i is set: 0 is an absent edge, the last
    one all operations. Settings and errors are those of `DartsSpace`.
    """

    @staticmethod
    def _candidates(operations: tuple[str, ...]) -> tuple[str, ...]:
        subsets = (_subset(operations, index) for index in range(2 ** len(operations)))
        return tuple("+".join(subset) or ABSENT for subset in subsets)

    def _operations(self, index: int) -> tuple[str, ...]:
        return _subset(self.plan.operations, index)

    def of_alive(self, alive: Alive) -> Architecture:
        """Return the architecture of any choices; the inverse of `alive`."""
        bits = {operation: 1 << bit for bit, operation in enumerate(self.plan.operations)}
        checked = checked_alive(self.plan, alive)
        return Architecture(
            tuple(
                sum(bits[o] for o in operations) for kind in KINDS for operations in checked[kind]
            )
        )

    def from_genotype(self, genotype: Genotype) -> Architecture:
        """Return the architecture of a genotype. RefusedError for operations of another space."""
        return self.of_alive(genotype.alive())


def _subset(operations: tuple[str, ...], index: int) -> tuple[str, ...]:
    return tuple(operation for bit, operation in enumerate(operations) if index >> bit & 1)
