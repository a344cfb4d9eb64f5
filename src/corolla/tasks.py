"""What a server asks of a client and what comes back: plain scalars, so any transport can carry them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from corolla.spaces.architecture import Architecture
from corolla.types import Arrays, ClientId

_EXTRA = "extra."
AS_IS = "as_is"
"""Key in the ``extra`` of an evaluation: the model that came is scored with nothing of the client's own."""
STATISTICS = "statistics"
"""Key in the ``extra`` of a task: nothing is trained; BatchNorm's statistics of the model that came, on the
client's training images, are returned alone."""
OUT_OF_MEMORY = "out_of_memory"
DIVERGED = "diverged"
FAILURE_KINDS = (OUT_OF_MEMORY, DIVERGED)  # what a client may say of the architecture it was sent


class TaskError(ValueError):
    """A task or reply lacks something that it must hold, or holds something else."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One exchange with one client. ``arrays`` travel beside it, under their names."""

    client: ClientId
    round: int
    architecture: Architecture
    epochs: int = 0  # training epochs; of an evaluation: fine-tuning epochs
    lr: float = 0.0  # step of this round's schedule
    return_arrays: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)  # a method's own scalars and lists
    withheld: Architecture | None = None  # whose private arrays the client adds; None: all are here

    @property
    def is_deployment(self) -> bool:
        """Whether the client is to make the model that it runs, and not to train for the round."""
        return "deploy" in self.extra

    @property
    def keeps_model(self) -> bool:
        """Whether a deployed model is written to the client's own disk, where there is a place for it."""
        return bool(self.extra["keep"])

    def to_config(self) -> dict[str, Any]:
        """Return what a Flower ConfigRecord carries."""
        return {
            "client": self.client,
            "round": self.round,
            "architecture": self.architecture.to_list(),
            "epochs": self.epochs,
            "lr": self.lr,
            "return_arrays": self.return_arrays,
            **({} if self.withheld is None else {"withheld": self.withheld.to_list()}),
            **{_EXTRA + key: value for key, value in self.extra.items()},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Task:
        """Read a task back; TaskError names what is missing and what arrived instead."""
        needed = ("client", "round", "architecture", "epochs", "lr", "return_arrays")
        missing = [key for key in needed if key not in config]
        if missing:
            raise TaskError(
                f"task lacks {missing}; got {sorted(config)}. "
                "Do server and client run the same release of Corolla?"
            )
        return cls(
            client=str(config["client"]),
            round=int(config["round"]),
            architecture=Architecture.of(config["architecture"]),
            epochs=int(config["epochs"]),
            lr=float(config["lr"]),
            return_arrays=bool(config["return_arrays"]),
            withheld=Architecture.of(config["withheld"]) if "withheld" in config else None,
            extra={
                key.removeprefix(_EXTRA): value
                for key, value in config.items()
                if key.startswith(_EXTRA)
            },
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client makes of a task: what leaves it, before any transport.

    ``metrics`` are plain numbers; texts, lists and booleans among them travel as notes.
    """

    num_examples: int  # training images of the client
    arrays: Arrays = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def saying(self, metrics: Mapping[str, Any]) -> Answer:
        """Return this answer with further ``metrics``."""
        return replace(self, metrics={**self.metrics, **metrics})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A client's valid answer to ``task``, as the server read it."""

    task: Task
    arrays: Arrays
    num_examples: int
    metrics: Mapping[str, float]
    round_s: float  # time at the client and on the (simulated) link
    bytes_down: int
    bytes_up: int
    notes: Mapping[str, Any] = field(default_factory=dict)  # what a client says besides numbers
    own_architecture: Architecture | None = None  # that the client searched, where it tells

    @property
    def client(self) -> ClientId:
        """The client that answered."""
        return self.task.client

    @property
    def architecture(self) -> Architecture:
        """The client's own, where it tells one; else the task's."""
        return self.own_architecture or self.task.architecture


@dataclass(frozen=True)
class Failure:
    """A client that was asked and gave no valid answer, with the reason.

    ``kind``: one of `FAILURE_KINDS` where the client itself says that it could not train what it was sent.
    """

    client: ClientId
    reason: str
    kind: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return the record of metrics.jsonl."""
        record = {"client": self.client, "reason": self.reason}
        return record if self.kind is None else {**record, "kind": self.kind}
