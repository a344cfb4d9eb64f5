"""Errors that a person or a client can cause; each names key, value and remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with what was asked for."""

    key: str
    value: Any
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Return one line: key, value, what is wrong, what to do."""
        return f"{self.key}={self.value!r}: {self.problem}. {self.remedy}"


class CorollaError(Exception):
    """Base of all errors that Corolla raises on purpose."""


class RefusedError(CorollaError, ValueError):
    """The request cannot be carried out as given; nothing was started (exit code 2). Each fault once."""

    def __init__(self, faults: Sequence[Fault] | Fault) -> None:
        given = [faults] if isinstance(faults, Fault) else list(faults)
        self.faults = [fault for number, fault in enumerate(given) if fault not in given[:number]]
        super().__init__("\n".join(str(fault) for fault in self.faults))


@contextmanager
def gathered(faults: list[Fault]) -> Iterator[None]:
    """Keep what is refused inside, so that all of it is shown at once."""
    try:
        yield
    except RefusedError as error:
        faults += error.faults


@contextmanager
def below(key: str) -> Iterator[None]:
    """Put ``key`` before the keys of what is refused inside; nothing where it is empty."""
    try:
        yield
    except RefusedError as error:
        above = f"{key}." if key else ""
        raise RefusedError([replace(f, key=above + f.key) for f in error.faults]) from error


def refuse(faults: list[Fault]) -> None:
    """Raise RefusedError that shows all of ``faults``, where there are any."""
    if faults:
        raise RefusedError(faults)


class RunFailedError(CorollaError, RuntimeError):
    """A run started and could not be finished (exit code 3)."""


def is_number(value: object) -> bool:
    """Tell whether ``value`` is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def nearest(word: str, known: Sequence[str]) -> str:
    """Return 'Did you mean X?' for the closest known name, else the list of what is known."""
    if not known:
        return "Leave it out: there is none"
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    listing = ", ".join(sorted(known))
    return f"Did you mean {close[0]!r}? Known: {listing}" if close else f"Known: {listing}"
