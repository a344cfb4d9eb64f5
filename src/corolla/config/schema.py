"""What a composed configuration must look like; pydantic reports every fault of it at once."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from corolla.errors import Fault, nearest


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=True)


class MethodConfig(_Strict):
    """A method: its Strategy and its NumPyClient as ``_target_`` nodes."""

    name: str
    strategy: dict[str, Any]
    client: dict[str, Any]


class SpaceConfig(_Strict):
    """A search space: its supernet as a ``_target_`` node, loop settings per device."""

    name: str
    supernet: dict[str, Any]
    loop: dict[str, dict[str, Any]]


class EvaluationConfig(_Strict):
    """How and how often all clients are evaluated."""

    every: int = Field(ge=0)
    received: bool
    fine_tune_epochs: int = Field(ge=0)
    fine_tune_lr: float | None = Field(gt=0)
    statistics: Literal["aggregate", "recalibrate"]
    return_models: bool | Literal["auto"]
    latency: bool


class ImageConfig(_Strict):
    """What the images are; filled in before a run starts, so the server needs no data."""

    name: str  # of the data set
    classes: list[str] = Field(min_length=2)
    channels: int = Field(ge=1)


class RunConfig(_Strict):
    """A whole run. Field names are the keys of conf/config.yaml, which documents them."""

    method: MethodConfig
    space: SpaceConfig
    dataset: dict[str, Any]
    partition: dict[str, Any]
    trainer: dict[str, Any]
    engine: dict[str, Any]
    rounds: int = Field(ge=1)
    clients: int = Field(ge=1)
    clients_per_round: int | float
    local_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0)
    run_dir: str | None
    device: Literal["auto", "cpu", "cuda"]
    round_timeout_s: float = Field(gt=0)
    evaluation: EvaluationConfig
    memory_budget_mib: tuple[float, float] | Literal["space"] | None
    link_mbit_s: float | None = Field(gt=0)
    report: bool
    tensorboard: bool
    images: ImageConfig | None = None

    @field_validator("clients_per_round", mode="before")
    @classmethod
    def _count_or_fraction(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a count (5) or a fraction (0.5)")
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError("a fraction must lie in (0, 1]; a count is written without a point")
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1")
        return value

    @property
    def on_nodes(self) -> bool:
        """Whether clients are real nodes with their own data, not a partition in simulation."""
        return bool(self.engine.get("kind") == "superlink")

    @property
    def participants(self) -> int:
        """Clients asked per round."""
        if isinstance(self.clients_per_round, int):
            return self.clients_per_round
        return max(1, round(self.clients_per_round * self.clients))


def parse_config(values: dict[str, Any]) -> tuple[RunConfig | None, list[Fault]]:
    """Return the checked configuration, or None and every fault found in it."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        return None, [_fault(item, values) for item in error.errors()]
    return config, _across_keys(config)


def _across_keys(config: RunConfig) -> list[Fault]:
    faults = []
    if config.participants > config.clients:
        faults.append(
            Fault(
                "clients_per_round",
                config.clients_per_round,
                f"more participants than clients={config.clients}",
                "Lower clients_per_round or raise clients",
            )
        )
    budget = config.memory_budget_mib
    if isinstance(budget, tuple) and not 0 < budget[0] <= budget[1]:
        faults.append(
            Fault(
                "memory_budget_mib",
                list(budget),
                "not an ascending range of positive MiB",
                "Write [low, high], 'space' or null",
            )
        )
    return faults


def _fault(item: Any, values: dict[str, Any]) -> Fault:
    path = [str(part) for part in item["loc"] if not str(part).startswith(("literal[", "tuple["))]
    path = [part for part in path if part not in ("int", "float", "bool")]
    key = ".".join(path)
    problem = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        model = EvaluationConfig if path[0] == "evaluation" else RunConfig
        return Fault(key, item["input"], "unknown key", nearest(path[-1], list(model.model_fields)))
    if item["type"] == "missing":
        return Fault(key, None, "missing", "Set it; conf/config.yaml documents every key")
    return Fault(key, item["input"], problem[:1].lower() + problem[1:], "Correct it")
