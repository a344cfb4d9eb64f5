"""What an annotation asks of a value, in words: a value of another kind is refused by them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_PLAIN: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
}
_MANY = _PLAIN | {int: "whole numbers", float: "numbers", str: "texts"}
_TOO_LARGE = 2**63  # for numpy, torch and messages
MOST = 10**9
"""Of rounds, epochs, images and other counts: what is more, is a slip."""


def kind_problem(hint: Any, value: Any) -> str | None:
    """Return what is wrong with a ``value`` whose kind is not the annotation's; bounds are not looked at.

    Numbers are finite, and true and false are not numbers. Kinds that YAML cannot hold are not checked.
    """
    if _suits(hint, value):
        return None
    if type(value) is int and abs(value) >= _TOO_LARGE and _suits(hint, 1):
        return "does not fit into 64 bits"
    return f"is not {phrase(hint, bounds=False)}"


def phrase(hint: Any, *, bounds: bool = True, value: Any = None, many: bool = False) -> str:
    """Return what ``hint`` asks for, such as "a number, 0 or more, or null".

    Args:
        hint: an annotation.
        bounds: say them, too; those of all counts, far out of reach, only where ``value`` is beyond them.
        value: what was given.
        many: say what several are, as in "a list of numbers".

    """
    origin, inner = get_origin(hint), get_args(hint)

    def of(one: Any, *, several: bool = many) -> str:
        return phrase(one, bounds=bounds, value=value, many=several)

    def within(one: Any, *, several: bool) -> str:
        what, comma, limits = of(one, several=several).partition(", ")
        return (
            f"{what} ({limits})"
            if comma and get_origin(one) is Annotated
            else what + comma + limits
        )

    if origin is Annotated:
        return ", ".join([of(inner[0]), *(_limits(inner[1:], value) if bounds else [])])
    if origin in (Union, UnionType):
        parts = list(dict.fromkeys(of(one) for one in inner))
        return (", or " if any("," in part for part in parts) else " or ").join(parts)
    if origin is Literal:
        return " or ".join(str(one) for one in inner)
    kind = origin or hint
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return f"[{', '.join(within(one, several=False) for one in inner)}]"
    if kind in (list, tuple, Sequence):
        what = "lists" if many else "a list"
        return f"{what} of {within(inner[0], several=True)}" if inner else what
    if kind in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return "groups of settings" if many else "a group of settings"
    return (_MANY if many else _PLAIN).get(kind, "what it takes")


def members(hint: Any) -> tuple[Any, ...]:
    """Return the kinds that ``hint`` is a union of; ``hint`` itself where it is not a union."""
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(inner for one in get_args(hint) for inner in members(one))
    return (hint,)


def literals(hint: Any) -> list[Any]:
    """Return the values that ``hint`` names."""
    return [name for one in members(hint) if get_origin(one) is Literal for name in get_args(one)]


_BOUNDS = (
    ("gt", "above {:g}"),
    ("ge", "{:g} or more"),
    ("lt", "below {:,}"),
    ("le", "{:,} or less"),
)


def _limits(metadata: Sequence[Any], value: Any) -> list[str]:
    """Return the bounds that pydantic's fields hold, of several of a kind the narrowest."""
    limits = [limit for one in metadata for limit in getattr(one, "metadata", [one])]
    said = []
    for name, text in _BOUNDS:
        found = [bound for one in limits if (bound := getattr(one, name, None)) is not None]
        bound = (max if name in ("gt", "ge") else min)(found, default=None)
        beyond = isinstance(value, int | float) and bound is not None and value >= bound
        if bound is not None and (bound not in (MOST, _TOO_LARGE) or beyond):
            said.append(text.format(bound))
    fewest = [one.min_length for one in limits if getattr(one, "min_length", None)]
    return said + [f"{count} or more of them" for count in fewest]


def _suits(hint: Any, value: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _suits(inner[0], value)
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
    if dataclasses.is_dataclass(kind):
        return isinstance(value, kind)  # type: ignore[arg-type]
    return True
