"""The grid over Ray actors, on a Ray of its own with two light processes."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from clients.flower_internals import ErrorCode
from clients.wire import from_record, to_record
from corolla.errors import RunFailedError
from engines.ray import RayEngine
from engines.ray_grid import DIED, RayGrid
from engines.ray_pool import ProcessPool
from engines.serving import new_run_id
from tests.engines.ray_handlers import Broken, Echo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    engine = RayEngine(name="ray", clients=4, actors=2, threads=1, gpus_per_client=0, address=None)
    with engine._ray():
        yield


def pool_of(kind: type = Echo, *, most: int = 2, patience_s: float = 60.0) -> ProcessPool:
    process = ray.remote(kind).options(num_cpus=0)
    return ProcessPool(process.remote, capacity=lambda: most, patience_s=patience_s)


@pytest.fixture(scope="module")
def grid(_ray: None) -> RayGrid:
    return RayGrid(nodes=4, run_id=new_run_id(), pool=pool_of())


def message(node: int, arrays: ArrayRecord | None = None, **task: Any) -> Message:
    content = RecordDict({"task": ConfigRecord(task)})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, node, "train", group_id="1")


def ask(grid: RayGrid, messages: Any, timeout_s: float | None = None) -> dict[int, Message]:
    return {r.metadata.src_node_id: r for r in grid.exchange(messages, timeout_s=timeout_s)}


def pids(replies: dict[int, Message]) -> set[int]:
    return {int(reply.content["saw"]["pid"]) for reply in replies.values()}


def both(grid: RayGrid) -> set[int]:
    """Return the process ids of the two client processes, once both are there."""
    deadline = time.monotonic() + 60
    while len(found := pids(ask(grid, [message(1000 + i, sleep_s=0.2) for i in range(2)]))) < 2:
        assert time.monotonic() < deadline
    return found


def test_arrays_lie_in_shared_memory_once_and_come_back_bit_for_bit(
    grid: RayGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    shared, own = to_record({"w": values}), to_record({"w": -values})
    puts: list[Any] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: puts.append(1) or put(value))
    replies = ask(grid, [message(1000, shared), message(1001, shared), message(1002, own)])
    assert len(puts) == 2
    for node, expected in ((1000, values), (1001, values), (1002, -values)):
        assert not replies[node].content["saw"]["copied"]
        got = from_record(replies[node].content["arrays"])["w"]
        np.testing.assert_array_equal(got, expected)
        got += 1  # what is read may be written to
    # What nobody holds any more is forgotten, here and in the object store.
    assert grid._stored
    del shared, own
    assert not grid._stored


def test_both_processes_work_at_once_and_stay(grid: RayGrid) -> None:
    assert both(grid) == both(grid)


def test_messages_are_taken_as_processes_become_free(grid: RayGrid) -> None:
    alive: list[Any] = []
    most = 0

    def produce() -> Iterator[Message]:
        nonlocal most
        for number in range(20):
            new = message(1000 + number % 4)
            alive.append(weakref.ref(new))
            most = max(most, sum(reference() is not None for reference in alive))
            yield new
            del new

    replies = list(grid.exchange(produce(), timeout_s=None))
    assert len({reply.metadata.reply_to_message_id for reply in replies}) == 20
    # The one that is made, and the one before it, of which the generator's caller still has the name.
    assert most <= 2


def test_a_process_that_dies_costs_its_client_the_message_and_is_replaced(grid: RayGrid) -> None:
    before = both(grid)
    work = [message(1000, do="die"), *(message(1000 + i, sleep_s=0.1) for i in (1, 2, 3))]
    replies = ask(grid, work)
    assert sorted(replies) == [1000, 1001, 1002, 1003]
    assert replies[1000].error.code == ErrorCode.NODE_UNAVAILABLE
    assert replies[1000].error.reason == f"{DIED} (ActorDiedError)"
    assert replies[1000].metadata.reply_to_message_id == work[0].metadata.message_id
    assert len(both(grid) & before) == 1


def test_a_process_that_died_between_two_exchanges_costs_nobody_anything(grid: RayGrid) -> None:
    victim = psutil.Process(min(both(grid)))
    victim.kill()
    victim.wait(10)
    replies = ask(grid, [message(1000 + i) for i in range(4)])
    assert not any(reply.has_error() for reply in replies.values())


def test_what_a_process_raises_is_its_clients_failure_and_it_stays(grid: RayGrid) -> None:
    before = both(grid)
    replies = ask(grid, [message(1000, do="raise"), message(1001)])
    assert replies[1000].error.reason == "its client process could not answer: OSError('cannot')"
    assert replies[1001].has_content()
    assert both(grid) == before


def test_who_works_when_the_time_is_up_is_ended(grid: RayGrid) -> None:
    before = both(grid)
    started = time.monotonic()
    replies = ask(grid, [message(1000, sleep_s=60), message(1001), message(1002)], timeout_s=1.5)
    assert time.monotonic() - started < 10
    assert sorted(replies) == [1001, 1002]
    assert len(both(grid) & before) == 1


def test_whoever_stops_listening_ends_those_that_work(grid: RayGrid) -> None:
    both(grid)
    replies = grid.exchange([message(1000, sleep_s=60), message(1001)], timeout_s=None)
    next(replies)
    replies.close()
    assert grid._busy == {}


@pytest.mark.usefixtures("_ray")
def test_processes_that_never_start_end_the_run_with_the_reason() -> None:
    never = RayGrid(nodes=4, run_id=new_run_id(), pool=pool_of(Broken))
    with pytest.raises(RunFailedError, match=r"(?s)could be started:.*no module named corolla"):
        ask(never, [message(1000)])


@pytest.mark.usefixtures("_ray")
def test_a_cluster_without_room_ends_the_run_and_one_that_grows_is_used() -> None:
    room = pool_of(most=0, patience_s=1.0)
    with pytest.raises(RunFailedError, match="no client process came up within 1 s"):
        ask(RayGrid(nodes=4, run_id=new_run_id(), pool=room), [message(1000)])
    held, wanted = [0], []
    process = ray.remote(Echo).options(num_cpus=0)
    pool = ProcessPool(process.remote, capacity=lambda: held[0], patience_s=60)
    grows = RayGrid(nodes=4, run_id=new_run_id(), pool=pool, demand=wanted.append)
    threading.Timer(0.5, lambda: held.__setitem__(0, 1)).start()
    assert len(ask(grows, [message(1000), message(1001)])) == 2
    assert wanted == [2]


def test_an_exchange_that_is_closed_after_ray_has_stopped_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    ProcessPool(object, capacity=lambda: 1, patience_s=60).end(object())
