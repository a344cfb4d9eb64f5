from __future__ import annotations

from corolla.spaces.architecture import Architecture
from corolla.tasks import Task
from strategies.durations import Durations


def task(client: str, choice: int, *, epochs: int = 1) -> Task:
    return Task(client=client, round=1, architecture=Architecture((choice,)), epochs=epochs, lr=0.1)


def test_what_was_seen_is_known_and_the_rest_goes_at_its_clients_pace() -> None:
    durations = Durations()
    assert durations.expected(task("0", 0), 10.0) == 10.0  # nothing is known: its work
    durations.learn(task("0", 0), 10.0, 5.0)
    durations.learn(task("1", 0), 10.0, 20.0)
    assert durations.expected(task("0", 0), 99.0) == 5.0
    assert durations.expected(task("0", 1), 4.0) == 2.0  # half a second a unit
    assert durations.expected(task("1", 1), 4.0) == 8.0
    assert durations.expected(task("2", 1), 4.0) == 8.0  # nobody knows it: as the latest
    assert durations.expected(task("0", 0, epochs=5), 10.0) == 10.0  # another kind of task


def test_nonsense_is_not_learned() -> None:
    durations = Durations()
    durations.learn(task("0", 0), 10.0, -1.0)
    durations.learn(task("0", 0), 0.0, 5.0)
    assert durations.expected(task("0", 0), 10.0) == 10.0
