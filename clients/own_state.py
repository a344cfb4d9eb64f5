"""All that a client with a local beside a global model remembers between rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clients.own_model import pack_model, pack_optimizer, unpack_model, unpack_optimizer
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.state import State
from corolla.training.results import OptimizerState
from corolla.types import Arrays


@dataclass(kw_only=True)
class OwnState:
    """The local model, its architecture, both optimisers, and how far the search has come.

    There is no generator state: every draw follows from seed, round or step, and client.
    """

    architecture: Architecture
    network: nn.Module
    optimizer: OptimizerState | None = None
    global_optimizer: OptimizerState | None = None
    participations: int = 0
    steps: int = 0  # of the search
    last_step: int | None = None  # by the search's clock
    decisions: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)  # the search's own tensors
    restarted: bool = False  # the saved state was damaged

    @classmethod
    def begin(cls, space: Supernet, architecture: Architecture, arrays: Arrays) -> OwnState:
        """Return a state whose local model has the weights of ``arrays``."""
        copies = {name: array.copy() for name, array in arrays.items()}
        return cls(architecture=architecture, network=space.load(architecture, copies))

    def to_state(self) -> State:
        """Return what goes to the disk."""
        own = pack_model(self.network, self.optimizer)
        other = pack_optimizer(self.global_optimizer, "global_optimizer/")
        memory = {
            f"memory/{name}": tensor.detach().cpu().numpy().copy()
            for name, tensor in self.memory.items()
        }
        meta = {
            **own.meta,
            "global_optimizer": other.meta,
            "architecture": self.architecture.to_list(),
            "participations": self.participations,
            "steps": self.steps,
            "last_step": self.last_step,
            "decisions": self.decisions,
            "restarted": self.restarted,
        }
        return State({**own.arrays, **other.arrays, **memory}, meta)

    @classmethod
    def from_state(cls, space: Supernet, state: State) -> OwnState:
        """Return what was saved. KeyError or ValueError where it is not such a state."""
        arrays, optimizer = unpack_model(state)
        architecture = Architecture.of(state.meta["architecture"])
        memory = state.part("memory/")
        return cls(
            architecture=architecture,
            network=space.load(architecture, arrays),
            optimizer=optimizer,
            global_optimizer=unpack_optimizer(
                state, "global_optimizer/", state.meta["global_optimizer"]
            ),
            participations=int(state.meta["participations"]),
            steps=int(state.meta["steps"]),
            last_step=state.meta["last_step"],
            decisions=list(state.meta["decisions"]),
            memory={name: torch.from_numpy(array) for name, array in memory.items()},
            restarted=bool(state.meta["restarted"]),
        )
