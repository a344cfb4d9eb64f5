"""What a ``_target_`` takes, by its annotations: a value of another kind is a fault that names its key."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from corolla.errors import Fault, nearest

_PLAIN: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
}
_TOO_LARGE = 2**63  # for numpy, torch and messages


def unknown_faults(kind: type[Any], given: Mapping[str, Any], key: str) -> list[Fault]:
    """Return a fault for each setting that ``kind`` does not have."""
    names = list(inspect.signature(kind).parameters)
    problem = f"{kind.__name__} has no such setting"
    return [
        Fault(f"{key}.{name}", value, problem, nearest(name, names))
        for name, value in given.items()
        if name not in names
    ]


def kind_faults(
    kind: type[Any], given: Mapping[str, Any], key: str, *, known: Collection[str] = ()
) -> list[Fault]:
    """Return a fault for each setting that is missing, and not ``known``, or not of its kind.

    Numbers are finite, and true and false are none. Kinds that no YAML can hold are not looked at.
    """
    hints = get_type_hints(kind.__init__)
    faults = []
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in known or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint, place = hints.get(name, Any), f"{key}.{name}"
        if name in given:
            problem = kind_problem(hint, given[name])
            if problem is not None:
                faults.append(Fault(place, given[name], problem, _remedy(hint, given[name])))
        elif parameter.default is parameter.empty:
            remedy = f"Set it to {_phrase(hint)}; the file in conf/ documents it"
            faults.append(Fault(place, None, "is missing", remedy))
    return faults


def kind_problem(hint: Any, value: Any) -> str | None:
    """Return what is wrong with a ``value`` that the annotation ``hint`` does not describe."""
    return None if _suits(hint, value) else f"is not {_phrase(hint)}"


def _suits(hint: Any, value: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_suits(one, value) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    kind = origin or hint
    if kind is float:
        return _suits(int, value) or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return type(value) is int and abs(value) < _TOO_LARGE
    if kind in (bool, str, NoneType):
        return type(value) is kind
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            return False
        return all(_suits(one, entry) for one, entry in zip(inner, value, strict=True))
    if kind in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        return not inner or all(_suits(inner[0], entry) for entry in value)
    if kind in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _phrase(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_phrase(one) for one in inner))
    if origin is Literal:
        return " or ".join(str(one) for one in inner)
    kind = origin or hint
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return f"[{', '.join(_phrase(one) for one in inner)}]"
    if kind in (list, tuple, Sequence):
        return "a list"
    return "a group of settings" if kind in (dict, Mapping) else _PLAIN.get(kind, "what it takes")


def _remedy(hint: Any, value: Any) -> str:
    known = [str(one) for one in get_args(hint)] if get_origin(hint) is Literal else []
    return nearest(str(value), known) if known else f"Use {_phrase(hint)}"
