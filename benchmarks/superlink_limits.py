"""What a SuperLink takes for 100 nodes: CPU and wall seconds per round, its database and its memory.

    python -m benchmarks.superlink_limits [--nodes 100] [--rounds 2] [--write]

SuperLink, gate and the server part of a FedAvg run as they are shipped: TLS, registered keys, a database, on
loopback. The nodes are threads of this process (`tests.deployment.light_nodes`): they fetch, upload and send
heartbeats as SuperNodes do, look for orders every 3 s, and return the arrays moved a little: nobody trains.
All of them take part in each round. CPU is the SuperLink's own process, and the gate's; the first round, in
which nodes say who they are, is left out. Seconds per round are of one machine that does everybody's work.
``--write`` puts the figures into ``results/superlink_limits.json``: on an idle machine, please.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.recording import print_table, write_result
from tests.deployment.federation import Federation, lines
from tests.deployment.light_nodes import LightNode, registered, start_nodes

_IDLE_S = 20.0
_LOOK_S = 0.2
_TIMEOUT_S = 1200.0


def main() -> None:
    """Measure and print; write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2, help="2 or more; the first is not counted")
    parser.add_argument("--space", default="elastic_cnn", help="whose largest network travels")
    parser.add_argument("--write", action="store_true", help="results/superlink_limits.json")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: 2 or more")
    with tempfile.TemporaryDirectory() as folder:
        raw = _measured(Path(folder), options)
    figures = _figures(raw)
    print_table(figures, f"a SuperLink with {options.nodes} nodes")
    if options.write:
        print(f"written: {write_result('superlink_limits', figures, raw)}")


def _measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    federation = Federation(folder, [], later=["spare"])
    nodes: list[LightNode] = []
    try:
        federation.start()
        certificate = federation.ca_certificate
        names = [f"node-{number}" for number in range(options.nodes)]
        keys = registered(names, f"127.0.0.1:{federation.port}", certificate)
        gate = f"127.0.0.1:{federation.sites_port}"
        nodes = [
            LightNode(name, gate, root_certificates=certificate, keys=keys[name]) for name in names
        ]
        start_nodes(nodes, timeout_s=_TIMEOUT_S)
        before = _marked(federation)
        time.sleep(_IDLE_S)
        idle = (_marked(federation)["cpu_s"] - before["cpu_s"]) / _IDLE_S
        marks = _run(federation, options)
    finally:
        for node in nodes:
            node.stop()
        federation.close()
    return {"nodes": options.nodes, "space": options.space, "idle_cpu_share": idle, "marks": marks}


def _run(federation: Federation, options: argparse.Namespace) -> list[dict[str, float]]:
    """Carry out a run; return what there is after each of its rounds."""
    run_dir, largest = federation.runs / "limits", 0.0
    run = federation.run(
        run_dir,
        *("method=fedavg", f"space={options.space}", f"rounds={options.rounds}"),
        *(f"clients={options.nodes}", f"clients_per_round={options.nodes}"),
        *("evaluation.final=none", "tensorboard=false"),
    )
    marks: list[dict[str, float]] = []
    end = time.monotonic() + _TIMEOUT_S
    while len(marks) < options.rounds:
        largest = max(largest, _database_mib(federation.folder))
        done = lines(run_dir / "metrics.jsonl")
        if len(done) > len(marks):
            last, mark = done[len(marks)], _marked(federation)
            mark |= {"largest_database_mib": largest, "failures": last["failures"]}
            mark["messages_mb"] = (last["bytes_down"] + last["bytes_up"]) / 1e6
            marks.append(mark)
            print({key: round(value, 1) for key, value in mark.items()}, flush=True)
        elif run.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the run did not end well: {federation.log('user')[-2000:]}")
        time.sleep(_LOOK_S)
    return marks


def _figures(raw: dict[str, Any]) -> dict[str, float]:
    first, last = raw["marks"][0], raw["marks"][-1]
    per_round = {
        f"round_{key}": (last[key] - first[key]) / (len(raw["marks"]) - 1)
        for key in ("wall_s", "cpu_s", "gate_cpu_s")
    }
    return per_round | {
        "nodes": raw["nodes"],
        "idle_cpu_share": raw["idle_cpu_share"],
        "round_messages_mb": last["messages_mb"],
        "failures": sum(mark["failures"] for mark in raw["marks"]),
        "largest_database_mib": last["largest_database_mib"],
        "resident_mib": last["resident_mib"],
    }


def _marked(federation: Federation) -> dict[str, float]:
    """Return the time, CPU seconds used so far by SuperLink and gate, and the SuperLink's memory."""
    superlink, gate = federation.superlink, federation.gate
    return {
        "wall_s": time.monotonic(),
        "cpu_s": _cpu_s(superlink),
        "gate_cpu_s": _cpu_s(gate),
        "resident_mib": superlink.memory_info().rss / 2**20,
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _database_mib(folder: Path) -> float:
    """Return the size of the database with its log of writes."""
    names = ("superlink.db", "superlink.db-wal")
    return sum((folder / name).stat().st_size for name in names) / 2**20


if __name__ == "__main__":
    main()
