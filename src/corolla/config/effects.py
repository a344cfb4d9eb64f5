"""Keys that change nothing in the run that they are given to: named, so that nobody believes they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from corolla.config.compose import choices


@dataclass(frozen=True)
class _Reads:
    """``keys`` are read only where ``at`` is one of ``values``."""

    keys: tuple[str, ...]
    at: str
    values: tuple[Any, ...]
    method: str | None = None  # of this method alone


_READ = (
    _Reads(("trainer.momentum", "trainer.nesterov"), "trainer.optimizer", ("sgd",)),
    _Reads(("trainer.betas",), "trainer.optimizer", ("adamw",)),
    _Reads(("trainer.lr_min",), "trainer.lr_schedule", ("cosine",)),
    _Reads(("partition.images_per_client",), "partition.balanced", (True,)),
    _Reads(("partition.max_draws",), "partition.balanced", (False,)),
    _Reads(("method.policy.betas", "method.policy.eps"), "method.policy.optimizer", ("adam",)),
    _Reads(("method.reward.misfit_step",), "method.policy.misfits", ("step",)),
    _Reads(("method.policy.misfit_step",), "method.policy.misfits", ("step",)),
    _Reads(
        ("method.patience_epochs", "method.max_epochs"), "method.budget", ("converged",), "local"
    ),
    _Reads(("method.delta",), "method.variant", ("hf",), "per_fedavg"),
    _Reads(("method.rates",), "method.assignment", ("fixed", "dynamic")),
    _Reads(("method.distillation",), "method.fusion", ("distil",), "fedkemf"),
    _Reads(("method.p",), "method.schedule", ("coin",), "l2gd"),
    _Reads(("method.temperature", "method.self_loop"), "method.graph", ("similarity",), "sfl"),
    _Reads(("method.blend",), "method.graph", ("sfl_code",), "sfl"),
    _Reads(("method.candidates",), "method.architectures", ("fitting", "same")),
    _Reads(("method.personal_search.predictor",), "method.personal_search.by", ("predictor",)),
)


def without_effect(overrides: Sequence[str]) -> list[str]:
    """Return a sentence for each given key that this run does not read, and for what it changes unasked.

    Args:
        overrides: as given; they are composed, so they must be right.

    """
    raw, chosen = choices(overrides)
    method = str(chosen.get("method"))
    given = {text.partition("=")[0].lstrip("+"): text for text in overrides}
    said = []

    def add(key: str, why: str) -> None:
        said.append(f"{given[key]} has no effect: {why}.")

    for rule in _READ:
        value = OmegaConf.select(raw, rule.at)
        for key in given:
            if value in rule.values or value is None or rule.method not in (None, method):
                continue
            if any(key == one or key.startswith(f"{one}.") for one in rule.keys):
                wanted = " or ".join(f"{rule.at}={one}" for one in rule.values)
                add(key, f"it is read with {wanted}, and that is {value}")
    epochs = OmegaConf.select(raw, "evaluation.fine_tune_epochs")
    if epochs == 0 and "evaluation.fine_tune_lr" in given:
        add("evaluation.fine_tune_lr", "evaluation.fine_tune_epochs is 0")
    fixed = OmegaConf.select(raw, "method.architecture")
    for key in ("cap", "memory_budget_mib"):
        if (
            key in given
            and fixed is not None
            and fixed != "fitting"
            and not given[key].endswith(("=null", "=none"))
        ):
            said.append(
                f"{given[key]} changes no training: method={method} gives everybody the same architecture; "
                "who is beyond their limits is counted."
            )
    return said + _of_the_server(raw, chosen, given)


def _of_the_server(raw: Any, chosen: dict[str, str], given: dict[str, str]) -> list[str]:
    kind = chosen.get("server_set", "none")
    if kind == "none":
        return []
    suggests = raw.method.get("suggests") or {}
    reads = any(str(text).startswith("server_set=") for some in suggests.values() for text in some)
    reads = reads or "distil" in OmegaConf.to_yaml(raw.method).lower()  # a rule or stage that does
    said = []
    if not reads:
        said.append(
            f"server_set={kind} has no effect on training: method={chosen['method']} does not read it."
        )
    if kind == "held_out":
        said.append(
            f"server_set=held_out takes {raw.server_set.images} images from the pool before it is divided: "
            "clients have others than without it."
        )
    return said
