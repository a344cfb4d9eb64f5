"""Real exchanges of tiny federations, to be repeated with changed replies."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import Message

import strategies.evaluation
import strategies.running.federated_run
from corolla.config.groups import methods
from corolla.launch import plan_run, start
from corolla.records.json_files import to_json
from corolla.state import State
from corolla.tasks import AS_IS, STATISTICS, Reply
from strategies.base import CorollaStrategy
from strategies.exchange import Exchange
from strategies.running.federated_run import FederatedRun
from strategies.running.records import client_row, round_metrics
from strategies.running.scores import global_scores, scores_of
from strategies.running.summary import summarise
from tests.strategies.conftest import SMALL, small, without_times

TINY = ["clients=6", "clients_per_round=3", "rounds=2", "evaluation.every=1"]
METHODS = methods()
FEDERATIONS: dict[str, list[str]] = {name: [f"method={name}"] for name in METHODS} | {
    "perfednas": ["method=perfednas", "method/reward=improvement", "method/proposals=evolution"],
    "hapfnas": ["method=hapfnas", "rounds=3"],
    "one_shot": [
        "method=hapfnas", "method/supernet_training=one_shot", "space=mobilenetv2_8", "server_set=none",
        "method.supernet_training.rounds=1", "method.personal_search.where=server", "rounds=5",
        "method.personal_search.rounds=3", "method.personal_search.subnets_per_exchange=5",
    ],
    "fedmd": ["method=fedmd", "method.pretrain_epochs=0"],
    "fednas": ["method=fednas", "method.search_rounds=1"],
    "fedkemf": ["method=fedkemf", "method.fusion=distil"],
    "private_parts": ["method=perfedrlnas", "private=[head,norm]"],
    "robust": ["method=perfedrlnas", "robust=trimmed_mean", "robust.factor=2.0", "method.damping=0.5"],
    "heterofl": ["method=heterofl", "method.class_rows=true"],
}  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """One exchange as it was: the state before it, and the right answers to its messages."""

    kind: str  # train | evaluate | statistics | as_is | deploy
    server_round: int
    exchange: Exchange
    replies: dict[str, Message]  # by client
    state: State


@dataclass(frozen=True)
class Federation:
    """A finished run and all of its exchanges."""

    run: FederatedRun
    strategy: CorollaStrategy
    exchanges: list[Recorded]
    unasked: frozenset[str]  # names in its honest replies that were dropped

    def begin(self, recorded: Recorded) -> None:
        """Put the strategy where it was before the replies came."""
        self.strategy.load_state(_copy(recorded.state))
        self.strategy._exchange = recorded.exchange
        self.strategy.report = None

    def records(self, server_round: int) -> list[dict[str, Any]]:
        """Return the lines of the last round's records as they are read back; clients' first."""
        report = self.strategy.report
        assert report is not None
        space, size = self.run._space, self.run._config.batch_size
        rows = [
            client_row(server_round, reply, report, space=space, batch_size=size)
            for reply in report.replies
        ]
        lines = [*rows, round_metrics(server_round, report, 1.0)]
        return [json.loads(json.dumps(to_json(line, where=""), allow_nan=False)) for line in lines]

    def summary(self, replies: list[Reply], failures: list[Any]) -> dict[str, Any]:
        """Return summary.json as it is read back."""
        best = {"round": 1, "chosen": True, **scores_of(replies, "")}
        run = self.run
        summary = summarise(
            run._config,
            self.strategy,
            replies,
            failures,
            best=best,
            totals=run._progress.totals,
            facts=run._facts,
            known=len(run._roster.clients()),
        )
        found: dict[str, Any] = json.loads(json.dumps(to_json(summary, where=""), allow_nan=False))
        return found

    def scores(self, replies: list[Reply]) -> dict[str, Any]:
        """Return an evaluation's figures as they are read back."""
        scores = scores_of(replies, "")
        found = {**scores, "global": global_scores(self.strategy, replies, scores) or {}}
        read: dict[str, Any] = json.loads(json.dumps(to_json(found, where=""), allow_nan=False))
        return read

    def snapshot(self) -> State:
        """Return a copy of the state that nothing else can write to."""
        return _copy(self.strategy.state())


@cache
def federation(name: str) -> Federation:
    """Run a tiny federation of real clients once, and keep all that was said in it."""
    folder = tempfile.TemporaryDirectory(prefix="corolla-fuzz-")
    with _recording() as (runs, exchanges):
        start(plan_run([f"run_dir={folder.name}/run", *overrides(name, *TINY)]))
    (made,), (strategy,) = zip(*runs, strict=True)
    made._keep_folder = folder  # type: ignore[attr-defined]
    unasked = frozenset(strategy._admission._warned)
    return Federation(made, strategy, exchanges, unasked)


def overrides(name: str, *more: str) -> list[str]:
    """Return a federation's whole configuration; its own settings win over ``more``."""
    own = [*more, *FEDERATIONS[name]]
    return [*SMALL, *own] if name == "one_shot" else small(*own)


@contextmanager
def _recording() -> Iterator[tuple[list[Any], list[Recorded]]]:
    runs: list[Any] = []
    exchanges: list[Recorded] = []
    make, gather = FederatedRun._strategy, strategies.running.federated_run.gather

    def making(self: FederatedRun, grid: Any) -> CorollaStrategy:
        strategy = make(self, grid)
        runs.append((self, strategy))
        return strategy

    def gathering(kind: str) -> Any:
        def recorded(grid: Any, outgoing: Iterable[Message], **settings: Any) -> list[Message]:
            strategy, messages = runs[-1][1], list(outgoing)
            tasks = [dict(message.content["task"]) for message in messages]
            before = _copy(strategy.state())
            replies = list(gather(grid, messages, **settings))
            if tasks:
                asked = ("deploy", STATISTICS, AS_IS)
                said = [one for one in asked if any(f"extra.{one}" in task for task in tasks)]
                now = said[0] if said else kind
                clients = {
                    m.metadata.message_id: str(t["client"])
                    for m, t in zip(messages, tasks, strict=True)
                }
                answers = {clients[reply.metadata.reply_to_message_id]: reply for reply in replies}
                assert not any(reply.has_error() for reply in replies), replies
                at = int(tasks[0]["round"])
                exchanges.append(Recorded(now, at, strategy._exchange, answers, before))
            return replies

        return recorded

    with (
        mock.patch.object(FederatedRun, "_strategy", making),
        mock.patch.object(strategies.running.federated_run, "gather", gathering("train")),
        mock.patch.object(strategies.evaluation, "gather", gathering("evaluate")),
    ):
        yield runs, exchanges


def _copy(state: State) -> State:
    return State({name: array.copy() for name, array in state.arrays.items()}, deepcopy(state.meta))


def outcome(federation: Federation, recorded: Recorded) -> dict[str, Any]:
    """Return what a round's record says but for times, and for why somebody failed."""
    (*_, line) = federation.records(recorded.server_round)
    return {k: v for k, v in without_times(line).items() if k != "failed"}


def assert_finite(state: State, exempt: tuple[str, ...]) -> None:
    for name, array in state.arrays.items():
        if array.dtype.kind == "f" and not name.startswith(exempt):
            assert np.isfinite(array).all(), name
