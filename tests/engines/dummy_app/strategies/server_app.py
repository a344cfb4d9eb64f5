"""Server side of the dummy app: sends echoes and writes what it saw into the run directory."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from dummy.settings import settings
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run ``rounds`` rounds of ``messages`` messages; ``fail=server`` raises in round 2."""
    chosen = settings(dict(context.run_config))
    run_dir = Path(chosen["run_dir"])
    try:
        for round_ in range(1, int(chosen["rounds"]) + 1):
            if chosen["fail"] == "server" and round_ == 2:
                raise RuntimeError("the server was told to fail in round 2")
            _append(run_dir / "metrics.jsonl", _round(grid, chosen, round_))
            time.sleep(float(chosen["pause_s"]))
        (run_dir / "summary.json").write_text(json.dumps({"launch": context.run_config["launch"]}))
    finally:
        (run_dir / "left.txt").write_text(str(os.getpid()))


def _round(grid: Grid, chosen: dict[str, Any], round_: int) -> dict[str, Any]:
    nodes = sorted(grid.get_node_ids())
    while len(nodes) < int(chosen["nodes"]):  # they register while the server already runs
        time.sleep(0.05)
        nodes = sorted(grid.get_node_ids())
    content = {"task": ConfigRecord({"round": round_})}
    if chosen["payload_mib"]:
        array = np.zeros(int(chosen["payload_mib"] * 2**18), np.float32)
        content["arrays"] = ArrayRecord([array])
    started = time.perf_counter()
    messages = [
        Message(RecordDict(dict(content)), nodes[i % len(nodes)], "train", group_id=str(round_))
        for i in range(int(chosen["messages"]))
    ]
    replies = list(grid.send_and_receive(messages, timeout=float(chosen.get("timeout_s", 300))))
    good = [dict(reply.content["where"]) for reply in replies if reply.has_content()]
    bad = [
        {"code": reply.error.code, "reason": reply.error.reason, "src": reply.metadata.src_node_id}
        for reply in replies
        if reply.has_error()
    ]
    return {
        "round": round_,
        "where": good,
        "errors": bad,
        "round_s": time.perf_counter() - started,
        "test_accuracy": 1.0 - 1.0 / (round_ + 1),
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
    }


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
