"""The process that runs clients: a Ray actor that holds the ClientApp as long as the run lasts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from flwr.app import Message

from engines.ray_messages import Parts, apart, light, whole
from engines.virtual_nodes import RunConfig, answered, load, node_context


class ClientProcess:
    """Answers one message at a time, for whichever virtual node it is addressed to."""

    def __init__(
        self,
        *,
        client_app: str,
        nodes: int,
        run_id: int,
        run_config: RunConfig,
        threads: int,
        log: Path,
    ) -> None:
        """``client_app`` is MODULE:ATTRIBUTE; what is printed goes to ``log``, where its folder is."""
        _write_to(log)
        import torch

        torch.set_num_threads(threads)
        self._app = load(client_app)
        self._told: dict[str, Any] = {"nodes": nodes, "run_id": run_id, "run_config": run_config}

    def ready(self) -> None:
        """Answer, once the ClientApp is there."""

    def answer(
        self, message: Message, names: list[str], *records: Parts
    ) -> tuple[Message, dict[str, Parts]]:
        """Return the reply; the message's array records come apart, under ``names``, and so do the reply's.

        Nothing that a ClientApp writes to its context's state outlives the message.
        """
        message = whole(message, dict(zip(names, records, strict=True)))
        context = node_context(message.metadata.dst_node_id, **self._told)
        reply, arrays = light(answered(self._app, message, context))
        return reply, {name: apart(record) for name, record in arrays.items()}


def _write_to(log: Path) -> None:
    """Append all that this process prints to ``log``: also what a library prints as it crashes."""
    if not log.parent.is_dir():
        return  # another machine's folder: Ray keeps the output in its own logs
    file = log.open("a", buffering=1, encoding="utf-8")
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file
