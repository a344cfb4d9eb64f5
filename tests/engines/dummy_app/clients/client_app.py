"""Client side of the dummy app: says where it ran and returns what it got."""

from __future__ import annotations

import os
import time

from dummy.settings import settings
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Echo the arrays; ``fail=client`` raises on partition 0, ``fail=exit`` ends the process."""
    chosen = settings(dict(context.run_config))
    partition = int(context.node_config["partition-id"])
    if chosen["fail"] == "client" and partition == 0:
        raise ValueError("partition 0 was told to fail")
    if chosen["fail"] == "exit" and partition == 0:
        os._exit(1)
    time.sleep(chosen["sleep_s"])
    where = {
        "pid": os.getpid(),
        "partition": partition,
        "partitions": int(context.node_config["num-partitions"]),
        "launch": str(context.run_config["launch"]),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "node": os.environ.get("DUMMY_NODE", ""),
        "ray_node": _ray_node(),
    }
    content = RecordDict({"where": ConfigRecord(where)})
    if "arrays" in message.content:
        content["arrays"] = message.content["arrays"]
    return Message(content, reply_to=message)


def _ray_node() -> str:
    """Return the id of the Ray node this runs on, or '' outside Ray."""
    if "RAY_JOB_ID" not in os.environ:
        return ""
    import ray

    return str(ray.get_runtime_context().get_node_id())
