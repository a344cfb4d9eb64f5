"""Five hundred faults in one run: a way on which each fourth request goes wrong, and nodes that cost nothing.

SuperLink, gate, SuperExec and server part are processes; the nodes are threads of this one (`light_nodes`),
behind the gate, with keys. An order that is cut on its way to a node is handed out to nobody again: none is
here, or rounds would wait for their deadline. test_faults.py has that too, and real SuperNodes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.faulty_way import FAULTS, FaultyWay
from tests.deployment.federation import Federation, lines, wait_until
from tests.deployment.light_nodes import LightNode, registered, start_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NODES = [f"node-{number}" for number in range(6)]
ROUNDS = 12  # the first without faults
WANTED = 500


def test_500_faults_cost_no_round_that_had_a_reply(tmp_path: Path) -> None:
    way = FaultyWay(seed=17, share=0.25, delay_s=0.2, answered=["/v1/fleet/pull-messages"])
    federation = Federation(tmp_path, [], later=["spare"], way=way)
    run_dir = federation.runs / "bad"
    nodes: list[LightNode] = []
    try:
        federation.start()
        certificate = federation.ca_certificate
        keys = registered(NODES, f"127.0.0.1:{federation.port}", certificate)
        gate = f"127.0.0.1:{federation.sites_port}"
        nodes = [
            LightNode(name, gate, root_certificates=certificate, keys=keys[name], pause_s=0.5)
            for name in NODES
        ]
        start_nodes(nodes)
        run = federation.run(
            run_dir,
            *("method=fedavg", "space=elastic_cnn", "evaluation.final=none"),
            *(f"clients={len(NODES)}", f"clients_per_round={len(NODES)}"),
            *(f"rounds={ROUNDS}", "round_timeout_s=300"),
        )

        def rounds(count: int) -> None:
            def done() -> bool:
                assert run.poll() is None, federation.log("user")
                return len(lines(run_dir / "metrics.jsonl")) >= count

            wait_until(done, 1500, f"round {count}")

        rounds(1)
        way.on = True

        def enough() -> bool:
            return sum(way.faults.values()) >= WANTED or run.poll() is not None

        wait_until(enough, 1500, f"{WANTED} faults")
        way.on = False
        rounds(ROUNDS)
        assert run.wait(timeout=300) == 0, federation.log("user")
    finally:
        for node in nodes:
            node.stop()
        federation.close()
    metrics = lines(run_dir / "metrics.jsonl")
    answered = {(node.name, number) for node in nodes for number in node.sent}
    counted = {(node, line["round"]) for line in metrics for node in line["participants"]}
    print(dict(way.faults), [(m["participants"], m["failed"], m["round_s"]) for m in metrics])
    assert [line["round"] for line in metrics] == list(range(1, ROUNDS + 1))
    for line in metrics:
        had_a_reply = any(number == line["round"] for _, number in answered)
        assert bool(line["participants"]) or not had_a_reply, line
    # One may be lost as often as a client is asked in a round; most are not.
    assert 2 * len(answered & counted) > len(answered) > 0
    assert sum(way.faults.values()) >= WANTED
    assert set(way.faults) == set(FAULTS)
