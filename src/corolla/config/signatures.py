"""Whether a class can be called as its base class or protocol is: said by name before a run starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable
from typing import Any, cast

from corolla.errors import Fault, RefusedError, refuse

_NONE = object()
_REMEDY = "Give it these arguments; docs/own-parts.md has one of each kind"


def require_overrides(kind: type[Any], key: str) -> None:
    """Refuse a ``kind`` with a method missing, or one that cannot be called as what it replaces."""
    faults = [
        Fault(key, kind.__qualname__, problem, _REMEDY)
        for problem in _problems(cast(Hashable, kind))
    ]
    refuse(faults)


def require_like(made: Any, like: type[Any], key: str) -> None:
    """Raise RefusedError where ``made`` lacks something of the base class or protocol ``like``."""
    name = type(made).__qualname__
    if not getattr(like, "_is_protocol", False):
        if isinstance(made, like):
            return
        problem = f"is no {like.__name__}"
        remedy = f"Make it a subclass of {like.__module__}.{like.__qualname__}"
        raise RefusedError(Fault(key, name, problem, remedy))
    faults: list[Fault] = []
    for member in _members(like):
        wanted = inspect.getattr_static(like, member, None)
        # Static: asked for its classes, a data set would look for its files.
        if inspect.getattr_static(made, member, _NONE) is _NONE:
            of = str(inspect.signature(wanted)) if inspect.isfunction(wanted) else ""
            faults.append(Fault(key, name, f"has no {member}{of}", _REMEDY))
        elif inspect.isfunction(wanted):
            wrong = _mismatch(member, getattr(made, member), wanted, bound=True)
            faults += [Fault(key, name, wrong, _REMEDY)] if wrong else []
    refuse(faults)


def _members(protocol: type[Any]) -> list[str]:
    own = [*vars(protocol), *inspect.get_annotations(protocol)]
    return list(dict.fromkeys(name for name in own if not name.startswith("_")))


@functools.cache
def _problems(kind: Any) -> tuple[str, ...]:
    # Not __abstractmethods__, which only classes made by ABCMeta have.
    static = {name: inspect.getattr_static(kind, name, None) for name in dir(kind)}
    missing = [n for n, one in static.items() if getattr(one, "__isabstractmethod__", False)]
    found = [f"has no {name}{_signature(kind, name)}" for name in missing]
    ancestors = kind.__mro__
    for place, owner in enumerate(ancestors):
        for name, function in vars(owner).items():
            if name.startswith("__") or not inspect.isfunction(function):
                continue
            replaced = (vars(above).get(name) for above in ancestors[place + 1 :])
            base = next((one for one in replaced if inspect.isfunction(one)), None)
            problem = base and _mismatch(name, function, base)
            found += [problem] if problem else []
    return tuple(found)


def _mismatch(name: str, have: Any, wanted: Any, *, bound: bool = False) -> str | None:
    """Return what is wrong with calling ``have`` as ``wanted`` is called; None where nothing is."""
    try:
        mine, theirs = inspect.signature(have), inspect.signature(wanted)
    except (TypeError, ValueError):
        return None
    positional: list[None] = []
    named: dict[str, None] = {}
    for parameter in list(theirs.parameters.values())[bound:]:
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = None
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional.append(None)
    try:
        mine.bind(*positional, **named)
    except TypeError as error:
        return f"{name}{_short(mine)} is called as {name}{_short(theirs)}: {error}"
    return None


def _signature(kind: type[Any], name: str) -> str:
    function = getattr(kind, name, None)
    return _short(inspect.signature(function)) if inspect.isfunction(function) else ""


def _short(signature: inspect.Signature) -> str:
    """Return the arguments without their annotations."""
    empty = inspect.Parameter.empty
    bare = [one.replace(annotation=empty) for one in signature.parameters.values()]
    return str(inspect.Signature(bare))
