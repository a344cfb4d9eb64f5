"""Light client processes for the tests of the grid over Ray: no ClientApp, no torch."""

from __future__ import annotations

import os
import time

from flwr.app import ConfigRecord, Message

from engines.ray_messages import Parts, apart, light, whole


class Echo:
    """Returns what it gets; ``task`` says whether to wait, to raise or to die before that."""

    def ready(self) -> None:
        """Be there."""

    def answer(
        self, message: Message, names: list[str], *records: Parts
    ) -> tuple[Message, dict[str, Parts]]:
        """Carry the task out and return the message's content."""
        message = whole(message, dict(zip(names, records, strict=True)))
        task = message.content["task"]
        time.sleep(float(task.get("sleep_s", 0)))
        if task.get("do") == "die":
            os._exit(1)
        if task.get("do") == "raise":
            raise OSError("cannot")
        copied = [array.flags.writeable for parts in records for array in parts.bytes_]
        message.content["saw"] = ConfigRecord({"pid": os.getpid(), "copied": any(copied)})
        reply, back = light(Message(message.content, reply_to=message))
        return reply, {name: apart(record) for name, record in back.items()}


class Broken:
    """Never starts."""

    def __init__(self) -> None:
        raise ImportError("no module named corolla")

    def ready(self) -> None:
        """Be there."""
