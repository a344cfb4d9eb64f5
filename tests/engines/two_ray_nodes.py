"""A Ray cluster of two nodes on this machine, on the loopback interface; ends when it is killed.

Run as a script with the file that gets the cluster's address, HOST:PORT, and the process id of the second
node's raylet. Each node has one CPU; the
environment variable DUMMY_NODE tells its processes which of them they are on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Ray's switch for 'this machine only', before Ray is imported: it then listens on 127.0.0.1 alone.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster


def main(address_file: Path) -> None:
    """Start both nodes, write the address, wait."""
    cluster = Cluster()
    for name in ("first", "second"):
        os.environ["DUMMY_NODE"] = name
        node = cluster.add_node(
            num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False
        )
    (raylet,) = node.all_processes["raylet"]
    address_file.write_text(f"{cluster.address} {raylet.process.pid}")
    signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
