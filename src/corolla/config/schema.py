"""What a composed configuration must look like; pydantic reports every fault of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from corolla.errors import Fault, RefusedError, nearest
from corolla.kinds import MOST, kind_problem, phrase
from corolla.types import MODEL_PARTS, ClientId

Prior = Literal["auto", "client", "none"]
ENGINES = ("inline", "ray", "superlink", "flower")
MOVED = {"damping": "method.damping", "lambda_time": "method.reward.lambda_time"}
"""Keys of the run in older releases, and where they are now."""
_MOST_CLIENTS = 10**6
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"  # it becomes a part of folders' names


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would turn into what was asked for: "5", true or 5.0 for 5."""
        problem = kind_problem(cls.model_fields[str(info.field_name)].annotation, value)
        if problem is not None:
            raise ValueError(problem)
        return value


class _WithSettings(_Strict):
    """A part whose other keys are settings; the classes that it names check them."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that are not this class' own."""
        return dict(self.model_extra or {})


class StageConfig(_WithSettings):
    """Another stage of a method: its Strategy; keys beside it are settings on top of the method's."""

    strategy: str


class MethodConfig(_WithSettings):
    """A method: the classes of its Strategy and its client; what stands beside them is their settings."""

    name: str = Field(pattern=_NAME)
    strategy: str
    client: str
    new_clients: StageConfig | None = None  # stage=new_clients, where there is one
    # What the run's `private` is where nobody gives it: conf/config.yaml reads it, and nothing else.
    private: list[str] | None = Field(default=None, exclude=True)
    # What a run takes that nobody gave (compose.suggested); nothing else reads it.
    suggests: dict[Literal["digits", "others", "all"], list[str]] | None = Field(
        default=None, exclude=True
    )


class SpaceConfig(_Strict):
    """A search space: its supernet as a ``_target_`` node, loop settings per device."""

    name: str = Field(pattern=_NAME)
    supernet: dict[str, Any]
    loop: dict[str, dict[str, Any]]


class EvaluationConfig(_Strict):
    """How and how often all clients are evaluated."""

    every: int = Field(ge=0)
    received: bool | Literal["auto"]
    fine_tune_epochs: int = Field(ge=0, le=MOST)
    fine_tune_lr: float | None = Field(gt=0)
    statistics: Literal["aggregate", "recalibrate"]
    prior: Prior = "auto"
    deploy: Literal["as_trained", "fine_tuned"] = "as_trained"
    return_models: bool | Literal["auto"]
    latency: bool
    final: Literal["all", "sample", "none"] = "all"
    final_clients: int = Field(ge=1, le=_MOST_CLIENTS, default=100)


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
    server_set: dict[str, Any] = Field(default_factory=dict)
    cap: dict[str, Any] = Field(default_factory=dict)
    robust: dict[str, Any] = Field(default_factory=dict)
    tracker: dict[str, Any] = Field(default_factory=dict)
    rounds: int = Field(ge=1, le=MOST)
    clients: int = Field(ge=1, le=_MOST_CLIENTS)
    clients_per_round: int | float
    local_epochs: int = Field(ge=1, le=MOST)
    batch_size: int = Field(ge=1, le=MOST)
    seed: int = Field(ge=0, lt=2**63)  # so that it travels in a message
    stage: Literal["train", "new_clients"] = "train"
    from_run: str | None = Field(alias="from", default=None)
    new_clients: int = Field(ge=0, le=_MOST_CLIENTS, default=0)
    run_dir: str | None
    device: Literal["auto", "cpu", "cuda"]
    round_timeout_s: float = Field(ge=0.1, le=10**8)  # three years; a message takes 0.01 s
    evaluation: EvaluationConfig
    private: list[str] = Field(default_factory=list)
    memory_budget_mib: tuple[float, float] | Literal["space"] | None
    link_mbit_s: float | None = Field(ge=1e-3, le=1e6)
    max_examples: int | None = Field(ge=1, le=MOST, default=None)
    train_on_validation: bool = False
    report: bool
    tensorboard: bool
    prometheus: str | None = None
    images: ImageConfig | None = None

    @field_validator("clients_per_round", mode="before")
    @classmethod
    def _count_or_fraction(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a count (5) or a fraction (0.5)")
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError(
                "a fraction must lie in (0, 1]; a count is written without a decimal point"
            )
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1")
        return value

    @property
    def on_nodes(self) -> bool:
        """Whether clients are real nodes with their own data, not a partition in simulation."""
        return bool(self.engine.get("kind") == "superlink")

    @property
    def population(self) -> list[ClientId]:
        """Simulated clients that take part in this stage."""
        if self.stage == "new_clients":
            return [str(self.clients + i) for i in range(self.new_clients)]
        return [str(i) for i in range(self.clients)]

    @property
    def participants(self) -> int:
        """Clients asked per round."""
        if isinstance(self.clients_per_round, int):
            return self.clients_per_round
        count = self.clients if self.on_nodes else len(self.population)
        return max(1, round(self.clients_per_round * count))

    def to_yaml(self) -> str:
        """Return the text that `parse_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False)


def parse_config(values: dict[str, Any]) -> tuple[RunConfig | None, list[Fault]]:
    """Return the checked configuration, or None and every fault found in it."""
    method = values.get("method")
    if isinstance(method, dict) and isinstance(method.get("strategy"), dict):
        problem = "comes from a run made before settings stood directly below method"
        remedy = "Use the code that made it (environment.json names its commit), or start a new run"
        return None, [Fault("config.yaml", method.get("name"), problem, remedy)]
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        return None, [_fault(item, values) for item in error.errors()]
    return config, _across_keys(config)


def require_config(values: dict[str, Any]) -> RunConfig:
    """Return the configuration of a run that was checked before; RefusedError where it is none."""
    config, faults = parse_config(values)
    if config is None:
        raise RefusedError(faults)
    return config


def _across_keys(config: RunConfig) -> list[Fault]:
    faults = _stage_faults(config)
    kind = config.engine.get("kind")
    if kind not in ENGINES:
        faults.append(Fault("engine.kind", kind, "is not known", nearest(str(kind), ENGINES)))
    count = "clients" if config.on_nodes or config.stage == "train" else "new_clients"
    if config.participants > getattr(config, count) and not faults:
        problem = f"asks more clients a round than there are ({count}={getattr(config, count)})"
        remedy = f"Lower clients_per_round or raise {count}"
        faults.append(Fault("clients_per_round", config.clients_per_round, problem, remedy))
    # A module of the network has a dot in its name: the space knows whether it is there.
    wrong = [part for part in config.private if part not in MODEL_PARTS and "." not in part]
    if wrong:
        remedy = f"{nearest(wrong[0], MODEL_PARTS)}; or a module of the network, as stages.2"
        faults.append(
            Fault("private", config.private, f"{wrong[0]!r} is not a part of a model", remedy)
        )
    if twice := [part for part in config.private if config.private.count(part) > 1]:
        problem = f"names {twice[0]} twice"
        faults.append(Fault("private", config.private, problem, "Name each part once"))
    evaluation = config.evaluation
    if evaluation.deploy == "fine_tuned" and evaluation.fine_tune_epochs == 0:
        problem = "there is no fine-tuning: evaluation.fine_tune_epochs=0"
        remedy = "Raise evaluation.fine_tune_epochs, or use evaluation.deploy=as_trained"
        faults.append(Fault("evaluation.deploy", evaluation.deploy, problem, remedy))
    if evaluation.final == "none" and evaluation.deploy == "fine_tuned":
        problem = "leaves out the fine-tuning that evaluation.deploy=fine_tuned asks for"
        remedy = "Use evaluation.final=all or sample, or evaluation.deploy=as_trained"
        faults.append(Fault("evaluation.final", "none", problem, remedy))
    if evaluation.final == "none" and config.stage == "new_clients":
        problem = "leaves out the models that stage=new_clients is for"
        faults.append(Fault("evaluation.final", "none", problem, "Use evaluation.final=all"))
    budget = config.memory_budget_mib
    if isinstance(budget, tuple) and not 0 < budget[0] <= budget[1]:
        problem = "is not a range of MiB above 0, the lower number first"
        remedy = "Write [low, high], 'space' or null"
        faults.append(Fault("memory_budget_mib", list(budget), problem, remedy))
    return faults


def _stage_faults(config: RunConfig) -> list[Fault]:
    if config.stage == "train":
        if config.from_run is None:
            return []
        remedy = "Add stage=new_clients, or leave it out"
        return [Fault("from", config.from_run, "has no effect with stage=train", remedy)]
    faults = []
    if config.from_run is None:
        remedy = "Give the folder of a finished run: from=RUN_DIR"
        problem = "stage=new_clients starts from a finished run, and none is given"
        faults.append(Fault("from", None, problem, remedy))
    if config.method.new_clients is None:
        problem = f"method={config.method.name} has no stage for new clients"
        remedy = "Take a method whose file in conf/method has new_clients"
        faults.append(Fault("stage", config.stage, problem, remedy))
    if not config.on_nodes and config.new_clients < 1:
        remedy = "Set it to the number that the run in `from` kept out"
        faults.append(Fault("new_clients", 0, "the stage has no clients", remedy))
    return faults


def _fault(item: Any, values: dict[str, Any]) -> Fault:
    path = [str(part) for part in item["loc"] if not str(part).startswith(("literal[", "tuple["))]
    path = [part for part in path if part not in ("int", "float", "bool")]
    key = ".".join(path)
    problem = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden" and key in MOVED:
        remedy = (
            f"Set it there; in an experiment that other methods take too: method_defaults.{key}"
        )
        return Fault(key, item["input"], f"is now {MOVED[key]}", remedy)
    if item["type"] == "extra_forbidden":
        model = EvaluationConfig if path[0] == "evaluation" else RunConfig
        fields = model.model_fields.items()
        known = [field.alias or name for name, field in fields if name != "images"]  # never given
        return Fault(key, item["input"], "unknown key", nearest(path[-1], known))
    if item["type"] == "missing":
        return Fault(key, None, "missing", "Set it; conf/config.yaml documents every key")
    if item["type"] == "string_pattern_mismatch":
        problem, remedy = (
            "cannot be a name: it becomes part of a folder's name",
            "Use letters, digits and . _ + -, a letter or digit first",
        )
        return Fault(key, item["input"], problem, remedy)
    if item["type"] == "model_type":
        return Fault(key, item["input"], "is a group of settings", f"Set its keys: {key}.KEY=VALUE")
    remedy = _remedy(path, str(item["type"]), problem, item["input"])
    if item["type"] in _BOUNDS:
        problem = "is out of range"
    return Fault(key, item["input"], problem[:1].lower() + problem[1:], remedy)


_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def _remedy(path: Sequence[str], kind: str, problem: str, value: Any) -> str:
    """Return what the key at ``path`` takes, where its annotation says."""
    model, name = (EvaluationConfig, path[1:]) if path[0] == "evaluation" else (RunConfig, path)
    fields = {one.alias or key: one for key, one in model.model_fields.items()}
    field = fields.get(name[0]) if len(name) == 1 else None
    if path[0] == "clients_per_round":
        return "Write a count, as in 5, or a fraction, as in 0.5"
    if field is None or not (kind in _BOUNDS or problem.startswith(("is not ", "does not fit"))):
        return "Correct it"
    if " or " in problem and kind not in _BOUNDS:  # it names them
        return "Use one of them"
    hint = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return f"Use {phrase(hint, value=value)}"
