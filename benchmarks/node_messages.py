"""CPU seconds that a message costs a SuperNode beyond its work, with a warm client and without.

    python -m benchmarks.node_messages [--rounds 8]

A SuperLink and one site as processes, TLS and a registered key; FedAvg on 120 digits. Counted is all that the
site's processes use, over rounds of one message each: the difference of a long run and a short one, so that
what happens once (start, identity, last evaluation) cancels out, less what the idle node uses in that
time. The work is what the ClientApp's call takes in a process that has done it before.
``results/node_messages.json`` has the raw figures; ``node_message_cpu_s`` goes to ``simulation.json`` too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil

import clients.client_app
from benchmarks.recording import RESULTS, read_raw, write_result
from corolla.launch import plan_run, start
from corolla.records.atomic import write_text
from tests.deployment.federation import DIGITS, Federation

_NAME = "node_messages"
_SITE = "site-a"
_SHORT = 2
_IDLE_S = 20.0
_TIMEOUT_S = 900
_METHOD = ["method=fedavg", "space=elastic_cnn", "evaluation.received=false"]


def main() -> None:
    """Measure both kinds of node, then the work, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="more than the short run's 2")
    rounds = parser.parse_args().rounds
    raw: dict[str, Any] = read_raw(_NAME)
    with tempfile.TemporaryDirectory() as folder:
        for arm in ("cold", "warm"):
            raw[arm] = _node(Path(folder) / arm, rounds, warm=arm == "warm")
            print(arm, raw[arm], flush=True)
        raw["work_cpu_s"] = _work(Path(folder) / "warm" / "sites" / _SITE / "data", Path(folder))
    figures = {
        "node_message_cpu_s": raw["warm"]["message_cpu_s"] - raw["work_cpu_s"],
        "node_message_cpu_s_cold": raw["cold"]["message_cpu_s"] - raw["work_cpu_s"],
    }
    print(figures)
    write_result(_NAME, figures, raw)
    _merge("simulation", "node_message_cpu_s", figures["node_message_cpu_s"])


def _node(folder: Path, rounds: int, *, warm: bool) -> dict[str, Any]:
    """Return what a message costs a node, its work included, and what the node uses besides."""
    folder.mkdir()
    federation = Federation(folder, [_SITE], warm=warm)
    try:
        federation.start()
        _run(federation, "first", 1)  # the bundle is unpacked, images are decoded, the stem starts
        family = _family(folder)
        idle_s, idle_wall_s = _difference(family, lambda: time.sleep(_IDLE_S))
        short_s, short_wall_s = _difference(family, lambda: _run(federation, "short", _SHORT))
        long_s, long_wall_s = _difference(family, lambda: _run(federation, "long", rounds))
        idle = {name: seconds / idle_wall_s for name, seconds in idle_s.items()}
        wall_s, messages = long_wall_s - short_wall_s, rounds - _SHORT
        of = {n: (long_s[n] - short_s[n] - idle[n] * wall_s) / messages for n in long_s}
        return {
            "message_cpu_s": sum(of.values()),
            "message_cpu_s_of": of,
            "message_wall_s": wall_s / messages,
            "idle_cpu_share": sum(idle.values()),
            "resident_mib": sum(one.memory_info().rss for one in family) / 2**20,
            "processes": len(family),
        }
    finally:
        federation.close()


def _run(federation: Federation, name: str, rounds: int) -> None:
    run = federation.run(federation.runs / name, *_METHOD, f"rounds={rounds}")
    code = run.wait(timeout=_TIMEOUT_S)
    if code:
        raise RuntimeError(f"the run {name} ended with {code}: {federation.log('user')[-2000:]}")


def _family(folder: Path) -> list[psutil.Process]:
    """Return the node's processes that live on between messages; they account for those that ended."""
    found = []
    for process in psutil.process_iter():
        try:
            own = process.environ().get("FLWR_HOME") == str(folder / _SITE)
        except psutil.Error:
            continue
        if own:
            found.append(process)
    return found


def _difference(
    family: list[psutil.Process], work: Callable[[], None]
) -> tuple[dict[str, float], float]:
    """Return CPU seconds that each program and its children used meanwhile, and how long it took."""
    before, start = _cpu_s(family), time.monotonic()
    work()
    time.sleep(2.0)  # the last message's process ends
    after = _cpu_s(family)
    return {name: after[name] - before[name] for name in after}, time.monotonic() - start


def _cpu_s(family: list[psutil.Process]) -> dict[str, float]:
    """Return CPU seconds by program: SuperNode, SuperExec and, with a warm client, its stem."""
    return {_program(process): sum(process.cpu_times()[:4]) for process in family}


def _program(process: psutil.Process) -> str:
    words = process.cmdline()
    if "--stem" in words:
        return "stem"
    return next(Path(word).name for word in words if Path(word).name.startswith("flower-"))


def _work(data: Path, folder: Path) -> float:
    """Return the CPU seconds of the same task's call in this process, which has done it before."""
    app, used = clients.client_app.app, []

    def timed(message: Any, context: Any) -> Any:
        begun = time.process_time()
        reply = app(message, context)
        if message.metadata.message_type == "train":
            used.append(time.process_time() - begun)
        return reply

    settings = [
        *DIGITS,
        f"dataset.root={data}",
        "partition=iid",
        "clients=1",
        "clients_per_round=1",
    ]
    settings += ["local_epochs=1", "evaluation.every=0", "evaluation.fine_tune_epochs=0"]
    settings += ["report=false", "tensorboard=false", "engine=inline", "rounds=6"]
    with mock.patch.object(clients.client_app, "app", timed):
        start(plan_run([*settings, *_METHOD, f"run_dir={folder / 'work'}"]))
    return float(np.median(used[1:6]))


def _merge(name: str, key: str, value: float) -> None:
    """Put one figure among those of another benchmark, and change nothing else there."""
    path = RESULTS / f"{name}.json"
    document = json.loads(path.read_text())
    document["figures"][key] = round(value, 3)
    write_text(path, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
