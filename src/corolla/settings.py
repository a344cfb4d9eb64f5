"""Settings are values: frozen dataclasses whose fields say type and bounds, checked whenever one is made.

    @settings
    class Prox:
        mu: NonNegative  # weight of the proximal term

`Prox(mu=-1)` raises a `RefusedError` that names every field that is wrong. What depends on several fields is
checked in ``__post_init__``, which runs when each of them is right; it raises `RefusedError`, too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from types import NoneType
from typing import (
    Annotated,
    Any,
    TypeVar,
    Unpack,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from corolla.errors import Fault, RefusedError, below, nearest
from corolla.kinds import MOST, kind_problem, literals, members, phrase

T = TypeVar("T")

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]
"""A count that may be 0."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Below 2^63, so that it travels in a message."""
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Of momenta and running means."""
Betas = Annotated[
    tuple[Decay, Decay], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
]
"""Adam's two decays."""

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, Field)
)
def settings(kind: type[T]) -> type[T]:
    """Make ``kind`` a frozen dataclass that checks its fields; to construct one may raise `RefusedError`."""
    made: Any = pydantic_dataclass(kind, frozen=True, kw_only=True, config=_CONFIG)
    plain = made.__init__

    @functools.wraps(plain)
    def init(self: Any, **values: Any) -> None:
        made, wrong = _of_their_kinds(type(self), values)
        try:
            plain(self, **made)
        except ValidationError as error:
            known = {fault.key.split(".")[0] for fault in wrong}
            wrong += [one for one in _faults(type(self), error, made) if one.key not in known]
        if wrong:
            raise RefusedError(wrong)

    made.__init__ = init
    return cast("type[T]", made)


def is_settings(kind: Any) -> bool:
    """Tell whether ``kind`` was made by `settings`."""
    return dataclasses.is_dataclass(kind) and hasattr(kind, "__pydantic_validator__")


def settings_of(
    kind: type[T], values: Mapping[str, Any], key: str = "", *, others: bool = False
) -> T:
    """Return ``kind`` filled from YAML's ``values``, which stand at ``key``.

    Args:
        kind: a class made by `settings`.
        values: by field.
        key: comes before the names of what is refused.
        others: leave out what is not a field of ``kind``: another class reads it.

    Raises:
        RefusedError: unknown, missing, mistaken values, all of them.

    """
    known = field_names(kind)
    given = {str(name): value for name, value in values.items() if name in known or not others}
    with below(key):
        return kind(**given)


def parameters_of(kind: Any) -> dict[str, inspect.Parameter]:
    """Return what the constructor of ``kind`` takes by name; of ``**more: Unpack[...]`` its keys."""
    hints = get_type_hints(kind.__init__, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        hint = hints.get(name, Any)
        if get_origin(hint) is Unpack:
            keys = get_type_hints(get_args(hint)[0], include_extras=True)
            only = parameter.KEYWORD_ONLY
            found |= {key: inspect.Parameter(key, only, annotation=keys[key]) for key in keys}
        elif parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            found[name] = parameter.replace(annotation=hint)
    return found


@functools.cache
def signature_settings(kind: Any, known: frozenset[str]) -> type[Any]:
    """Return the settings that the constructor of ``kind`` takes one by one, without those ``known``."""
    fields: dict[str, Any] = {"__module__": kind.__module__, "__annotations__": {}}
    for name, parameter in parameters_of(kind).items():
        if name in known:
            continue
        fields["__annotations__"][name] = parameter.annotation
        if parameter.default is not parameter.empty:
            fields[name] = parameter.default
    return settings(type(kind.__name__, (), fields))


def settings_class(kind: type[Any]) -> Any:
    """Return the settings class that ``kind`` names by its annotation ``settings``; None without one.

    Raises:
        TypeError: what it names was not made by `settings`.

    """
    for one in kind.__mro__:
        if "settings" in inspect.get_annotations(one):
            annotated = get_type_hints(one)["settings"]
            if is_settings(annotated):
                return annotated
            if annotated is Any or getattr(annotated, "__module__", None) == "builtins":
                return None  # none, or a dict or text that has nothing to do with YAML
            name = getattr(annotated, "__qualname__", annotated)
            raise TypeError(
                f"its annotation `settings: {name}` names no settings class: "
                f"write @settings (corolla.settings) above class {name}"
            )
    return None


def field_names(kind: type[Any] | None) -> list[str]:
    """Return the names of the fields of a settings class; none without one."""
    return [] if kind is None else [field.name for field in dataclasses.fields(kind)]


def _of_their_kinds(kind: type[Any], values: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Return the values that are of their fields' kinds, and what is wrong with the others.

    Groups of settings within settings come from YAML as mappings: they are made here.
    """
    made, wrong = dict(values), []
    for name, hint in _hints(cast(Any, kind)).items():
        if name not in values:
            continue
        value = values[name]
        group = next((one for one in members(hint) if dataclasses.is_dataclass(one)), None)
        if group is not None and isinstance(value, Mapping):
            try:
                made[name] = settings_of(cast("type[Any]", group), value, name)
            except RefusedError as error:
                wrong += error.faults
                del made[name]
        elif (problem := kind_problem(hint, value)) is not None:
            wrong.append(_mistaken(name, value, hint, problem))
            del made[name]
    return made, wrong


def _mistaken(name: str, value: Any, hint: Any, problem: str) -> Fault:
    names = [one for one in literals(hint) if isinstance(one, str)]
    if names and isinstance(value, str):
        words = {bool: ["true", "false"], NoneType: ["null"]}
        names += [word for one in members(hint) for word in words.get(one, [])]
        return Fault(name, value, "is not known", nearest(value, names))
    return Fault(name, value, problem, f"Use {phrase(hint, value=value)}")


def _faults(kind: type[Any], error: ValidationError, values: Mapping[str, Any]) -> list[Fault]:
    """Return what pydantic found, in our words; one fault for each field."""
    faults: dict[str, Fault] = {}
    for item in error.errors():
        said = item.get("ctx", {}).get("error")
        if isinstance(said, RefusedError):  # by a __post_init__
            return said.faults
        name = str(item["loc"][0])
        faults.setdefault(name, _fault(kind, name, str(item["type"]), said, values))
    return list(faults.values())


def _fault(kind: type[Any], name: str, sort: str, said: object, values: Mapping[str, Any]) -> Fault:
    value, hints = values.get(name), _hints(cast(Any, kind))
    if sort == "unexpected_keyword_argument":
        return Fault(name, value, "is not a setting here", nearest(name, list(hints)))
    hint = hints[name]
    if sort.startswith("missing"):
        remedy = f"Set it to {phrase(hint)}; the file in conf/ documents it"
        return Fault(name, None, "is missing", remedy)
    return _mistaken(name, value, hint, str(said) if said else "is out of range")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the annotation of each field; a ClassVar is no setting."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in field_names(kind)}
