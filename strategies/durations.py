"""How long a task will take: what it took before, else its work at the pace of its client."""

from __future__ import annotations

from typing import Any

from corolla.tasks import Task

_MOST = 10_000  # tasks that are remembered


class Durations:
    """Seconds of tasks by client and architecture. They rank tasks, and change no number."""

    def __init__(self) -> None:
        self._took: dict[Any, float] = {}
        self._pace: dict[
            Any, float
        ] = {}  # seconds per unit of work: of a client, and of the latest

    def expected(self, task: Task, work: float) -> float:
        """Return the seconds that ``task`` is expected to take; its ``work`` while no task was seen."""
        known = self._took.get(_same(task))
        if known is not None:
            return known
        kind = _kind(task)
        return work * self._pace.get((task.client, kind), self._pace.get(kind, 1.0))

    def learn(self, task: Task, work: float, seconds: float) -> None:
        """Note that ``task`` took ``seconds``."""
        if seconds <= 0 or work <= 0:
            return
        self._took.pop(_same(task), None)
        self._took[_same(task)] = seconds
        if len(self._took) > _MOST:
            del self._took[next(iter(self._took))]
        self._pace[_kind(task)] = self._pace[task.client, _kind(task)] = seconds / work


def _kind(task: Task) -> tuple[int, bool]:
    """Return what makes two tasks of one client and architecture take alike long."""
    return task.epochs, task.is_deployment


def _same(task: Task) -> Any:
    return task.client, task.architecture, _kind(task)
