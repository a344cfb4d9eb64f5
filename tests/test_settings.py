"""Every settings class of the project: each field refuses what its annotation does not allow, by name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

import pytest
from pydantic import Field

import clients
import corolla
import strategies
from corolla.errors import Fault, RefusedError
from corolla.kinds import MOST, literals
from corolla.settings import (
    Betas,
    Count,
    Decay,
    NonNegative,
    Share,
    field_names,
    is_settings,
    settings,
    settings_class,
    settings_of,
)


def _classes() -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for package in (corolla, strategies, clients):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "report" in module.name or module.name.endswith((".server_app", ".client_app")):
                continue
            for name, kind in vars(importlib.import_module(module.name)).items():
                known = is_settings(kind) and kind.__module__ == module.name
                if known and not inspect.isabstract(kind):
                    found[f"{module.name}.{name}"] = kind
    return found


CLASSES = _classes()
WORDS: list[Any] = ["no such word", {}, [], True, None, float("nan"), float("inf"), 1.5, 2**64]


def _refused(kind: type[Any], name: str, value: Any) -> Fault | None:
    """Return the fault of this field; other fields are missing, which is said beside it."""
    try:
        kind(**{name: value})
    except RefusedError as error:
        return next((f for f in error.faults if f.key.split(".")[0] == name), None)
    return None


def _fields() -> Iterator[tuple[str, str]]:
    for key, kind in CLASSES.items():
        for name in field_names(kind):
            yield key, name


def _bounds(hint: Any) -> Iterator[tuple[str, float]]:
    for one in (hint, *get_args(hint)):
        for metadata in getattr(one, "__metadata__", ()):
            for limit in getattr(metadata, "metadata", [metadata]):
                for side in ("gt", "ge", "lt", "le"):
                    if getattr(limit, side, None) is not None:
                        yield side, getattr(limit, side)


@pytest.mark.parametrize(("key", "name"), list(_fields()))
def test_a_field_refuses_what_it_does_not_allow(key: str, name: str) -> None:
    kind = CLASSES[key]
    hint = get_type_hints(kind, include_extras=True)[name]
    for side, bound in _bounds(hint):
        outside = {"gt": bound, "ge": bound - 1, "lt": bound, "le": bound + 1}[side]
        fault = _refused(kind, name, type(bound)(outside))
        assert fault is not None, (key, name, outside)
        assert fault.problem in ("is out of range", "does not fit into 64 bits")
    if literals(hint):
        fault = _refused(kind, name, "no such word")
        assert fault is not None
        assert "Known: " in fault.remedy or "Did you mean" in fault.remedy
    for value in (float("nan"), 2**64):
        assert _refused(kind, name, value) is not None or hint is Any, (key, name, value)


def test_there_are_settings_to_look_at() -> None:
    assert {
        "strategies.fedavg.FedAvgSettings",
        "corolla.search.policy.PolicySettings",
    } < CLASSES.keys()


@settings
class Forest:
    trees: Count
    depth: Count | None = None

    def __post_init__(self) -> None:
        if self.trees == 7:
            raise RefusedError(Fault("trees", 7, "is seven", "Take another"))


@settings
class Parent:
    weights: NonNegative
    momentum: Decay = 0.0


Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


@settings
class Child(Parent):
    share: Share
    label: ClassVar[str] = "a child"
    betas: Betas = (0.5, 0.9)
    forest: Forest
    shares: Shares = dataclasses.field(default_factory=lambda: [0.5])
    several: list[list[int]] = dataclasses.field(default_factory=list)
    narrow: Annotated[Count, Field(ge=3)] = 3
    choice: bool | Literal["auto"] | None = None


GOOD: dict[str, Any] = {"weights": 1, "share": 0.5, "forest": {"trees": 3}}


def test_values_come_from_yaml_and_children_inherit() -> None:
    made = settings_of(Child, {**GOOD, "betas": [0, 0.25]}, "method")
    assert made == Child(weights=1.0, share=0.5, betas=(0.0, 0.25), forest=Forest(trees=3))
    assert field_names(Child)[:5] == ["weights", "momentum", "share", "betas", "forest"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.share = 1.0  # type: ignore[misc]
    with pytest.raises(RefusedError, match=r"share=2: is out of range"):
        dataclasses.replace(made, share=2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": True}, "m.weights=True: is not a number. Use a number, 0 or more"),
        ({"momentum": 1.0}, "m.momentum=1.0: is out of range. Use a number, 0 or more, below 1"),
        (
            {"betas": [0.5]},
            "m.betas=[0.5]: is not [a number, a number]. Use [a number (0 or more, below 1), a number (0",
        ),
        (
            {"shares": [2]},
            "m.shares=[2]: is out of range. Use a list of numbers (above 0, 1 or less), 1 or more of",
        ),
        ({"shares": ["a"]}, "m.shares=['a']: is not a list of numbers. Use"),
        ({"several": [[True]]}, "m.several=[[True]]: is not a list of lists of whole numbers."),
        ({"narrow": 1}, "m.narrow=1: is out of range. Use a whole number, 3 or more"),
        ({"narrow": MOST + 1}, "Use a whole number, 3 or more, 1,000,000,000 or less"),
        (
            {"choice": "ture"},
            "m.choice='ture': is not known. Did you mean 'true'? Known: auto, fals",
        ),
        ({"choice": "nul"}, "Did you mean 'null'? Known: auto, false, null, true"),
        ({"label": 3}, "m.label=3: is not a setting here. Known: betas, choice, forest"),
        (
            {"forest": {"trees": 0}},
            "m.forest.trees=0: is out of range. Use a whole number, 1 or more",
        ),
        ({"forest": {"trees": 7}}, "m.forest.trees=7: is seven. Take another"),
        ({"forest": {"tree": 3}}, "m.forest.tree=3: is not a setting here. Did you mean 'trees'?"),
        ({"forest": None}, "m.forest=None: is not a group of settings"),
        (
            {"mu": 3},
            "m.mu=3: is not a setting here. Known: betas, choice, forest, momentum, narrow, several,",
        ),
    ],
)
def test_what_is_said(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        settings_of(Child, {**GOOD, **changed}, "m")
    assert said in str(refused.value)


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(RefusedError) as refused:
        Child(weights=-1, share="x", forest={"trees": 0, "depth": 0})  # type: ignore[arg-type]
    keys = [fault.key for fault in refused.value.faults]
    assert sorted(keys) == ["forest.depth", "forest.trees", "share", "weights"]
    with pytest.raises(
        RefusedError, match=r"share=None: is missing. Set it to a number, 0 or more"
    ):
        settings_of(Child, {"weights": 1, "forest": {"trees": 1}})


def test_what_is_for_others_is_left_to_them() -> None:
    assert settings_of(Forest, {"trees": 1, "mu": 2}, others=True) == Forest(trees=1)


def test_a_class_says_by_an_annotation_which_settings_it_takes() -> None:
    class Server:
        settings: Parent

    class Other(Server):
        settings: Child

    class Last(Other):
        pass

    Server.__annotations__["settings"], Other.__annotations__["settings"] = Parent, Child
    assert (settings_class(Server), settings_class(Last), settings_class(int)) == (
        Parent,
        Child,
        None,
    )
    Last.__annotations__ = {"settings": dict[str, Any]}
    assert settings_class(Last) is None
    Last.__annotations__ = {"settings": Fault}
    with pytest.raises(TypeError, match=r"settings: Fault.*@settings .* above class Fault"):
        settings_class(Last)
